"""Who is who: a certificate for each party, made by `dpsnn secure keys`, and mutual TLS with them.

There are two authorities. One vouches for names and roles (worker, owner, client) on the control connections. The other
vouches for engines alone: the engine's library asks who signed a certificate but not whose it is, so that under a
common authority every client could pose as an engine.

The folder of each party holds all that it needs and goes to its machine; `authority/` stays where it was made.
"""

import datetime
import ipaddress
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
from filelock import FileLock

from dpsnn.atomic import staged
from dpsnn.errors import UsageError, reading
from dpsnn.secure.config import Cluster

ROLES = ("worker", "owner", "client")
DAYS = 365
"""How long certificates are valid."""

ANEW = "remove the folder that it is in and make it anew with `dpsnn secure keys`"
ELSEWHERE = "make new keys for all in another folder"
"""An authority that is lost takes everything with it that it has vouched for."""


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

    What is there stays as it is, so a second call with another name adds a client; what an interrupted call left half
    written is made anew. One call at a time: two would make two authorities.

    Returns:
        The folder of keys.

    Raises:
        UsageError: If something there is damaged, expired or does not fit the rest.
    """
    parties = {worker_name(rank): "worker" for rank in range(len(cluster.workers))}
    parties["owner"] = "owner"
    taken = client in ("authority", *parties)
    if taken or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", client):
        raise UsageError(
            f"client {client!r} is no name for one; use letters, digits, dashes, dots, and none of another party"
        )
    folder = cluster.keys
    own = folder / "authority"
    own.mkdir(parents=True, exist_ok=True, mode=0o700)
    # One call at a time: two would make two authorities.
    with FileLock(own / ".lock", mode=0o600):
        control, engine = _authority(own, "ca"), _authority(own, "engine-ca")
        for name, role in (parties | {client: "client"}).items():
            home = folder / name
            host = cluster.workers[int(name[-1])].host if role == "worker" else None
            if role == "worker":
                _issue(home, "engine", "engine-ca", engine, role, name, host)
            _issue(home, "cert", "ca", control, role, name, host)
    return folder


def _authority(folder: Path, name: str) -> _Signer:
    if not _whole(folder / f"{name}.pem"):
        # A key that has lost its certificate goes on: what it has vouched for stays good.
        kept = folder / f"{name}.key"
        key = (
            _read_key(kept, ELSEWHERE) if _whole(kept) else ec.generate_private_key(ec.SECP256R1())
        )
        made = _certificate("authority", f"dpsnn {name}", key.public_key(), None, key, None)
        _write_pair(folder, name, made, key)
    return _pair(folder, name, ELSEWHERE)


def _issue(
    home: Path, stem: str, root: str, authority: _Signer, role: str, name: str, host: str | None
) -> None:
    """Make a certificate and its key where they are not, with that of the authority beside them."""
    beside, path = home / f"{root}.pem", home / f"{stem}.pem"
    if not _whole(beside):
        _write(beside, authority.certificate.public_bytes(Encoding.PEM))
    if _read_certificate(beside, ANEW).public_key() != authority.certificate.public_key():
        raise UsageError(f"{beside} is of another authority than the one here; {ANEW}")
    if _whole(path) and _whole(path.with_suffix(".key")):
        found = _pair(home, stem, ANEW)
        with reading(path, "a certificate of this authority", ANEW):
            found.certificate.verify_directly_issued_by(authority.certificate)
        return
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate.subject
    made = _certificate(role, name, key.public_key(), issuer, authority.key, host)
    _write_pair(home, stem, made, key)


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
    with staged(path, 0o600) as temporary:
        temporary.write_bytes(content)


# ---------------------------------------------------------------- reading them


def _whole(path: Path) -> bool:
    """Whether a file is there and written to its end."""
    return path.is_file() and b"\n-----END " in path.read_bytes()


def _pair(folder: Path, stem: str, remedy: str) -> _Signer:
    """A certificate and the key that belongs to it.

    Raises:
        UsageError: If either is missing, damaged, of another kind or expired, or they do not belong together.
    """
    path = folder / f"{stem}.pem"
    made = _Signer(_read_certificate(path, remedy), _read_key(path.with_suffix(".key"), remedy))
    if made.certificate.public_key() != made.key.public_key():
        raise UsageError(f"{path} is not the certificate of {path.stem}.key beside it; {remedy}")
    return made


def _read_certificate(path: Path, remedy: str) -> x509.Certificate:
    with reading(path, "a certificate", remedy):
        made = x509.load_pem_x509_certificate(path.read_bytes())
        begins, ends = made.not_valid_before_utc, made.not_valid_after_utc
        # The library reads of these only when asked.
        made.public_key(), made.subject
    if not begins <= datetime.datetime.now(datetime.UTC) <= ends:
        raise UsageError(f"{path} is valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}; {remedy}")
    return made


def _read_key(path: Path, remedy: str) -> ec.EllipticCurvePrivateKey:
    with reading(path, "a private key", remedy):
        made = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(made, ec.EllipticCurvePrivateKey):
        raise UsageError(
            f"{path} is a key of another kind than `dpsnn secure keys` makes; {remedy}"
        )
    return made


# ---------------------------------------------------------------- using them


def context(cluster: Cluster, name: str, server: bool = False) -> ssl.SSLContext:
    """TLS 1.3 with the certificate of `name`, demanding one of the other end.

    Raises:
        UsageError: If its files are missing, damaged, expired or do not belong together.
    """
    home = cluster.keys / name
    if not (home / "cert.pem").exists():
        raise UsageError(
            f"no usable certificate of {name} in {home}; make it with `dpsnn secure keys`"
        )
    _pair(home, "cert", ANEW)
    _read_certificate(home / "ca.pem", ANEW)
    purpose = ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT
    made = ssl.SSLContext(purpose)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    with reading(home / "cert.pem", "a certificate for TLS", ANEW):
        made.load_cert_chain(home / "cert.pem", home / "cert.key")
        made.load_verify_locations(home / "ca.pem")
    return made


def engine_files(cluster: Cluster, rank: int) -> tuple[Path, Path, Path]:
    """Certificate, key and authority of a worker's engine, whose library would say little of what is wrong with them.

    Raises:
        UsageError: As for `context`.
    """
    home = cluster.keys / worker_name(rank)
    _pair(home, "engine", ANEW)
    _read_certificate(home / "engine-ca.pem", ANEW)
    return home / "engine.pem", home / "engine.key", home / "engine-ca.pem"


def identity(connection: ssl.SSLSocket) -> Identity:
    """Role and name in the certificate of the other end, which the handshake has verified."""
    certificate: Any = connection.getpeercert() or {}
    subject = dict(pair for group in certificate.get("subject", ()) for pair in group)
    return Identity(subject.get("organizationalUnitName", ""), subject.get("commonName", ""))
