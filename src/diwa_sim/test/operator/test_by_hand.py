"""A person's recording session on the real simulator, with what a controller would read."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pty
import re
import ssl
import threading
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import read_episode
from diwa_data.recording.recorder import EpisodeRecorder, RecordConfig
from diwa_data.recording.sidecar import Sidecar
from diwa_data.teleop import keyboard
from diwa_data.teleop.clutch import ControllerState
from diwa_data.teleop.devices import DeviceConfig, WebXRConfig
from diwa_sim.operator import record as recording
from diwa_sim.operator.record import HandRecording, RealTime, record
from diwa_sim.steps import DT
from diwa_sim.table import SimulatedPanda

CONFIG = RecordConfig(device="keyboard", skill="open_drawer", episodes=2, episode_seconds=1.0)


@pytest.fixture(scope="module")
def robot() -> SimulatedPanda:
    return SimulatedPanda()


def reading(*events: str, x: float = 0.0, held: bool = False) -> ControllerState:
    return ControllerState(Pose(np.array([x, 0.0, 0.0]), Rotation.identity()), held, 0.0, events)


def steps(session: HandRecording, seconds: float) -> list[str]:
    """Hold still."""
    return [line for _ in range(round(seconds / DT)) for line in session.step(reading())]


def test_an_episode_begins_at_its_own_start_and_follows_the_hand(robot, tmp_path):
    with EpisodeRecorder(tmp_path, robot.spec) as recorder:
        session = HandRecording(robot, recorder, CONFIG, 2)
        begin = robot.target_pose.position
        for step in range(30):  # practice: nothing is recorded
            session.step(reading(x=0.002 * step, held=step > 0))
        assert np.linalg.norm(robot.target_pose.position - begin) > 0.05
        assert session.step(reading("start")) == ["recording 000000"]
        for step in range(30):
            session.step(reading(x=0.002 * step, held=step > 0))
        assert session.step(reading("success")) == ["000000: success at 0.5 s"]
        (said,) = session.step(reading("stop"))
        assert said == "finished 000000, 0.5 s; 1 to go"
        assert not session.complete
    streams = read_episode(tmp_path / "000000")
    targets = [sample.value.position for sample in streams[messages.TARGET_POSE]]
    np.testing.assert_allclose(targets[0], begin, atol=1e-9)
    np.testing.assert_allclose(targets[-1] - begin, [28 * 0.002, 0, 0], atol=0.005)  # released in motion, it brakes
    assert [sample.value for sample in streams[messages.EPISODE_EVENT]] == ["start", "success", "stop"]
    labels = Sidecar.read(tmp_path / "000000").labels
    robot.reset("open_drawer", labels["seed"])
    np.testing.assert_allclose(robot.target_pose.position, begin, atol=1e-12)


def test_discarding_and_the_longest_episode(robot, tmp_path):
    with EpisodeRecorder(tmp_path, robot.spec) as recorder:
        session = HandRecording(robot, recorder, CONFIG, 2)
        assert session.step(reading("success")) == [
            "nothing is being recorded; mark a finished episode with 'diwa annotate'"
        ]
        assert session.step(reading("discard")) == ["nothing to discard in this session"]
        session.step(reading("start"))
        assert session.step(reading("start")) == ["000000 is being recorded already"]
        assert session.step(reading("discard")) == ["discarded 000000"]
        session.step(reading("start"))
        assert steps(session, 1.2) == ["finished 000000, 1.0 s; 1 to go"]
        (said,) = session.step(reading("discard"))
        assert said.startswith("discarded 000000; it is kept as .discarded-000000-")
        assert not (tmp_path / "000000").exists()
        for index in (0, 1):
            assert session.step(reading("start")) == [f"recording {index:06d}"]
            steps(session, 1.2)
        assert session.complete
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["000000", "000001"]


def test_keys_in_a_terminal_record_an_episode(tmp_path, monkeypatch, capsys):
    """The whole command but for the window and the waiting: keys typed on a pseudo-terminal."""
    master, terminal = pty.openpty()

    class View:
        """Types while it is looked at."""

        frames = 0

        def is_running(self) -> bool:
            return self.frames < 200

        def sync(self) -> None:
            self.frames += 1
            if self.frames in (2, 40, 60):
                os.write(master, {2: b"n", 40: b"y", 60: b"m"}[self.frames])

    monkeypatch.setattr(keyboard, "_controlling_terminal", lambda: os.dup(terminal))
    monkeypatch.setattr(SimulatedPanda, "window", lambda self: contextlib.nullcontext(View()))
    monkeypatch.setattr(recording, "RealTime", lambda: RealTime(sleep=lambda seconds: None))
    (path,) = record(tmp_path / "bags", dataclasses.replace(CONFIG, skill="pick_cup"))  # none of the simulator's tasks
    os.close(master)
    os.close(terminal)
    assert [name for name, _ in Sidecar.read(path).events] == ["start", "success", "stop"]
    out = capsys.readouterr().out
    for line in ("hold to move", "2 episodes of pick_cup to record", "recording 000000", "finished 000000"):
        assert line in out


def test_a_browser_records_an_episode(tmp_path, monkeypatch, capsys):
    """The whole command but for the window: messages as the page sends them, over its socket."""
    aiohttp = pytest.importorskip("aiohttp", reason="webxr needs aiohttp: pip install -e .[dev]")
    presses = {10: "start", 60: "success", 89: "stop"}

    class Browser:
        """Opens the address that the operator is told, and holds the clutch from message 13 on."""

        frames = 0

        def is_running(self) -> bool:
            if self.frames == 0:
                file = re.search(r"open the address in (\S+)", capsys.readouterr().out).group(1)
                self.url = re.search(r"https://\S+", Path(file).read_text()).group()
                self.seen: list[dict] = []
                self.thread = threading.Thread(target=lambda: asyncio.run(self.drive()))
                self.thread.start()
            return self.frames < 2000

        def sync(self) -> None:
            self.frames += 1

        async def drive(self) -> None:
            trust = ssl.create_default_context(cafile=tmp_path / "webxr" / "server.pem")
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as client,
                client.ws_connect(self.url.replace("/?", "/controller?"), origin=self.url.partition("/?")[0]) as page,
            ):
                self.seen.append(await page.receive_json())
                for number in range(90):
                    await page.send_json(self.message(number))
                    await asyncio.sleep(1 / 60)
                async for message in page:
                    self.seen.append(message.json())

        def message(self, number: int) -> dict:
            return {
                "n": number, "t": number / 60, "frame": "base", "p": [0.002 * number, 0.0, 0.0], "q": [0, 0, 0, 1],
                "forward": [0, 0, 0, 1], "tracked": True, "held": number > 12, "trigger": 0, "buttons": [],
                "events": [presses[number]] if number in presses else [],
            }  # fmt: skip

    browser = Browser()
    settings = DeviceConfig(webxr=WebXRConfig(host="127.0.0.1", port=0, folder=str(tmp_path / "webxr"), stale_after=2))
    monkeypatch.setattr(SimulatedPanda, "window", lambda self: contextlib.nullcontext(browser))
    config = dataclasses.replace(CONFIG, device="webxr", devices=settings, episodes=1, episode_seconds=20.0)
    (path,) = record(tmp_path / "bags", config)
    browser.thread.join()
    assert [name for name, _ in Sidecar.read(path).events] == ["start", "success", "stop"]
    targets = [sample.value.position for sample in read_episode(path)[messages.TARGET_POSE]]
    assert targets[-1][0] - targets[0][0] > 0.05
    assert [said.get("what") for said in browser.seen] == [None, "start", "success", "stop"]


def test_without_a_display_there_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    master, terminal = pty.openpty()
    monkeypatch.setattr(keyboard, "_controlling_terminal", lambda: os.dup(terminal))
    with pytest.raises(DiwaError, match="no display to show the scene on"):
        record(tmp_path / "more", CONFIG)
    os.close(master)
    os.close(terminal)


def test_real_time_waits_for_what_is_left_of_a_step():
    clock, slept = [0.0], []
    pace = RealTime(lambda: clock[0], slept.append)
    for busy in (0.0, 0.004, 0.5):
        clock[0] += busy
        pace.wait()
        clock[0] += slept[-1]
    np.testing.assert_allclose(slept, [DT, DT - 0.004, 0.0], atol=1e-9)
