"""The server of `diwa serve-policy`: decides for an arm whose machine does not."""

from __future__ import annotations

import copy
import json
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from diwa_data.errors import DiwaError
from diwa_deploy.bundle import CARD, StartRegion
from diwa_deploy.control import deciding_threads
from diwa_deploy.remote import ACT, BEGIN, FORMAT, MOST, SKILLS, unpack
from diwa_deploy.sequence import find_bundles
from diwa_learning.agent import Agent, load_agent
from diwa_learning.onnx_agent import Runtime, in_runtime
from diwa_learning.world_model.model import load_world_model

RUNS = 16
"""Runs that are kept, the latest: each is a model state and a queue of actions."""


class PolicyServer(ThreadingHTTPServer):
    """Skills, of any contracts. Several arms may run them at a time; decisions are made one after the other."""

    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        skills: Sequence[str],
        checkpoint: Path | None = None,
        policy: str = "finetuned",
        threads: int = 1,
        ddim_steps: int = 0,
        runtime: Runtime = "auto",
    ):
        """Loads them, as the node `policy` does. Raises `DiwaError` if one is missing."""
        if not skills:
            raise DiwaError("name the skills to serve, such as open_drawer")
        bundles = find_bundles(skills, checkpoint)
        self._deciding, self._lock = threads, threading.Lock()
        self._agents: dict[str, Agent] = {}
        self._about: dict[str, Any] = {"format": FORMAT, "skills": {}}
        for name, bundle in bundles.items():
            spec = load_world_model(bundle.world_model, decodes=False).spec
            loaded = load_agent(bundle.world_model, bundle.policy_named(policy), bundle.reward, spec, ddim_steps)
            agent, computes = in_runtime(loaded, runtime, threads)
            start = StartRegion.from_card(bundle.card, str(bundle.path / CARD))
            ends = {"success_threshold": agent.success_threshold, "success_ticks": agent.success_ticks}
            about = {"spec": json.loads(spec.to_json()), "start": start and asdict(start), "runtime": computes}
            self._about["skills"][name] = about | ends
            self._agents[name] = agent
        self._runs: dict[str, Agent] = {}
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            raise DiwaError(
                f"{address[0]}:{address[1]} cannot be served: {error.strerror or error}: choose another --port"
            ) from error

    def answer(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        """The answer to a request. Raises `DiwaError` where there is none."""
        path, _, run = path.partition("?")
        if (method, path) == ("GET", SKILLS):
            return self._about
        with self._lock, deciding_threads(self._deciding):
            if (method, path) == ("POST", BEGIN):
                return self._begin(body)
            if (method, path) == ("POST", ACT):
                return self._act(run, body)
        raise DiwaError(f"no {method} {path} here")

    def _begin(self, body: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(body)
            skill, seed = asked["skill"], int(asked["seed"])
        except (ValueError, KeyError, TypeError) as error:
            raise DiwaError(f"{body[:100]!r} names no skill and seed") from error
        if skill not in self._agents:
            raise DiwaError(f"no skill {skill} here, but {', '.join(self._agents)}")
        agent, run = copy.copy(self._agents[skill]), uuid.uuid4().hex  # the networks are shared, the state is not
        agent.reset(seed)
        self._runs[run] = agent
        if len(self._runs) > RUNS:
            self._runs.pop(next(iter(self._runs)))
        return {"run": run}

    def _act(self, run: str, body: bytes) -> dict[str, Any]:
        if run not in self._runs:
            raise DiwaError("this run did not begin here: was the server started again?")
        decision = self._runs[run].act(*unpack(body))
        return {"action": decision.action.tolist(), "success_probability": float(decision.success_probability)}


class _Handler(BaseHTTPRequestHandler):
    server: PolicyServer
    protocol_version = "HTTP/1.1"  # one connection for a whole skill
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(lambda: b"")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if not 0 <= length <= MOST:
            self.close_connection = True
            self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"too large")
            return
        self._answer(lambda: self.rfile.read(length))

    def _answer(self, read: Callable[[], bytes]) -> None:
        body = read()
        try:
            said, status = json.dumps(self.server.answer(self.command, self.path, body)).encode(), HTTPStatus.OK
        except Exception as error:  # whatever it is, whoever asked is told
            said, status = str(error).encode(), HTTPStatus.CONFLICT
        self._say(status, said)

    def _say(self, status: HTTPStatus, said: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        """Nothing at every tick."""
