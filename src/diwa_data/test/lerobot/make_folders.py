"""Writes the folders `v30` and `v21` beside this file with the `lerobot` library itself, from a simulated recording.

    diwa record --out BAGS --skill close_drawer --episodes 2 --seed 3
    python make_folders.py gather BAGS MOTION.npz      where diwa is
    python make_folders.py write MOTION.npz .          where lerobot is: 0.4 writes v30, 0.3 writes v21

v30: two AV1 videos at 15 Hz, absolute targets. v21: one AV1 video at 15 Hz, motions of the hand in the base frame.
`truth.npz` is what `diwa build-dataset` makes of the same bags.
"""

import inspect
import sys
from pathlib import Path

import numpy as np

FPS = 15
SIZE = (48, 64)
STATE = ["x", "y", "z", "qx", "qy", "qz", "qw", "gripper"]
TARGET = ["x", "y", "z", "wx", "wy", "wz", "gripper"]
DELTA = ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "grip"]
TASK = "close the drawer"


def gather(bags: str, out: str) -> None:
    """Frames, measured poses and commands of bags at 15 Hz, and the rows of our own dataset at 7.5 Hz."""
    import cv2

    from diwa_data.dataset.align import DatasetConfig, bag_ticks
    from diwa_data.dataset.dataset import build_dataset, load_dataset
    from diwa_data.recording import messages
    from diwa_data.recording.bag_reader import Bag, find_bags
    from diwa_data.recording.messages import decode_value, gripper_width

    rows: dict[str, list] = {}
    paths = find_bags([Path(bags)])
    for number, path in enumerate(paths):
        with Bag(path) as bag:
            object.__setattr__(bag.spec, "rate", float(FPS))
            ticks, success = list(bag_ticks(bag, DatasetConfig())), bag.sidecar.mark("success")
        for tick in ticks:
            values = {topic: decode_value(topic, sample.value, topic) for topic, sample in tick.samples.items()}
            pose, target = values[messages.CURRENT_POSE], values[messages.TARGET_POSE]
            row = {"episode": number, "success": success is not None and tick.received >= success}
            row["width"] = gripper_width(values[messages.JOINT_STATES], "")
            row["command"] = values[messages.GRIPPER_COMMAND]
            row |= {"position": pose.position, "rotation": pose.quaternion}
            row |= {"target": target.position, "target_rotation": target.quaternion}
            for camera in ("static", "gripper"):
                image = values[messages.image_topic(camera)]
                row[camera] = cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA)
            for key, value in row.items():
                rows.setdefault(key, []).append(value)
    built = Path(out).with_suffix(".h5")
    build_dataset(paths, built, DatasetConfig(workers=1))
    truth = load_dataset(built, images=False).episodes
    for key in ("state", "action", "success"):
        for number, episode in enumerate(truth):
            rows[f"truth/{number}/{key}"] = getattr(episode, key)
    np.savez_compressed(out, **{key: np.array(values) for key, values in rows.items()})


def features(dtype: str, cameras: list[str], state: list[str], action: list[str]) -> dict:
    """LeRobot's description of what is written."""
    vectors = {"observation.state": state, "action": action}
    made = {key: {"dtype": "float32", "shape": (len(names),), "names": names} for key, names in vectors.items()}
    image = {"dtype": dtype, "shape": (*SIZE, 3), "names": ["height", "width", "channels"]}
    success = {"dtype": "bool", "shape": (1,), "names": None}
    return made | {f"observation.images.{camera}": image for camera in cameras} | {"next.success": success}


def write(motion: str, out: str) -> None:
    """Write a folder in the format of the installed library, and the truth beside it."""
    import lerobot
    from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset
    from scipy.spatial.transform import Rotation

    rows, folder = dict(np.load(motion)), Path(out)
    absolute = CODEBASE_VERSION == "v3.0"
    cameras, action = (["static", "gripper"], TARGET) if absolute else (["static"], DELTA)
    root = folder / CODEBASE_VERSION.replace(".", "")
    described = features("video", cameras, STATE, action)
    dataset = LeRobotDataset.create("diwa/close_drawer", FPS, described, root, "panda_sim", use_videos=True)
    for number in range(rows["episode"].max() + 1):
        chosen = np.flatnonzero(rows["episode"] == number)
        for at, following in zip(chosen, [*chosen[1:], chosen[-1]], strict=True):
            frame = {f"observation.images.{camera}": rows[camera][at] for camera in cameras}
            state = [*rows["position"][at], *rows["rotation"][at], rows["width"][at]]
            turned = Rotation.from_quat(rows["target_rotation"][following])
            command = rows["command"][following]
            if absolute:
                said = [*rows["target"][following], *turned.as_rotvec(), (1 + command) / 2]
            else:  # the first target is the measured pose
                first = at == chosen[0]
                position = rows["position" if first else "target"][at]
                rotation = Rotation.from_quat(rows["rotation" if first else "target_rotation"][at])
                delta = rows["target"][following] - position
                said = [*(1000 * delta), *(turned * rotation.inv()).as_euler("xyz", degrees=True), -command]
            frame |= {"observation.state": np.array(state, np.float32), "action": np.array(said, np.float32)}
            frame["next.success"] = np.array([rows["success"][following]])
            if "task" in inspect.signature(dataset.add_frame).parameters:
                dataset.add_frame(frame, task=TASK)
            else:
                dataset.add_frame({**frame, "task": TASK})
        dataset.save_episode()
    if hasattr(dataset, "finalize"):
        dataset.finalize()
    truth = {key: value for key, value in rows.items() if key.startswith("truth/")}
    np.savez_compressed(folder / "truth.npz", **truth)
    print(f"{root}: {CODEBASE_VERSION} by lerobot {getattr(lerobot, '__version__', '?')}")


if __name__ == "__main__":
    {"gather": gather, "write": write}[sys.argv[1]](*sys.argv[2:])
