"""Films of dreams: recorded above imagined above dreamt, and every lamp or drawer that is shown wrong is named."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diwa_cli.evaluation.dream import Dreamer, DreamFilmConfig, truths
from diwa_cli.evaluation.scene_check import LAMPS, VALUES, SceneReader, agreement, differences, remark, shares, unclear
from diwa_cli.video import BAR_HEIGHT, LINE_HEIGHT, PICTURE_HEIGHT, Row, film_frames, read_video
from diwa_data.dataset.dataset import Episode, save_dataset
from diwa_data.errors import DiwaError
from diwa_data.images import preprocess_observation
from diwa_data.pose import robot_state
from diwa_deploy.bundle import load_bundle, pack_bundles, write_bundle
from diwa_learning.policy.checkpoint import load_policy
from diwa_learning.world_model.model import load_world_model
from diwa_sim.table import SimConfig, SimulatedPanda

ROW = LINE_HEIGHT + PICTURE_HEIGHT + BAR_HEIGHT


@pytest.fixture(scope="module")
def episode():
    """Twelve frames of the table, in each of which everything stands elsewhere."""
    robot, frames, targets = SimulatedPanda(), [], []
    for seed in range(12):
        robot.reset("", seed)
        frames.append(preprocess_observation(robot.observe(), robot.spec))
        targets.append(robot_state(robot.target_pose, None))
    robot.close()
    images = {name: np.stack([frame.images[name] for frame in frames]) for name in frames[0].images}
    actions, ticks = np.tile(robot.spec.action.null, (12, 1)), np.arange(12) / robot.spec.rate
    about = {"source": "play", "skill": "", "labels": {}, "segment": 0, "bag": "", "flagged": [], "clipped": 0}
    return Episode(
        "000000", images, np.stack([frame.state for frame in frames]), actions, np.zeros(12, bool), ticks, ticks,
        np.stack([frame.scene_state for frame in frames]), about, np.stack(targets),
    )  # fmt: skip


@pytest.fixture(scope="module")
def dataset(episode, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "play.h5"
    save_dataset(path, SimulatedPanda().spec, [episode])
    return path


@pytest.fixture(scope="module")
def reader():
    with closing(SceneReader(SimConfig())) as reader:
        yield reader


def test_a_picture_is_read_right_and_every_wrong_claim_about_it_is_found(episode, reader):
    names = SimulatedPanda().spec.scene_state
    seen = episode.images["static"], episode.state
    right = reader.read(*seen, episode.scene_state)
    assert differences(right, episode.scene_state, names) == [{}] * 12
    assert sum(not unclear(each) for each in right) > 8  # the arm is before something now and then
    claimed = np.array(episode.scene_state)
    claimed[:, [names.index("bulb"), names.index("led")]] = 1 - claimed[:, [names.index("bulb"), names.index("led")]]
    claimed[:, names.index("drawer")] = 0.16 - claimed[:, names.index("drawer")]
    shown = reader.read(*seen, claimed)
    wrong = differences(shown, claimed, names)
    for t in range(12):
        drawer, bulb = episode.scene_state[t, names.index("drawer")], episode.scene_state[t, names.index("bulb")]
        assert wrong[t].get("bulb") == (("off", "on") if bulb else ("on", "off")) or "bulb" in unclear(shown[t])
        assert "led" in [*wrong[t], *unclear(shown[t])]
        assert ("drawer" in wrong[t]) == (abs(0.16 - 2 * drawer) > 0.06) or "drawer" in unclear(shown[t])
    assert sum(len(each) for each in wrong) > 24


@pytest.mark.parametrize("share", [0.0, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0])
def test_a_picture_between_two_scenes_shows_neither(episode, reader, share):
    """Where a drawer or lamp is blurred as in the dreams of a small world model, nothing is said about it."""
    robot, scene = SimulatedPanda(), np.array(episode.scene_state[0])
    robot.reset("", 0)
    hand, names = robot.observe(), robot.spec.scene_state
    state = robot_state(hand.pose, hand.gripper_width)
    for name, values in VALUES.items():
        ends = []
        for value in (values[0], values[-1]):
            scene[names.index(name)] = value
            robot.show(hand.pose, hand.gripper_width, scene)
            ends.append(robot.images(("static",), (64, 64))["static"].astype(float))
        blurred = ((1 - share) * ends[0] + share * ends[1]).round().astype(np.uint8)
        (shown,) = reader.read(blurred[None], state[None], scene[None])
        if name in LAMPS:
            assert shown[name] == {0.0: 0.0, 0.25: 0.0, 0.75: 1.0, 1.0: 1.0}.get(share), name
        elif share in (0.0, 1.0):
            assert shown[name] == values[0 if share == 0 else -1]
        elif share in (0.4, 0.5, 0.6):
            assert shown[name] is None
    robot.close()


def test_what_is_unclear_is_never_said_to_be_right():
    shown = [{"drawer": None, "slider": 0.0, "bulb": 1.0, "led": None}]
    (wrong,), missed = differences(shown, np.zeros(4), ["drawer", "slider", "bulb", "led"]), unclear(shown[0])
    assert remark(wrong, missed) == "wrong: bulb on; unclear: drawer, led"
    assert remark(wrong, [], changed=True) == "bulb off → on"
    assert agreement(wrong, missed, "as recorded") == agreement({}, list(VALUES), "as recorded") == ""
    assert agreement({}, missed, "as recorded") == "the rest as recorded"
    assert agreement({}, [], "as recorded") == "furniture and lamps as recorded"
    assert remark({}, []) == ""
    counted = shares([*shown, {"drawer": 0.16, "slider": 0.0, "bulb": 0.0, "led": 0.0}], np.zeros((2, 4)), list(VALUES))
    assert counted["drawer"] == {"right": 0.0, "wrong": 0.5, "unclear": 0.5}
    assert counted["bulb"] == {"right": 0.5, "wrong": 0.5, "unclear": 0.0}


def test_rows_count_their_frames_and_stay_when_they_end():
    long, short = np.zeros((3, 8, 12, 3), np.uint8), np.full((2, 8, 12, 3), 200, np.uint8)
    rows = [Row("recorded", {"a": long, "b": long}), Row("dreamt", {"a": short, "b": short}, [0.2, 0.9], 1)]
    frames = film_frames(rows, 1, 7.5, "clip 1 of 1")
    assert {frame.shape for frame in frames} == {(2 * ROW - BAR_HEIGHT + LINE_HEIGHT, 3 * PICTURE_HEIGHT, 3)}
    assert len(frames) == 3
    assert not np.array_equal(frames[0][-LINE_HEIGHT:], frames[1][-LINE_HEIGHT:])  # the counter
    assert np.array_equal(frames[1][:-LINE_HEIGHT], frames[2][:-LINE_HEIGHT])


def test_a_dataset_becomes_a_film_of_recorded_imagined_and_dreamt(diwa, checkpoints, dataset, tmp_path):
    out = tmp_path / "new" / "film.mp4"
    models = ["--world-model", checkpoints.world_model, "--policy", checkpoints.policy, "--reward", checkpoints.reward]
    ran = diwa("dream", *models, "--dataset", dataset, "--clips", "1", "--horizon", "3", "--context", "4", "--out", out)
    assert ran.status == 0, ran.err
    assert "clip 1: play, episode 000000 from tick" in ran.out
    assert "done, by the classifier: " in ran.out
    frames, rate = read_video(out)
    height = 3 * (ROW + LINE_HEIGHT) + LINE_HEIGHT  # what is true stands below each row, whatever the model decodes
    assert (len(frames) >= 7, frames.shape[1:], rate) == (True, (height, 2 * PICTURE_HEIGHT, 3), 7.5)


def test_a_hybrid_model_is_compared_with_the_true_scene(diwa, hybrid_checkpoints, dataset, tmp_path):
    model = ["--world-model", hybrid_checkpoints.world_model, "--dataset", dataset]
    ran = diwa("dream", *model, "--clips", "1", "--horizon", "3", "--context", "2", "--out", tmp_path / "film.mp4")
    assert ran.status == 0, ran.err
    assert "imagined: furniture and lamps as recorded" not in ran.out  # nothing can be told from so small a model's
    assert "unclear are drawer in 5 of 5 frames" in ran.out


def test_a_bundle_runs_in_the_simulator_and_dreams_from_the_same_start(diwa, checkpoints, tmp_path):
    parts = {name: getattr(checkpoints, name) for name in ("world_model", "policy", "reward")}
    bundle = write_bundle(tmp_path / "open_drawer", parts, {"skill": "open_drawer"})
    out = tmp_path / "film.webp"
    words = ["dream", "--skill", "open_drawer", "--checkpoint", bundle.path, "--clips", "1", "--out", out]
    ran = diwa(*words, "--horizon", "2", "--context", "1", "--seed", "5000000000")
    assert ran.status == 0, ran.err
    assert "clip 1: open_drawer from start 5000000000, no success in the simulator" in ran.out
    with Image.open(out) as film:
        assert (film.n_frames >= 3, film.size[0]) == (True, 2 * PICTURE_HEIGHT)
        rows = film.size[1] // PICTURE_HEIGHT
    assert diwa(*words, "--horizon", "2", "--context", "1", "--no-same-actions").status == 0
    with Image.open(out) as film:
        assert film.size[1] // PICTURE_HEIGHT == rows - 1

    (drawn,) = pack_bundles([bundle], tmp_path / "drawn", decoders=True)
    small = ["--horizon", "2", "--context", "1"]
    assert diwa(*words[:4], drawn, *words[5:], *small).status == 0
    (packed,) = pack_bundles([bundle], tmp_path / "packed")
    with pytest.raises(DiwaError, match="keeps no decoders itself: leave --decoders out"):
        pack_bundles([load_bundle(packed)], tmp_path / "again", decoders=True)
    out.unlink()
    ran = diwa(*words[:4], packed, *words[5:])
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert "keeps no image decoders, so its dreams cannot be drawn: try --skill open_drawer, whose" in ran.err
    assert "with `diwa demo --skill open_drawer`" in ran.err
    assert not out.exists()


class Shown:
    """Reads every picture as an open drawer and lamps that are off."""

    def read(self, pictures, states, scenes, follow=False):
        return [{"drawer": 0.16, "slider": 0.0, "bulb": 0.0, "led": 0.0}] * len(states)


def test_every_frame_says_what_is_true_beside_what_the_dream_shows(hybrid_checkpoints, episode):
    world = load_world_model(hybrid_checkpoints.world_model)
    policy = load_policy(hybrid_checkpoints.policy, world.spec, world.hash, world.model.feature_dim).policy
    dreamer = Dreamer(world, policy, None, DreamFilmConfig(context=2, horizon=14))
    names = world.spec.scene_state
    still = np.zeros((12, len(names)))
    still[:, names.index("drawer")], still[:, names.index("led")] = 0.003, 1.0
    rollout = replace(episode, scene_state=still, success=np.arange(12) > 9, attributes={})
    rows, lines = dreamer.dream(rollout, 0, Shown())
    assert rows[0].truth[0] == "true: drawer 3 mm · slider 0 mm · bulb off · led on · not done"
    assert rows[0].truth[-1].endswith(" · done")
    assert rows[1].remarks == ["wrong: drawer 160 mm · led off"] * 12
    assert rows[2].remarks == ["wrong: drawer 160 mm · led off"] * 16
    assert lines[0].startswith("imagined: wrong are drawer in 12 of 12 frames (first 3 mm, shown 160 mm); led in 12")
    assert lines[1] == "dreamt: at its end drawer 3 mm, dreamt 160 mm, led on, dreamt off"

    recorded = replace(rollout, attributes={"tick": 0})
    rows, _ = dreamer.dream(recorded, 0, Shown())
    assert rows[0].truth[-1] == "true: drawer 3 mm · slider 0 mm · bulb off · led on"
    assert rows[2].remarks[-1] == "drawer 3 mm → 160 mm · led on → off"
    still[:, names.index("drawer")], still[:, names.index("led")] = 0.16, 0.0
    rows, lines = dreamer.dream(recorded, 0, Shown())
    assert (rows[1].remarks[0], rows[1].truth[0]) == ("", "furniture and lamps as recorded")
    assert lines[0] == "imagined: furniture and lamps as recorded in every frame"
    assert truths(replace(recorded, scene_state=None), names) == truths(recorded, ["cup"] * len(names)) == []


def test_what_cannot_be_dreamt_is_one_line(diwa, checkpoints, dataset, tmp_path):
    model = ["--world-model", checkpoints.world_model]
    for words, message in (
        ([], "name what dreams: --skill SKILL of a bundle, or --world-model FOLDER with --dataset FILE"),
        (["--skill", "open_drawr"], "Did you mean 'open_drawer'?"),
        (["--skill", "open_drawer", *model], "--skill brings its own --world-model"),
        ([*model, "--checkpoint", tmp_path], "--checkpoint is the bundle of a --skill"),
        (model, "there is nothing to dream from: add --dataset FILE.h5"),
        ([*model, "--dataset", dataset, "--context", "12"], "the longest episode has 12 frames"),
        ([*model, "--dataset", tmp_path / "nowhere.h5"], "no dataset"),
        ([*model, "--dataset", dataset, "--policy", checkpoints.reward], "a policy checkpoint is needed"),
        ([*model, "--dataset", dataset, "--out", tmp_path / "film.gif"], "is not a .mp4 file"),
        ([*model, "--dataset", dataset, "--out", tmp_path], "is a folder, which is never replaced"),
        ([*model, "--dataset", dataset, "--clips", "0"], "clips is 0; it must be 1 or more"),
    ):
        ran = diwa("dream", *words) if "--out" in words else diwa("dream", *words, "--out", tmp_path / "film.mp4")
        assert (ran.status, len(ran.err.splitlines())) == (2, 1), ran.err
        assert message in ran.err
    assert not list(tmp_path.glob("*.mp4"))
