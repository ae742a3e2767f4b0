"""Certificates: one authority however many make it, and one line for whatever is wrong with a file."""

import datetime
import multiprocessing
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpsnn.cli import main
from dpsnn.errors import UsageError
from dpsnn.secure.config import Cluster, local_cluster, to_toml

pytest.importorskip("cryptography", reason="needs the extra [secure]")
pytest.importorskip("spu", reason="needs the extra [secure]")

from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: E402
from cryptography.hazmat.primitives.serialization import (  # noqa: E402
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from dpsnn.secure import keys  # noqa: E402

PARTIES = ("worker-0", "worker-1", "worker-2", "owner", "client")


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = local_cluster(keys=tmp_path / "keys", tls=True)
    keys.make(made)
    return made


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def usable(cluster: Cluster) -> None:
    """Every party's certificate is of the one authority there is, and TLS takes it."""
    authority = certificate(cluster.keys / "authority" / "ca.pem")
    engines = certificate(cluster.keys / "authority" / "engine-ca.pem")
    for party in PARTIES:
        certificate(cluster.keys / party / "cert.pem").verify_directly_issued_by(authority)
        keys.context(cluster, party)
    for rank in range(3):
        found, _, _ = keys.engine_files(cluster, rank)
        certificate(found).verify_directly_issued_by(engines)


def _make(cluster: Cluster, client: str, start: Any) -> None:
    start.wait()
    keys.make(cluster, client)


def test_four_calls_at_once_make_one_authority(tmp_path: Path) -> None:
    cluster = local_cluster(keys=tmp_path / "keys", tls=True)
    processes = multiprocessing.get_context("fork")
    start = processes.Barrier(4)
    calls = [
        processes.Process(target=_make, args=(cluster, f"client-{n}", start)) for n in range(4)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join(60)
    assert [call.exitcode for call in calls] == [0] * 4
    keys.make(cluster)
    usable(cluster)
    authority = certificate(cluster.keys / "authority" / "ca.pem")
    for number in range(4):
        home = cluster.keys / f"client-{number}"
        certificate(home / "cert.pem").verify_directly_issued_by(authority)
    assert not list(cluster.keys.rglob("*.tmp"))


@pytest.mark.parametrize("name", ["cert.pem", "cert.key", "ca.pem", "engine.pem", "engine.key"])
@pytest.mark.parametrize("cut", [None, 0, 1, 100])
def test_what_was_half_written_is_made_anew(cluster: Cluster, name: str, cut: int | None) -> None:
    path = cluster.keys / "worker-1" / name
    whole = path.read_bytes()
    others = {p: p.read_bytes() for p in cluster.keys.rglob("*.*") if p.parent != path.parent}
    path.unlink()
    if cut is not None:
        path.write_bytes(whole[:cut])
    keys.make(cluster)
    usable(cluster)
    assert all(p.read_bytes() == content for p, content in others.items())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("cut", [None, 0, 50])
def test_an_authority_that_lost_its_certificate_goes_on_with_its_key(
    cluster: Cluster, cut: int | None
) -> None:
    path = cluster.keys / "authority" / "ca.pem"
    before = certificate(path).public_key()
    path.write_bytes(path.read_bytes()[:cut]) if cut is not None else path.unlink()
    keys.make(cluster, "phone")
    assert certificate(path).public_key() == before
    usable(cluster)


def test_an_authority_whose_first_call_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    cluster = local_cluster(keys=tmp_path / "keys", tls=True)
    (cluster.keys / "authority").mkdir(parents=True)
    (cluster.keys / "authority" / "ca.key").write_bytes(b"-----BEGIN PRIVATE KEY-----\nMIGH")
    keys.make(cluster)
    usable(cluster)


# ---------------------------------------------------------------- what is refused


def pem(key: Any, password: bytes | None = None) -> bytes:
    hidden = BestAvailableEncryption(password) if password else NoEncryption()
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden))


def another_key(path: Path) -> None:
    path.write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))


def an_rsa_key(path: Path) -> None:
    path.write_bytes(pem(rsa.generate_private_key(65537, 2048)))


def a_locked_key(path: Path) -> None:
    path.write_bytes(pem(ec.generate_private_key(ec.SECP256R1()), b"secret"))


def rubbish(path: Path) -> None:
    first, *_, last = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, b"AAAA", last, b""]))


def expired(path: Path) -> None:
    key = path.with_suffix(".key")
    signer = keys._read_key(key, "")
    old = certificate(path)
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now - datetime.timedelta(days=2))
        .sign(signer, keys.SHA256())
    )
    path.write_bytes(made.public_bytes(Encoding.PEM))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


WRONG: list[tuple[str, Callable[[Path], None], str]] = [
    ("authority/ca.key", another_key, "ca.pem is not the certificate of ca.key beside it"),
    ("authority/ca.key", an_rsa_key, "ca.key is a key of another kind"),
    ("authority/ca.key", a_locked_key, "ca.key is damaged or not a private key"),
    ("authority/ca.key", rubbish, "ca.key is damaged or not a private key"),
    ("authority/ca.key", Path.unlink, "there is no .*ca.key; make new keys for all in another"),
    ("authority/ca.pem", rubbish, "ca.pem is damaged or not a certificate"),
    ("authority/ca.pem", expired, "ca.pem is valid from .* to .*; make new keys"),
    (
        "authority/engine-ca.key",
        another_key,
        "engine-ca.pem is not the certificate of engine-ca.key",
    ),
    ("owner/cert.key", another_key, "cert.pem is not the certificate of cert.key beside it"),
    ("owner/cert.key", an_rsa_key, "cert.key is a key of another kind"),
    ("owner/cert.key", a_locked_key, "cert.key is damaged or not a private key"),
    ("owner/cert.pem", rubbish, "cert.pem is damaged or not a certificate"),
    ("owner/cert.pem", expired, "cert.pem is valid from .* to .*; remove the folder"),
    ("owner/ca.pem", rubbish, "ca.pem is damaged or not a certificate"),
    ("owner/ca.pem", a_folder, "ca.pem"),
]


@pytest.mark.parametrize(("name", "harm", "message"), WRONG)
def test_what_is_wrong_is_one_line_and_stays_as_it_is(
    cluster: Cluster,
    tmp_path: Path,
    name: str,
    harm: Callable[[Path], None],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    harm(cluster.keys / name)
    kept = {p: p.read_bytes() for p in cluster.keys.rglob("*.*") if p.is_file()}
    (tmp_path / "cluster.toml").write_text(to_toml(cluster))
    assert main(["secure", "keys", "--config", str(tmp_path / "cluster.toml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    if name.startswith("owner"):
        with pytest.raises(UsageError, match=message):
            keys.context(cluster, "owner")
    assert {p: p.read_bytes() for p in cluster.keys.rglob("*.*") if p.is_file()} == kept


def test_a_certificate_of_another_authority_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    other = local_cluster(keys=tmp_path / "other", tls=True)
    keys.make(other)
    for name in ("cert.pem", "cert.key"):
        (cluster.keys / "owner" / name).write_bytes((other.keys / "owner" / name).read_bytes())
    with pytest.raises(UsageError, match="owner/cert.pem is .*not a certificate of this authority"):
        keys.make(cluster)
    (cluster.keys / "owner" / "ca.pem").write_bytes((other.keys / "owner/ca.pem").read_bytes())
    with pytest.raises(UsageError, match="owner/ca.pem is of another authority"):
        keys.make(cluster)


def test_the_engine_takes_no_damaged_certificate(cluster: Cluster) -> None:
    from dpsnn.secure.engine import connect

    another_key(cluster.keys / "worker-2" / "engine.key")
    with pytest.raises(
        UsageError, match="engine.pem is not the certificate of engine.key beside it"
    ):
        connect(cluster, 2)


@pytest.mark.parametrize("name", ["authority", "owner", "worker-0"])
def test_a_client_cannot_take_the_folder_of_another_party(cluster: Cluster, name: str) -> None:
    with pytest.raises(UsageError, match=f"client '{name}' is no name"):
        keys.make(cluster, name)
