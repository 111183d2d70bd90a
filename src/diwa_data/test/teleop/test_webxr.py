"""The page's controller: messages without a socket, and a real browser's place taken by a real client over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import pty
import select
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

aiohttp = pytest.importorskip("aiohttp", reason="webxr needs aiohttp: pip install -e .[dev]")

from diwa_data.errors import DiwaError  # noqa: E402
from diwa_data.teleop import devices, https  # noqa: E402
from diwa_data.teleop.browser_link import BrowserLink  # noqa: E402
from diwa_data.teleop.devices import DeviceConfig, WebXRConfig, open_device  # noqa: E402
from diwa_data.teleop.webxr import WebXR  # noqa: E402

STEP = 1 / 60
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def message(number: int, **changes) -> dict:
    return {
        "n": number, "t": number * STEP, "frame": "xr", "p": [0.0, 0.0, 0.0], "q": [0, 0, 0, 1],
        "forward": [0, 0, 0, 1], "tracked": True, "held": False, "trigger": 0, "buttons": [], "events": [], **changes,
    }  # fmt: skip


def take(link: BrowserLink, number: int, now: float | None = None, **changes) -> None:
    link.receive(json.dumps(message(number, **changes)), number * STEP if now is None else now)


@pytest.fixture
def link():
    """A connection that has heard one message, with the button up."""
    link = BrowserLink(0.1)
    link.connect()
    take(link, 0)
    return link


def test_a_held_button_moves_in_the_robots_axes(link):
    assert not link.reading(0.0).deadman
    quarter = [0.0, np.sin(np.pi / 4), 0.0, np.cos(np.pi / 4)]  # the robot's forward is the room's -x
    take(link, 1, held=True, p=[-0.1, 0.2, 0.0], forward=quarter, trigger=0.5)
    state = link.reading(STEP)
    assert (state.deadman, state.valid, state.trigger) == (True, True, 0.5)
    np.testing.assert_allclose(state.pose.position, [0.1, 0.0, 0.2], atol=1e-9)
    take(link, 2, frame="base", p=[0.1, 0.2, 0.3])
    np.testing.assert_allclose(link.reading(2 * STEP).pose.position, [0.1, 0.2, 0.3])


def test_silence_releases_until_the_button_is_let_go(link):
    take(link, 1, held=True)
    assert link.reading(STEP + 0.09).deadman
    state = link.reading(STEP + 0.11)
    assert (state.deadman, state.valid) == (False, False)
    take(link, 20, held=True)
    state = link.reading(20 * STEP)
    assert (state.deadman, state.valid) == (False, True)
    take(link, 21)
    take(link, 22, held=True)
    assert link.reading(22 * STEP).deadman


def test_messages_that_come_late_release_although_they_come_regularly(link):
    take(link, 1, held=True)
    for number in range(2, 80):
        take(link, number, held=True, now=number * STEP + 0.15)
        state = link.reading(number * STEP + 0.15)
        assert (state.deadman, state.valid) == (False, False)
    take(link, 80)
    take(link, 81, held=True)
    assert link.reading(81 * STEP).deadman


def test_a_slow_clock_of_the_browser_is_not_mistaken_for_lateness(link):
    for number in range(1, 60 * 120):  # two minutes at 900 parts in a million
        take(link, number, held=number > 1, now=number * STEP * 1.0009)
    assert link.reading(number * STEP * 1.0009).deadman


def test_a_new_connection_or_frame_must_begin_with_the_button_up(link):
    take(link, 1, held=True)
    take(link, 2, held=True, frame="base")
    assert not link.reading(2 * STEP).deadman
    take(link, 3)
    take(link, 4, held=True)
    assert link.reading(4 * STEP).deadman
    link.disconnect()
    assert not link.reading(4 * STEP).valid
    link.connect()
    take(link, 0, now=1.0, held=True)
    assert not link.reading(1.0).deadman


def test_lost_tracking_is_not_valid(link):
    take(link, 1, held=True, tracked=False)
    assert not link.reading(STEP).valid


def test_events_are_read_once_and_controller_buttons_are_events_too(link):
    take(link, 1, events=["start"])
    take(link, 2, events=["success", "fail", "discard"])
    assert link.reading(2 * STEP).events == ("start", "success", "fail", "discard")
    assert link.reading(2 * STEP).events == ()
    take(link, 3, buttons=["menu"])
    take(link, 4, buttons=["mark"])
    take(link, 5)
    assert link.reading(5 * STEP).events == ("start", "success")


WRONG = [
    "", "{", "null", "[]", "{}", "[" * 5000, '{"n": 1}', json.dumps(message(1)).replace("true", "NaN"),
    *(json.dumps(message(1, **change)) for change in [
        {"n": 1.5}, {"n": True}, {"n": "1"}, {"n": 0}, {"t": None}, {"t": float("nan")}, {"t": [0]}, {"frame": "moon"},
        {"frame": []}, {"p": [0, 0]}, {"p": [0, 0, float("nan")]}, {"p": [0, 0, float("inf")]}, {"p": [0, 0, True]},
        {"p": "000"}, {"p": [0, 0, 1e9]}, {"p": [0, 0, 10**400]}, {"p": {}}, {"q": [0, 0, 0, 0]}, {"q": [0, 0, 0, 2]},
        {"q": [0, 0, 0]}, {"forward": [0, 0, 0, 0]}, {"forward": [2**-0.5, 0, 0, 2**-0.5]}, {"tracked": 1},
        {"held": "yes"}, {"trigger": -0.1}, {"trigger": 2}, {"trigger": None}, {"buttons": "menu"}, {"buttons": ["up"]},
        {"buttons": [[]]}, {"events": ["fly"]}, {"events": None}, {"events": ["start"] * 1000}, {"extra": 1},
    ]),
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:60])
def test_malformed_messages_are_counted_and_change_nothing(link, text):
    take(link, 0, now=0.0)  # counted too: not a new number
    assert link.malformed == 1
    link.receive(text, STEP)
    assert link.malformed == 2
    take(link, 1, held=True)
    state = link.reading(STEP)
    assert (state.deadman, state.valid, state.events) == (True, True, ())
    np.testing.assert_array_equal(state.pose.position, np.zeros(3))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from("npq"), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.text() | st.dictionaries(st.sampled_from(sorted(message(0))), ANYTHING).map(
    lambda changes: json.dumps(message(1, **changes))), max_size=5))  # fmt: skip
def test_whatever_arrives_a_reading_is_finite(texts):
    link = BrowserLink(0.1)
    link.connect()
    for text in texts:
        link.receive(text, 0.0)
    state = link.reading(0.0)
    assert np.isfinite(state.pose.position).all()
    assert np.isfinite(state.pose.quaternion).all()
    assert 0 <= state.trigger <= 1


@pytest.fixture
def device(tmp_path):
    """A server on a free port of this machine."""
    device = open_device("webxr", DeviceConfig(webxr=config(tmp_path)))
    yield device
    device.close()


def config(folder: Path, **changes) -> WebXRConfig:
    return WebXRConfig(**{"host": "127.0.0.1", "port": 0, "stale_after": 0.5, "folder": str(folder), **changes})


def browse(device: WebXR, visit: Callable) -> None:
    """Run `visit(client, page)`: a client that trusts the certificate, and a function that opens the websocket."""

    async def run() -> None:
        trust = ssl.create_default_context(cafile=device.certificate)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as client:
            await asyncio.wait_for(
                visit(client, lambda: client.ws_connect(socket_url(device), origin=origin(device))), 20
            )

    asyncio.run(run())


def socket_url(device: WebXR) -> str:
    return device.url.replace("/?", "/controller?")


def origin(device: WebXR) -> str:
    return device.url.partition("/?")[0]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does; fails after 5 s."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def test_the_page_is_whole_and_needs_the_token(device):
    async def visit(client, page):
        async with client.get(device.url) as answer:
            text = await answer.text()
            assert answer.status == 200
        assert text.startswith("<!doctype html>")
        assert text.rstrip().endswith("</html>")
        assert all(where not in text for where in ("http://", "https://", '<link rel="stylesheet', "import("))
        for address in (device.url[:-1], device.url.partition("?")[0], device.url.partition("=")[0] + "=%ff"):
            for path in (address, address.replace("/?", "/controller?")):
                async with client.get(path) as answer:
                    assert answer.status == 403
                    assert "its token is missing or old" in await answer.text()
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.ws_connect(socket_url(device) + "x")
        assert not device.read().valid

    browse(device, visit)


def test_the_token_is_for_the_operator_only(tmp_path, monkeypatch, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(devices, "show", lambda text: shown.append(text))
    shown: list[str] = []
    device = open_device("webxr", DeviceConfig(webxr=config(tmp_path)))

    async def visit(client, page):
        async with page() as socket:
            await socket.receive_json()
        for address in (device.url, device.url + "x", device.url.replace("/?", "/nowhere?")):
            async with client.get(address) as answer:
                await answer.read()

    browse(device, visit)
    der = ssl.PEM_cert_to_DER_cert("-----BEGIN C" + device.certificate.read_text().partition("-----BEGIN C")[2])
    assert shown == [device.address_file.read_text().strip()]
    assert device.url in shown[0]
    assert stat.S_IMODE(device.address_file.stat().st_mode) == 0o600
    for text in (shown[0], device.instructions):
        assert hashlib.sha256(der).digest().hex(":").upper() in text
    device.close()
    assert not device.address_file.exists()
    logged = [record.getMessage() for record in caplog.records if not record.name.startswith("aiohttp.client")]
    for text in (device.instructions, *capfd.readouterr(), *logged):
        assert device.token not in text


SHOW = """
import fcntl, sys, termios
from diwa_data.teleop.devices import show  # noqa: E402
if sys.stdin.isatty():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
show("for the operator")
"""


def test_what_the_operator_is_shown_goes_past_logs_and_pipes():
    master, terminal = pty.openpty()
    for source in (terminal, subprocess.DEVNULL):
        command = [sys.executable, "-c", SHOW]
        ran = subprocess.run(command, stdin=source, capture_output=True, start_new_session=True, check=True, timeout=60)
        assert (ran.stdout, ran.stderr) == (b"", b"")
    assert os.read(master, 100) == b"for the operator\r\n"
    os.close(master)
    os.close(terminal)


def test_no_page_may_frame_ours(device):
    async def visit(client, page):
        async with client.get(device.url) as answer:
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]

    browse(device, visit)


def test_only_our_own_page_may_drive(device):
    port = device.port
    ours = [f"https://127.0.0.1:{port}", f"https://localhost:{port}"]
    others = [None, "null", "", "https://evil.example", f"https://evil.example:{port}", f"http://127.0.0.1:{port}",
              f"https://127.0.0.1:{port + 1}", f"https://127.0.0.1:{port}.evil.example"]  # fmt: skip

    async def visit(client, page):
        for name in others:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await client.ws_connect(socket_url(device), origin=name)
        assert not device.read().valid
        for name in ours:
            async with client.ws_connect(socket_url(device), origin=name) as socket:
                assert (await socket.receive_json())["type"] == "hello"

    browse(device, visit)


def connect(device: WebXR) -> socket.socket:
    return socket.create_connection(("127.0.0.1", device.port), timeout=5)


def connect_inside(device: WebXR) -> ssl.SSLSocket:
    """A TLS connection, as soon as there is room for one more: well before any has lasted too long."""
    for _ in range(40):
        with contextlib.suppress(OSError):
            return ssl._create_unverified_context().wrap_socket(connect(device))
        time.sleep(0.05)
    raise AssertionError("no room")


def ended(connection: socket.socket) -> bool:
    """Whether the other side ends it within the time-out, whatever it says before."""
    try:
        while connection.recv(9000):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def test_strangers_are_few_and_soon_gone(device, monkeypatch):
    monkeypatch.setattr(https, "_PATIENCE", 1.5)
    silent = [connect(device) for _ in range(https._MOST_FROM_ONE)]
    more = [connect(device) for _ in range(5)]
    assert all(map(ended, more)), "too many"
    assert not select.select(silent, [], [], 0)[0]
    assert all(map(ended, silent)), "too slow with TLS"
    slow, asking = connect_inside(device), connect_inside(device)
    slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
    for _ in range(3):
        asking.sendall(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
        assert asking.recv(9000).startswith(b"HTTP/1.1 404")
    assert ended(slow), "too slow with its request"
    assert ended(asking), "asks, and shows no token"
    for connection in (*silent, *more, slow, asking):
        connection.close()

    async def visit(client, page):
        async with page() as socket:
            await socket.receive_json()
            await asyncio.sleep(1.7)
            await socket.send_json(message(0))
            await until(lambda: device.read().valid)

    browse(device, visit)


def test_closing_ends_strangers_too(device):
    silent, slow = connect(device), connect_inside(device)
    device.close()
    assert ended(silent)
    assert ended(slow)
    with pytest.raises(ConnectionRefusedError):
        connect(device)
    silent.close()
    slow.close()


def test_ended_connections_make_room(device):
    for _ in range(3 * https._MOST_FROM_ONE):
        with connect_inside(device) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"403" in stranger.recv(9000)
    for _ in range(3 * https._MOST_FROM_ONE):
        with connect(device) as stranger:
            stranger.sendall(b"no TLS at all")
            assert ended(stranger)


@given(st.binary(max_size=200))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_stranger_sends_the_page_is_served(device, raw):
    with connect(device) as plain:
        plain.sendall(raw)
    with connect_inside(device) as inside:
        inside.sendall(raw)

    async def visit(client, page):
        await until(lambda: not device._gate._strangers)
        async with client.get(device.url) as answer:
            assert answer.status == 200

    browse(device, visit)


def test_what_a_browser_sends_is_read_and_what_is_signalled_reaches_it(device):
    async def visit(client, page):
        async with page() as socket:
            hello = await socket.receive_json()
            assert hello == {"type": "hello", "speed": 0.12, "turn_speed": 0.5, "recording": False}
            await socket.send_json(message(0))
            await socket.send_json(message(1, held=True, p=[0.0, 0.0, -0.1], events=["start"]))
            await until(lambda: device.link.reading(time.monotonic()).deadman)
            np.testing.assert_allclose(device.read().pose.position, [0.1, 0, 0], atol=1e-9)
            for what in ("start", "lost", "stop", "start"):
                device.signal(what)
                assert await socket.receive_json() == {"type": "signal", "what": what}
            await socket.send_str("nonsense")
            await socket.send_bytes(b"\x00" * 100)
            await until(lambda: device.link.malformed == 2)
        await until(lambda: not device.read().valid)
        async with page() as socket:
            assert (await socket.receive_json())["recording"] is True

    browse(device, visit)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
def test_a_real_browser_drives(device, tmp_path):
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors",
               f"--user-data-dir={tmp_path / 'profile'}", "--remote-debugging-port=0", device.url]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        end = time.monotonic() + 60
        while not device.read().valid and time.monotonic() < end:
            time.sleep(0.02)
        browser.terminate()
    assert time.monotonic() < end
    assert device.link.malformed == 0


def test_a_second_browser_is_told_so_and_gets_its_turn(device):
    async def visit(client, page):
        async with page() as first:
            await first.receive_json()
            async with page() as second:
                assert await second.receive_json() == {
                    "type": "refused",
                    "reason": "another browser holds the controls",
                }
                assert (await second.receive()).type is aiohttp.WSMsgType.CLOSE
            await first.send_json(message(0))
            await until(lambda: device.read().valid)
        await until(lambda: not device.read().valid)
        async with page() as second:
            assert (await second.receive_json())["type"] == "hello"

    browse(device, visit)


def test_silence_and_a_flood_end_the_motion(device):
    async def visit(client, page):
        async with page() as socket:
            await socket.receive_json()
            await socket.send_json(message(0))
            await until(lambda: device.read().valid)
            await until(lambda: not device.read().valid)
            await socket.send_str("x" * 100_000)
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert not device.read().deadman

    browse(device, visit)


def test_reading_does_not_wait_and_closing_ends_the_page(tmp_path):
    device = WebXR(config(tmp_path))

    async def visit(client, page):
        async with page() as socket:
            await socket.receive_json()
            started = time.monotonic()
            for _ in range(1000):
                device.read()
            assert time.monotonic() - started < 1
            await asyncio.get_running_loop().run_in_executor(None, device.close)
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE

    browse(device, visit)
    device.close()


def test_a_port_in_use_and_a_foreign_address_are_clear_errors(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(DiwaError, match=f"port {port} is in use: end the program that holds it, or choose another"):
            WebXR(config(tmp_path, port=port))
    with pytest.raises(DiwaError, match=r"cannot listen at 192\.0\.2\.1, port 0 \(.*\): choose another webxr\.host"):
        WebXR(config(tmp_path, host="192.0.2.1"))


def test_the_certificate_serves_again_until_it_does_not_fit(tmp_path, monkeypatch):
    path = https.server_certificate(tmp_path / "webxr", "192.168.1.5")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    first = path.read_bytes()
    assert https.server_certificate(tmp_path / "webxr", "192.168.1.5").read_bytes() == first
    second = https.server_certificate(tmp_path / "webxr", "192.168.1.6").read_bytes()
    assert second != first
    path.chmod(0o644)
    assert https.server_certificate(tmp_path / "webxr", "192.168.1.6").read_bytes() == second
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(second[:-200])
    third = https.server_certificate(tmp_path / "webxr", "192.168.1.6").read_bytes()
    assert third != second
    later = https._now() + https._LIFE
    monkeypatch.setattr(https, "_now", lambda: later)
    assert https.server_certificate(tmp_path / "webxr", "192.168.1.6").read_bytes() != third
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
