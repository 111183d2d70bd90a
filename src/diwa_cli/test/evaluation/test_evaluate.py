"""Evaluation on untrained networks: paired, repeatable, resumable, and never mixed."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest

from diwa_cli.evaluation.evaluate import EvaluateConfig, evaluate, start_seeds, text
from diwa_cli.evaluation.rollouts import RolloutResult, Setting, read_rollouts, tape_rollouts
from diwa_cli.evaluation.tapes import EXTRA_TICKS
from diwa_cli.evaluation.world_model import EvaluateWorldModelConfig, evaluate_world_model
from diwa_cli.evaluation.world_model import text as world_model_text
from diwa_cli.statistics import SEEDS
from diwa_data.dataset.dataset import load_dataset, save_dataset
from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.spec import Spec
from diwa_sim.table import SimConfig, SimulatedPanda
from diwa_sim.tasks import SCENE_STATE

CONFIG = EvaluateConfig(rollouts=2, max_steps=3, videos=1, workers=1)


def run(checkpoints, out, config=CONFIG, policies=("policy", "other_policy")):
    named = {name: getattr(checkpoints, name) for name in policies}
    return evaluate(named, checkpoints.world_model, checkpoints.reward, out, config, SimConfig())


def results(evaluation):
    """Everything but the times."""
    return [
        dataclasses.replace(rollout, latency_ms=(0, 0))
        for rollouts in evaluation.rollouts.values()
        for rollout in rollouts
    ]


@pytest.fixture(scope="module")
def first(checkpoints, tmp_path_factory):
    """One evaluation and its folder."""
    out = tmp_path_factory.mktemp("evaluation")
    return run(checkpoints, out), out


def test_policies_get_the_same_starts_and_are_compared(first):
    evaluation, out = first
    seeds = [[rollout.seed for rollout in rollouts] for rollouts in evaluation.rollouts.values()]
    assert seeds == [list(SEEDS["final"][:2])] * 2
    written = json.loads((out / "evaluation.json").read_text())
    assert written["policies"]["policy"]["rollouts"] == 2
    assert set(written["differences"]["other_policy - policy"]) >= {"points", "interval", "both", "neither"}
    assert len(written["rollouts"]) == 4
    assert len(written["rollouts"][0]["probabilities"]) == written["rollouts"][0]["steps"] == 3
    assert (out / "success.svg").read_text().startswith("<?xml")
    assert "other_policy - policy: +0 points" in text(evaluation)


def test_videos_are_small_mp4_of_the_first_starts(first):
    videos = sorted((first[1] / "videos").iterdir())
    assert [video.name for video in videos] == [f"{name}_8000000000.mp4" for name in ("other_policy", "policy")]
    assert all(video.read_bytes()[4:8] == b"ftyp" and video.stat().st_size < 100_000 for video in videos)


def test_an_interrupted_evaluation_continues_to_the_same_result(first, checkpoints, tmp_path):
    evaluation, out = first
    lines = (out / "rollouts.jsonl").read_text().splitlines()
    (tmp_path / "inputs.json").write_text((out / "inputs.json").read_text())
    (tmp_path / "rollouts.jsonl").write_text(lines[0] + "\n" + lines[1][:20])  # killed while writing
    again = run(checkpoints, tmp_path)
    assert results(again) == results(evaluation)
    kept = read_rollouts(tmp_path / "rollouts.jsonl", RolloutResult)
    assert len(kept) == 4
    assert kept[0].latency_ms == again.rollouts["policy"][0].latency_ms  # not run again


def test_two_processes_give_the_same_results(first, checkpoints, tmp_path):
    again = run(checkpoints, tmp_path, dataclasses.replace(CONFIG, workers=2, videos=0))
    assert results(again) == results(first[0])


def test_results_of_other_checkpoints_are_not_mixed(first, checkpoints):
    swapped = dataclasses.replace(checkpoints, policy=checkpoints.other_policy)
    with pytest.raises(DiwaError, match=r"was begun with other settings: policy policy was '\w+', is '\w+'"):
        run(swapped, first[1])
    with pytest.raises(DiwaError, match="max_steps was 3, is 4"):
        run(checkpoints, first[1], dataclasses.replace(CONFIG, max_steps=4))


def test_results_of_other_samplers_are_not_mixed(first, checkpoints):
    """Also with results from before there was a choice, which say nothing."""
    _, out = first
    inputs = json.loads((out / "inputs.json").read_text())
    assert inputs.pop("ddim_steps") == 0
    (out / "inputs.json").write_text(json.dumps(inputs))
    with pytest.raises(DiwaError, match="ddim_steps"):
        run(checkpoints, out, dataclasses.replace(CONFIG, ddim_steps=2))
    assert results(run(checkpoints, out)) == results(first[0])


def test_a_taped_rollout_is_an_episode_as_the_dataset_holds_them(checkpoints):
    setting = Setting("open_drawer", checkpoints.world_model, checkpoints.reward, 3, MotionLimits(), SimConfig())
    one, again = (tape_rollouts(checkpoints.policy, [7], setting)[0] for _ in range(2))
    assert {name: images.shape for name, images in one.images.items()} == {
        "static": (4, 64, 64, 3),
        "gripper": (4, 64, 64, 3),
    }
    assert (one.state.shape, one.action.shape, one.success.tolist()) == ((4, 10), (4, 7), [False] * 4)
    np.testing.assert_array_equal(one.action[-1], Spec().action.null)
    np.testing.assert_array_equal(one.images["gripper"], again.images["gripper"])
    travelled = np.linalg.norm(np.diff(one.state[:, :3], axis=0), axis=1)
    assert (travelled > 1e-4).all(), "frames follow one another"


@pytest.fixture(scope="module")
def taped(checkpoints, tmp_path_factory):
    """The folder of the same evaluation as `first`, with tapes."""
    out = tmp_path_factory.mktemp("taped")
    return run(checkpoints, out, dataclasses.replace(CONFIG, tapes=True)), out


def test_tapes_are_a_dataset_and_change_no_result(first, taped):
    evaluation, out = taped
    assert results(evaluation) == results(first[0])
    tapes = load_dataset(out / "rollouts.h5", Spec(robot="panda_sim", scene_state=SCENE_STATE)).episodes
    whose = [(tape.attributes["policy"], tape.attributes["seed"]) for tape in tapes]
    assert whose == [(name, seed) for name in ("other_policy", "policy") for seed in SEEDS["final"][:2]]
    rows = {(row.policy, row.seed): row for rows in evaluation.rollouts.values() for row in rows}
    for key, tape in zip(whose, tapes, strict=True):
        assert len(tape) == CONFIG.max_steps + EXTRA_TICKS + 1
        assert tape.scene_state.shape == (len(tape), len(SCENE_STATE))
        about = {name: tape.attributes[name] for name in ("source", "skill", "outcome", "success_tick")}
        assert about == {"source": "rollout", "skill": "open_drawer", "outcome": "fail", "success_tick": -1}
        probabilities = tape.attributes["probabilities"]
        assert len(probabilities) == len(tape) - 1
        np.testing.assert_allclose(probabilities[: CONFIG.max_steps], rows[key].probabilities, atol=0.0006)
    assert not list(out.glob(".*"))
    found = json.loads((out / "evaluation.json").read_text())["deployment"]
    assert found["policy"]["deployment_success"] | {"interval": 0} == {"count": 0, "of": 2, "rate": 0, "interval": 0}
    assert found["policy"]["false_success"]["of"] == 2
    assert found["policy"]["missed"] == {"count": 0, "of": 0, "rate": None, "interval": None}
    assert "policy, as deployment sees it: deployment success 0 of 2 (0 %" in text(evaluation)
    assert json.loads((first[1] / "evaluation.json").read_text())["deployment"] == {}


def test_a_world_model_is_probed_on_tapes(checkpoints, taped, tmp_path, capsys):
    tapes, out, config = taped[1] / "rollouts.h5", tmp_path / "out", EvaluateWorldModelConfig(clips=2, horizon=4)
    found = evaluate_world_model(checkpoints.world_model, tapes, out, config, [tapes])
    assert {"probes.svg", "reconstructions.png"} <= {path.name for path in out.iterdir()}
    kept = json.loads((out / "result.json").read_text())["probes"]
    assert (kept["rollouts"], kept["failed_rollouts"], kept["frames"]) == (
        4,
        4,
        3 * (CONFIG.max_steps + EXTRA_TICKS + 1),
    )
    where = {(row["frames_of"], row["place"]) for row in kept["rows"] if row["quantity"] == "hand"}
    places = ("embedding", "filtered", "imagined_4")
    assert where == {(kind, place) for kind in ("held_out", "rollouts", "failed") for place in places}
    assert all(0 <= row["within_20mm"] <= 1 for row in kept["rows"] if row["unit"] == "m")
    said = world_model_text(found)
    assert "4 failed" in said
    assert "ticks of failed rollouts read within 20 mm, filtered (embedding): hand" in said

    blind = dataclasses.replace(load_dataset(tapes).episodes[0], scene_state=None)
    save_dataset(tmp_path / "blind.h5", Spec(robot="panda_sim", scene_state=SCENE_STATE), [blind, blind])
    found = evaluate_world_model(checkpoints.world_model, tmp_path / "blind.h5", tmp_path / "none", config)
    assert "no probes: episode 000000 has no scene_state" in capsys.readouterr().out
    assert not {"probes", "pictures"} & set(found)


def test_tapes_can_be_added_and_an_interruption_loses_none(first, checkpoints, taped, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(first[1], out)
    rows = (out / "rollouts.jsonl").read_text()
    config, written = dataclasses.replace(CONFIG, tapes=True), []

    def interrupted(path, spec, episodes):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        save_dataset(path, spec, episodes)

    monkeypatch.setattr("diwa_cli.evaluation.rollouts.save_dataset", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoints, out, config)
    assert not (out / "rollouts.h5").exists()
    assert [path.is_file() for path in written] == [True, True]
    monkeypatch.setattr("diwa_cli.evaluation.rollouts.save_dataset", lambda *all: written.append(save_dataset(*all)))
    run(checkpoints, out, config)
    assert len(written) == 4, "what was there is not run again"
    assert (out / "rollouts.jsonl").read_text() == rows
    one, other = (load_dataset(folder / "rollouts.h5").episodes for folder in (out, taped[1]))
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine.images["static"], theirs.images["static"])
        assert mine.attributes == theirs.attributes
    run(checkpoints, out, dataclasses.replace(config, rollouts=3))
    assert (len(written), len(load_dataset(out / "rollouts.h5").episodes)) == (6, 6)


def test_a_tape_that_contradicts_its_row_is_refused_and_deleted(first, checkpoints, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(first[1], out)
    rows = (out / "rollouts.jsonl").read_text()
    (out / "rollouts.jsonl").write_text(rows.replace('"success": false', '"success": true', 1))
    config = dataclasses.replace(CONFIG, tapes=True)
    with pytest.raises(DiwaError, match=r"policy from seed 8000000000 was a success after 3 ticks, .* it is a failure"):
        run(checkpoints, out, config)
    assert not list(out.rglob("*.h5"))
    (out / "rollouts.jsonl").write_text(rows)
    (out / "rollouts.h5").write_text("mine")
    with pytest.raises(DiwaError, match=r"rollouts\.h5 cannot be read as a dataset"):
        run(checkpoints, out, config)
    assert (out / "rollouts.h5").read_text() == "mine"


def test_a_taped_success_goes_on_and_is_counted_when_it_came(checkpoints, tmp_path, monkeypatch):
    """The oracle is true after the second command, and in another rollout after the time is up."""
    for when, limit, success, steps in ((2, 3, True, 2), (5, 3, False, 3)):
        monkeypatch.setattr(SimulatedPanda, "succeeded", lambda panda, when=when: panda.time >= when / 7.5 - 1e-9)
        config = EvaluateConfig(rollouts=1, max_steps=limit, videos=0, workers=1, tapes=True)
        plain, out = tmp_path / f"plain{when}", tmp_path / f"taped{when}"
        one = run(checkpoints, plain, dataclasses.replace(config, tapes=False), ["policy"])
        other = run(checkpoints, out, config, ["policy"])
        assert results(one) == results(other)
        (row,), (tape,) = other.rollouts["policy"], load_dataset(out / "rollouts.h5").episodes
        assert (row.success, row.steps, len(row.probabilities)) == (success, steps, steps)
        assert len(tape) == limit + EXTRA_TICKS + 1
        assert tape.success.tolist() == [False] * when + [True] * (len(tape) - when)
        assert (tape.attributes["success_tick"], tape.outcome) == (when, "success" if success else "fail")


def test_ranges_of_seeds_are_disjoint_and_above_the_recorders():
    ranges = sorted(SEEDS.values(), key=lambda seeds: seeds.start)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges))
    assert ranges[0].start >= 2**32


@pytest.mark.parametrize("rollouts", [0, 10**10])
def test_impossible_numbers_of_rollouts_are_refused(rollouts):
    with pytest.raises(DiwaError, match="choose 1 to"):
        start_seeds(EvaluateConfig(rollouts=rollouts))


def test_a_checkpoint_of_another_phase_is_one_error(checkpoints, tmp_path):
    with pytest.raises(DiwaError, match="is a world_model checkpoint, but a policy checkpoint is needed"):
        run(dataclasses.replace(checkpoints, policy=checkpoints.world_model), tmp_path)
    with pytest.raises(DiwaError, match="no checkpoint folder"):
        run(dataclasses.replace(checkpoints, policy=tmp_path / "nowhere"), tmp_path / "out")
