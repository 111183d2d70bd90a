"""The page on which a folder's attempts are marked, served to this machine's browsers alone.

Only requests to a name of this machine and with the token of this session are answered, so that neither other users of
the machine nor pages of other sites, whatever name they give this address, can mark or see anything.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from diwa_data.errors import DiwaError
from diwa_data.files import parse_object
from diwa_data.view.annotate import Annotator
from diwa_data.view.film import strip

ADDRESS = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost", "[::1]")  # of this machine; a port that ssh forwards may be another
_LARGEST = 1000  # bytes of a request's body
_STRIP, _STRIP_HEIGHT = 16, 96
_RULES = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:; "
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": _RULES
    + "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class AnnotateServer(ThreadingHTTPServer):
    """Serves one `Annotator`; ends with `shutdown`, as any `http.server`."""

    daemon_threads = True

    def __init__(self, annotator: Annotator, port: int = 0):
        """Listens when it returns; 0 takes any free port. Raises `DiwaError` if the port is in use."""
        self.annotator, self.token = annotator, secrets.token_urlsafe(16)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            why = "is in use" if taken else f"cannot be listened at ({error})"
            raise DiwaError(f"port {port} of {ADDRESS} {why}: choose another --port, or none") from error

    @property
    def url(self) -> str:
        """The page, with its token."""
        return f"http://{ADDRESS}:{self.server_address[1]}/?token={self.token}"


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: AnnotateServer
    protocol_version = "HTTP/1.1"
    timeout = 60.0

    def do_GET(self) -> None:
        """The page, and what it shows."""
        answers: dict[str, Callable[[dict[str, str]], tuple[str, bytes]]] = {
            "/": lambda _: ("text/html; charset=utf-8", _page()),
            "/attempts": lambda _: self._json(self._attempts()),
            "/film": lambda query: self._json({"times": self._annotator.times(_number(query, "attempt"))}),
            "/picture": self._picture,
            "/strip": self._strip,
        }
        self._answer(answers)

    def do_POST(self) -> None:
        """A mark, or one that is taken back."""
        self._answer({"/mark": lambda _: self._json(self._mark()), "/undo": lambda _: self._json(self._undo())})

    def log_message(self, *_: Any) -> None:
        """Addresses hold the token: nothing is logged."""

    @property
    def _annotator(self) -> Annotator:
        return self.server.annotator

    def _answer(self, answers: dict[str, Callable[[dict[str, str]], tuple[str, bytes]]]) -> None:
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        try:
            if not self._is_ours(query):
                return self._send(HTTPStatus.FORBIDDEN, "text/plain", b"Open the whole address that the terminal says.")
            if address.path not in answers:
                return self._send(HTTPStatus.NOT_FOUND, "text/plain", b"There is nothing here.")
            try:
                kind, body = answers[address.path](query)
            except DiwaError as error:
                return self._send(HTTPStatus.CONFLICT, *self._json({"error": str(error)}))
            except OSError as error:  # no permission, disk full
                said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
                return self._send(HTTPStatus.CONFLICT, *self._json({"error": said}))
            self._send(HTTPStatus.OK, kind, body)
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the browser has gone on

    def _is_ours(self, query: dict[str, str]) -> bool:
        """Asked with the token, under a name of this machine, and by no page but ours."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        named = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        token = query.get("token", "").encode(errors="replace")
        return (
            named in _NAMES
            and origin in (None, f"http://{host}")
            and secrets.compare_digest(token, self.server.token.encode())
        )

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        if status is not HTTPStatus.OK:
            self.close_connection = True  # a body may not have been read
            self.send_header("Connection", "close")
        cached = {"Cache-Control": "private, max-age=600"} if kind == "image/jpeg" else {}
        for name, value in (_HEADERS | cached | {"Content-Type": kind, "Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _json(self, value: Any) -> tuple[str, bytes]:
        return "application/json", json.dumps(value).encode()

    def _attempts(self) -> dict[str, Any]:
        entries = [dataclasses.asdict(entry) for entry in self._annotator.entries()]
        return {
            "attempts": entries,
            "folder": str(self._annotator.folder),
            "problems": self._annotator.problems,
            "progress": self._annotator.progress(),
            "first": self._annotator.next_unmarked() or 0,
        }

    def _picture(self, query: dict[str, str]) -> tuple[str, bytes]:
        film, index = self._annotator.film(_number(query, "attempt")), _number(query, "index")
        if not 0 <= index < len(film.pictures):
            raise DiwaError(f"there is no picture {index}: they are 0 to {len(film.pictures) - 1}")
        return "image/jpeg", film.pictures[index]

    def _strip(self, query: dict[str, str]) -> tuple[str, bytes]:
        return "image/jpeg", strip(self._annotator.film(_number(query, "attempt")), _STRIP, _STRIP_HEIGHT)

    def _mark(self) -> dict[str, Any]:
        body = self._body()
        number, outcome, seconds = (body.get(key) for key in ("attempt", "outcome", "seconds"))
        if isinstance(number, bool) or not isinstance(number, int) or not isinstance(outcome, str):
            raise DiwaError("a mark is an attempt's number, an outcome and seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise DiwaError("a mark is an attempt's number, an outcome and seconds")
        entry = self._annotator.mark(number, outcome, float(seconds))  # type: ignore[arg-type]
        following = self._annotator.next_unmarked(number)
        return {
            "entry": dataclasses.asdict(entry),
            "next": following,
            "progress": self._annotator.progress(),
        }

    def _undo(self) -> dict[str, Any]:
        self._body()
        undone = self._annotator.undo()
        told = {"entry": dataclasses.asdict(undone.entry), "seconds": undone.seconds} if undone else {"entry": None}
        return told | {"progress": self._annotator.progress()}

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _LARGEST:
            raise DiwaError(f"a request has a length of at most {_LARGEST} bytes")
        return parse_object(self.rfile.read(int(length)), "the request", "send a JSON object")


def _number(query: dict[str, str], name: str) -> int:
    try:
        return int(query.get(name, ""))
    except ValueError as error:
        raise DiwaError(f"{name} {query.get(name, '')[:40]!r} is not a number") from error


def _page() -> bytes:
    return resources.files("diwa_data").joinpath("view/annotate.html").read_bytes()


def annotate_in_browser(annotator: Annotator, port: int) -> None:
    """Serve the page until Ctrl-C."""
    with AnnotateServer(annotator, port) as server, suppress(KeyboardInterrupt):
        port = server.server_address[1]
        print(f"{annotator.progress()}; open {server.url} in a browser of this machine; Ctrl-C ends it")
        print(f"from another machine, ssh -L {port}:{ADDRESS}:{port} to this one, then open it there", flush=True)
        server.serve_forever()
    print(f"\n{annotator.progress()}")
