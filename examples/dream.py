"""Let a world model continue alone after a few recorded frames, under the recorded actions, and draw what it imagines.

    python examples/dream.py runs/demo/world_model runs/demo/play.h5

`diwa dream` makes films of this, and compares them with the true scene.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from diwa_data.dataset.dataset import load_dataset
from diwa_learning.world_model.latents import Segment, embed_clips, imagined_states
from diwa_learning.world_model.model import load_world_model
from diwa_learning.world_model.networks import to_uint8
from diwa_learning.world_model.open_loop import Strip, draw_filmstrip
from diwa_learning.world_model.probes import noise

CONTEXT, HORIZON, COLUMNS = 8, 40, 9


@torch.no_grad()
def main(world_model: Path, dataset: Path, picture: Path = Path("dream.png")) -> None:
    world = load_world_model(world_model)
    data = load_dataset(dataset, world.spec)  # an error names the field in which the two contracts differ
    episode = max(data.episodes, key=len)
    length = min(CONTEXT + HORIZON, len(episode))

    # Frames become embeddings, embeddings and actions become states: h and z of the RSSM.
    clip = embed_clips(world.model, [Segment(episode, 0, length)])
    states = imagined_states(world.model, clip, noise(world.model, clip, torch.Generator().manual_seed(0)), CONTEXT)
    print(f"{length} states of {states.features.shape[-1]} features, the last {length - CONTEXT} of them imagined")

    if world.model.state_decoder is not None:
        hand = world.model.decode_state(states)[0, :, :3].numpy()
        error = np.linalg.norm(hand - episode.state[:length, :3], axis=1)
        print(
            f"hand: off by {1000 * error[CONTEXT - 1]:.0f} mm when the dream begins, {1000 * error[-1]:.0f} at its end"
        )

    shown = np.unique(np.linspace(0, length - 1, COLUMNS).astype(int))
    rows = {}
    for camera, image in world.model.decode(states.features).items():
        rows[f"{camera}\nrecorded"] = np.asarray(episode.images[camera])[shown]
        rows[f"{camera}\nimagined"] = to_uint8(image)[0].numpy()[shown]
    labels = ["seen" if step < CONTEXT else f"+{step - CONTEXT + 1}" for step in shown]
    draw_filmstrip(picture, Strip(rows, labels))
    print(f"recorded above imagined: {picture}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
