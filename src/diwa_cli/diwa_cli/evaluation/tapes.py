"""Rollouts kept whole, as a dataset like any other: what the robot saw and did, and what the oracle said of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diwa_data.dataset.dataset import Episode, load_dataset
from diwa_data.dataset.file import join_episodes
from diwa_data.errors import DiwaError
from diwa_data.files import remove
from diwa_data.images import Frame, preprocess_observation
from diwa_data.pose import Pose, action_sequence, robot_state
from diwa_data.robot import Environment, Observation
from diwa_deploy.control import Tick

EXTRA_TICKS = 8
"""Ticks for which a taped rollout goes on after its limit: what the classifier says of a late end is seen too."""


class Tape:
    """Keeps a rollout's frames, targets, the classifier's probabilities and the oracle's verdicts."""

    def __init__(self, environment: Environment):
        self._environment = environment
        self._ticks: list[tuple[Frame, Pose, float]] = []
        self._probabilities: list[float] = []
        self._success = [environment.succeeded()]

    def __call__(self, observation: Observation, tick: Tick) -> None:
        """Take one control tick, after its command."""
        spec = self._environment.spec
        frame, gripper = preprocess_observation(observation, spec), spec.action.gripper_command(tick.action)
        self._ticks.append((frame, observation.target, gripper))
        self._probabilities.append(float(tick.success_probability))
        self._success.append(self._environment.succeeded())

    def episode(self, name: str, attributes: Mapping[str, Any] | None = None) -> Episode:
        """All frames including the last state, whose action holds.

        `success` is true from the first frame on in which the oracle was. To the `attributes` are added
        `probabilities`, the classifier's of every frame but the last, and the counts of clipped actions.
        """
        spec, last = self._environment.spec, self._environment.observe()
        seen, targets, grippers = zip(*self._ticks, strict=True)
        frames = [*seen, preprocess_observation(last, spec)]
        opened = np.array([spec.action.gripper_open, *grippers])
        published = [*targets, last.target]
        sequence = action_sequence(published, opened, spec.action)
        time = np.arange(len(frames)) / spec.rate
        scenes = [frame.scene_state for frame in frames if frame.scene_state is not None]
        return Episode(
            name,
            {name: np.stack([frame.images[name] for frame in frames]) for name in frames[0].images},
            np.stack([frame.state for frame in frames]),
            np.stack([*sequence.actions, spec.action.null]),
            np.logical_or.accumulate(self._success),
            stamp=time,
            received=time,
            scene_state=np.stack(scenes) if scenes else None,
            attributes={
                **(attributes or {}),
                "probabilities": self._probabilities,
                "clipped": int(sequence.clipped.sum()),
            },
            target=np.stack([robot_state(target, None) for target in published]),
        )


class TapeFile:
    """The dataset of the taped rollouts of an evaluation, to which further ones can be added.

    Each is a file of its own in `.<name>.parts` until all that were asked for are there: an interruption loses none.
    """

    def __init__(self, path: Path):
        """Raises `DiwaError` if something else is at `path`."""
        self._path, self._parts = path, path.with_name(f".{path.name}.parts")
        self._kept = _episodes(path) if path.exists() else {}

    def missing(self, policy: str, seed: int) -> Path | None:
        """Where to write the rollout of a policy from a start; None if it is there."""
        part = self._parts / f"{policy}_{seed}.h5"
        return None if (policy, seed) in self._kept or part.is_file() else part

    def join(self) -> None:
        """Put new rollouts to those in the file, all in order of policy and seed."""
        parts = [path for path in self._parts.rglob("*.h5") if not path.name.startswith(".")]
        if not parts:
            return
        found = dict(self._kept)
        for part in parts:
            found |= _episodes(part)
        join_episodes([found[key] for key in sorted(found)], self._path)
        remove(self._parts)


def _episodes(path: Path) -> dict[tuple[str, int], tuple[Path, str]]:
    """(policy, seed) -> file and name of each rollout in a file."""
    found = {}
    for episode in load_dataset(path, images=False).episodes:
        if not {"policy", "seed"} <= episode.attributes.keys():
            raise DiwaError(f"{path}: episode {episode.name} is not a rollout of a policy: move the file elsewhere")
        found[str(episode.attributes["policy"]), int(episode.attributes["seed"])] = (path, episode.name)
    return found
