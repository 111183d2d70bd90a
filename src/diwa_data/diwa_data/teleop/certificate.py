"""A self-signed certificate: browsers give motion sensors and vibration to pages over HTTPS only."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from diwa_data.files import atomic_path

_LIFE = datetime.timedelta(days=365)
_SPARE = datetime.timedelta(days=1)


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
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


def fingerprint(pem: bytes) -> str:
    """The SHA-256 fingerprint of a PEM file's certificate, as browsers write it."""
    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex(":").upper()


def names(pem: bytes) -> list[str]:
    """The hosts that a PEM file's certificate is for."""
    found = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


def _serves(pem: bytes, address: str) -> bool:
    try:
        serialization.load_pem_private_key(pem, None)
        certificate = x509.load_pem_x509_certificate(pem)
        hosts = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, x509.ExtensionNotFound):
        return False
    return _name(address) in hosts and certificate.not_valid_after_utc > _now() + _SPARE


def _make(address: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "DiWA teleoperation")])
    hosts = {_name(address), _name("127.0.0.1"), _name("localhost"), _name(socket.gethostname() or "localhost")}
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
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def _name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
