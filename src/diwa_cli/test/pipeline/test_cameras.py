"""The whole pipeline with one camera and no gripper, and with three cameras of different sizes."""

import json
import re
from pathlib import Path

import pytest

from diwa_cli.video import BAR_HEIGHT, LINE_HEIGHT, PICTURE_HEIGHT, read_video
from diwa_data.dataset.dataset import load_dataset
from diwa_learning.core.checkpoint import read_spec

TINY = Path(__file__).parents[1] / "tiny.yaml"
ONE, THREE = ["side:64x64:64x64"], ["top:64x64:80x80", "wrist:48x80:60x100", "side:96x64:96x64"]
SIZES = {"top": (64, 64), "wrist": (48, 80), "side": (96, 64)}


@pytest.mark.parametrize("cameras", [ONE, THREE], ids=["one", "three"])
def test_a_demo_runs_with_the_cameras_of_its_configuration(diwa, tmp_path, cameras):
    names = [camera.partition(":")[0] for camera in cameras]
    config, out = tmp_path / "cameras.yaml", tmp_path / "demo"
    few = "{play_minutes: 0.13, demonstrations: 2, rollouts: 1, curve_rollouts: 1, curve_checkpoints: 1}"
    short = TINY.read_text().replace("episode_seconds: 8.0", "episode_seconds: 4.0")
    text = re.sub(r"demo: \{.*\}", f"demo: {few}", short)
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
    widest = 480 if bare else 266  # of pictures that share the height of the scene's
    assert frames.shape[1:3] == (480 + BAR_HEIGHT, 640 + widest)
    bundle = next((out / "skills").iterdir())
    ran = diwa("run-skill", "--skill", "open_drawer", "--checkpoint", bundle)
    assert ran.status == 0, ran.err
    if not bare:
        check_pictures(diwa, out, tmp_path / "judged")


def check_pictures(diwa, out, judged):
    """The film shows all cameras, one above the other, equally wide; so do the cards."""
    command = ("evaluate-world-model", "--world-model", out / "world_model", "--dataset", out / "play.h5")
    ran = diwa(*command, "--out", judged, "--clips", "1", "--horizon", "4")
    assert ran.status == 0, ran.err
    assert "warning" not in ran.err
    film, _ = read_video(judged / "film.mp4")
    assert film.shape[1:3] == (2 * (2 * LINE_HEIGHT + PICTURE_HEIGHT) + LINE_HEIGHT, 256 + 426 + 170)
    for path in (*(out / "bags").glob("*"), out / "play.h5"):
        assert diwa("inspect", path).status == 0
