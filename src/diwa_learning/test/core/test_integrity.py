"""Checkpoints that were damaged, changed or crafted: one clear error, or exactly what was written."""

import json
import resource
import shutil
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from diwa_data.errors import DiwaError
from diwa_data.manifest import CHECKPOINT_FILES, MANIFEST
from diwa_data.spec import Spec
from diwa_learning.core.checkpoint import load_checkpoint, save_checkpoint, seal_checkpoint, weights_hash, write_compact
from diwa_learning.core.run import load_state, save_state
from diwa_learning.policy.checkpoint import PolicyNetConfig, describe, load_policy, make_policy, policy_weights
from diwa_learning.policy.train import PolicyConfig
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel, load_world_model
from diwa_learning.world_model.rssm import RSSMConfig

SIZES = RSSMConfig(recurrent=12, categoricals=3, classes=4, hidden=10)
FILES = (*CHECKPOINT_FILES, MANIFEST)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A world model, the same packed, and a policy on it; with a flip of a bit some of it is read otherwise."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    config = WorldModelConfig(depth=1, rssm=SIZES)
    model = WorldModel(config, Spec())
    save_checkpoint(folder / "world_model", "world_model", model.state_dict(), config, Spec(), {"loss": 0.5})
    write_compact(load_checkpoint(folder / "world_model", "world_model"), folder / "packed")
    net = PolicyNetConfig(width=8, denoising_steps=2)
    policy, about = make_policy(net, model.feature_dim, 7), describe(net, "open_drawer", trained_steps=0)
    key = weights_hash(folder / "world_model")
    weights = policy_weights(policy)
    save_checkpoint(folder / "policy", "policy", weights, PolicyConfig(net=net), Spec(), about, key)
    return folder


@pytest.fixture(scope="module")
def expected(made):
    """The checkpoint as its policy's loader reads it."""
    return load(made / "policy")


@pytest.fixture
def copy(made, tmp_path):
    """Copies that a test may damage, with manifests."""
    return shutil.copytree(made, tmp_path / "copy")


@pytest.fixture
def unsealed(copy):
    """Copies without manifests, as 0.1 made them."""
    for manifest in copy.rglob(MANIFEST):
        manifest.unlink()
    return copy


def load(folder):
    """The policy and everything in its checkpoint."""
    loaded = load_policy(folder, Spec(), weights_hash(folder.parent / "world_model"), SIZES.recurrent + 12)
    c = loaded.checkpoint
    return asdict(loaded.net), loaded.skill, c.config, c.metrics, c.spec, c.hash, repr(loaded.policy.state_dict())


@settings(max_examples=60)
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_changes_nothing(made, expected, name, place, bit):
    whole, path = (made / "policy" / name).read_bytes(), made / "policy" / name
    flipped = bytearray(whole)
    flipped[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(flipped)
    try:
        assert load(made / "policy") == expected
        assert name == MANIFEST  # its spaces are no content
    except DiwaError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    finally:
        path.write_bytes(whole)


def test_what_was_changed_by_hand_is_refused_until_it_is_sealed(copy):
    metrics = json.loads((copy / "policy" / "metrics.json").read_text()) | {"note": "tried on Monday"}
    (copy / "policy" / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(DiwaError, match=r"metrics\.json is truncated or damaged .* 'diwa seal .*policy'"):
        load(copy / "policy")
    seal_checkpoint(copy / "policy")
    assert load(copy / "policy")[3]["note"] == "tried on Monday"
    (copy / "policy" / "config.json").write_text("{}")
    with pytest.raises(DiwaError, match="is not the configuration of a checkpoint"):
        seal_checkpoint(copy / "policy")


def test_a_manifest_of_other_files_is_refused(copy):
    shutil.copy(copy / "world_model" / MANIFEST, copy / "policy" / MANIFEST)
    with pytest.raises(DiwaError, match="truncated or damaged"):
        load(copy / "policy")
    content = json.loads((copy / "policy" / MANIFEST).read_text())
    content["files"]["weights.safetensors"] = weights_hash(copy / "policy")
    (copy / "policy" / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(DiwaError, match=r"manifest\.json is truncated or damaged"):
        load(copy / "policy")


def test_a_folder_without_a_manifest_is_read_with_one_warning(unsealed, capsys):
    for _ in range(2):
        load(unsealed / "policy")
    warning = f"warning: {unsealed / 'policy'} is without checksums"
    assert capsys.readouterr().err.count(warning) == 1


def test_a_newer_format_is_refused_with_both_numbers(unsealed):
    config = unsealed / "policy" / "config.json"
    content = json.loads(config.read_text())
    assert content["format"] == 1
    config.write_text(json.dumps(content | {"format": 7}))
    with pytest.raises(DiwaError, match=r"config\.json has format 7, this version reads up to 1"):
        load(unsealed / "policy")
    del content["format"]
    config.write_text(json.dumps(content))
    load(unsealed / "policy")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(copy, value):
    weights = load_file(copy / "policy" / "weights.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.dim() == 2)
    weights[name][0, 0] = value
    save_file(weights, copy / "policy" / "weights.safetensors")
    with pytest.raises(DiwaError, match="truncated or damaged"):
        load(copy / "policy")
    with pytest.raises(DiwaError, match=f"a NaN or an infinity in {name}"):
        seal_checkpoint(copy / "policy")
    (copy / "policy" / MANIFEST).unlink()
    with pytest.raises(DiwaError, match=f"a NaN or an infinity in {name}"):
        load(copy / "policy")


@pytest.mark.parametrize(
    "change",
    [
        lambda scale, matrix: (scale[:-1], matrix),
        lambda scale, matrix: (scale[:1], matrix),
        lambda scale, matrix: (scale[:, None].repeat(1, 5), matrix),
        lambda scale, matrix: (-scale, matrix),
        lambda scale, matrix: (scale * torch.nan, matrix),
        lambda scale, matrix: (scale * torch.inf, matrix),
        lambda scale, matrix: (scale.double(), matrix),
        lambda scale, matrix: (scale.to(torch.int8), matrix),
        lambda scale, matrix: (scale, matrix.float()),
        lambda scale, matrix: (scale, None),
        lambda scale, matrix: (None, matrix),
    ],
)
def test_wrong_scales_are_refused(unsealed, change):
    path = unsealed / "packed" / "weights.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith(".scale_of_rows"))
    matrix = name.removesuffix(".scale_of_rows")
    weights[name], weights[matrix] = change(weights[name], weights[matrix])
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, path)
    with pytest.raises(DiwaError, match=r"truncated or damaged|NaN or an infinity|do not fit"):
        load_world_model(unsealed / "packed", decodes=False)


@pytest.mark.parametrize(
    "header",
    [
        {"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}},
        {"x": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}},
        {"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}},
        {"x": {"dtype": "Z9", "shape": [1], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        {"x": 3},
        [],
    ],
)
def test_headers_that_claim_what_is_not_there_are_refused(unsealed, header):
    text = json.dumps(header).encode()
    path = unsealed / "policy" / "weights.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(DiwaError, match=r"weights\.safetensors is truncated or damaged"):
        load(unsealed / "policy")


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("config.json", ("config", "depth"), 10**9),
        ("config.json", ("config", "depth"), 10**30),
        ("config.json", ("config", "depth"), -1),
        ("config.json", ("config", "depth"), "48"),
        ("config.json", ("config", "rssm", "hidden"), 10**10),
        ("config.json", ("config", "rssm", "recurrent"), 2**62),
        ("config.json", ("config", "rssm"), 3),
        ("config.json", ("config", "image_components"), 512),
        ("config.json", ("config", "beta"), "NaN"),
        ("config.json", ("config",), []),
        ("config.json", ("phase",), ["world_model"]),
        ("spec.json", ("state",), ["position"] * 9),
        ("spec.json", ("cameras",), 5),
        ("spec.json", ("cameras", 0, "size"), [10**9, 10**9]),
        ("spec.json", ("rate",), 0),
        ("spec.json", ("action", "max_pos"), {}),
    ],
)
def test_a_crafted_world_model_takes_no_memory(unsealed, name, place, value):
    path = unsealed / "world_model" / name
    content = json.loads(path.read_text())
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    path.write_text(json.dumps(content))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DiwaError) as raised:
        load_world_model(unsealed / "world_model")
    assert len(str(raised.value).splitlines()) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


@pytest.mark.parametrize(
    "change",
    [
        {"policy": {"kind": "diffusion", "width": 8, "denoising_steps": 10**12, "chunk": 4}},
        {"policy": {"kind": "diffusion", "width": 10**6, "denoising_steps": 2, "chunk": 4}},
        {"policy": {"kind": "diffusion", "width": 8, "denoising_steps": 0, "chunk": 4}},
        {"policy": {"kind": "magic"}},
        {"policy": [1]},
        {"skill": 3},
        {"trained_steps": "2"},
    ],
)
def test_a_crafted_policy_is_refused(unsealed, change):
    path = unsealed / "policy" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DiwaError, match=r"metrics\.json|do not fit"):
        load(unsealed / "policy")


def test_the_state_of_a_training_is_covered_too(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state(path, {"step": 3, "parts": [torch.arange(4.0), torch.tensor(2)], "name": "x"})
    whole = path.read_bytes()
    rng = torch.Generator().manual_seed(0)
    for place in torch.randperm(len(whole), generator=rng)[:100].tolist():
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            assert repr(load_state(path)) == repr(
                {"step": 3, "parts": [torch.arange(4.0), torch.tensor(2)], "name": "x"}
            )
        except DiwaError as error:
            assert "delete" in str(error)  # noqa: PT017
