"""Import of LeRobot's format: folders that its library wrote, exports of ours, every refusal."""

import json
import shutil
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import yaml

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.lerobot.card import lerobot_card
from diwa_data.lerobot.convert import LeRobotImportConfig, LeRobotPiece, import_lerobot
from diwa_data.lerobot.export import export_lerobot
from diwa_data.lerobot.mapping import load_mapping, shipped
from diwa_data.lerobot.suggest import suggest_lerobot_mapping

pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra `lerobot`)")

HERE = Path(__file__).parent
ONE = LeRobotImportConfig(workers=1)
V30, V21 = (yaml.safe_load((HERE / name).read_text()) for name in ("v30.yaml", "v21.yaml"))


@pytest.fixture
def mapping(tmp_path):
    """Writes a mapping file with changes by key, inner ones behind two underscores; None takes a key out."""

    def write(values: dict, **changes) -> str:
        values = json.loads(json.dumps(values))
        for key, value in changes.items():
            *path, last = key.split("__")
            inner = values
            for name in path:
                inner = inner.setdefault(name, {}) if isinstance(inner, dict) else inner[int(name)]
            inner[last] = value
            if value is None:
                del inner[last]
        (tmp_path / "M.yaml").write_text(yaml.safe_dump(values))
        return str(tmp_path / "M.yaml")

    return write


@pytest.fixture
def folder(tmp_path):
    """A copy of a folder that the library wrote, which a test may damage."""
    return lambda version: Path(shutil.copytree(HERE / version, tmp_path / version))


def change_info(folder: Path, **values) -> None:
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps(info | values))


@pytest.mark.parametrize(("version", "values"), [("v30", V30), ("v21", V21)])
def test_what_the_library_wrote_is_what_our_own_bags_give(version, values, mapping, tmp_path, capsys):
    import_lerobot(HERE / version, tmp_path / "D.h5", mapping(values), ONE)
    dataset, truth = load_dataset(tmp_path / "D.h5"), np.load(HERE / "truth.npz")
    assert [len(episode) for episode in dataset.episodes] == [99, 95]
    assert "2 episodes (2 success), 192 actions, 0.0 % of them clipped" in capsys.readouterr().out
    for number, episode in enumerate(dataset.episodes):
        np.testing.assert_allclose(episode.state, truth[f"truth/{number}/state"], atol=1e-5)
        np.testing.assert_allclose(episode.action[1:-1], truth[f"truth/{number}/action"][1:-1], atol=1e-3)
        np.testing.assert_array_equal(episode.success, truth[f"truth/{number}/success"])
        np.testing.assert_array_equal(episode.action[-1, :6], 0)
        np.testing.assert_allclose(episode.stamp, np.arange(len(episode)) / 7.5)
        assert episode.attributes["skill"] == values.get("skill", "close_the_drawer")
        assert episode.attributes["outcome"] == "success"
        assert episode.attributes["labels"]["task"] == "close the drawer"
    spec = dataset.spec
    assert (spec.robot, spec.rate, spec.record_rate, spec.cameras[0].size) == ("panda_sim", 7.5, 30.0, (64, 64))
    assert [camera.name for camera in spec.cameras] == ["static", "wrist"][: len(spec.cameras)]


def test_frames_are_those_of_the_ticks_in_every_episode(mapping, tmp_path):
    """At 15 ticks per second every frame is one; at 7.5 every second; at 6 the last one before each."""
    images = {}
    for rate in (15.0, 7.5, 6.0):
        out, changes = tmp_path / f"{rate}.h5", {"record_size": [48, 64], "size": [48, 64]}
        import_lerobot(HERE / "v30", out, mapping(V30, rate=rate, cameras=[V30["cameras"][0] | changes]), ONE)
        images[rate] = [episode.images["static"] for episode in load_dataset(out).episodes]
    for every, second, causal in zip(*images.values(), strict=True):
        np.testing.assert_array_equal(second, every[::2])
        np.testing.assert_array_equal(causal, every[(np.arange(len(causal)) * 2.5).astype(int)])
    video = HERE / "v30/videos/observation.images.static/chunk-000/file-000.mp4"
    _, *frames = imageio_ffmpeg.read_frames(str(video))
    whole = np.stack([np.frombuffer(frame, np.uint8).reshape(48, 64, 3) for frame in frames])
    ours = np.concatenate(images[15.0]).astype(int)
    errors = [np.abs(np.roll(whole.astype(int), shift, axis=0)[200:-2] - ours[200:-2]).mean() for shift in (-1, 0, 1)]
    assert len(whole) == len(ours)
    assert errors[1] < 0.8 * min(errors[0], errors[2])  # they differ in rounding: ours is the more exact


@pytest.mark.parametrize("video", [False, True])
def test_round_trip(video, recorded, tmp_path):
    build_dataset([recorded], tmp_path / "D.h5", DatasetConfig(workers=1))
    export_lerobot(tmp_path / "D.h5", tmp_path / "out", video=video)
    import_lerobot(tmp_path / "out", tmp_path / "again.h5", "", LeRobotImportConfig(workers=1 + video))
    ours, again = load_dataset(tmp_path / "D.h5"), load_dataset(tmp_path / "again.h5")
    assert again.spec == ours.spec
    for before, after in zip(ours.episodes, again.episodes, strict=True):
        assert len(before) == len(after)
        np.testing.assert_allclose(after.stamp, before.stamp - before.stamp[0], atol=1e-6)
        np.testing.assert_allclose(after.action, before.action, atol=1e-6)
        np.testing.assert_allclose(after.state, before.state, atol=1e-6)
        np.testing.assert_array_equal(after.success, before.success)
        np.testing.assert_array_equal(after.target, before.target)
        for key in ("skill", "source", "outcome"):
            assert after.attributes[key] == before.attributes[key]
        for name, images in before.images.items():
            error = np.mean((after.images[name].astype(float) - images) ** 2)
            assert error == 0 if not video else 10 * np.log10(255**2 / error) >= 38


def test_an_interrupted_import_goes_on(mapping, tmp_path, monkeypatch):
    whole, build, built = mapping(V21), LeRobotPiece.build, []

    def counted(piece, file):
        built.append(piece.episode.number)
        if len(built) == 2:
            raise KeyboardInterrupt
        return build(piece, file)

    monkeypatch.setattr(LeRobotPiece, "build", counted)
    with pytest.raises(KeyboardInterrupt):
        import_lerobot(HERE / "v21", tmp_path / "D.h5", whole, ONE)
    assert not (tmp_path / "D.h5").exists()
    import_lerobot(HERE / "v21", tmp_path / "D.h5", whole, ONE)
    assert built == [0, 1, 1]
    with pytest.raises(DiwaError, match=r"begun with other settings: config.mapping.rate was 7.5, is 5.0"):
        import_lerobot(HERE / "v21", tmp_path / "D.h5", mapping(V21, rate=5.0), ONE)


def test_episodes_are_chosen_by_task_and_count(mapping, tmp_path, capsys):
    table = mapping(V30, skills={"close the drawer": "shut"})
    import_lerobot(HERE / "v30", tmp_path / "D.h5", table, LeRobotImportConfig(count=1, workers=1))
    (episode,) = load_dataset(tmp_path / "D.h5").episodes
    assert episode.attributes["skill"] == "shut"
    with pytest.raises(DiwaError, match=r"no task of .* is listed under skills; it has 'close the drawer'"):
        import_lerobot(HERE / "v30", tmp_path / "E.h5", mapping(V30, skills={"open it": "open_drawer"}), ONE)
    play = mapping(V30, source="play")
    import_lerobot(HERE / "v30", tmp_path / "P.h5", play, ONE)
    episode = load_dataset(tmp_path / "P.h5").episodes[0]
    assert [episode.attributes[key] for key in ("skill", "source", "outcome")] == ["", "play", "none"]
    assert not episode.success.any()


def test_targets_from_the_measured_pose(mapping, tmp_path):
    measured = {"kind": "measured", "gripper": V30["action"]["gripper"]}
    import_lerobot(HERE / "v30", tmp_path / "D.h5", mapping(V30, action=measured), ONE)
    episode = load_dataset(tmp_path / "D.h5").episodes[0]
    moved = np.diff(episode.state[:, :3], axis=0) / 0.04
    np.testing.assert_allclose(episode.action[:-1, :3], moved, atol=1e-4)
    assert episode.attributes["derived"] == "target_pose"


def test_an_arm_without_a_gripper(mapping, tmp_path):
    values = mapping(V30, state__gripper=None, action__gripper=None)
    import_lerobot(HERE / "v30", tmp_path / "D.h5", values, ONE)
    dataset = load_dataset(tmp_path / "D.h5")
    assert (dataset.spec.action_dim, dataset.episodes[0].action.shape[1], dataset.episodes[0].state.shape[1]) == (
        6,
        6,
        9,
    )


def test_large_motions_are_told(mapping, tmp_path, capsys):
    import_lerobot(HERE / "v30", tmp_path / "D.h5", mapping(V30, action__max_pos=0.004), ONE)
    assert (
        "of them clipped: motions exceed max_pos 0.004 m or max_rot 0.1 rad a tick; raise them"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "bags"}, r"kind is 'bags', this command takes a mapping of kind: lerobot"),
        ({"format": 2}, r"has format 2, this version reads up to 1"),
        ({"sucess": {}}, r"unknown key 'sucess'; known: format, kind, state"),
        ({"state__rotation__ordr": "xyz"}, r"state.rotation: unknown key 'ordr'; known: feature, at"),
        ({"cameras__0__crp": []}, r"cameras\[0\]: unknown key 'crp'; known: name, feature"),
        ({"state__rotation": None}, r'missing value for field "state.rotation"'),
        ({"state__rotation__order": "xxz"}, r"order is 'xxz', but must be three axes"),
        ({"cameras__0__feature": "top"}, r"cameras\[0\].feature: .* no feature 'top'; it has observation.state \[x y"),
        ({"cameras__0__feature": "action"}, r"cameras\[0\].feature: action is float32, no video or image"),
        ({"state__position__feature": "pose"}, r"state.position.feature: .* no feature 'pose'; it has .*action \[x y"),
        ({"state__position__at": ["x", "y", "zz"]}, r"no single number is named 'zz'; observation.state has 8"),
        ({"state__position__at": [0, 1, 8]}, r"state.position.at: there is no number 8; .* counted from 0"),
        ({"state__position__at": ["x", "y"]}, r"state.position needs 3 numbers and gets 2"),
        ({"state__gripper": None}, r"a gripper needs both state.gripper and action.gripper"),
        ({"action__gripper__open": 0}, r"open, closed and stay are 0.0, 0.0, None: they must differ"),
        ({"action__kind": "relative"}, r"action.kind"),
        ({"action__position": None}, r"action.kind is absolute, so action.position is needed"),
        ({"rate": 30.0}, r"has 15 frames per second, fewer than the contract's 30 ticks: set rate to 15 or less"),
        ({"rate": "fast"}, r"'fast' is text to YAML, not a number"),
        ({"source": "play", "skill": "push"}, r"source is play, which shows no skill"),
        ({"skill": "Close Drawer"}, r"'Close Drawer' cannot name a skill"),
        ({"success__feature": "next.reward"}, r"success.feature: .* no feature 'next.reward'"),
        ({"cameras__0__crop": [0, 0, 100, 96]}, r"crop \(0, 0, 100, 96\) does not fit into its image of 48x64"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_bad_mappings_are_one_line(changes, said, mapping, tmp_path):
    with pytest.raises(DiwaError, match=said) as error:
        import_lerobot(HERE / "v30", tmp_path / "D.h5", mapping(V30, **changes), ONE)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "D.h5").exists()


def test_bad_folders_are_one_line(folder, mapping, tmp_path):
    good, v30, v21 = mapping(V30), folder("v30"), folder("v21")

    def refused(path, said):
        with pytest.raises(DiwaError, match=said) as error:
            import_lerobot(path, tmp_path / "D.h5", good, ONE)
        assert "\n" not in str(error.value)

    refused(tmp_path / "nowhere", "nowhere does not exist: name a folder, or a dataset of the Hugging Face Hub")
    refused(tmp_path, r"is not a LeRobot dataset: it has no meta/info.json")
    (v21 / "meta/episodes.jsonl").unlink()
    refused(v21, r"episodes.jsonl is missing: download the dataset again")
    video = v30 / "videos/observation.images.static/chunk-000/file-000.mp4"
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    refused(v30, r"file-000.mp4 gives 96 of 99 frames of 48x64 \(.*Invalid")
    video.unlink()
    refused(v30, r"file-000.mp4 is missing: download")
    video.write_bytes(whole)
    table = v30 / "data/chunk-000/file-000.parquet"
    table.write_bytes(b"PAR1")
    refused(v30, r"episode 0 cannot be read .*: download")
    for changes, said in {
        '{"codebase_version": "v1.6"}': r"is in LeRobot's format v1.6; v2.0 to v3.0 are read",
        '{"codebase_version": "v3.0", "fps": 0}': r"info.json is damaged \(fps is 0\)",
        '{"fps": 15, "data_path": "../{chunk_index}"}': r"leads out of the folder",
        '{"features": []}': r"info.json is damaged",
    }.items():
        change_info(v30, **json.loads(changes))
        refused(v30, said)
    (v30 / "meta/info.json").write_text("{")
    refused(v30, r"info.json is damaged")


def test_joint_positions_alone_are_refused_with_the_reason(folder, mapping, tmp_path):
    joints = folder("v21")
    info = json.loads((joints / "meta/info.json").read_text())
    names = [
        "shoulder_pan.pos",
        "shoulder_lift.pos",
        "elbow_flex.pos",
        "wrist_flex.pos",
        "wrist_roll.pos",
        "gripper.pos",
    ]
    for feature in ("observation.state", "action"):
        info["features"][feature] |= {"shape": [6], "names": names}
    change_info(joints, features=info["features"])
    with pytest.raises(DiwaError, match=r"no single number is named 'x'.*joint positions only: .*motions of the hand"):
        import_lerobot(joints, tmp_path / "D.h5", mapping(V21), ONE)
    assert "it cannot be imported. It has joint positions only" in lerobot_card(joints)


def test_without_a_mapping_only_ours_are_imported(tmp_path):
    with pytest.raises(
        DiwaError, match=r"v30 is not an export of ours: name a mapping with --mapping, .*crisp, droid, so101_ee"
    ):
        import_lerobot(HERE / "v30", tmp_path / "D.h5", "", ONE)
    with pytest.raises(DiwaError, match=r"unknown mapping 'driod'; choose one of .*Did you mean 'droid'"):
        import_lerobot(HERE / "v30", tmp_path / "D.h5", "driod", ONE)


def test_the_hub_without_a_network_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(DiwaError, match=r"lerobot/droid_100 is not a folder here, and the Hub") as error:
        import_lerobot(Path("lerobot/droid_100"), tmp_path / "D.h5", "droid", ONE)
    assert "\n" not in str(error.value)


def test_a_robot_file_gives_the_contract(mapping, tmp_path):
    robot = {"name": "lab", "action": {"max_pos": 0.05}, "cameras": ["static", "wrist"]}
    robot |= {"static": {"record_size": [100, 100]}, "wrist": {"record_size": [200, 200]}}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump({"/**": {"ros__parameters": {"robot": robot}}}))
    values = V30 | {"robot": "lab.yaml", "cameras": [{k: c[k] for k in ("name", "feature")} for c in V30["cameras"]]}
    import_lerobot(HERE / "v30", tmp_path / "D.h5", mapping(values), ONE)
    spec = load_dataset(tmp_path / "D.h5").spec
    assert (spec.robot, spec.action.max_pos, spec.cameras[0].record_size) == ("lab", 0.05, (100, 100))
    with pytest.raises(DiwaError, match=r"action.max_pos is 0.06 in the mapping and 0.05 in .*lab.yaml: leave it out"):
        import_lerobot(HERE / "v30", tmp_path / "E.h5", mapping(values, action__max_pos=0.06), ONE)
    with pytest.raises(
        DiwaError, match=r"has the cameras static, wrist and a gripper, the mapping static and a gripper"
    ):
        import_lerobot(HERE / "v30", tmp_path / "E.h5", mapping(values, cameras=values["cameras"][:1]), ONE)


@pytest.mark.parametrize("name", shipped())
def test_shipped_mappings_are_read(name):
    assert load_mapping(name).format == 1


def test_card(tmp_path):
    card = lerobot_card(HERE / "v30")
    assert "format v3.0, robot panda_sim; 2 episodes, 388 frames at 15 Hz" in card
    assert "  observation.state: float32 [8] x y z qx qy qz qw gripper" in card
    assert "  observation.images.static: video 48x64" in card
    assert "no shipped mapping fits" in card


def test_a_suggested_mapping_imports_as_it_is(tmp_path, mapping):
    (tmp_path / "S.yaml").write_text(suggest_lerobot_mapping(HERE / "v30"))
    import_lerobot(HERE / "v30", tmp_path / "S.h5", str(tmp_path / "S.yaml"), ONE)
    import_lerobot(HERE / "v30", tmp_path / "D.h5", mapping(V30), ONE)
    suggested, ours = (load_dataset(tmp_path / name).episodes[0] for name in ("S.h5", "D.h5"))
    for key in ("state", "action", "success"):
        np.testing.assert_array_equal(getattr(suggested, key), getattr(ours, key))
    motions = yaml.safe_load(suggest_lerobot_mapping(HERE / "v21"))["action"]
    assert (motions["kind"], motions["position"]["at"]) == ("delta", ["dx", "dy", "dz"])
    assert (motions["rotation"]["form"], motions["gripper"]["at"]) == ("euler", ["grip"])
