"""`diwa run-skill --sequence` and `diwa evaluate-sequences`, with untrained networks and with results made by hand."""

import json

import pytest

from diwa_cli.evaluation.run_skill import sequence_line
from diwa_cli.evaluation.sequences import SequenceResult, mean_interval, row, text
from diwa_data.files import read_object
from diwa_deploy.bundle import SHIPPED, write_bundle
from diwa_deploy.control import ControlResult
from diwa_deploy.sequence import Part
from diwa_sim.tasks import PAPER_TASKS

QUICK = ["--max-steps", "2", "--between.speed", "0.3", "--between.rotation-speed", "1"]


@pytest.fixture(scope="module")
def skills(checkpoints, tmp_path_factory):
    """A folder with a bundle of each of the eight, all untrained, which begin where the shipped ones do."""
    folder = tmp_path_factory.mktemp("skills")
    parts = {name: getattr(checkpoints, name) for name in ("world_model", "policy", "reward")}
    start = read_object(SHIPPED / "open_drawer" / "card.json", "")["start"]
    for skill in PAPER_TASKS:
        write_bundle(folder / skill, parts, {"skill": skill, "start": start})
    return folder


def test_a_sequence_prints_a_line_a_skill_and_ends_where_one_fails_twice(diwa, skills, tmp_path):
    words = ["run-skill", "--sequence", "open_drawer", "close_drawer", "--checkpoint", skills, "--success-ticks", "0"]
    ran = diwa(*words, *QUICK)
    assert ran.status == 0, ran.err
    line, end = ran.out.splitlines()
    assert line.startswith("1  open_drawer          max_steps after 2 and 2 steps, moved for ")
    assert line.endswith("s before, simulator's oracle: not done")
    assert end == "0 of 2 skills done, by their classifiers; it ended at open_drawer: max_steps"
    film = tmp_path / "a.mp4"
    ran = diwa(*words, "--between.tries", "1", "--max-steps", "1", "--video", film)
    assert ran.out.splitlines()[-1].endswith(str(film))
    assert film.stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sequence"], "name what to run: one --skill, or the skills of a --sequence"),
        (["--skill", "turn_on_led", "--sequence", "turn_on_led"], "name what to run"),
        (["--sequence", "turn_on_led", "fly"], "unknown skill 'fly'; choose one of"),
        (["--sequence", "turn_on_led", "--checkpoint", SHIPPED / "turn_on_led"], "is the bundle of one skill"),
        (["--sequence", "turn_on_led", "--between.speed", "-1"], "speed is -1.0: it must be positive"),
        (["--sequence", "turn_on_led", "--between.height", "2"], "cannot be moved to where turn_on_led begins"),
        (["--sequence", "open_drawer", "--limits.workspace-high", "0.5", "0.5", "0.3"], "cannot be moved to where"),
    ],
)
def test_what_is_no_sequence_is_refused_in_a_line(diwa, words, message):
    ran = diwa("run-skill", *words)
    assert (ran.status, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert message in ran.err


def test_a_line_tells_tries_moves_and_verdict():
    part = Part(
        2, "turn_on_led", "success", (ControlResult("max_steps", [None] * 72), ControlResult("success", [None] * 9)), 15
    )
    assert sequence_line(part, None, 7.5) == (
        "3  turn_on_led          success after 72 and 9 steps, moved for 2.0 s before, simulator's oracle: none"
    )
    stopped = Part(0, "turn_on_led", "cancelled", (), 0)
    assert sequence_line(stopped, True, 7.5) == "1  turn_on_led          cancelled, simulator's oracle: done"


def test_an_evaluation_continues_grows_and_refuses_other_settings(diwa, skills, tmp_path):
    words = ["evaluate-sequences", "--skills", skills, "--out", tmp_path / "out", "--length", "2", "--seeds", "tuning"]
    words += ["--workers", "1", "--between.tries", "1", *QUICK]
    ran = diwa(*words, "--sequences", "1")
    assert ran.status == 0, ran.err
    assert "finetuned: 0.00 of 2 in a row (95 %: 0.00 to " in ran.out
    assert "over 1 sequences; 1 to 2 in a row: 0 0 %" in ran.out
    kept = tmp_path / "out" / "rollouts.jsonl"
    before = kept.read_text()
    kept.write_text(before + '{"policy": "fin')  # killed while it wrote
    assert diwa(*words, "--sequences", "2").status == 0
    assert (kept.read_text().startswith(before), len(kept.read_text().splitlines())) == (True, 2)
    found = json.loads((tmp_path / "out" / "sequences.json").read_text())
    assert [each["seed"] for each in found["sequences"]] == [5_000_000_000, 5_000_000_001]
    assert (found["rows"][0]["policy"], found["rows"][0]["sequences"]) == ("finetuned", 2)

    ran = diwa(*words, "--sequences", "2", "--between.tries", "2")
    assert (ran.status, "was begun with other settings: between.tries was 1, is 2" in ran.err) == (2, True)
    ran = diwa(*words[:2], SHIPPED, *words[3:])
    assert (ran.status, "was begun with other settings: " in ran.err) == (2, True)
    ran = diwa(*words, "--policies", "base")
    assert (ran.status, "holds no policy 'base'" in ran.err) == (2, True)
    ran = diwa(*words[:2], tmp_path, *words[3:])
    assert (ran.status, "there is no bundle of open_drawer or" in ran.err) == (2, True)


def result(declared, done):
    count = len(declared)
    skills = ["open_drawer", "turn_on_led", "close_drawer"]
    return SequenceResult("base", 1, skills, declared, done, ["success"] * count, [[9]] * count, [0] * count)


def test_a_row_counts_what_was_declared_and_done_in_a_row():
    yes, no = True, False
    ends = [([yes, yes, yes], [yes, yes, yes]), ([yes, yes], [yes, no]), ([no], [yes]), ([yes], [no])]
    results = [result(*end) for end in ends]
    assert [each.length for each in results] == [3, 1, 0, 0]
    found = row(results, 3)
    assert (found["sequences"], found["mean_length"], found["of"]) == (4, 1.0, 3)
    assert [each["successes"] for each in found["by_position"]] == [2, 1, 1]
    assert found["by_skill"]["open_drawer"] == {"reached": 4, "both": 2, "only_declared": 1, "only_done": 1}
    assert found["by_skill"]["turn_on_led"] == {"reached": 2, "both": 1, "only_declared": 1, "only_done": 0}
    assert found["interval"] == pytest.approx([0.0, 3.0]), "1 +- 3.18 * 1.41 / 2, cut"
    assert text(found) == "base: 1.00 of 3 in a row (95 %: 0.00 to 3.00) over 4 sequences; 1 to 3 in a row: 50 25 25 %"


def test_the_interval_of_a_mean_is_students_and_wilsons_where_all_are_equal():
    found = mean_interval([1, 2, 3, 4, 5], 5)
    assert (found.low, found.high) == pytest.approx((1.037, 4.963), abs=1e-3)
    found = mean_interval([5] * 10, 5)
    assert (found.low, found.high) == pytest.approx((5 * 0.7225, 5.0), abs=1e-3)
