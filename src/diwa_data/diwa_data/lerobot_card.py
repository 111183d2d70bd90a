"""The README.md of a LeRobot dataset: the Hugging Face hub's card, and what the numbers mean."""

from __future__ import annotations

from collections.abc import Sequence

from diwa_data.spec import Spec

_CARD = """\
---
task_categories:
- robotics
tags:
- LeRobot
configs:
- config_name: default
  data_files: data/*/*.parquet
---
# {repo_id}

{episodes} episodes, {frames} frames at {rate:g} Hz, of the robot `{robot}`: {tasks}.

```python
from lerobot.datasets.lerobot_dataset import LeRobotDataset

dataset = LeRobotDataset("{repo_id}")  # root="this folder" before it is uploaded
```

| feature | |
|---|---|
{images}
| `observation.state` | {state}; metres, base frame |
| `action` | in [-1, 1]: position delta / {max_pos:g} m, rotation delta / {max_rot:g} rad ({rotation}), gripper \
({opens} opens, {closes} closes); base frame; leads to the next frame |
| `next.success` | the skill is done in the next frame, by the operator's mark |

The last frame of each recording has no action and is left out. `timestamp` counts control ticks. `spec.json` is the
full contract of the recordings. Written by DiWA on ROS 2 from its HDF5 dataset.
"""


def dataset_card(repo_id: str, spec: Spec, tasks: Sequence[str], episodes: int, frames: int) -> str:
    """Markdown with the hub's header."""
    images = [
        f"| `observation.images.{camera.name}` | {camera.size[0]}x{camera.size[1]} rgb |" for camera in spec.cameras
    ]
    return _CARD.format(
        repo_id=repo_id,
        episodes=episodes,
        frames=frames,
        rate=spec.rate,
        robot=spec.robot,
        tasks=", ".join(tasks),
        images="\n".join(images),
        state=", ".join(part.replace("_", " ") for part in spec.state),
        max_pos=spec.action.max_pos,
        max_rot=spec.action.max_rot,
        rotation=spec.action.rotation.replace("_", " "),
        opens=f"{spec.action.gripper_open:+g}",
        closes=f"{-spec.action.gripper_open:+g}",
    )
