"""Who is who: a certificate for each party, made by `dpsnn secure keys`, and mutual TLS with them.

There are two authorities. One vouches for names and roles (worker, owner, client) on the control connections. The other
vouches for engines alone: the engine's library asks who signed a certificate but not whose it is, so that under a
common authority every client could pose as an engine.

The folder of each party holds all that it needs and goes to its machine; `authority/` stays where it was made.
"""

import datetime
import ipaddress
import os
import re
import ssl
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from dpsnn.errors import UsageError
from dpsnn.secure.config import Cluster

ROLES = ("worker", "owner", "client")
DAYS = 365
"""How long certificates are valid."""


class Identity(NamedTuple):
    """Who is at the other end."""

    role: str
    name: str


class _Signer(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def worker_name(rank: int) -> str:
    return f"worker-{rank}"


# ---------------------------------------------------------------- making certificates


def make(cluster: Cluster, client: str = "client") -> Path:
    """Write what is missing: both authorities, the workers' and the owner's certificates, and this client's.

    What is there stays as it is, so a second call with another name adds a client.

    Returns:
        The folder of keys.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", client):
        raise UsageError(f"client {client!r} is no name; use letters, digits, dashes, dots")
    folder = cluster.keys
    control, engine = (_authority(folder / "authority", name) for name in ("ca", "engine-ca"))
    parties = [(worker_name(rank), "worker") for rank in range(len(cluster.workers))]
    for name, role in (*parties, ("owner", "owner"), (client, "client")):
        home = folder / name
        if (home / "cert.pem").exists():
            continue
        host = cluster.workers[int(name[-1])].host if role == "worker" else None
        _write(home / "ca.pem", control.certificate.public_bytes(Encoding.PEM))
        if role == "worker":
            _write(home / "engine-ca.pem", engine.certificate.public_bytes(Encoding.PEM))
            _issue(home, "engine", engine, role, name, host)
        _issue(home, "cert", control, role, name, host)
    return folder


def _authority(folder: Path, name: str) -> _Signer:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    if not certificate.exists():
        private = ec.generate_private_key(ec.SECP256R1())
        made = _certificate("authority", f"dpsnn {name}", private.public_key(), None, private, None)
        _write_pair(folder, name, made, private)
    try:
        loaded = load_pem_private_key(key.read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        return _Signer(x509.load_pem_x509_certificate(certificate.read_bytes()), loaded)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{folder} lacks or has a damaged {name}; make new keys elsewhere"
        ) from error


def _issue(
    home: Path, stem: str, authority: _Signer, role: str, name: str, host: str | None
) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate.subject
    _write_pair(
        home,
        stem,
        _certificate(role, name, private.public_key(), issuer, authority.key, host),
        private,
    )


def _certificate(
    role: str,
    name: str,
    public: ec.EllipticCurvePublicKey,
    issuer: x509.Name | None,
    signing_key: ec.EllipticCurvePrivateKey,
    host: str | None,
) -> x509.Certificate:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        # Clocks of other machines may be a little behind.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if host:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_alternative(host)]), critical=False
        )
    return builder.sign(signing_key, SHA256())


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_pair(
    folder: Path, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    # The certificate last: where it is, the key is too.
    _write(
        folder / f"{stem}.key",
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    _write(folder / f"{stem}.pem", certificate.public_bytes(Encoding.PEM))


def _write(path: Path, content: bytes) -> None:
    """Write a file that nobody else may read."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


# ---------------------------------------------------------------- using them


def context(cluster: Cluster, name: str, server: bool = False) -> ssl.SSLContext:
    """TLS 1.3 with the certificate of `name`, demanding one of the other end.

    Raises:
        UsageError: If its files are missing or damaged.
    """
    home = cluster.keys / name
    purpose = ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT
    made = ssl.SSLContext(purpose)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    try:
        made.load_cert_chain(home / "cert.pem", home / "cert.key")
        made.load_verify_locations(home / "ca.pem")
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"no usable certificate of {name} in {home}; make it with `dpsnn secure keys`"
        ) from error
    return made


def identity(connection: ssl.SSLSocket) -> Identity:
    """Role and name in the certificate of the other end, which the handshake has verified."""
    certificate: Any = connection.getpeercert() or {}
    subject = dict(pair for group in certificate.get("subject", ()) for pair in group)
    return Identity(subject.get("organizationalUnitName", ""), subject.get("commonName", ""))
