"""HTTPS on the local network: a self-signed certificate, and a gate behind which strangers are few and soon gone.

Browsers give motion sensors and vibration to pages over HTTPS only.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from diwa_data.files import atomic_path

_MOST_STRANGERS = 32
_MOST_FROM_ONE = 8  # a browser opens six at once
_PATIENCE = 5.0  # seconds from the first packet to a request with the token
_STEP = 0.02  # seconds between looks at a stranger
_LIFE, _SPARE = datetime.timedelta(days=365), datetime.timedelta(days=1)


class Gate:
    """Accepts TLS connections for a server; a stranger is who has not shown the server's token yet.

    Listens from the start; serves while `serve` runs. For one event loop only.
    """

    def __init__(self, host: str, port: int):
        """Raises `OSError` if it cannot listen there."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=_MOST_STRANGERS)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._strangers: set[Any] = set()  # their addresses with ports
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, protocol: Callable[[], asyncio.Protocol], context: ssl.SSLContext) -> None:
        """Hand every connection to a protocol of its own, until this is cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, peer = await loop.sock_accept(self._listener)
                except OSError:
                    await asyncio.sleep(_STEP)  # it has gone again, or there are too many open files
                    continue
                hosts = Counter(stranger[0] for stranger in self._strangers)
                if len(self._strangers) >= _MOST_STRANGERS or hosts[peer[0]] >= _MOST_FROM_ONE:
                    connection.close()
                    continue
                self._strangers.add(peer)
                task = loop.create_task(self._receive(connection, peer, protocol, context))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            self._listener.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def admit(self, transport: asyncio.BaseTransport | None) -> None:
        """Whoever is at the other end has shown the token: no stranger any more."""
        if transport is not None:
            self._strangers.discard(transport.get_extra_info("peername"))

    async def _receive(
        self, connection: socket.socket, peer: Any, protocol: Callable[[], asyncio.Protocol], context: ssl.SSLContext
    ) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + _PATIENCE
        transport: asyncio.Transport | None = None
        try:
            with suppress(OSError):  # no TLS, a certificate that it does not like, or silence
                transport, _ = await loop.connect_accepted_socket(
                    protocol, connection, ssl=context, ssl_handshake_timeout=_PATIENCE
                )
            while transport and peer in self._strangers and not transport.is_closing() and loop.time() < end:
                await asyncio.sleep(_STEP)
        finally:
            if transport and peer in self._strangers:
                with suppress(AttributeError):  # Python 3.11.2 cannot abort what has gone already
                    transport.abort()
            self._strangers.discard(peer)


def server_certificate(folder: Path, address: str) -> Path:
    """A PEM file with key and certificate for the host `address`, readable by its owner only.

    The one in `folder` serves again, so that browsers need to trust it once only; a new one is made when it is
    damaged, expires within a day, or was for another address.
    """
    path = folder / "server.pem"
    if path.is_file() and _serves(path.read_bytes(), address):
        path.chmod(0o600)  # a backup or a copy may have changed it
    else:
        write_private(path, _make(address))
    return path


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with atomic_path(path) as temporary:
        temporary.touch(0o600, exist_ok=False)
        temporary.write_bytes(content)


def fingerprint(pem: bytes) -> str:
    """The SHA-256 fingerprint of a PEM file's certificate, as browsers write it."""
    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex(":").upper()


def names(pem: bytes) -> list[str]:
    """The hosts that a PEM file's certificate is for."""
    found = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


def _serves(pem: bytes, address: str) -> bool:
    with suppress(ValueError, TypeError, x509.ExtensionNotFound):
        serialization.load_pem_private_key(pem, None)
        end = x509.load_pem_x509_certificate(pem).not_valid_after_utc
        return str(_name(address).value) in names(pem) and end > _now() + _SPARE
    return False


def _make(address: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name.from_rfc4514_string("CN=DiWA teleoperation")
    hosts = {_name(host) for host in (address, "127.0.0.1", "localhost", socket.gethostname() or "localhost")}
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - _SPARE)
        .not_valid_after(_now() + _LIFE)
        .add_extension(x509.SubjectAlternativeName(sorted(hosts, key=str)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, pkcs8, serialization.NoEncryption()) + certificate.public_bytes(pem)


def _name(address: str) -> x509.IPAddress | x509.DNSName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
