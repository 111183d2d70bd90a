"""A pose from /tf and /tf_static: the chain of transforms between two frames, each as it was last received."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_data.recording.messages import finite_pose

_LONGEST = 256  # links between two frames; a circle of them has no end
_MOST = 100_000  # frames of one bag; arms have dozens


class Link(NamedTuple):
    """One transform: where `child` is in `parent`."""

    parent: str
    child: str
    values: Any
    """The message geometry_msgs/Transform."""
    stamp: float
    """When it was so, seconds; infinite if it always is."""


class Transforms:
    """The transforms received so far, a tree of frames."""

    def __init__(self, parent: str, child: str):
        """The pose wanted is that of frame `child` in frame `parent`."""
        self.parent, self.child = parent.lstrip("/"), child.lstrip("/")
        self._links: dict[str, Link] = {}
        self._used: frozenset[str] = frozenset()  # children of the links of the chain, empty while it is broken

    def feed(self, message: Any, static: bool) -> bool:
        """Take a deserialised TFMessage; whether the pose wanted is known and may have changed by it."""
        touched, tree_changed = set(), False
        for each in message.transforms:
            parent, child, at = each.header.frame_id.lstrip("/"), each.child_frame_id.lstrip("/"), each.header.stamp
            stamp = math.inf if static else at.sec + at.nanosec * 1e-9
            before = self._links.get(child)
            tree_changed |= before is None or before.parent != parent
            self._links[child] = Link(parent, child, each.transform, stamp)
            touched.add(child)
        if len(self._links) > _MOST:
            raise DiwaError(f"more than {_MOST} frames: the transforms are damaged")
        if tree_changed:
            down, up = self.chain(self.parent, self.child) or ((), ())
            self._used = frozenset(link.child for link in (*down, *up))
        return not self._used.isdisjoint(touched)

    @property
    def frames(self) -> list[str]:
        """All frames received so far, by name."""
        return sorted({*self._links, *(link.parent for link in self._links.values())})

    @property
    def roots(self) -> list[str]:
        """Frames that hang on no other."""
        return sorted({link.parent for link in self._links.values()} - {*self._links})

    @property
    def is_known(self) -> bool:
        """The chain is complete."""
        return bool(self._used)

    @property
    def moves(self) -> bool:
        """A transform of the chain is not a static one."""
        return any(self._links[child].stamp < math.inf for child in self._used)

    def now(self) -> tuple[Sequence[Link], Sequence[Link]]:
        """The chain as it is: links from what both frames hang on, down to the child, and down to the parent."""
        chain = self.chain(self.parent, self.child)
        assert chain is not None
        return chain

    def chain(self, parent: str, child: str) -> tuple[list[Link], list[Link]] | None:
        """The chain between any two frames, as `now` has it; None where they do not hang together."""
        down, up = self._to_root(child), self._to_root(parent)
        ancestors = [parent, *(link.parent for link in up)]
        for number, frame in enumerate([child, *(link.parent for link in down)]):
            if frame in ancestors:
                return down[:number][::-1], up[: ancestors.index(frame)][::-1]
        return None

    def _to_root(self, frame: str) -> list[Link]:
        """The links from a frame up to its root."""
        links: list[Link] = []
        while frame in self._links and len(links) < _LONGEST:
            links.append(self._links[frame])
            frame = links[-1].parent
        return links


def oldest(chain: tuple[Sequence[Link], Sequence[Link]]) -> float:
    """Stamp of the oldest transform in a chain that moves, seconds."""
    return min(link.stamp for links in chain for link in links)


def pose_of(chain: tuple[Sequence[Link], Sequence[Link]], where: str) -> Pose:
    """The pose that a chain adds up to. Raises `DiwaError` naming `where` and the frame of a NaN."""
    down, up = (_product(links, where) for links in chain)
    if up is None:
        assert down is not None
        return down
    back = up.rotation.inv()
    if down is None:
        return Pose(-back.apply(up.position), back)
    return Pose(back.apply(down.position - up.position), back * down.rotation)


def _product(links: Sequence[Link], where: str) -> Pose | None:
    """A chain of links downwards; of a single one, exactly what it says."""
    found: Pose | None = None
    for link in links:
        p, q = link.values.translation, link.values.rotation
        at = f"{where}: transform from {link.parent} to {link.child}"
        pose = finite_pose(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]), at)
        if found is None:
            found = pose
        else:
            position = found.position + found.rotation.apply(pose.position)
            found = Pose(position, Rotation.from_quat(found.quaternion) * pose.rotation)
    return found
