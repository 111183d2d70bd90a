"""Files that version 0.1.0 wrote, a few kilobytes of each kind: every later version reads them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.recording.bag_reader import Bag, needed_topics
from diwa_data.robot import Observation
from diwa_data.testing.synthetic import synthetic_image, synthetic_pose
from diwa_deploy.bundle import StartRegion, load_bundle
from diwa_learning.agent import load_agent
from diwa_learning.core.checkpoint import load_checkpoint, read_header
from diwa_learning.world_model.model import load_world_model

FILES = Path(__file__).parent / "files_0_1"


@pytest.fixture
def files(tmp_path) -> Path:
    """A copy, as a user of 0.1 has them: nothing in it may change by being read."""
    copy = Path(shutil.copytree(FILES, tmp_path / "files"))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    yield copy
    assert {path: path.read_bytes() for path in before} == before


def test_an_episode(files):
    with Bag(files / "bags" / "000000") as bag:
        assert bag.sidecar.version == "0.1.0"
        assert bag.sidecar.labels == {"source": "demonstration", "skill": "open_drawer", "seed": 7}
        assert bag.sidecar.mark("success") == 1.0
        bag.require_topics(needed_topics(bag.spec))
        messages = list(bag.messages(list(bag.topics)))
    assert len(messages) == sum(topic.count for topic in bag.sidecar.topics.values())


def test_a_dataset_and_what_it_was_built_from_agree(files):
    dataset = load_dataset(files / "demonstrations.h5")
    build_dataset([files / "bags"], files / "again.h5", DatasetConfig(workers=1))
    (old,), (new,) = dataset.episodes, load_dataset(files / "again.h5").episodes
    assert (len(old), old.attributes["skill"], int(old.success.sum())) == (12, "open_drawer", 4)
    for name in ("state", "action", "success", "stamp", "received"):
        np.testing.assert_array_equal(getattr(old, name), getattr(new, name))
    for camera, images in old.images.items():
        np.testing.assert_allclose(images, new.images[camera], atol=1)  # OpenCV may round otherwise


def test_checkpoints_make_an_agent_that_acts(files, capsys):
    spec = load_world_model(files / "world_model").spec
    assert spec == load_dataset(files / "demonstrations.h5").spec
    agent = load_agent(files / "world_model", files / "policy", files / "reward", spec)
    said = capsys.readouterr().err
    for part in ("world_model", "policy", "reward"):
        assert said.count(f"{files / part} is without checksums") == 1
    pictures = {camera.name: synthetic_image(0.0, *camera.record_size) for camera in spec.cameras}
    pose = synthetic_pose(0.0)
    decision = agent.act(Observation(pictures, pose, pose, 0.08, 0.0, 0.0), spec.action.null)
    assert decision.action.shape == (7,)
    assert 0 < decision.success_probability < 1
    for phase in ("world_model", "policy", "reward"):
        checkpoint = load_checkpoint(files / phase, phase)
        assert read_header(checkpoint.path)["software"].startswith("diwa-ros2 0.1.0")
        assert all(np.isfinite(tensor.numpy()).all() for tensor in checkpoint.weights.values())


def test_a_packed_bundle(files, capsys):
    bundle = load_bundle(files / "skills" / "open_drawer")
    card = json.loads((bundle.path / "card.json").read_text())
    assert (bundle.skill, bundle.card) == ("open_drawer", card)
    assert bundle.world_model == files / "skills" / "world_model"
    assert StartRegion.from_card(bundle.card, str(bundle.path)) is not None
    load_agent(bundle.world_model, bundle.policy, bundle.reward, load_checkpoint(bundle.policy, "policy").spec)
    assert capsys.readouterr().err.count("without checksums") == 2  # the bundle, and the world model beside it


def test_seal_adds_what_0_1_did_not_write(sealable, diwa, capsys):
    ran = diwa("seal", sealable)
    assert ran.status == 0, ran.err
    for one in ("episode {}/bags/000000", "dataset {}/demonstrations.h5", "checkpoint {}/world_model",
                "checkpoint {}/policy", "checkpoint {}/reward", "checkpoint {}/skills/world_model",
                "skill bundle {}/skills/open_drawer"):  # fmt: skip
        assert f"sealed {one.format(sealable)}" in ran.out
    bundle = load_bundle(sealable / "skills" / "open_drawer")
    load_agent(bundle.world_model, bundle.policy, bundle.reward, load_checkpoint(bundle.policy, "policy").spec)
    assert capsys.readouterr().err == ""


def test_a_card_that_was_changed_is_refused_until_it_is_sealed(sealable, diwa):
    diwa("seal", sealable)
    bundle = sealable / "skills" / "open_drawer"
    card = json.loads((bundle / "card.json").read_text())
    card["start"]["high"][2] += 0.5
    (bundle / "card.json").write_text(json.dumps(card))
    with pytest.raises(DiwaError, match=r"card\.json is truncated or damaged .* 'diwa seal .*open_drawer'"):
        load_bundle(bundle)
    diwa("seal", bundle)
    assert load_bundle(bundle).card["start"]["high"] == card["start"]["high"]
    shutil.copytree(sealable / "policy", bundle / "policy", dirs_exist_ok=True)  # sealed, but not as it was
    (bundle / "policy" / "config.json").write_text((bundle / "policy" / "config.json").read_text() + "\n")
    diwa("seal", bundle / "policy")
    with pytest.raises(DiwaError, match=r"policy/manifest\.json is truncated or damaged"):
        load_bundle(bundle)
    (bundle / "card.json").write_text(json.dumps(card | {"format": 9}))
    with pytest.raises(DiwaError, match=r"card\.json has format 9, this version reads up to 1"):
        load_bundle(bundle)


def test_what_cannot_be_sealed_is_said(sealable, diwa, tmp_path):
    assert "does not exist" in diwa("seal", tmp_path / "nowhere").err
    (tmp_path / "empty").mkdir()
    assert (
        "holds nothing that has checksums (episode, dataset, checkpoint, skill bundle"
        in diwa("seal", tmp_path / "empty").err
    )
    (sealable / "policy" / "metrics.json").write_text("{")
    ran = diwa("seal", sealable)
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert f"sealed skill bundle {sealable / 'skills' / 'open_drawer'}" in ran.out  # one that is damaged stops no other
    assert f"{sealable / 'policy' / 'metrics.json'} is damaged" in ran.err


@pytest.fixture
def sealable(tmp_path) -> Path:
    """A copy that may be sealed."""
    return Path(shutil.copytree(FILES, tmp_path / "sealable"))
