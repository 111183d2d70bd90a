"""Skill bundles: written whole, found by name, refused with the reason."""

import json

import pytest

from diwa_data.errors import DiwaError
from diwa_deploy.bundle import (
    CHECKPOINT_FILES,
    PARTS,
    find_bundle,
    load_bundle,
    seal_bundle,
    skills_folder,
    write_bundle,
)


@pytest.fixture
def parts(tmp_path):
    """Three folders with checkpoint files whose text is their own name."""
    for part in PARTS:
        (tmp_path / part).mkdir()
        for name in CHECKPOINT_FILES:
            (tmp_path / part / name).write_text(f"{part}/{name}")
    return {part: tmp_path / part for part in PARTS}


def test_a_written_bundle_is_found_by_its_name(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("DIWA_HOME", str(tmp_path / "home"))
    write_bundle(skills_folder() / "open_drawer", parts, {"skill": "open_drawer", "seed": 3})
    bundle = find_bundle("open_drawer")
    assert bundle.path == tmp_path / "home" / "skills" / "open_drawer"
    assert bundle.card["seed"] == 3
    assert (bundle.policy / "config.json").read_text() == "policy/config.json"
    assert find_bundle("open_drawer", bundle.path) == bundle


def test_writing_again_replaces_it(parts, tmp_path):
    for seed in (1, 2):
        bundle = write_bundle(tmp_path / "bundle", parts, {"skill": "open_drawer", "seed": seed})
    assert bundle.card["seed"] == 2


def test_what_the_user_installed_goes_before_what_is_shipped(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("DIWA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("diwa_deploy.bundle.SHIPPED", tmp_path / "shipped")
    for skill in ("open_drawer", "turn_on_led"):
        write_bundle(tmp_path / "shipped" / skill, parts, {"skill": skill})
    write_bundle(skills_folder() / "open_drawer", parts, {"skill": "open_drawer"})
    assert find_bundle("open_drawer").path == skills_folder() / "open_drawer"
    assert find_bundle("turn_on_led").path == tmp_path / "shipped" / "turn_on_led"


def test_a_world_model_may_lie_beside_the_bundles(parts, tmp_path):
    bundle = write_bundle(tmp_path / "skills" / "open_drawer", parts, {"skill": "open_drawer"})
    bundle.world_model.rename(tmp_path / "skills" / "world_model")
    seal_bundle(bundle.path)
    assert load_bundle(bundle.path).world_model == tmp_path / "skills" / "world_model"


def test_unknown_skill_and_missing_bundle_name_the_cure(tmp_path, monkeypatch):
    monkeypatch.setenv("DIWA_HOME", str(tmp_path))
    monkeypatch.setattr("diwa_deploy.bundle.SHIPPED", tmp_path / "nothing")
    with pytest.raises(DiwaError, match=r"unknown skill 'open_drawer'; none is known, .*/skills .*--checkpoint"):
        find_bundle("open_drawer")
    with pytest.raises(DiwaError, match="'Fly' cannot name a skill"):
        find_bundle("Fly")


def test_a_skill_of_any_name_is_found_and_a_typo_names_the_nearest(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("DIWA_HOME", str(tmp_path))
    bundle = write_bundle(tmp_path / "skills" / "pick_cup", parts, {"skill": "pick_cup"})
    assert find_bundle("pick_cup") == bundle
    bundle.path.rename(tmp_path / "skills" / "pick_blue_cup")
    found = find_bundle("pick_blue_cup")
    assert (found.skill, found.path.name) == ("pick_cup", "pick_blue_cup")
    found.path.rename(bundle.path)
    with pytest.raises(DiwaError, match=r"unknown skill 'pick_cap'; .*close_drawer, .*Did you mean 'pick_cup'\?"):
        find_bundle("pick_cap")


def test_a_bundle_of_another_skill_is_refused(parts, tmp_path):
    write_bundle(tmp_path / "bundle", parts, {"skill": "close_drawer"})
    with pytest.raises(DiwaError, match="holds the skill 'close_drawer', not 'open_drawer'"):
        find_bundle("open_drawer", tmp_path / "bundle")


def test_an_incomplete_bundle_names_what_is_missing(parts, tmp_path):
    bundle = write_bundle(tmp_path / "bundle", parts, {"skill": "open_drawer"})
    (bundle.reward / "weights.safetensors").unlink()
    with pytest.raises(DiwaError, match=r"reward/weights\.safetensors missing"):
        load_bundle(bundle.path)


@pytest.mark.parametrize("card", ["{", "[]", json.dumps({"name": "open_drawer"})])
def test_a_damaged_card_is_one_error(parts, tmp_path, card):
    bundle = write_bundle(tmp_path / "bundle", parts, {"skill": "open_drawer"})
    (bundle.path / "card.json").write_text(card)
    with pytest.raises(DiwaError, match=r"card\.json is damaged"):
        load_bundle(bundle.path)


def test_an_unfinished_checkpoint_leaves_no_bundle(parts, tmp_path):
    (parts["reward"] / "weights.safetensors").unlink()
    with pytest.raises(DiwaError, match="finished"):
        write_bundle(tmp_path / "bundle", parts, {"skill": "open_drawer"})
    assert not (tmp_path / "bundle").exists()
