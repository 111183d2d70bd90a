"""A sweep as a user meets it: its plan, interrupted, continued, grown; its table and report."""

import dataclasses
import json
from pathlib import Path

import pytest

from diwa_cli.evaluation.evaluate import Evaluation
from diwa_cli.evaluation.rollouts import RolloutResult
from diwa_cli.pipeline.plan import Sweep, SweepConfig, plan
from diwa_cli.pipeline.results import JudgedRun, run_row, skill_rows, steps_to_match, table
from diwa_cli.pipeline.sweep import claim, reuse
from diwa_cli.report.report import write_report
from diwa_cli.run_folder import Run, SweepFolder
from diwa_data.config import Source
from diwa_data.errors import DiwaError
from diwa_deploy.bundle import load_bundle
from diwa_learning.core.checkpoint import weights_hash
from diwa_sim.tasks import PAPER_TASKS

DEMONSTRATIONS = {f"open_drawer/{name}" for name in ("bags/demonstrations", "demonstrations.h5", "replay.json")}
LEARNED = {f"open_drawer/seed_0/{name}" for name in ("policy", "reward", "evaluation/final")}
JUDGED = {f"open_drawer/seed_0/alpha_0.1/{name}" for name in ("finetuned", "evaluation/final", "dream.mp4")}
SWEEP = [
    "sweep",
    "--preset",
    "debug",
    "--config",
    str(Path(__file__).parents[1] / "tiny.yaml"),
    "--skills",
    "open_drawer",
]


def phases(config):
    """Name -> names that it waits for, by stage, of a sweep at the smallest sizes."""
    found = {}
    for phase in plan(SweepFolder(Path("out")), Sweep(config, Source("debug"))):
        found.setdefault(phase.stage, {})[phase.name] = phase.after
    return found


def planned(config, *where, folder=Path("out")):
    """Name -> phase."""
    return {phase.name: phase for phase in plan(SweepFolder(folder), Sweep(config, Source("debug", *where)))}


def test_plan_of_two_skills_and_two_alphas():
    found = phases(SweepConfig(skills=("open_drawer", "turn_on_led"), seeds=(0,), alphas=(0.1, 2.0)))
    assert list(found) == [
        "record", "build", "replay", "train_world_model", "train_policy", "train_reward", "finetune", "evaluate",
        "dream",
    ]  # fmt: skip
    assert found["record"] == {"record_play": (), "open_drawer/record": (), "turn_on_led/record": ()}
    assert found["build"]["turn_on_led/build"] == ("turn_on_led/record",)
    assert found["replay"]["open_drawer/replay"] == ("open_drawer/build",)
    built = ("build_play", "open_drawer/build", "turn_on_led/build")
    assert found["train_world_model"] == {"train_world_model": built}
    assert found["train_policy"] == {
        "open_drawer/seed_0/train_policy": ("open_drawer/build", "train_world_model"),
        "turn_on_led/seed_0/train_policy": ("turn_on_led/build", "train_world_model"),
    }
    learned = ("open_drawer/seed_0/train_policy", "open_drawer/seed_0/train_reward")
    assert found["finetune"]["open_drawer/seed_0/alpha_0.1/finetune"] == learned
    assert list(found["finetune"])[1:] == [
        "open_drawer/seed_0/alpha_2/finetune",
        "turn_on_led/seed_0/alpha_0.1/finetune",
        "turn_on_led/seed_0/alpha_2/finetune",
    ]
    assert len(found["evaluate"]) == 2 + 4
    assert found["evaluate"]["open_drawer/seed_0/evaluate"] == learned
    assert found["evaluate"]["open_drawer/seed_0/alpha_2/evaluate"] == ("open_drawer/seed_0/alpha_2/finetune",)


def test_final_evaluations_can_begin_from_the_starts_for_tuning():
    for starts in ("tuning", "final"):
        found = planned(SweepConfig(skills=("open_drawer",), seeds=(0,), starts=starts))
        judged = {phase.job.config.seeds for name, phase in found.items() if name.endswith("/evaluate")}
        assert judged == {starts}


def test_the_world_model_learns_from_failed_attempts_too_if_there_are_any():
    for failures in (0, 3):
        model = planned(SweepConfig(skills=("turn_on_led",), seeds=(0,), failures=failures))["train_world_model"]
        assert model.after == (("build_play", "turn_on_led/build") if failures else ("build_play",))
        assert model.job.datasets == (Path("out/play.h5"),)
        assert model.job.attempts == ((Path("out/turn_on_led/demonstrations.h5"),) if failures else ())


def test_play_has_tries_at_tasks_beyond_the_papers_and_every_phase_has_what_they_bring():
    found = planned(SweepConfig(skills=("open_drawer", "lift_cube", "stack_cubes"), seeds=(0,)))
    assert found["record_play"].job.config.tasks == ("lift_cube", "stack_cubes")
    assert found["lift_cube/record"].job.config.tasks == ()
    scenes = {phase.job.sim.objects for phase in found.values() if hasattr(phase.job, "sim")}
    assert scenes == {("block",)}
    usual = planned(SweepConfig(skills=("open_drawer",), seeds=(0,)))
    assert usual["record_play"].job.config.tasks == usual["record_play"].job.sim.objects == ()


def test_plan_on_the_world_model_of_another_run(tmp_path):
    config = SweepConfig(skills=("open_drawer",), seeds=(0,), world_model_of=str(tmp_path / "demo"))
    (tmp_path / "run.json").write_text(json.dumps({"config": {"sweep": {"world_model_of": str(tmp_path / "demo")}}}))
    found = planned(config, folder=tmp_path)
    assert not {"record_play", "build_play", "train_world_model"} & set(found)
    policy = found["open_drawer/seed_0/train_policy"]
    assert policy.after == ("open_drawer/build",)
    assert policy.job.world_model == tmp_path / "demo" / "world_model"


def test_dreams_that_pay_for_deviation_have_an_ensemble():
    found = planned(SweepConfig(skills=("turn_on_led",), seeds=(3,)), Path(__file__).parents[1] / "tiny.yaml")
    (finetune,) = (phase for phase in found.values() if phase.stage == "finetune")
    assert found["train_ensemble"].after == ("train_world_model",)
    assert "train_ensemble" in finetune.after
    assert finetune.job.ensemble == Path("out/ensemble")


def test_seeds_and_alphas_reach_the_phases_that_they_are_for():
    found = planned(SweepConfig(skills=("turn_on_led",), seeds=(3,), alphas=(0.5,), seed=7))
    commands = {name: phase.job.command(Source("debug")) for name, phase in found.items()}
    for name in ("record_play", "turn_on_led/record", "train_world_model"):
        assert "--seed 7" in commands[name]
    for name in ("train_policy", "train_reward", "alpha_0.5/finetune"):
        assert "--seed 3" in commands[f"turn_on_led/seed_3/{name}"]
    assert "--alpha-bc 0.5" in commands["turn_on_led/seed_3/alpha_0.5/finetune"]


def test_a_learning_curve_is_a_phase_of_every_run():
    config = SweepConfig(skills=("turn_on_led",), seeds=(3,), alphas=(0.5,), curve_checkpoints=4, curve_rollouts=7)
    phase = planned(config)["turn_on_led/seed_3/alpha_0.5/evaluate_curve"]
    assert phase.after == ("turn_on_led/seed_3/alpha_0.5/finetune",)
    assert (phase.job.curve, phase.job.config.seeds, phase.job.config.rollouts) == (4, "curve", 7)


def test_every_skill_with_the_presets_own_alpha():
    runs = Sweep(SweepConfig(seeds=(1, 1, 2)), Source("laptop")).runs()
    assert [run.skill for run in runs[::2]] == list(PAPER_TASKS)
    assert runs[:2] == [Run("open_drawer", 1, 0.12), Run("open_drawer", 2, 0.12)]
    paper = Sweep(SweepConfig(skills=("open_drawer", "turn_on_led"), seeds=(0,)), Source("paper")).runs()
    assert [run.alpha for run in paper] == [0.10, 0.025]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SweepConfig(skills=("fly",)), "unknown simulated task 'fly'"),
        (SweepConfig(seeds=()), "at least one skill and one seed"),
        (SweepConfig(skills=()), "at least one skill and one seed"),
    ],
)
def test_a_sweep_of_nothing_or_of_unknown_skills_is_refused(config, message):
    with pytest.raises(DiwaError, match=message):
        Sweep(config, Source("debug")).runs()


def test_a_sweep_that_is_older_than_a_setting_goes_on(tmp_path):
    folder, what = SweepFolder(tmp_path), Sweep(SweepConfig(skills=("open_drawer",)), Source("debug"))
    claim(folder, "diwa sweep", what.identity())
    found = json.loads(folder.description.read_text())
    del found["config"]["reward"]["goal"], found["config"]["sweep"]["videos"]
    folder.description.write_text(json.dumps(found))
    claim(folder, "diwa sweep", what.identity())
    assert folder.config == json.loads(json.dumps(what.identity()))
    del found["config"]["reward"]["width"]
    folder.description.write_text(json.dumps(found))
    with pytest.raises(DiwaError, match=r"reward\.width was 512, is 32\. Restore them"):
        claim(folder, "diwa sweep", what.identity())


def judged(seed, base, tuned):
    """A finished run of open_drawer with these successes."""

    def rollouts(name, wins):
        return [RolloutResult(name, start, win, 9, [0.5], {}, (1.0, 2.0)) for start, win in enumerate(wins)]

    found = {"base": rollouts("base", base), "finetuned": rollouts("finetuned", tuned)}
    return JudgedRun(Run("open_drawer", seed, 0.1), Evaluation(found))


def test_rows_are_percent_and_points_over_seeds():
    runs = [judged(0, [True, False, False, False], [True, True, True, False]), judged(2, [False] * 4, [True] * 4)]
    row = run_row(runs[0])
    assert (row["skill"], row["seed"], row["base"], row["finetuned"], row["difference"]) == (
        "open_drawer", 0, 25.0, 75.0, 50.0,
    )  # fmt: skip
    assert row["only_finetuned"] == 2
    (row,) = skill_rows(runs, "debug")
    assert (row["preset"], row["seeds"], row["rollouts"]) == ("debug", [0, 2], 4)
    assert (row["base"], row["finetuned"], row["difference"]) == (12.5, 87.5, 75.0)
    assert -100 <= row["interval"][0] < 75 < row["interval"][1] <= 100
    assert "| open_drawer | 0.1 | 0 2 | 12.5 % | 87.5 % | +75.0 (" in table(runs)
    assert (row["dppo_steps_to_match"], row["dppo"], steps_to_match(row)) == (None, [], "")


def practised(run, steps):
    """The same run with a baseline that matched after `steps`, or did not within 900."""
    found = {
        "rate": 0.75,
        "environment_steps": steps,
        "curve": [{"environment_steps": 300}, {"environment_steps": 900}],
    }
    return dataclasses.replace(run, dppo=found)


def test_the_baselines_steps_are_a_mean_over_seeds_if_all_of_them_matched():
    runs = [judged(seed, [True, False], [True, True]) for seed in (0, 1)]
    (row,) = skill_rows([practised(runs[0], 300), practised(runs[1], 900)], "debug")
    assert (row["dppo_steps_to_match"], steps_to_match(row)) == (600, "600")
    assert row["dppo"][0] == {"seed": 0, "rate": 75.0, "steps": 300, "practised": 900}
    (row,) = skill_rows([practised(runs[0], 300), runs[1]], "debug")
    assert row["dppo_steps_to_match"] == 300
    (row,) = skill_rows([practised(runs[0], 300), practised(runs[1], None)], "debug")
    assert (row["dppo_steps_to_match"], steps_to_match(row)) == (None, "more than 900")


def test_the_baseline_practises_after_what_it_must_match_is_judged():
    config = SweepConfig(skills=("open_drawer",), seeds=(0, 1), alphas=(0.1,), dppo_seeds=(1,))
    (phase,) = (phase for phase in planned(config).values() if phase.stage == "dppo")
    run = "open_drawer/seed_1/alpha_0.1"
    assert (phase.name, phase.after) == (f"{run}/dppo", (f"{run}/evaluate",))
    command = phase.job.command(Source("debug"))
    assert command.startswith("diwa dppo --policy out/open_drawer/seed_1/policy ")
    assert "--seed 1" in command
    assert "--until out/open_drawer/seed_1/alpha_0.1/evaluation/final" in command
    assert "--reward out/open_drawer/seed_1/reward" in command
    assert "--evaluate.rollouts 50" in command


def test_sweep_interrupted_continued_and_grown(diwa, interrupt_in_phase, tmp_path):
    out = tmp_path / "sweep"
    interrupt_in_phase([*SWEEP, "--seeds", "0", "1", "--out", out], "open_drawer/seed_1/train_policy")
    assert not (out / "results.json").exists()
    here = [*SWEEP, "--out", out]
    ran = diwa(*here, "--seeds", "0", "1")
    assert ran.status == 0, ran.err
    assert "[train_world_model] finished earlier" in ran.out
    assert "failed" not in ran.err
    found = json.loads((out / "results.json").read_text())
    check_results(out, found)

    before = {path: path.stat().st_mtime_ns for path in out.glob("[!s]*/**/*.safetensors")}  # `skills` follow the runs
    ran = diwa(*here, "--seeds", "0", "--alphas", "0.5")
    assert ran.status == 0, ran.err
    assert "[open_drawer/seed_0/evaluate] finished earlier" in ran.out
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    (row,) = json.loads((out / "results.json").read_text())["skills"]
    assert (row["alpha_bc"], row["base"]) == (0.5, found["runs"][0]["base"])
    check_experiment(diwa, out)
    (row,) = dppo_in_sweep(diwa, here, out)
    assert [one["seed"] for one in row["dppo"]] == [0]
    ran = diwa(*here, "--rollouts", "3")
    assert (ran.status, "begun with other settings: " in ran.err, "sweep.rollouts was 2" in ran.err) == (2, True, True)
    check_variant(diwa, out, tmp_path / "gaussian")
    check_failure(diwa, out)


def dppo_in_sweep(diwa, here, out):
    """The rows after the baseline has practised a little."""
    ran = diwa(*here, "--seeds", "0", "--alphas", "0.5", "--dppo-seeds", "0")
    assert ran.status == 0, ran.err
    assert ran.out.count("[open_drawer/seed_0/alpha_0.5/dppo]") == 2, "begun and done"
    assert 'id="dppo"' in (out / "report.html").read_text()
    return json.loads((out / "results.json").read_text())["skills"]


def check_results(out, found):
    (row,) = found["skills"]
    assert (row["skill"], row["seeds"], row["rollouts"]) == ("open_drawer", [0, 1], 2)
    assert [(run["skill"], run["seed"]) for run in found["runs"]] == [("open_drawer", 0), ("open_drawer", 1)]
    assert row["difference"] == pytest.approx(sum(run["difference"] for run in found["runs"]) / 2)
    assert (found["failed"], found["left_out"]) == ({}, {})
    rollouts = [json.loads(line) for line in (out / "rollouts.jsonl").read_text().splitlines()]
    assert len(rollouts) == 2 * 2 * 2
    assert len({(r["seed"], r["policy"], r["start"]) for r in rollouts}) == 8
    text = (out / "report.html").read_text()
    assert "is not there" not in text
    assert "open drawer, 2 seeds" in text
    assert "diwa finetune --policy" in text
    for link in ("seed_0/evaluation", "seed_0/alpha_0.1/evaluation"):
        assert f'href="open_drawer/{link}/final/videos/' in text
    bundle = load_bundle(out / "skills" / "open_drawer")
    assert (bundle.card["seed"], bundle.card["finetuned"]["rollouts"]) == (0, 2)
    assert weights_hash(bundle.policy) == weights_hash(out / "open_drawer/seed_0/alpha_0.1/finetuned")


def check_experiment(diwa, out):
    """A run of a sweep is a finished run; the sweep itself says which it has."""
    tiny = [*SWEEP[1:5], "--evaluate.rollouts", "2", "--evaluate.max-steps", "4"]
    ran = diwa("experiment", "reward", out / "open_drawer/seed_0/alpha_0.5", *tiny)
    assert ran.status == 0, ran.err
    result = json.loads((out / "open_drawer/seed_0/alpha_0.5/experiments/reward/result.json").read_text())
    assert list(result["policies"]) == ["base", "classifier", "true labels"]
    ran = diwa("experiment", "reward", out, *tiny)
    assert (ran.status, f"name one of its runs, such as {out}/open_drawer/seed_0/alpha_0.1" in ran.err) == (2, True)


def check_variant(diwa, out, variant):
    """A sweep of another policy has all but what depends on it from the first one."""
    config = variant.with_suffix(".yaml")
    config.write_text(Path(SWEEP[4]).read_text().replace("net: {", "net: {kind: gaussian, "))
    words = ["sweep", "--preset", "debug", "--config", config, "--skills", "open_drawer", "--seeds", "0", "2"]
    ran = diwa(*words, "--reuse", out, "--out", variant)
    assert ran.status == 0, ran.err
    assert f"from {out}, with the same settings: 8 finished phases" in ran.out
    links = {str(path.relative_to(variant)) for path in variant.rglob("*") if path.is_symlink()}
    assert links == {"bags/play", "play.h5", "world_model", "ensemble", *DEMONSTRATIONS, "open_drawer/seed_0/reward"}
    assert all((variant / link).resolve().is_relative_to(out) for link in links)
    assert (variant / "open_drawer/seed_2/reward/weights.safetensors").is_file()
    ran = diwa("compare", out, variant)
    assert ran.out.count("| open_drawer | 0 |") == 1, ran.err
    ran = diwa(*words, "--reuse", out, "--out", variant)
    assert (ran.status, "with the same settings" in ran.out) == (0, False)
    ran = diwa(*words, "--reuse", variant / "ensemble", "--out", variant.with_name("new"))
    assert (ran.status, "ensemble holds no sweep: give --reuse the folder of one" in ran.err) == (2, True)
    assert not variant.with_name("new").exists()
    check_what_is_reused(out, variant)


def check_what_is_reused(out, variant):
    """Phases that a sweep of another world model takes, one on the same, one that fine-tunes or judges otherwise."""
    text = Path(SWEEP[4]).read_text()
    shared = {"ensemble", *DEMONSTRATIONS, *LEARNED}
    judged = {path for path in LEARNED | JUDGED if path.endswith(("final", "mp4"))}
    for how, change, expected in (
        ("reuse", ("updates: 6\n", "updates: 7\n"), {"bags/play", "play.h5", *DEMONSTRATIONS}),
        ("world_model_of", ("updates: 6\n", "updates: 7\n"), shared | JUDGED),
        ("world_model_of", ("iterations: 4", "iterations: 3"), shared),
        ("world_model_of", ("max_steps: 4", "max_steps: 3"), (shared | JUDGED) - judged),
    ):
        assert change[0] in text
        config = variant.with_name(f"{how} {change[1]}".strip() + ".yaml")
        config.write_text(text.replace(*change))
        source = Source("debug", config)
        settings = dataclasses.replace(source.section(SweepConfig, "sweep"), skills=("open_drawer",), seeds=(0, 5))
        folder = SweepFolder(config.with_suffix(""))
        what = Sweep(dataclasses.replace(settings, **{how: str(out)}), source)
        claim(folder, "diwa sweep", what.identity())
        reuse(plan(folder, what), folder, what)
        assert {str(p.relative_to(folder.path)) for p in folder.path.rglob("*") if p.is_symlink()} == expected


def check_failure(diwa, out):
    """A failure of one skill leaves the other skill's result."""
    (out / "close_drawer").mkdir()
    (out / "close_drawer" / "bags").write_text("no folder")
    ran = diwa(*SWEEP, "close_drawer", "--seeds", "0", "--out", out)
    assert ran.status == 1
    assert "[close_drawer/record] failed: " in ran.err
    assert "(8 phases that need it were left out)" in ran.out
    found = json.loads((out / "results.json").read_text())
    assert [row["skill"] for row in found["skills"]] == ["open_drawer"]
    assert list(found["failed"]) == ["close_drawer/record"]
    (out / "report.html").unlink()
    assert diwa("report", out).out.strip() == str(out / "report.html")
    assert "<td>close_drawer/record</td>" in (out / "report.html").read_text()


def test_report_names_failures_and_missing_parts(tmp_path):
    found = {
        "skills": [], "runs": [],
        "failed": {"open_drawer/record": "<no space>"}, "left_out": {"open_drawer/build": "open_drawer/record"},
        "stages": {"replay": {"seconds": 0.0, "commands": {"open_drawer/replay": "diwa replay x"}}},
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(found))
    about = {"command": "diwa sweep", "versions": {}, "machine": {}, "config": {"sweep": {}}}
    (tmp_path / "run.json").write_text(json.dumps(about))
    text = write_report(tmp_path).read_text()
    assert "A sweep without results" in text
    assert "&lt;no space&gt;" in text
    assert text.count("is not there") >= 3
