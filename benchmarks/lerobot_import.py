"""Import of a LeRobot dataset against decoding its videos alone, on all cores: AV1 at 640x480 and 30 Hz as LeRobot
writes it, two cameras, to ticks at 7.5 Hz. Both decode with the same ffmpeg, two processes at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from common import Measurement

from diwa_data.lerobot.convert import LeRobotImportConfig, import_lerobot
from diwa_data.lerobot.files import FrameTables, find_ffmpeg, import_arrow

CAMERAS = ("front", "wrist")
SIZE, FPS = (480, 640), 30
NAMES = ["x", "y", "z", "qx", "qy", "qz", "qw", "gripper"]
MOST = 1.4
"""Times the decoding that an import may take."""


def write_folder(folder: Path, episodes: int, seconds: int) -> list[Path]:
    """A dataset in format v3.0 of a test picture that moves, by LeRobot's own encoder settings; its videos."""
    length = FPS * seconds
    features: dict[str, dict] = {
        f"observation.images.{camera}": {
            "dtype": "video",
            "shape": [*SIZE, 3],
            "names": ["height", "width", "channels"],
        }
        for camera in CAMERAS
    }
    features |= {key: {"dtype": "float32", "shape": [8], "names": NAMES} for key in ("observation.state", "action")}
    features |= {key: {"dtype": "int64", "shape": [1], "names": None} for key in ("episode_index", "index")}
    rng = np.random.default_rng(0)
    with FrameTables(folder, features) as tables:
        for number in range(episodes):
            tables.begin_episode()
            way = np.cumsum(0.002 * rng.normal(size=(length, 3)), axis=0)
            pose = np.concatenate([way, np.tile([1.0, 0, 0, 0, 0.08], (length, 1))], axis=1).astype(np.float32)
            index = number * length + np.arange(length)
            rows = {"observation.state": pose, "action": pose, "episode_index": np.full(length, number), "index": index}
            tables.write(rows)
    videos = [folder / f"videos/observation.images.{camera}/chunk-000/file-000.mp4" for camera in CAMERAS]
    for number, video in enumerate(videos):
        video.parent.mkdir(parents=True)
        source = f"testsrc2=size={SIZE[1]}x{SIZE[0]}:rate={FPS}:duration={episodes * seconds},hue=h={90 * number}"
        codec = ["-c:v", "libsvtav1", "-pix_fmt", "yuv420p", "-g", "2", "-crf", "30", "-preset", "10"]
        quiet = [find_ffmpeg(), "-loglevel", "error", "-y", "-f", "lavfi", "-i", source]
        subprocess.run([*quiet, *codec, str(video)], check=True, capture_output=True)
    places = [{f"data/{key}": 0 for key in ("chunk_index", "file_index")} for _ in range(episodes)]
    for number, place in enumerate(places):
        place |= {"episode_index": number, "length": length, "tasks": ["move"]}
        for camera in CAMERAS:
            key = f"videos/observation.images.{camera}"
            place |= {f"{key}/chunk_index": 0, f"{key}/file_index": 0, f"{key}/from_timestamp": number * float(seconds)}
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    arrow = import_arrow()
    arrow.parquet.write_table(arrow.Table.from_pylist(places), folder / "meta/episodes/chunk-000/file-000.parquet")
    info = {"codebase_version": "v3.0", "robot_type": "bench", "fps": FPS, "features": features}
    info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (folder / "meta/info.json").write_text(json.dumps(info))
    return videos


def write_mapping(path: Path) -> None:
    """Which feature is what."""
    position, rotation = (
        {"feature": "observation.state", "at": NAMES[:3]},
        {"feature": "observation.state", "at": NAMES[3:7]},
    )
    gripper = {"feature": "observation.state", "at": ["gripper"]}
    action = {"kind": "absolute", "position": position, "rotation": rotation, "gripper": gripper | {"open": 0.08}}
    state = {"position": position, "rotation": rotation, "gripper": gripper}
    path.write_text(yaml.safe_dump({"format": 1, "kind": "lerobot", "state": state, "action": action}))


def decode(videos: list[Path]) -> float:
    """Seconds that decoding all frames takes."""
    started = time.perf_counter()
    quiet = f"{find_ffmpeg()} -loglevel error -nostdin -threads 1 -i".split()
    running = [subprocess.Popen([*quiet, str(video), "-f", "null", "-"]) for video in videos]
    if max(process.wait() for process in running):
        raise RuntimeError("a video cannot be decoded")
    return time.perf_counter() - started


def main(episodes: int = 6, seconds: int = 20) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder, mapping = Path(temporary, "bench"), Path(temporary, "mapping.yaml")
        videos = write_folder(folder, episodes, seconds)
        write_mapping(mapping)
        rounds = []
        for number in range(3):
            alone = decode(videos)
            started = time.perf_counter()
            import_lerobot(folder, Path(temporary, f"{number}.h5"), str(mapping), LeRobotImportConfig(workers=2))
            rounds.append((time.perf_counter() - started, alone))
    value, alone = sorted(rounds, key=lambda each: each[0] / each[1])[1]
    spread = (min(b / a for a, b in rounds), max(b / a for a, b in rounds))
    Measurement("lerobot_import_s", value, "s", 1 / MOST, alone, alone / value, spread=spread).print()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
