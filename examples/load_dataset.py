"""Read a dataset of `diwa build-dataset`: its contract, its episodes, and batches for a network of your own.

    python examples/load_dataset.py runs/demo/play.h5

`diwa inspect` prints a card of any file.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from diwa_data.dataset.dataset import load_dataset


def main(path: Path, picture: Path = Path("frames.png")) -> None:
    data = load_dataset(path)
    cameras = ", ".join(f"{camera.name} {camera.size[0]}x{camera.size[1]}" for camera in data.spec.cameras)
    print(f"{len(data.episodes)} episodes of {data.spec.robot} at {data.spec.rate:g} Hz; cameras: {cameras}")
    print(f"an action: {data.spec.action.max_pos} m and {data.spec.action.max_rot} rad at most, then the gripper")

    for episode in data.episodes[:3]:
        about = episode.attributes["skill"] or episode.attributes["source"]
        done = int(episode.success.argmax()) if episode.success.any() else None
        print(f"  {episode.name}: {len(episode)} ticks of {about}, success at tick {done}")

    # What one tick holds: images (T, H, W, 3) uint8 of each camera, and (T, ...) numbers.
    episode = data.episodes[0]
    print(f"  state {episode.state[0].round(2)}: position, rotation (6D), finger width")
    print(f"  action {episode.action[0].round(2)}: what was commanded next, relative to the target, in [-1, 1]")
    strip = np.hstack([episode.images[data.spec.cameras[0].name][t] for t in (0, len(episode) // 2, -1)])
    Image.fromarray(strip).save(picture)
    print(f"first, middle and last frame: {picture}")

    # Every recording is a few arrays, so any library can learn from it.
    states = torch.from_numpy(np.concatenate([episode.state for episode in data.episodes])).float()
    actions = torch.from_numpy(np.concatenate([episode.action for episode in data.episodes])).float()
    batches = DataLoader(TensorDataset(states, actions), batch_size=32, shuffle=True)
    state, action = next(iter(batches))
    print(f"a batch for your network: states {tuple(state.shape)}, actions {tuple(action.shape)}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
