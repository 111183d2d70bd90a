"""A phone, a headset or any browser as the controller: one page and one websocket over HTTPS on the local network.

The PyPI package `teleop` was considered: it accumulates the motion itself, knows no token, no staleness and no second
browser, and its wheel ships the private key of its certificate.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from diwa_data.errors import DiwaError, how_to_install
from diwa_data.files import expanded, home
from diwa_data.teleop.browser_link import BrowserLink
from diwa_data.teleop.clutch import ControllerState
from diwa_data.teleop.devices import WebXRConfig

try:
    from aiohttp import WSCloseCode, WSMsgType, web

    from diwa_data.teleop.https import Gate, fingerprint, names, server_certificate, write_private
except ImportError as error:
    raise DiwaError(f"the device webxr needs the package {error.name}: {how_to_install('webxr')}") from error

_LARGEST_MESSAGE = 8192  # bytes
_HEARTBEAT = 2.0  # seconds between pings; a browser that answers none has lost the controls
_PATIENCE = 10.0  # seconds for the server to start or stop
_RULES = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self' wss:; "
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": _RULES + "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class WebXR:
    """Serves the page from its own thread; one browser at a time holds the controls."""

    def __init__(self, config: WebXRConfig, clock: Callable[[], float] = time.monotonic):
        """Listens when it returns. Raises `DiwaError` if the port is taken or the address is not this machine's."""
        self._config, self._clock = config, clock
        self.link = BrowserLink(config.stale_after)
        """The browser's latest messages."""
        self.token = secrets.token_urlsafe(12)
        """Lets in whoever was told the address; a new one each time the device is opened."""
        self._address = config.host or _local_address()
        self.certificate = server_certificate(_folder(config), self._address)
        """PEM file of the server's certificate and key."""
        self.address_file = _folder(config) / "address"
        """Holds what `invitation` says while the device is open."""
        try:
            self._gate = Gate(config.host or "0.0.0.0", config.port)
        except OSError as error:
            raise _no_server(config, error) from error
        self.port = self._gate.port
        self._origins = {_origin(host, self.port) for host in names(self.certificate.read_bytes())}
        self.url = f"{_origin(self._address, self.port)}/?token={self.token}"
        """The page."""
        certified = f"its certificate has the SHA-256 fingerprint {fingerprint(self.certificate.read_bytes())}"
        self.invitation = f"open {self.url} on the phone or headset; {certified}"
        """For the operator's eyes only: whoever reads it can drive the arm."""
        self.instructions = f"open the address in {self.address_file} on the phone or headset; {certified}"
        write_private(self.address_file, self.invitation.encode() + b"\n")
        self._holder: web.WebSocketResponse | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="webxr")
        self._thread.start()
        self._do(self._serve())

    def read(self) -> ControllerState:
        """The controller now; invalid and released while no browser holds it or its messages are late."""
        return self.link.reading(self._clock())

    def signal(self, what: str) -> None:
        """Let the browser vibrate and sound."""
        if what in ("start", "stop"):
            self.link.buttons.recording = what == "start"
        asyncio.run_coroutine_threadsafe(self._send_signal(what), self._loop)

    def close(self) -> None:
        """End the server; a second call does nothing."""
        if self._loop.is_closed():
            return
        self.address_file.unlink(missing_ok=True)
        try:
            self._do(self._stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_PATIENCE)
            self._loop.close()

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the server's thread, to its end."""
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_PATIENCE)

    async def _serve(self) -> None:
        application = web.Application()
        application.add_routes([web.get("/", self._page), web.get("/controller", self._controller)])
        application.on_shutdown.append(self._let_go)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        assert self._runner.server is not None
        self._serving = self._loop.create_task(self._gate.serve(self._runner.server, context))

    async def _stop(self) -> None:
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)
        await self._runner.cleanup()

    async def _page(self, request: web.Request) -> web.Response:
        self._require_token(request)
        text = resources.files("diwa_data").joinpath("teleop/webxr.html").read_text()
        return web.Response(text=text, content_type="text/html", headers=_HEADERS)

    async def _controller(self, request: web.Request) -> web.WebSocketResponse:
        self._require_token(request)
        self._require_origin(request)
        browser = web.WebSocketResponse(heartbeat=_HEARTBEAT, max_msg_size=_LARGEST_MESSAGE)
        await browser.prepare(request)
        if self._holder is not None:
            await browser.send_json({"type": "refused", "reason": "another browser holds the controls"})
            await browser.close()
            return browser
        self._holder = browser
        self.link.connect()
        try:
            speeds = {"speed": self._config.speed, "turn_speed": self._config.turn_speed}
            await browser.send_json({"type": "hello", **speeds, "recording": self.link.buttons.recording})
            async for message in browser:
                if message.type is WSMsgType.TEXT:
                    self.link.receive(message.data, self._clock())
                else:
                    self.link.ignore()
        finally:
            self._holder = None
            self.link.disconnect()
        return browser

    async def _let_go(self, _: web.Application) -> None:
        if self._holder is not None:
            await self._holder.close(code=WSCloseCode.GOING_AWAY)

    def _require_token(self, request: web.Request) -> None:
        if not secrets.compare_digest(request.query.get("token", "").encode(errors="replace"), self.token.encode()):
            raise _refusal("Open the whole address that the terminal shows: its token is missing or old.")
        self._gate.admit(request.transport)

    def _require_origin(self, request: web.Request) -> None:
        """Only our own page may speak to us: it has one of the certificate's names, or the address that it reached."""
        reached = request.transport and request.transport.get_extra_info("sockname")
        origin = request.headers.get("Origin", "")
        if origin not in self._origins and not (reached and origin == _origin(reached[0], self.port)):
            raise _refusal("Only the page of this server may drive the arm, at the address that the terminal shows.")

    async def _send_signal(self, what: str) -> None:
        if self._holder is not None:
            with suppress(ConnectionError):  # it has just gone; the readings tell
                await self._holder.send_json({"type": "signal", "what": what})


def _folder(config: WebXRConfig) -> Path:
    return expanded(config.folder) if config.folder else home() / "webxr"


def _origin(host: str, port: int) -> str:
    """As browsers write it."""
    host = f"[{host}]" if ":" in host else host.lower()
    return f"https://{host}" + ("" if port == 443 else f":{port}")


def _refusal(text: str) -> web.HTTPForbidden:
    refusal = web.HTTPForbidden(text=text)
    refusal.force_close()
    return refusal


def _local_address() -> str:
    """The address of this machine in the network that its default route is in; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _no_server(config: WebXRConfig, error: OSError) -> DiwaError:
    place = f"{config.host or 'this machine'}, port {config.port}"
    if error.errno == errno.EADDRINUSE:
        return DiwaError(f"webxr: {place} is in use: end the program that holds it, or choose another webxr.port")
    return DiwaError(
        f"webxr: cannot listen at {place} ({os.strerror(error.errno or 0)}): choose another webxr.host or webxr.port"
    )
