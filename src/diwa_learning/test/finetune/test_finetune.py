"""Fine-tuning: chain indexing, the BC term, the reward signal and the phase itself; docs/method.md, checks 4, 5, 10."""

import json
from dataclasses import replace

import pytest
import torch
import toy
from torch._dynamo.testing import CompileCounterWithBackend

from diwa_data.config import load_section
from diwa_data.errors import DiwaError
from diwa_data.spec import Spec
from diwa_learning.agent import load_agent
from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.core.device import step
from diwa_learning.finetune import ppo
from diwa_learning.finetune.imagination import Rollout
from diwa_learning.finetune.learner import BCWeight, Learner
from diwa_learning.finetune.train import FinetuneConfig, FinetuneJob
from diwa_learning.policy.base import Exploration, FinetunedPolicy
from diwa_learning.policy.checkpoint import PolicyNetConfig, load_policy, make_policy

FEATURES, H, A = 6, 4, 7
PPO = toy.FINETUNE.ppo


def tuner(kind, alpha_bc=0.0):
    torch.manual_seed(0)
    pretrained = make_policy(PolicyNetConfig(kind, width=16, denoising_steps=8), FEATURES, A)
    rng = torch.Generator().manual_seed(0)
    return Learner(pretrained, FEATURES, PPO, Exploration(), BCWeight(alpha_bc), rng)


def rollout(tuner, reward_of=lambda actions: actions[..., 0].mean(-1), dreams=16, chunks=4):
    """One-chunk dreams in random states; reward is the mean of the first action dimension."""
    features = torch.randn(dreams, chunks, FEATURES)
    noise = tuner.policy.draw_noise(dreams * chunks)
    with torch.no_grad():
        chains = tuner.policy.explore(features.flatten(0, 1), noise, Exploration()).chains
    chains = chains.unflatten(0, (dreams, chunks))
    always = torch.ones(dreams, chunks, dtype=torch.bool)
    reward = reward_of(chains[:, :, -1])
    return Rollout(features, features, chains, reward, always, always, always, always.long(), torch.zeros_like(reward))


def test_check_04_ratio_is_one_before_any_update(kind):
    """The stored chain, its denoising indices and the recomputed log-probabilities belong together."""
    tuned = tuner(kind)
    batch = tuned.prepare(rollout(tuned))
    index = torch.randperm(len(batch.old_log_prob))
    entries = batch.entries[index]
    normal = tuned.denoised(tuned.policy.trained, tuned.policy.trained.project(batch.features), entries)
    log_prob, old = ppo.log_prob(normal, entries.after), batch.old_log_prob[index]
    assert torch.allclose((log_prob - old).exp(), torch.ones_like(old), atol=1e-6)
    result = ppo.policy_loss(log_prob, old, batch.advantage[entries.chunk], torch.full_like(old, 0.1))
    assert abs(result.approx_kl.item()) < 1e-9
    assert ppo.kl_divergence(batch.base, tuned.score(tuned.policy.base, batch.features, batch.entries)).max() == 0


def test_check_04_each_entry_is_a_step_of_its_own_chain():
    """a^{k-1} minus the mean of its own step, in units of the floored std, is clamped standard normal noise."""
    tuned = tuner("diffusion")
    dreamt = rollout(tuned, dreams=64)
    batch = tuned.prepare(dreamt)
    old, entries = tuned.score(tuned.policy.trained, batch.features, batch.entries), batch.entries
    z = (entries.after - old.mean) / old.std
    assert z.abs().max() < 3.001
    assert z.mean().abs() < 0.02
    assert z.std().item() == pytest.approx(1.0, abs=0.03)
    assert old.std.min().item() == pytest.approx(0.1)
    assert torch.equal(entries.after[:3], entries.before[1:4])
    assert entries.k[:5].tolist() == [4, 3, 2, 1, 4]
    assert entries.chunk[:5].tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("kind", ["diffusion", "gaussian"])
def test_check_05_bc_term_brings_a_perturbed_policy_back(kind):
    tuned = tuner(kind)
    with torch.no_grad():
        for parameter in tuned.policy.trained.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    batch = tuned.prepare(rollout(tuned))
    adam = torch.optim.Adam(tuned.policy.trained.parameters(), 1e-3)

    def distance():
        projected = tuned.policy.trained.project(batch.features)
        normal = tuned.denoised(tuned.policy.trained, projected, batch.entries)
        return ppo.kl_divergence(batch.base, normal).mean()

    before = distance().item()
    for _ in range(60):
        step(adam, distance())
    assert 0 < distance().item() < 0.3 * before


def test_updates_raise_the_reward(kind):
    tuned = tuner(kind)
    first = rollout(tuned).reward.mean().item()
    for _ in range(20):
        measured = tuned.update(rollout(tuned), train_actor=True)
        assert abs(measured["approx_kl_before_update"]) < 1e-6
    gain = 0.1 if "flow" in kind else 0.3  # a step of a flow is 1 / K of its way
    assert rollout(tuned).reward.mean().item() > first + gain


def test_bc_term_holds_the_policy():
    free, held = tuner("diffusion"), tuner("diffusion", alpha_bc=10.0)
    measured = []
    for tuned in (free, held):
        torch.manual_seed(1)
        for _ in range(10):
            last = tuned.update(rollout(tuned), train_actor=True)
        measured.append(last["bc_kl"])
    assert measured[1] < 0.1 * measured[0]


def test_warm_up_trains_the_critic_alone():
    tuned = tuner("diffusion")
    before = {name: tensor.clone() for name, tensor in tuned.policy.state_dict().items()}
    critic = tuned.critic.layers[0].weight.clone()
    tuned.update(rollout(tuned), train_actor=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tuned.policy.state_dict().items())
    assert not torch.equal(critic, tuned.critic.layers[0].weight)


def test_entries_share_their_chunks_features_exactly():
    """Projecting each chunk once and gathering has the gradient of projecting every entry's features."""
    tuned = tuner("diffusion")
    batch = tuned.prepare(rollout(tuned))
    trained, entries = tuned.policy.trained, batch.entries

    def gradient(projected, entries):
        trained.zero_grad()
        ppo.log_prob(tuned.denoised(trained, projected, entries), entries.after).mean().backward()
        return trained.trunk.input.weight.grad.clone()

    once = gradient(trained.project(batch.features), entries)
    each = gradient(
        trained.project(batch.features[entries.chunk]), replace(entries, chunk=torch.arange(len(entries.k)))
    )
    assert torch.allclose(once, each, atol=1e-6)


def test_compiled_updates_are_the_same():
    """Each loss is one graph without breaks, made again for the short last minibatch alone."""
    plain, fast = tuner("diffusion"), tuner("diffusion")
    counters = [CompileCounterWithBackend("aot_eager") for _ in range(2)]
    for name, counter in zip(("_actor_loss", "_critic_loss"), counters, strict=True):
        setattr(fast, name, torch.compile(getattr(fast, name), backend=counter, dynamic=False, fullgraph=True))
    for tuned in (plain, fast):
        torch.manual_seed(1)
        for _ in range(2):
            tuned.update(rollout(tuned, dreams=80), train_actor=True)
    assert [counter.frame_count for counter in counters] == [2, 1]
    for one, other in zip(plain.parts()["policy"].parameters(), fast.parts()["policy"].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_alpha_of_each_skill():
    config = FinetuneConfig(alpha_bc_of={"pick_cup": 0.2})
    assert [config.alpha_for(s) for s in ("pick_cup", "open_drawer")] == [0.2, 0.05]
    paper = load_section(FinetuneConfig, "finetune", "paper")
    assert [paper.alpha_for(s) for s in ("open_drawer", "turn_on_led", "pick_cup")] == [0.10, 0.025, 0.05]
    assert replace(config, alpha_bc=0.0).alpha_for("pick_cup") == 0.0


def test_alpha_follows_the_divergence():
    """By the root of KL over target, by 1.5 at the most, between 0.001 and 10."""
    rows = [(0.1, 0.01, 0.1), (0.1, 0.0144, 0.12), (0.1, 0.0, 0.1 / 1.5), (9.0, 0.1, 10.0), (0.0012, 0.0, 0.001)]
    for alpha, kl, adapted in rows:
        weight = BCWeight(alpha, target_kl=0.01)
        weight.adapt(torch.tensor(kl))
        assert weight.alpha.item() == pytest.approx(adapted)
    fixed = BCWeight(0.1)
    fixed.adapt(torch.tensor(5.0))
    assert fixed.alpha == pytest.approx(0.1)


def run(files, policy, reward, out, config=toy.FINETUNE):
    FinetuneJob(
        policy=policy,
        reward=reward,
        world_model=files.world_model_path,
        demonstrations=files.demonstrations_path,
        out=out,
        play=files.play_path,
        config=config,
    ).run()


@pytest.fixture(scope="module")
def finetuned(toy_files, toy_policy_path, toy_reward_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("finetuned") / "run"
    run(toy_files, toy_policy_path, toy_reward_path, out)
    return out


def test_dreams_get_better(finetuned):
    metrics = json.loads((finetuned / "metrics.json").read_text())
    success = [value for _, value in metrics["history"]["dream_success"]]
    assert len(success) == 10
    assert sum(success[-3:]) / 3 > sum(success[:3]) / 3 + 0.05
    assert max(abs(value) for _, value in metrics["history"]["approx_kl_before_update"]) < 1e-6
    assert metrics["imagined_actions"] == 10 * 32 * 8 * 4
    assert {"bc_kl", "clip_fraction", "explained_variance", "imagined_actions"} <= metrics["history"].keys()


def test_every_few_iterations_leave_a_policy(finetuned, toy_files):
    world = toy_files.world
    assert sorted(path.name for path in (finetuned / "iterations").iterdir()) == ["000004", "000008", "000010"]
    loaded = load_policy(finetuned / "iterations" / "000004", Spec(), world.hash, world.model.feature_dim)
    assert isinstance(loaded.policy, FinetunedPolicy)
    assert loaded.checkpoint.metrics["iteration"] == 4


def test_check_10_fine_tuning_and_evaluation_load_the_averaged_weights(finetuned, toy_files, toy_policy_path):
    """The `policy` checkpoint holds the averaged weights; the frozen half of `finetune` and the agent have the same."""
    world = toy_files.world
    averaged = load_checkpoint(toy_policy_path, "policy").weights
    loaded = load_policy(finetuned, Spec(), world.hash, world.model.feature_dim).policy
    agent = load_agent(toy_files.world_model_path, toy_policy_path, None, Spec())
    for name, tensor in averaged.items():
        short = name.removeprefix("policy.")
        assert torch.equal(loaded.base.state_dict()[short], tensor)
        assert torch.equal(agent.policy.state_dict()[short], tensor)
    assert not torch.equal(loaded.trained.trunk.hidden.weight, loaded.base.trunk.hidden.weight)


def test_a_killed_run_continues_to_the_same_bits(
    finetuned, toy_files, toy_policy_path, toy_reward_path, tmp_path, dies_in_update, assert_same_weights
):
    with dies_in_update(5):
        run(toy_files, toy_policy_path, toy_reward_path, tmp_path / "run")
    run(toy_files, toy_policy_path, toy_reward_path, tmp_path / "run")
    assert_same_weights(finetuned, tmp_path / "run")


class TestRefused:
    """Each wrong input is one clear error."""

    def test_a_policy_that_is_fine_tuned_already(self, finetuned, toy_files, toy_reward_path, tmp_path):
        with pytest.raises(DiwaError, match="fine-tuned already"):
            run(toy_files, finetuned, toy_reward_path, tmp_path / "x")

    def test_a_reward_where_a_policy_belongs(self, toy_files, toy_reward_path, tmp_path):
        with pytest.raises(DiwaError, match="is a reward checkpoint, but a policy checkpoint is needed"):
            run(toy_files, toy_reward_path, toy_reward_path, tmp_path / "x")

    def test_another_world_model(self, toy_files, toy_policy_path, tiny_world_model, tmp_path):
        from diwa_learning.core.checkpoint import save_checkpoint

        other = tmp_path / "other"
        save_checkpoint(other, "world_model", tiny_world_model.state_dict(), tiny_world_model.config, Spec(), {})
        with pytest.raises(DiwaError, match="was trained on world model"):
            load_agent(other, toy_policy_path, None, Spec())

    def test_another_robot(self, toy_files, toy_policy_path):
        with pytest.raises(DiwaError, match=r"spec\.robot"):
            load_agent(toy_files.world_model_path, toy_policy_path, None, Spec(robot="other"))


def test_agent_of_a_finetuned_policy_acts_and_judges(finetuned, toy_files, toy_reward_path):
    agent = load_agent(toy_files.world_model_path, finetuned, toy_reward_path, Spec())
    assert isinstance(agent.policy, FinetunedPolicy)
    assert 0 < agent.success_threshold < 1
