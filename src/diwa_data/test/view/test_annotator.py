"""Marking folders: films, marks, undoing, bags of other recorders, the page over HTTP and the terminal."""

from __future__ import annotations

import http.client
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import cv2
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.recording import messages
from diwa_data.recording.marks import Mark, marks_path, read_marks
from diwa_data.recording.sidecar import SIDECAR, Sidecar
from diwa_data.spec import CameraSpec
from diwa_data.testing.foreign import MAPPING, Lab
from diwa_data.testing.foreign import write_foreign as foreign_copy
from diwa_data.testing.synthetic import record_synthetic, synthetic_image
from diwa_data.view.annotate import Annotator, annotate_bag
from diwa_data.view.annotate_page import AnnotateServer
from diwa_data.view.annotate_terminal import TerminalView, half_blocks, keys

DEMONSTRATION = {"source": "demonstration", "skill": "pick_cup"}


@pytest.fixture
def folder(tmp_path, spec) -> Path:
    """Three attempts at a skill, one of them marked."""
    for success in (None, 1.0, None):
        record_synthetic(tmp_path / "bags", spec, 2.0, DEMONSTRATION, success=success)
    return tmp_path / "bags"


def write_lab(bag: Path, seconds: float = 3.0) -> Path:
    """A bag as another lab may have it: a raw and a compressed camera, depth, a stamp of 2026, and nothing of ours."""
    store, begin = messages.typestore(), 1_790_000_000
    types = store.types
    with Writer(bag, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        topics = {"/front/image": messages.IMAGE_TYPE, "/wrist/compressed": "sensor_msgs/msg/CompressedImage",
                  "/depth": messages.IMAGE_TYPE}  # fmt: skip
        writers = {topic: writer.add_connection(topic, kind, typestore=store) for topic, kind in topics.items()}
        for frame in range(round(15 * seconds)):
            image, at = synthetic_image(frame / 15, 60, 80), begin + frame / 15
            stamp = types["builtin_interfaces/msg/Time"](sec=int(at), nanosec=0)
            header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="x")
            layout = {"height": 60, "width": 80, "is_bigendian": 0}
            jpeg = cv2.imencode(".jpg", image[:30, :30, ::-1])[1].reshape(-1)
            values = {
                "/front/image": {**layout, "encoding": "rgb8", "step": 240, "data": image.reshape(-1)},
                "/wrist/compressed": {"format": "rgb8; jpeg compressed bgr8", "data": jpeg},
                "/depth": {**layout, "encoding": "16UC1", "step": 160, "data": np.zeros(9600, np.uint8)},
            }
            for topic, value in values.items():
                if topic != "/wrist/compressed" or frame % 2 == 0:
                    data = store.serialize_cdr(types[topics[topic]](header=header, **value), topics[topic])
                    writer.write(writers[topic], begin * 10**9 + round(frame / 15 * 1e9), data)
    return bag


def test_a_film_has_all_cameras_side_by_side_and_the_times_of_the_first(tmp_path, spec):
    three = (*spec.cameras, CameraSpec("side", record_size=(80, 60)))
    bag = record_synthetic(tmp_path, replace(spec, cameras=three), 2.0, DEMONSTRATION)
    with Annotator(bag) as annotator:
        film, times = annotator.film(0), annotator.times(0)
    assert film.cameras == ("static", "gripper", "side")
    np.testing.assert_allclose(times, np.arange(15) / 7.5, atol=1e-6)
    assert film.image(0).shape == (80, 2 * 96 + 60, 3)  # the highest one's height; the others keep their shape
    for number, left in enumerate((0, 96, 192)):
        shown = film.image(5)[:, left : left + 96]
        expected = cv2.resize(synthetic_image(times[5] + number, 80, 96 if number < 2 else 60), shown.shape[1::-1])
        assert np.abs(shown.astype(int) - expected).mean() < 12


def test_marks_are_kept_at_once_and_undone_in_order(folder):
    with Annotator(folder) as annotator:
        assert annotator.progress() == "1 of 3 marked (1 succeeded, 0 failed)"
        assert [entry.outcome for entry in annotator.entries()] == ["none", "success", "none"]
        assert annotator.next_unmarked() == 0
        assert annotator.mark(0, "success", 1.5).at == 1.5
        assert Sidecar.read(folder / "000000").mark("success") == 1.5
        assert annotator.next_unmarked(0) == 2
        annotator.mark(1, "fail", 1.9)
        annotator.mark(0, "none", 0.0)
        assert [Sidecar.read(folder / f"00000{n}").outcome for n in range(3)] == ["none", "fail", "none"]
        undone = [annotator.undo() for _ in range(4)]
        assert [one and (one.entry.number, one.entry.outcome, one.entry.at, one.seconds) for one in undone] == [
            (0, "success", 1.5, 0.0), (1, "success", 1.0, 1.9), (0, "none", None, 1.5), None,
        ]  # fmt: skip
        assert annotator.progress() == "1 of 3 marked (1 succeeded, 0 failed)"
    assert Sidecar.read(folder / "000001").annotations == {}
    assert not (folder / ".lock").exists()


def test_two_do_not_mark_one_folder_and_wrong_marks_change_nothing(folder):
    with Annotator(folder) as annotator:
        with pytest.raises(DiwaError, match=r"is in use by process \d+ on .* since"):
            Annotator(folder)
        for number, outcome, seconds, message in (
            (0, "success", 2.5, "2.5 s is outside of 000000, which lasts 1.97 s"),
            (0, "success", float("nan"), "nan s is outside"),
            (0, "sucess", 1.0, "unknown mark 'sucess'; choose one of success, fail, none"),
            (3, "fail", 1.0, "there is no attempt 3: they are 0 to 2"),
            (-1, "fail", 1.0, "there is no attempt -1"),
        ):
            with pytest.raises(DiwaError, match=message):
                annotator.mark(number, outcome, seconds)
        assert annotator.undo() is None
    assert [Sidecar.read(bag.parent).annotations for bag in folder.glob("*/episode.json")] == [{}, {}, {}]


def test_a_damaged_recording_is_told_and_the_others_are_marked(folder):
    (folder / "000000" / SIDECAR).write_text("{")
    with Annotator(folder) as annotator:
        assert len(annotator) == 2
        assert "000000/episode.json is damaged" in annotator.problems[0]
        next((folder / "000002").glob("*.mcap")).write_bytes(b"nothing")
        view = TerminalView(annotator)  # opens the one that is unmarked, whose film is damaged
        assert "000002 is truncated or damaged" in view.said.replace("(its checksum differs)", "")
        view.press("s")
        view.press("right")
        assert annotator.entry(1).outcome == "none"
    for bag in ("000001", "000002"):
        (folder / bag / SIDECAR).write_text("{")
    with pytest.raises(DiwaError, match=r"000000.*; .*000001.*; .*000002"):
        Annotator(folder)


def test_a_foreign_bag_is_shown_and_its_marks_lie_beside_it(tmp_path):
    bag = write_lab(tmp_path / "run_7")
    stored = {path: path.read_bytes() for path in bag.rglob("*")}
    with Annotator(tmp_path) as annotator:
        film = annotator.film(0)
        assert film.cameras == ("/front/image", "/wrist/compressed")
        assert film.image(0).shape == (60, 80 + 60, 3)
        assert annotator.entry(0).seconds == pytest.approx(44 / 15, abs=1e-6)
        annotator.mark(0, "success", 2.0)
        annotator.mark(0, "fail", 1.0)
        assert read_marks(bag) == [Mark("fail", pytest.approx(1_790_000_001.0))]
        annotator.undo()
        assert read_marks(bag) == [Mark("success", pytest.approx(1_790_000_002.0))]
        annotator.undo()
    assert {path: path.read_bytes() for path in bag.rglob("*")} == stored
    assert [path.name for path in tmp_path.iterdir()] == ["run_7"]
    assert annotate_bag(bag, fail=1.5).endswith("run_7: 2.93 s, fail at 1.50 s")
    assert annotate_bag(bag).endswith("fail at 1.50 s")
    assert annotate_bag(bag, never=True).endswith("no mark")
    assert not marks_path(bag).exists()
    with pytest.raises(DiwaError, match="give only one"):
        annotate_bag(bag, success=1.0, fail=1.0)


def test_a_mapping_parts_a_foreign_bag_and_a_dataset_follows_the_marks(tmp_path, spec):
    """The gripper opens at 1.0 and 2.2 s: two attempts, which the mapping calls successes at their ends."""
    plain, lab = replace(spec, scene_state=()), Lab()
    own = record_synthetic(tmp_path / "own", plain, 3.0, DEMONSTRATION)

    def change(topic, message):
        if topic == messages.JOINT_STATES:
            at = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
            message.position = message.position.copy()
            message.position[-2:] = 0.01 if 0.5 < at < 1.0 or 2.0 < at < 2.2 else 0.04
        yield from lab.of(topic, message)

    bag = foreign_copy(own, tmp_path / "bags" / "run1", change=change)
    mapping, values = tmp_path / "lab.yaml", yaml.safe_load(MAPPING)
    values |= {"episodes": {"by": "gripper", "margin": 0.3}, "success": {"by": "end", "seconds": 0.2}}
    values["gripper_command"] = {"open_above": 0.07, "close_below": 0.05}
    mapping.write_text(yaml.safe_dump(values))
    with Annotator(bag, mapping) as annotator:
        one, two = annotator.entries()
        assert (one.name, two.name, one.outcome, two.outcome) == ("run1 #0", "run1 #1", "success", "success")
        assert (one.at, two.at) == (pytest.approx(one.seconds - 0.2), pytest.approx(two.seconds - 0.2))
        assert annotator.film(1).image(0).shape == (40, 96, 3)
        assert annotator.times(1)[0] >= 0
        assert annotator.mark(0, "fail", one.seconds).outcome == "fail"
        assert annotator.entry(1).outcome == "success"
        annotator.mark(1, "success", two.seconds)
        annotator.mark(1, "fail", 0.0)
        assert annotator.undo().entry.at == two.seconds
    assert [mark.event for mark in read_marks(bag)] == ["fail", "success"]
    build_dataset([bag], tmp_path / "d.h5", DatasetConfig(workers=1), mapping=mapping)
    failed, done = load_dataset(tmp_path / "d.h5").episodes
    assert (failed.outcome, done.outcome) == ("fail", "success")
    assert int(done.success.sum()) <= 1  # at the very end
    with pytest.raises(DiwaError, match=r"run1 has marks of 2 attempts: name the mapping .*--mapping"):
        Annotator(bag)
    with pytest.raises(DiwaError, match="run1 holds 2 attempts: mark each on the page"):
        annotate_bag(bag, fail=1.0, mapping=mapping)


def test_a_time_is_of_one_bag(folder):
    with pytest.raises(DiwaError, match=r"bags holds 3 bags: name one, such as .*000000, or leave the time out"):
        annotate_bag(folder, success=1.0)
    with pytest.raises(DiwaError, match="nothing does not exist"):
        annotate_bag(folder / "nothing", success=1.0)
    assert annotate_bag(folder / "000000", fail=1.0).endswith("fail at 1.00 s (by annotation)")


def test_what_is_no_bag_of_images_says_what_there_is(tmp_path):
    with pytest.raises(DiwaError, match="holds no finished episode"):
        Annotator(tmp_path)
    with Writer(tmp_path / "bag", version=8) as writer:
        connection = writer.add_connection("/chatter", "std_msgs/msg/String", typestore=messages.typestore())
        writer.write(connection, 10**9, messages.encode_string("hello"))
    with Annotator(tmp_path) as annotator, pytest.raises(DiwaError, match=r"no topic of colour images .*: none"):
        annotator.film(0)


class Browser:
    """Asks a served page."""

    def __init__(self, server: AnnotateServer):
        self._server = server

    def ask(self, path: str, body: object = None, headers: dict[str, str] | None = None, **query: object):
        """(status, type, content) of an answer; JSON is read."""
        connection = http.client.HTTPConnection(*self._server.server_address[:2], timeout=20)
        address = f"{path}?{urlencode({'token': self._server.token} | query)}"
        sent = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", address, sent, headers or {})
        answer = connection.getresponse()
        kind, content = answer.getheader("Content-Type"), answer.read()
        connection.close()
        return answer.status, kind, json.loads(content) if kind == "application/json" else content


@pytest.fixture
def browser(folder) -> Iterator[Browser]:
    """A browser at the page of `folder`."""
    with Annotator(folder) as annotator, AnnotateServer(annotator) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Browser(server)
        finally:
            server.shutdown()
            thread.join()


def test_the_page_shows_and_marks(browser, folder):
    status, kind, page = browser.ask("/")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert b"<title>DiWA annotate</title>" in page
    found = browser.ask("/attempts")[2]
    assert (found["first"], found["progress"], len(found["attempts"])) == (
        0,
        "1 of 3 marked (1 succeeded, 0 failed)",
        3,
    )
    assert found["attempts"][1] == {
        "number": 1, "name": "000001", "about": "demonstration pick_cup", "seconds": pytest.approx(59 / 30),
        "outcome": "success", "at": 1.0,
    }  # fmt: skip
    times = browser.ask("/film", attempt=0)[2]["times"]
    status, kind, picture = browser.ask("/picture", attempt=0, index=len(times) - 1)
    assert (status, kind) == (200, "image/jpeg")
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).shape == (40, 96, 3)
    assert cv2.imdecode(np.frombuffer(browser.ask("/strip", attempt=0)[2], np.uint8), 1).shape == (96, 16 * 115, 3)
    marked = browser.ask("/mark", {"attempt": 0, "outcome": "fail", "seconds": 1.5})[2]
    assert (marked["next"], marked["entry"]["outcome"], marked["progress"][:6]) == (2, "fail", "2 of 3")
    assert Sidecar.read(folder / "000000").outcome == "fail"
    undone = browser.ask("/undo", {})[2]
    assert (undone["entry"]["outcome"], undone["seconds"]) == ("none", 1.5)
    assert browser.ask("/undo", {})[2]["entry"] is None


def test_nobody_else_sees_or_marks(browser, folder):
    mark = {"attempt": 0, "outcome": "fail", "seconds": 1.5}
    for headers, query in (
        ({}, {"token": "wrong"}),
        ({}, {"token": ""}),
        ({}, {"token": "é"}),
        ({"Host": "evil.example"}, {}),  # a name that somebody gave this address
        ({"Host": ""}, {}),
        ({"Origin": "https://evil.example"}, {}),
        ({"Origin": "null"}, {}),
    ):
        for path, body in (("/", None), ("/attempts", None), ("/picture", None), ("/mark", mark)):
            assert browser.ask(path, body, headers, **query)[0] == 403, (headers, query, path)
    assert Sidecar.read(folder / "000000").outcome == "none"
    assert browser.ask("/attempts", headers={"Host": "localhost:9000"})[0] == 200  # a port that ssh forwards
    assert browser.ask("/mark", mark, {"Host": "localhost:9000", "Origin": "http://localhost:9000"})[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "query", "status", "message"),
    [
        ("/nothing", None, {}, 404, None),
        ("/mark/../attempts", None, {}, 404, None),
        ("/mark", None, {}, 404, None),
        ("/film", None, {"attempt": 3}, 409, "there is no attempt 3: they are 0 to 2"),
        ("/film", None, {"attempt": "x"}, 409, "attempt 'x' is not a number"),
        ("/picture", None, {"attempt": 0, "index": 99}, 409, "there is no picture 99: they are 0 to"),
        ("/mark", b"", {}, 409, "is damaged"),
        ("/mark", b"[1]", {}, 409, "no JSON object"),
        ("/mark", b" " * 2000, {}, 409, "at most 1000 bytes"),
        ("/mark", {"attempt": True, "outcome": "fail", "seconds": 1}, {}, 409, "a mark is"),
        ("/mark", {"attempt": 0, "outcome": "fail", "seconds": "1"}, {}, 409, "a mark is"),
        ("/mark", {"attempt": 0, "outcome": "fail", "seconds": 7}, {}, 409, "7 s is outside of 000000"),
        ("/mark", {"attempt": 0, "outcome": "won", "seconds": 1}, {}, 409, "unknown mark 'won'"),
    ],
)
def test_wrong_requests_are_answered_and_change_nothing(browser, folder, path, body, query, status, message):
    got, _, content = browser.ask(path, body, **query)
    assert got == status
    assert message is None or message in content["error"]
    assert Sidecar.read(folder / "000000").annotations == {}


def test_a_port_that_is_taken_is_named(folder):
    with Annotator(folder) as annotator, AnnotateServer(annotator) as server:
        port = server.server_address[1]
        with pytest.raises(DiwaError, match=rf"port {port} of 127\.0\.0\.1 is in use: choose another --port"):
            AnnotateServer(annotator, port)
        with pytest.raises(DiwaError, match=r"port 99999 of 127\.0\.0\.1 cannot be listened at"):
            AnnotateServer(annotator, 99999)


def test_keys_mark_seek_and_undo(folder):
    with Annotator(folder) as annotator:
        view = TerminalView(annotator)
        assert view.playing
        for key in keys("\x1b[A\x1b[C\x1bOC\x1b[D"):  # a second, two pictures on, one back
            view.press(key)
        view.press("s")
        assert annotator.entry(0).at == pytest.approx(1 + 1 / 7.5, abs=0.07)  # at a frame of 30 Hz
        assert view.number == 2  # 000001 is marked already
        view.press("end")
        view.press("f")
        assert annotator.entry(2).outcome == "fail"
        assert view.said.endswith("All are marked.")
        view.press("u")
        assert (view.number, annotator.entry(2).outcome, view.said) == (2, "none", "000002: no mark again")
        view.press("p")
        view.press("c")
        assert annotator.entry(1).outcome == "none"
        assert view.number == 1
        for key in ("n", "n", "n"):
            view.press(key)
        assert view.number == 2
        assert view.playing
        assert view.play(0.5)
        assert view.seconds == 1.0
        assert view.play(9.0)
        assert not view.playing
        view.press(" ")
        assert view.playing
        assert view.seconds == 0.0
        assert not view.ended
        view.press("q")
        assert view.ended


def test_the_terminal_shows_all_cameras_in_its_size(folder):
    with Annotator(folder) as annotator:
        view = TerminalView(annotator)
        for columns, rows in ((80, 24), (40, 10), (10, 3), (1, 1)):
            lines = view.lines(columns, rows)
            assert len(lines) <= rows
            assert all(line.startswith("\x1b") or len(line) <= columns for line in lines)
            assert max([line.count("▀") for line in lines]) <= columns
        assert "000000  demonstration pick_cup  no mark   [1 of 3 marked" in view.lines(80, 24)[0]
    (line,) = half_blocks(np.array([[[255, 0, 0]], [[0, 0, 255]]], np.uint8), 1, 1)
    assert line == "\x1b[38;2;255;0;0m\x1b[48;2;0;0;255m▀\x1b[0m"


class Typist:
    """Runs `diwa annotate` with a pseudo-terminal, types and reads."""

    def __init__(self, *arguments: str):
        code = "import sys; from diwa_cli.main import main; sys.exit(main())"
        pid, self.master = pty.fork()
        if pid == 0:
            os.execv(sys.executable, [sys.executable, "-c", code, "annotate", *arguments])
        self.pid, self.read = pid, ""

    def wait_for(self, text: str, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while text not in self.read:
            assert time.monotonic() < end, self.read[-2000:]
            if select.select([self.master], [], [], 0.1)[0]:
                self.read += os.read(self.master, 65536).decode(errors="replace")

    def type(self, keys: str) -> None:
        self.read = ""
        os.write(self.master, keys.encode())

    def close(self) -> int:
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.master)
        return status


def test_a_terminal_marks_and_ctrl_c_loses_nothing(folder):
    typist = Typist(str(folder), "--terminal")
    typist.wait_for("000000  demonstration pick_cup")
    typist.type("\x1b[F")
    typist.wait_for("paused")
    typist.type("fff")  # held
    typist.wait_for("000002  demonstration pick_cup")
    typist.type("f")
    typist.type("\x03")
    typist.wait_for("2 of 3 marked (1 succeeded, 1 failed)")
    assert typist.close() == 0
    assert Sidecar.read(folder / "000000").outcome == "fail"
    assert not list(folder.glob(".*"))


def test_without_a_terminal_there_is_one_line(folder):
    code = "import sys; from diwa_cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "annotate", str(folder), "--terminal"]
    ran = subprocess.run(command, capture_output=True, text=True, start_new_session=True, timeout=60)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert ran.stderr.startswith("error: --terminal needs a terminal")
    assert not list(folder.glob(".*"))


def test_the_command_serves_until_ctrl_c(folder):
    code = "import sys; from diwa_cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "annotate", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        said = process.stdout.readline()
        assert said.startswith("1 of 3 marked (1 succeeded, 0 failed); open http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert rest.endswith("1 of 3 marked (1 succeeded, 0 failed)\n")
    assert not list(folder.glob(".*"))
