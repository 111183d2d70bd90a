"""Stacked runs: every one computes, draws, trains and saves what it would alone."""

import json
from dataclasses import replace

import pytest
import torch
from toy import FINETUNE, POLICY

from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.core.stacking import Linear, Slice, Stream, Streams, linear, rows, stack
from diwa_learning.finetune.train import FinetuneJob, finetune_runs
from diwa_learning.policy.base import Exploration, FinetunedPolicy
from diwa_learning.policy.checkpoint import PolicyNetConfig, make_policy
from diwa_learning.policy.train import PolicyJob, train_policies

FEATURES = 6


def assert_close(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **tolerance)


def test_linear_maps_each_run_by_its_own_weights():
    """Run 0 doubles, run 1 triples and adds one."""
    weight, bias = torch.tensor([[[2.0]], [[3.0]]]), torch.tensor([[0.0], [1.0]])
    x = torch.tensor([[[1.0], [2.0]], [[1.0], [2.0]]])
    assert linear(x, weight, bias).flatten().tolist() == [2, 4, 4, 7]
    assert linear(x, weight).flatten().tolist() == [2, 4, 3, 6]
    assert linear(torch.tensor([[5.0]]), weight, bias).flatten().tolist() == [10, 16]  # what all runs share
    deeper = x[:, None].expand(2, 4, 2, 1)
    assert torch.equal(linear(deeper, weight, bias)[:, 3], linear(x, weight, bias))


def test_rows_count_in_their_own_run():
    x = torch.arange(12).view(2, 3, 2)
    assert rows(x, torch.tensor([[2, 0], [1, 1]])).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
    assert rows(x[0], torch.tensor([2, 0])).tolist() == [[4, 5], [0, 1]]


def test_streams_draw_for_a_run_what_it_draws_alone():
    together = Streams([Stream(1), Stream(2)])
    alone = [Streams([Stream(seed)]) for seed in (1, 2)]
    for draw in (
        lambda s: s.normal(3, 2),
        lambda s: s.gumbel(3, 2),
        lambda s: s.uniform(5),
        lambda s: s.permutation(7),
    ):
        both, each = draw(together), [draw(s) for s in alone]
        assert torch.equal(both, torch.stack(each))
    assert together.permutation(50)[0].sort().values.tolist() == list(range(50))


def test_a_stream_continues_where_it_was_saved():
    stream = Stream(3)
    Streams([stream]).normal(4)
    saved = stream.state_dict()
    expected = Streams([stream]).normal(4)
    other = Stream(0)
    other.load_state_dict(saved)
    assert torch.equal(Streams([other]).normal(4), expected)


@pytest.mark.parametrize("kind", ["diffusion", "gaussian"])
def test_stacked_policies_sample_as_each_does(kind):
    policies = []
    for seed in range(3):
        torch.manual_seed(seed)
        base = make_policy(PolicyNetConfig(kind, width=16, denoising_steps=6), FEATURES, 7)
        policy = FinetunedPolicy(base, 4)
        with torch.no_grad():
            policy.trained.trunk.output.weight.add_(0.1)
        policies.append(policy)
    stacked = stack(policies)
    features = torch.randn(3, 5, FEATURES)
    noise = torch.randn(3, 5, policies[0].steps + 1, 4, 7)
    for r, policy in enumerate(policies):
        for sample in (lambda p, x, n: p.sample(x, n), lambda p, x, n: p.explore(x, n, Exploration())):
            torch.testing.assert_close(
                sample(stacked, features, noise).chains[r], sample(policy, features[r], noise[r]).chains
            )


def test_a_slice_saves_what_the_run_saves_alone_and_restores_it():
    def trained(modules):
        stacked = stack(modules)
        adam = torch.optim.AdamW(stacked.parameters(), 0.1, fused=True)
        for _ in range(3):
            adam.zero_grad()
            x = torch.ones(1, 2)
            stacked(x).square().sum().backward()
            adam.step()
        return stacked, adam

    def networks():
        torch.manual_seed(0)
        return [Linear(2, 1) for _ in range(3)]

    stacked, adam = trained(networks())
    alone, alone_adam = trained(networks()[1:2])
    assert_close(Slice(stacked, 1).state_dict(), alone.state_dict())
    mine, theirs = Slice(adam, 1).state_dict(), alone_adam.state_dict()
    assert mine["param_groups"] == theirs["param_groups"]
    for key in theirs["state"]:
        assert_close(mine["state"][key], theirs["state"][key])

    fresh = stack(networks())
    fresh_adam = torch.optim.AdamW(fresh.parameters(), 0.1, fused=True)
    for r in range(3):
        Slice(fresh, r).load_state_dict(Slice(stacked, r).state_dict())
        Slice(fresh_adam, r).load_state_dict(Slice(adam, r).state_dict())
    assert_close(fresh.state_dict(), stacked.state_dict())
    for key, state in adam.state_dict()["state"].items():
        assert_close(fresh_adam.state_dict()["state"][key], state)


class TestPhases:
    """Three runs of each phase, together and alone."""

    def close(self, phase, one, other):
        weights = [load_checkpoint(path, phase).weights for path in (one, other)]
        assert_close(*weights, rtol=1e-3, atol=1e-4)

    def test_policies(self, toy_files, tmp_path):
        configs = [replace(POLICY, epochs=8, seed=seed) for seed in (0, 1)]
        demos, model = toy_files.demonstrations_path, toy_files.world_model_path
        train_policies([PolicyJob(demos, model, tmp_path / f"s{c.seed}", c) for c in configs], model)
        for config in configs:
            train_policies([PolicyJob(demos, model, tmp_path / f"a{config.seed}", config)], model)
            self.close("policy", tmp_path / f"s{config.seed}", tmp_path / f"a{config.seed}")
        first, second = (load_checkpoint(tmp_path / f"s{c.seed}", "policy").weights for c in configs)
        assert not torch.allclose(first["policy.trunk.hidden.weight"], second["policy.trunk.hidden.weight"])

    def jobs(self, files, policy, reward, folder, iterations=4):
        first = replace(FINETUNE, iterations=iterations)
        configs = [first, replace(first, seed=1, alpha_bc=1.0)]
        demos, play = files.demonstrations_path, files.play_path
        return [
            FinetuneJob(policy, reward, files.world_model_path, demos, folder / str(c.seed), play, None, c)
            for c in configs
        ]

    def test_finetuning(self, toy_files, toy_policy_path, toy_reward_path, tmp_path):
        together = self.jobs(toy_files, toy_policy_path, toy_reward_path, tmp_path / "together")
        finetune_runs(together, toy_files.world_model_path)
        for job in self.jobs(toy_files, toy_policy_path, toy_reward_path, tmp_path / "alone"):
            finetune_runs([job], toy_files.world_model_path)
            other = tmp_path / "together" / job.out.name
            self.close("finetune", job.out, other)
            metrics = [json.loads((path / "metrics.json").read_text()) for path in (job.out, other)]
            assert metrics[0]["alpha_bc"] == metrics[1]["alpha_bc"]
            for name in ("dream_success", "value_loss", "bc_kl"):
                values = [[value for _, value in m["history"][name]] for m in metrics]
                assert values[0] == pytest.approx(values[1], rel=1e-2, abs=1e-4)

    def test_a_killed_stack_continues_together_or_alone(
        self, toy_files, toy_policy_path, toy_reward_path, tmp_path, dies_in_update
    ):
        arguments = (toy_files, toy_policy_path, toy_reward_path)
        finetune_runs(whole := self.jobs(*arguments, tmp_path / "whole", 6), toy_files.world_model_path)
        killed = self.jobs(*arguments, tmp_path / "killed", 6)
        with dies_in_update(5):
            finetune_runs(killed, toy_files.world_model_path)
        finetune_runs(killed[:1], toy_files.world_model_path)  # alone: the other still stands at its save
        finetune_runs(killed, toy_files.world_model_path)
        for one, other in zip(whole, killed, strict=True):
            self.close("finetune", one.out, other.out)
