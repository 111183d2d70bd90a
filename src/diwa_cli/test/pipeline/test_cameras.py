"""The whole pipeline with one camera and no gripper, and with three cameras of different sizes."""

import json
import re
from pathlib import Path

import pytest

from diwa_cli.video import BAR_HEIGHT, read_video
from diwa_data.dataset.dataset import load_dataset
from diwa_learning.core.checkpoint import read_spec

TINY = Path(__file__).parents[1] / "tiny.yaml"
SIZES = {"top": (64, 64), "wrist": (48, 80), "side": (96, 64)}


@pytest.mark.parametrize("cameras", [["side"], ["top", "wrist:48x80", "side:96x64:96x64"]], ids=["one", "three"])
def test_a_demo_runs_with_the_cameras_of_its_configuration(diwa, tmp_path, cameras):
    names = [camera.partition(":")[0] for camera in cameras]
    config, out = tmp_path / "cameras.yaml", tmp_path / "demo"
    few = "{play_minutes: 0.15, demonstrations: 2, rollouts: 1, curve_rollouts: 1, curve_checkpoints: 1}"
    text = re.sub(r"demo: \{.*\}", f"demo: {few}", TINY.read_text()).replace(
        "episode_seconds: 8.0", "episode_seconds: 4.0"
    )
    bare = len(names) == 1
    settings = {"cameras": cameras, "fixed_gripper": bare}
    config.write_text(f"{text}    sim: {json.dumps(settings)}\n")
    ran = diwa("demo", "--preset", "debug", "--config", config, "--out", out)
    assert ran.status == 0, ran.err
    spec = read_spec(out / "world_model")
    assert (spec.action_dim, spec.state_dim) == ((6, 9) if bare else (7, 10))
    episode = load_dataset(out / "play.h5", spec).episodes[0]
    assert (episode.action.shape[1], episode.state.shape[1]) == (spec.action_dim, spec.state_dim)
    assert list(episode.images) == names
    wanted = SIZES if len(names) > 1 else {"side": (64, 64)}
    assert {name: images.shape[1:3] for name, images in episode.images.items()} == wanted
    assert "is not there" not in (out / "report.html").read_text()
    frames, _ = read_video(next(out.rglob("videos/finetuned_*.mp4")))
    widths = [200, 200, 134][: len(names)]  # 96x64 at the first one's height of 200, made even
    assert frames.shape[1:3] == (200 + BAR_HEIGHT, sum(widths))
    bundle = next((out / "skills").iterdir())
    (found,) = [diwa(*words) for words in [("run-skill", "--skill", "open_drawer", "--checkpoint", bundle)]]
    assert found.status == 0, found.err

    judged = ("evaluate-world-model", "--world-model", out / "world_model", "--dataset", out / "play.h5")
    ran = diwa(*judged, "--out", tmp_path / "judged", "--clips", "1", "--horizon", "4")
    assert ran.status == 0, ran.err
    assert "warning" not in ran.err
    height = sum(round(sides[0] * max(w for _, w in wanted.values()) / sides[1]) for sides in wanted.values())
    film, _ = read_video(tmp_path / "judged/film.mp4")
    assert film.shape[1] == 3 * height
    for path in (*(out / "bags").glob("*"), out / "play.h5"):
        assert diwa("inspect", path).status == 0
