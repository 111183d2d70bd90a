"""Import of a LeRobot dataset against decoding its videos alone, on all cores: AV1 at 640x480 and 30 Hz as LeRobot
writes it, two cameras, to ticks at 7.5 Hz. Both decode with the same ffmpeg, two processes at a time.
The second row counts the time of all cores, which other work on the machine disturbs less.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
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
        source = f"testsrc2=size={SIZE[1]}x{SIZE[0]}:rate={FPS}:duration={seconds},hue=h={90 * number}"
        codec = ["-c:v", "libsvtav1", "-pix_fmt", "yuv420p", "-g", "2", "-crf", "30", "-preset", "10"]
        quiet, one = [find_ffmpeg(), "-loglevel", "error", "-y"], str(folder / f"{number}.mp4")
        subprocess.run([*quiet, "-f", "lavfi", "-i", source, *codec, one], check=True, capture_output=True)
        again = [*quiet, "-stream_loop", str(episodes - 1), "-i", one, "-c", "copy", str(video)]
        subprocess.run(again, check=True, capture_output=True)
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


def processor_seconds() -> float:
    """Seconds of all cores that this process and those that it has waited for have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of all cores."""
    started, used = time.perf_counter(), processor_seconds()
    work()
    return time.perf_counter() - started, processor_seconds() - used


def decode(videos: list[Path]) -> None:
    """Decode all frames."""
    quiet = f"{find_ffmpeg()} -loglevel error -nostdin -threads 1 -i".split()
    running = [subprocess.Popen([*quiet, str(video), "-f", "null", "-"]) for video in videos]
    if max([process.wait() for process in running]):
        raise RuntimeError("a video cannot be decoded")


def main(episodes: int = 40, seconds: int = 20) -> None:
    config = LeRobotImportConfig(workers=2)
    with tempfile.TemporaryDirectory() as temporary:
        folder, mapping = Path(temporary, "bench"), Path(temporary, "mapping.yaml")
        videos = write_folder(folder, episodes, seconds)
        write_mapping(mapping)
        rounds = []
        for number in range(3):
            alone = timed(partial(decode, videos))
            out = Path(temporary, f"{number}.h5")
            rounds.append((timed(partial(import_lerobot, folder, out, str(mapping), config)), alone))
    for at, name in enumerate(("lerobot_import_s", "lerobot_import_all_cores_s")):
        ratios = sorted((alone[at] / whole[at], whole[at], alone[at]) for whole, alone in rounds)
        ratio, value, alone = ratios[1]
        Measurement(name, value, "s", 1 / MOST, alone, ratio, spread=(ratios[0][0], ratios[2][0])).print()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
