"""Evaluation on untrained networks: paired, repeatable, resumable, and never mixed."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from diwa_cli.evaluation.evaluate import EvaluateConfig, evaluate, start_seeds, text
from diwa_cli.evaluation.rollouts import Setting, read_rollouts, tape_rollouts
from diwa_cli.statistics import SEEDS
from diwa_data.errors import DiwaError
from diwa_data.motion import MotionLimits
from diwa_data.spec import Spec
from diwa_sim.table import SimConfig

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
    kept = read_rollouts(tmp_path / "rollouts.jsonl")
    assert len(kept) == 4
    assert kept[0].latency_ms == again.rollouts["policy"][0].latency_ms  # not run again


def test_two_processes_give_the_same_results(first, checkpoints, tmp_path):
    again = run(checkpoints, tmp_path, dataclasses.replace(CONFIG, workers=2, videos=0))
    assert results(again) == results(first[0])


def test_results_of_other_checkpoints_are_not_mixed(first, checkpoints):
    swapped = dataclasses.replace(checkpoints, policy=checkpoints.other_policy)
    with pytest.raises(DiwaError, match=r"was begun differently: policy policy was '\w+', is '\w+'"):
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


def test_ranges_of_seeds_are_disjoint_and_above_the_recorders():
    ranges = sorted(SEEDS.values(), key=lambda seeds: seeds.start)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges))
    assert ranges[0].start >= 2**32


@pytest.mark.parametrize("rollouts", [0, 10**10])
def test_impossible_numbers_of_rollouts_are_refused(rollouts):
    with pytest.raises(DiwaError, match="choose 1 to"):
        start_seeds(EvaluateConfig(rollouts=rollouts))


def test_a_checkpoint_of_another_phase_is_one_error(checkpoints, tmp_path):
    with pytest.raises(DiwaError, match="is a world_model checkpoint, a policy checkpoint is needed"):
        run(dataclasses.replace(checkpoints, policy=checkpoints.world_model), tmp_path)
    with pytest.raises(DiwaError, match="no checkpoint folder"):
        run(dataclasses.replace(checkpoints, policy=tmp_path / "nowhere"), tmp_path / "out")
