"""The protocol that every policy keeps, ours and others', and policies that are found by name; docs/extending.md."""

import math
import sys
from dataclasses import replace

import pytest
import torch
import toy
from torch import nn

from diwa_data.config import from_mapping
from diwa_data.errors import DiwaError
from diwa_data.spec import Spec
from diwa_learning.agent import load_agent
from diwa_learning.finetune import ppo
from diwa_learning.finetune.train import FinetuneJob
from diwa_learning.policy.base import ChainPolicy, Exploration, FinetunedPolicy, Normal, require_ddim_steps
from diwa_learning.policy.check import check_policy
from diwa_learning.policy.checkpoint import PolicyNetConfig, load_policy, make_policy
from diwa_learning.policy.train import PolicyJob

FEATURES, H, A = 6, 4, 7


def made(kind, **net):
    torch.manual_seed(0)
    return make_policy(PolicyNetConfig(kind, **{"width": 16, "denoising_steps": 6} | net), FEATURES, A)


@pytest.mark.parametrize("steps", [1, 6, 20])
def test_every_policy_keeps_the_protocol(kind, steps):
    check_policy(lambda: made(kind, denoising_steps=steps), FEATURES, H, A)


def test_log_probabilities_are_the_density_of_the_steps_that_were_drawn(kind):
    policy, features = FinetunedPolicy(made(kind), trained_steps=4), torch.randn(5, FEATURES)
    chains = policy.explore(features, policy.draw_noise(5), Exploration(std_floor=0.2)).chains
    for part, ks in policy.parts():
        for k in ks:
            before, after = chains[:, policy.steps - k], chains[:, policy.steps - k + 1]
            normal = part.denoise(part.project(features), before, torch.full((5,), k)).with_floor(0.2)
            each = torch.distributions.Normal(normal.mean, normal.std.expand_as(normal.mean)).log_prob(after)
            torch.testing.assert_close(ppo.log_prob(normal, after), each.clamp(-5, 2).mean((1, 2)))


def test_a_flow_compiles_to_one_graph_that_gives_the_same(flow_policy):
    """On a GPU, imitation and updates are compiled, whoever wrote the policy."""
    policy, features, actions, noise = made(flow_policy), torch.randn(5, FEATURES), *torch.randn(2, 5, H, A)
    compiled = torch.compile(policy.loss, backend="aot_eager", fullgraph=True)
    inputs = (features, actions, torch.tensor([1, 2, 3, 6, 6]), noise)
    torch.testing.assert_close(compiled(*inputs), policy.loss(*inputs))


class Line(ChainPolicy):
    """The least that is a policy."""

    def __init__(self, feature_dim, width, steps, chunk, action_dim):
        super().__init__(steps, chunk, action_dim)
        self.layer = nn.Linear(feature_dim, chunk * action_dim)

    def loss(self, features, actions, k, noise):
        return (self.layer(features).view_as(actions) - actions).square().mean()

    def denoise(self, projected, chunk, k):
        return Normal(self.layer(projected).view_as(chunk), torch.zeros_like(chunk))


class LossPerRow(Line):
    def loss(self, features, actions, k, noise):
        return self.layer(features).square().mean(1)


class Untrainable(Line):
    def loss(self, features, actions, k, noise):
        return super().loss(features, actions, k, noise).detach()


class NoGradientOfChains(Line):
    def denoise(self, projected, chunk, k):
        normal = super().denoise(projected, chunk, k)
        return Normal(normal.mean.detach(), normal.std)


class WithBatchStatistics(Line):
    def __init__(self, feature_dim, *sizes):
        super().__init__(feature_dim, *sizes)
        self.norm = nn.BatchNorm1d(feature_dim)

    def loss(self, features, actions, k, noise):
        return super().loss(self.norm(features), actions, k, noise)


class WrongMean(Line):
    def denoise(self, projected, chunk, k):
        return Normal(self.layer(projected), torch.zeros_like(chunk))


class ScalarStd(Line):
    def denoise(self, projected, chunk, k):
        return Normal(super().denoise(projected, chunk, k).mean, torch.zeros(()))


class NegativeStd(Line):
    def denoise(self, projected, chunk, k):
        normal = super().denoise(projected, chunk, k)
        return Normal(normal.mean, normal.std - 0.1)


class OwnNoise(Line):
    def denoise(self, projected, chunk, k):
        normal = super().denoise(projected, chunk, k)
        return Normal(normal.mean + torch.randn_like(chunk), normal.std)


class MixedRows(Line):
    def denoise(self, projected, chunk, k):
        return super().denoise(projected - projected.mean(0), chunk, k)


class OtherSampler(Line):
    def denoiser(self, features):
        step = super().denoiser(features)
        return lambda chunk, k, to=None: Normal(step(chunk, k).mean * 1.1, step(chunk, k).std)


class HiddenWeights(Line):
    def __init__(self, feature_dim, *sizes):
        super().__init__(feature_dim, *sizes)
        self.register_buffer("shift", torch.randn(feature_dim), persistent=False)

    def project(self, features):
        return features + self.shift


class OtherChunk(Line):
    def __init__(self, feature_dim, width, steps, chunk, action_dim):
        super().__init__(feature_dim, width, steps, chunk + 1, action_dim)


BROKEN = {
    LossPerRow: r"has a loss of shape \(8,\), not a scalar",
    Untrainable: "cannot be trained: its loss has no gradient",
    NoGradientOfChains: "cannot be trained: the log-probability of its chains has no gradient",
    WithBatchStatistics: "changes its buffer norm.running_mean, .* in training",
    WrongMean: r"has a mean of \(8, 28\), not \(8, 4, 7\)",
    ScalarStd: r"has a std of \(\), not \(8, 4, 7\) or \(8, 1, 1\)",
    NegativeStd: "has a std of -0.1, below 0",
    OwnNoise: "draws random numbers in denoise",
    MixedRows: "mixes the rows of a batch in denoise",
    OtherSampler: "samples step 6 from another Gaussian than denoise",
    HiddenWeights: "samples unlike a checkpoint of it",
    OtherChunk: r"has chunks of \(5, 7\), not \(4, 7\)",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda each: each.__name__)
def test_what_a_policy_does_not_keep_is_named(broken):
    check_policy(lambda: Line(FEATURES, 8, 6, H, A), FEATURES, H, A)
    with pytest.raises(DiwaError, match=f"^policy {broken.__name__} {BROKEN[broken]}"):
        check_policy(lambda: broken(FEATURES, 8, 6, H, A), FEATURES, H, A)


def test_a_flow_learns_both_of_two_modes(flow_policy):
    """A target that is one of two points with equal chance, whatever the state: a mean would be right never."""
    torch.manual_seed(0)
    policy = make_policy(PolicyNetConfig(flow_policy, width=64, denoising_steps=8, chunk=1), FEATURES, 2)
    adam, rng = torch.optim.Adam(policy.parameters(), 3e-3), torch.Generator().manual_seed(0)
    modes = torch.tensor([[[0.6, 0.4]], [[-0.6, -0.4]]])
    for _ in range(800):
        target, k = modes[torch.randint(2, (256,), generator=rng)], torch.randint(1, 9, (256,), generator=rng)
        loss = policy.loss(torch.randn(256, FEATURES, generator=rng), target, k, torch.randn(256, 1, 2, generator=rng))
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        actions = policy.sample(torch.randn(500, FEATURES), policy.draw_noise(500, rng)).actions
    distance = (actions[:, None] - modes[None]).norm(dim=-1)[..., 0]  # (500, 2); their mean is 0.72 from both
    assert (distance.min(1).values < 0.25).float().mean() > 0.8
    assert 0.4 < (distance[:, 0] < distance[:, 1]).float().mean() < 0.6


@pytest.fixture(scope="module")
def trained(flow_policy, toy_files, tmp_path_factory):
    """A flow that has imitated the toy task's demonstrations."""
    out = tmp_path_factory.mktemp("flow") / "policy"
    config = replace(toy.POLICY, net=replace(toy.POLICY.net, kind=flow_policy), epochs=20)
    PolicyJob(toy_files.demonstrations_path, toy_files.world_model_path, out, config).run()
    return out


def test_a_flow_is_fine_tuned_and_acts(trained, toy_files, toy_reward_path, tmp_path):
    files, out = toy_files, tmp_path / "finetuned"
    config = replace(toy.FINETUNE, iterations=4)
    inputs = (trained, toy_reward_path, files.world_model_path, files.demonstrations_path, out)
    FinetuneJob(*inputs, config=config).run()
    world = files.world
    tuned, base = (load_policy(path, Spec(), world.hash, world.model.feature_dim) for path in (out, trained))
    history = tuned.checkpoint.metrics["history"]
    assert all(math.isfinite(value) for curve in history.values() for _, value in curve)
    assert max(abs(value) for _, value in history["approx_kl_before_update"]) < 1e-6, "the ratio was 1"
    assert tuned.net.kind == base.net.kind == "flow_policy:FlowPolicy"
    before, after = base.policy.state_dict(), tuned.policy.trained.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    agent = load_agent(files.world_model_path, out, toy_reward_path, Spec())
    noise = agent.policy.draw_noise(1, torch.Generator().manual_seed(1))
    features = torch.zeros(1, world.model.feature_dim)
    assert torch.equal(agent.sample(features, noise), tuned.policy.sample(features, noise).actions)
    with pytest.raises(DiwaError, match="ddim_steps is 4, but this policy can leave out none of its 8 steps: set 0"):
        require_ddim_steps(4, tuned.policy)


def test_a_checkpoint_whose_class_is_gone_is_one_line(trained, toy_files, monkeypatch):
    world = toy_files.world
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "reader" not in path])
    monkeypatch.delitem(sys.modules, "flow_policy")
    told = "policy 'flow_policy:FlowPolicy': there is no module flow_policy: install the package that brings it, or"
    with pytest.raises(DiwaError, match=told):
        load_policy(trained, Spec(), world.hash, world.model.feature_dim)


BODIES = {
    "def project(self, features):\n        return super().project(features - features.mean(0))": (
        "policy Theirs mixes the rows of a batch in denoise"
    ),
    "def project(self, features):\n        return super().project(features[:, 1:])": (
        r"policy 'theirs:Theirs' fails on random numbers \(RuntimeError: .* shapes .*\) at .*theirs.py:4"
    ),
    "def __init__(self, *sizes):\n        super().__init__(*sizes)\n        self.first = self.log_std[0, 0].item()": (
        r"policy 'theirs:Theirs' cannot be made \(.*meta.*\): .* reads no tensor meanwhile"
    ),
}


@pytest.mark.parametrize("body", BODIES)
def test_a_policy_that_breaks_the_protocol_is_one_line_and_leaves_nothing(body, toy_files, tmp_path, monkeypatch):
    base = "from diwa_learning.policy.gaussian import GaussianPolicy\nclass Theirs(GaussianPolicy):\n    "
    (tmp_path / "theirs.py").write_text(f"{base}{body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    config = replace(toy.POLICY, net=replace(toy.POLICY.net, kind="theirs:Theirs"))
    with pytest.raises(DiwaError, match=BODIES[body]) as found:
        PolicyJob(toy_files.demonstrations_path, toy_files.world_model_path, tmp_path / "out", config).run()
    assert "\n" not in str(found.value)
    assert not (tmp_path / "out").exists()


WRONG = {
    "difusion": r"unknown policy 'difusion'; choose one of diffusion, gaussian, .*\. Did you mean 'diffusion'",
    "no_such_module:Policy": "there is no module no_such_module: install",
    "theirs:Nothing": "module 'theirs' has no attribute 'Nothing'",
    "theirs:number": "policy 'theirs:number' is not a subclass of diwa_learning.policy.base.ChainPolicy",
    "theirs:Three": r"policy 'theirs:Three' cannot be made \(.*takes.*\): it is called with feature_dim, width, steps",
    "theirs:Half": r"policy 'theirs:Half' cannot be made \(.*abstract.*\)",
    "broken:Policy": r"broken cannot be imported \(NameError: name 'nn' is not defined\); python -c",
    "needing:Policy": "needing needs no_such_package, which is not installed",
    "path/to.py:Policy": "is not an object of a module: write it as MODULE:NAME",
    "os:system": "policy 'os:system' is not a subclass",
    "": "unknown policy ''",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_name_that_leads_to_no_policy_is_one_line(name, tmp_path, monkeypatch):
    base = "from diwa_learning.policy.base import ChainPolicy\nnumber = 3\n"
    (tmp_path / "theirs.py").write_text(
        f"{base}class Half(ChainPolicy):\n    pass\nclass Three(ChainPolicy):\n    def __init__(self, a, b, c): pass\n"
        "    loss = denoise = None\n"
    )
    (tmp_path / "broken.py").write_text("class Policy(nn.Module): pass\n")
    (tmp_path / "needing.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("theirs", "broken", "needing"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(DiwaError, match=WRONG[name]) as found:
        make_policy(from_mapping(PolicyNetConfig, {"kind": name, "width": 8}, "lab.yaml"), FEATURES, A)
    assert "\n" not in str(found.value)


def install(folder, package, **policies):
    """A package with these entry points, as far as Python is concerned."""
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}\n" for name, value in policies.items()]
    (about / "entry_points.txt").write_text("".join(["[diwa.policies]\n", *lines]))


def test_a_package_names_its_policy_by_an_entry_point(flow_policy, tmp_path, monkeypatch):
    install(tmp_path / "one", "lab_policies", flow=flow_policy)
    install(tmp_path / "other", "other_policies", flow="elsewhere:Flow")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path / "one")
        assert type(made("flow")).__name__ == "FlowPolicy"
        with pytest.raises(DiwaError, match=r"choose one of diffusion, gaussian, flow, name a class .*'flow'"):
            made("flw")
        patch.syspath_prepend(tmp_path / "other")
        with pytest.raises(DiwaError, match=r"two entry points 'flow', elsewhere:Flow and flow_policy:FlowPolicy: un"):
            made("flow")
    with pytest.raises(DiwaError, match=r"unknown policy 'flow'.*install the package that brings it"):
        made("flow")
