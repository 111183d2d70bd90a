"""Skills whose networks compute on another machine: what stands in for an agent on the arm's machine, and the wire.

`diwa serve-policy` answers (`diwa_deploy.serving`). Streams, ticks, limits and watchdogs stay with the arm: an answer
that is late holds the target like any late decision, and one that does not come ends the skill.

The wire is HTTP/1.1 on one connection: JSON, and the arrays of an observation as `.npz`, images as they were recorded.
"""

from __future__ import annotations

import http.client
import io
import json
from dataclasses import fields
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from diwa_data.config import from_mapping
from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.pose import Pose
from diwa_data.robot import Observation
from diwa_data.spec import Spec, require_same
from diwa_deploy.bundle import StartRegion
from diwa_learning.agent import Decision

FORMAT = 1
"""Version of the wire."""
PORT = 8700
SKILLS, BEGIN, ACT = "/skills", "/begin", "/act"
"""Paths: what there is; begin a skill; decide."""
ANSWERS = 1.0
"""Seconds in which a decision must come: by then the watchdogs have ended the skill."""
CONNECTS = 5.0
"""Seconds in which the server must answer when a skill is loaded."""
MOST = 64 * 2**20
"""Bytes of a message at most."""
_IMAGE = "image_"


class RemoteAgent:
    """One skill of a server, as the control loop asks an agent."""

    def __init__(self, server: str, skill: str, spec: Spec):
        """Raises `DiwaError` if nobody answers at `server`, it has no such skill, or one of another contract."""
        self._server, self._skill = server, skill
        self._where = _address(server)
        self._connection: http.client.HTTPConnection | None = None
        about = json.loads(self._ask("GET", SKILLS, b"", CONNECTS))
        if about.get("format") != FORMAT:
            raise DiwaError(
                f"{server} speaks version {about.get('format')} of the protocol, but this machine {FORMAT}: update one"
            )
        if skill not in about["skills"]:
            raise DiwaError(f"{server} does not serve {skill}; it serves {', '.join(sorted(about['skills']))}")
        own = about["skills"][skill]
        theirs = Spec.from_plain(own["spec"], server)
        require_same(spec, theirs, server)
        self.limits: MotionLimits | None = theirs.limits
        """Those of the recordings that the skill was learned from."""
        self.start = from_mapping(StartRegion, own["start"], f"{server}: start") if own["start"] else None
        """Where its demonstrations began."""
        self.success_threshold, self.success_ticks = float(own["success_threshold"]), int(own["success_ticks"])
        self.runtime = f"{server} ({own['runtime']})"
        """Library that computes the decisions."""
        self._run = ""

    def reset(self, seed: int) -> None:
        """Begin the skill anew, on a connection of its own: the server may have been started again since the last."""
        self._close()
        told = self._ask("POST", BEGIN, json.dumps({"skill": self._skill, "seed": seed}).encode(), CONNECTS)
        self._run = json.loads(told)["run"]

    def act(self, observation: Observation, executed: np.ndarray) -> Decision:
        """As `Agent.act`. Raises `DiwaError` if the answer does not come in time."""
        if not self._run:
            self.reset(0)
        told = json.loads(self._ask("POST", f"{ACT}?{self._run}", pack(observation, executed), ANSWERS))
        return Decision(np.array(told["action"], np.float32), float(told["success_probability"]))

    def _ask(self, method: str, path: str, body: bytes, seconds: float) -> bytes:
        """The answer. After any failure the connection is closed, so that no late answer is taken for the next one."""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(*self._where, timeout=CONNECTS)
                self._connection.connect()
            self._connection.sock.settimeout(seconds)
            self._connection.request(method, path, body)
            answer = self._connection.getresponse()
            said = answer.read(MOST)
        except (OSError, http.client.HTTPException) as error:
            self._close()
            why = f"no answer within {seconds:g} s" if isinstance(error, TimeoutError) else str(error) or "it hung up"
            raise DiwaError(f"{self._server}: {why}: does diwa serve-policy run there?") from error
        if answer.status != http.client.OK:
            raise DiwaError(f"{self._server}: {said.decode(errors='replace')}")
        return said

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _address(server: str) -> tuple[str, int]:
    """Host and port of an address. Raises `DiwaError` if it is none."""
    parts = urlsplit(server)
    try:
        port = parts.port or PORT
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port or parts.path.strip("/"):
        raise DiwaError(f"server:={server} is not an address: name one such as http://gpu:{PORT}")
    return parts.hostname, port


def pack(observation: Observation, executed: np.ndarray) -> bytes:
    """An observation and the action that led to it."""
    arrays = {f"{_IMAGE}{name}": image for name, image in observation.images.items()}
    for name in ("pose", "target"):
        pose = getattr(observation, name)
        arrays[name] = np.concatenate([pose.position, pose.quaternion])
    for name in ("gripper_width", "stamp", "received", "scene_state"):
        if getattr(observation, name) is not None:
            arrays[name] = np.asarray(getattr(observation, name))
    stream = io.BytesIO()
    np.savez(stream, executed=executed, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def unpack(data: bytes) -> tuple[Observation, np.ndarray]:
    """The inverse of `pack`. Raises `DiwaError` on anything else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            given: dict[str, Any] = {name: arrays[name] for name in arrays.files}
        executed = given.pop("executed")
        images = {name.removeprefix(_IMAGE): given.pop(name) for name in [*given] if name.startswith(_IMAGE)}
        for name in ("pose", "target"):
            given[name] = Pose.from_quaternion(given[name][:3], given[name][3:])
        for name in ("gripper_width", "stamp", "received"):
            given[name] = float(given[name]) if name in given else None
        known = {each.name for each in fields(Observation)}
        return Observation(images=images, **{name: value for name, value in given.items() if name in known}), executed
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DiwaError(f"{len(data)} bytes are not an observation: {error}") from error
