"""cluster.toml, certificates and the command line around them."""

import os
import ssl
import stat
from pathlib import Path

import pytest

from dpsnn.cli import main
from dpsnn.errors import UsageError
from dpsnn.secure import config
from dpsnn.secure.config import local_cluster, read, to_toml
from dpsnn.secure.order import Order

WORKERS = "".join(
    f"[[workers]]\nhost = '127.0.0.1'\nport = {4000 + n}\nengine_port = {4010 + n}\n"
    for n in range(3)
)


def test_the_default_is_the_ports_of_the_post() -> None:
    cluster = read("")
    assert [worker.port for worker in cluster.workers] == [4000, 4001, 4002]
    assert cluster.local and not cluster.tls


def test_a_cluster_survives_its_file(tmp_path: Path) -> None:
    cluster = local_cluster(5000, tls=True, timeout=7.5, max_batch=9, keys=tmp_path / "k")
    path = tmp_path / "cluster.toml"
    path.write_text(to_toml(cluster))
    assert read(path) == cluster


def test_beyond_the_loopback_tls_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(WORKERS.replace("127.0.0.1", "10.0.0.1"))
    assert read(path).tls and read(path).keys == tmp_path / "keys"
    path.write_text("tls = false\n" + WORKERS.replace("127.0.0.1", "10.0.0.1"))
    with pytest.raises(UsageError, match="beyond the loopback needs TLS"):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "not TOML"),
        ("", "3 workers, not 0"),
        (WORKERS + WORKERS, "3 workers, not 6"),
        (WORKERS.replace("4001", "4000"), "share a port"),
        (WORKERS.replace("4001", "'4001'"), "of the wrong type"),
        (WORKERS.replace("4001", "true"), "of the wrong type"),
        (WORKERS.replace("4001", "70000"), "not from 1 to 65535"),
        (WORKERS.replace("engine_port = 4011", ""), "lacks engine_port"),
        (WORKERS.replace("host", "hots"), "unknown key 'hots'"),
        (WORKERS.replace("127.0.0.1", "::1"), "host '::1' is no name and no IPv4 address"),
        (WORKERS.replace("127.0.0.1", "here:4000"), "a port has a key of its own"),
        ("tiemout = 3\n" + WORKERS, "unknown key 'tiemout'"),
        ("timeout = 0\n" + WORKERS, "timeout is 0"),
        ("max_batch = 0\n" + WORKERS, "max_batch is 0"),
        ("workers = 3", "write a .*workers.* for each"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read(path)
    with pytest.raises(UsageError, match="there is no .*none.toml; name a cluster.toml"):
        read(tmp_path / "none.toml")


def test_a_file_that_could_not_be_a_description_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(UsageError, match="pipe.toml is a pipe, a socket or a device"):
        read(tmp_path / "pipe.toml")
    with open(tmp_path / "large.toml", "wb") as file:
        file.truncate(2**40)  # holds nothing, and takes no room
    with pytest.raises(UsageError, match="large.toml is damaged or not TOML .more than 1,048,576"):
        read(tmp_path / "large.toml")


def test_order_is_that_of_completion_and_nobody_is_held_up() -> None:
    order = Order(patience=10)
    for id, ranks in {"a": (0, 1), "b": (0, 1, 2), "c": (2, 1, 0)}.items():
        for rank in ranks:
            order.arrive(id, rank, f"as {id}", now=0)
    assert [order.next(), order.next(), order.next()] == ["b", "c", None]
    order.arrive("a", 2, "as told otherwise", now=1)
    ((id, reason),) = order.dropped(now=1)
    assert id == "a" and "told different things" in reason
    order.arrive("late", 0, "as late", now=2)
    assert order.dropped(now=11) == []
    ((id, reason),) = order.dropped(now=13)
    assert id == "late" and "not arrive in time" in reason
    order.arrive("left", 1, "as left", now=14)
    assert order.abandon() == ["left"] and order.abandon() == []


def test_without_the_extra_one_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    monkeypatch.setattr("dpsnn.secure.find_spec", lambda name: None)
    for words in (["secure"], ["secure", "serve"], ["secure", "query", "--images", "digits"]):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "pip install -e '.[secure]'" in line and "./main.sh secure" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["worker", "--rank", "3"], "rank is 3"),
        (["worker"], "required: --rank"),
        (["worker", "--rank", "0", "--num_requests", "-1"], "num_requests is -1"),
        (["serve", "--config", "none.toml"], "there is no none.toml"),
        (["share", "--model", "none"], "unknown classifier 'none'"),
        (["share"], "required: --model"),
        (["query"], "required: --images"),
        (["query", "--images", "digits", "--device", "none.ckpt"], "no checkpoint none.ckpt"),
        (["query", "--images", "digits", "--count", "0"], "count is 0"),
        (["query", "--images", "digits", "--output", "."], "is a folder; name a file in it"),
        (["qery"], "invalid choice"),
        (["keys", "--client", "../x"], "client '../x' is no name"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("spu", reason="needs the extra [secure]")
    assert main(["secure", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_cluster_that_is_not_there_is_one_line(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("spu", reason="needs the extra [secure]")
    from secure_cluster import free_cluster

    Path("cluster.toml").write_text(to_toml(free_cluster()))
    for words in (["stop"], ["status"], ["query", "--images", "digits"]):
        assert main(["secure", *words, "--config", "cluster.toml"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "cannot be reached" in line and "dpsnn secure serve" in line


def test_dry_run_prints_the_commands(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    assert main(["secure", "--dataset", "mnist", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("train_model" in line for line in lines) == 2
    assert sum("secure serve" in line for line in lines) == 2
    assert sum("--device" in line for line in lines) == 1
    assert list(place.iterdir()) == []


def test_keys_are_private_have_roles_and_are_made_once(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="needs the extra [secure]")
    from cryptography import x509

    from dpsnn.secure import keys

    cluster = local_cluster(keys=tmp_path / "keys", tls=True)
    folder = keys.make(cluster)
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*.*")) if path.is_file()}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    keys.make(cluster, "phone")
    assert all(path.read_bytes() == content for path, content in files.items())
    names = {path.name for path in folder.iterdir()}
    assert names == {"authority", "worker-0", "worker-1", "worker-2", "owner", "client", "phone"}
    # Nobody but the authority can issue certificates, and a client has none for the engine.
    for party in names - {"authority"}:
        inside = {path.name for path in (folder / party).iterdir()}
        engine = {"engine-ca.pem", "engine.pem", "engine.key"} if "worker" in party else set()
        assert inside == {"ca.pem", "cert.pem", "cert.key"} | engine
        found = x509.load_pem_x509_certificate((folder / party / "cert.pem").read_bytes())
        role = "client" if party == "phone" else party.split("-")[0]
        assert found.subject.rfc4514_string() == f"CN={party},OU={role}"
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert not constraints.ca
    assert keys.context(cluster, "phone").minimum_version == ssl.TLSVersion.TLSv1_3
    with pytest.raises(UsageError, match="no usable certificate of stranger"):
        keys.context(cluster, "stranger")


def test_ports_of_the_engines_are_beside_those_of_the_workers() -> None:
    assert [worker.engine_port for worker in config.local_cluster(7000).workers] == [
        7010,
        7011,
        7012,
    ]


ODD = [
    "it's here", 'say "hi"', "two  blanks ", "new\nline", "tab\tstop", "back\\slash", "\x7fdelete\x01",
    "ünï ☃ 😀", "$(echo x) `y`", "# no comment", "-dash", "'''", '"""', "=",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    cluster = local_cluster(5000, tls=True, keys=folder / "keys")
    path = folder / "cluster.toml"
    path.write_text(to_toml(cluster), encoding="utf-8")
    assert read(path) == cluster


def test_a_folder_that_toml_cannot_name_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not UTF-8; rename that folder"):
        to_toml(local_cluster(keys=tmp_path / "\udcff"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "damaged or not TOML"),
        (b"a = " + b"[" * 100_000, "damaged or not TOML"),
        (b"a = " + b"{b=" * 50_000, "damaged or not TOML"),
        (b"timeout = " + b"9" * 5_000, "damaged or not TOML"),
        (b"a = 9999-99-99", "damaged or not TOML"),
        (b"timeout = nan\n" + WORKERS.encode(), "timeout is nan"),
        (b"timeout = 1e999\n" + WORKERS.encode(), "timeout is inf"),
        (b"keys = 'a\\u0000'\n" + WORKERS.encode(), None),
        (b'keys = "a\\u0000"\n' + WORKERS.encode(), "is no folder"),
        (WORKERS.replace("'127.0.0.1'", '"a\\u0000b"', 1).encode(), "neither a name nor an addr"),
        (WORKERS.replace("127.0.0.1", "a" * 64, 1).encode(), "neither a name nor an address"),
        (WORKERS.replace("127.0.0.1", "", 1).encode(), "neither a name nor an address"),
        (WORKERS.replace("127.0.0.1", "a b", 1).encode(), "neither a name nor an address"),
        (WORKERS.replace("4000", "9" * 30, 1).encode(), "is not from 1 to 65535"),
    ],
)
def test_whatever_is_wrong_with_a_file_is_one_line_that_names_it(
    tmp_path: Path, content: bytes, message: str | None
) -> None:
    path = tmp_path / "cluster.toml"
    path.write_bytes(content)
    if message is None:
        assert read(path).keys == tmp_path / "a\\u0000"
        return
    with pytest.raises(UsageError, match=message) as refused:
        read(path)
    assert str(path) in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("words", [["serve"], ["query", "--images", "digits"]])
def test_a_wrong_time_out_is_one_line(
    words: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("spu", reason="needs the extra [secure]")
    assert main(["secure", *words, "--timeout", "nan"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "timeout is nan; it must be from 0.1 to 3600" in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["serve"], "the workers have ended, and the shares are gone with them"),
        (["share", "--model", "m"], "share it again"),
        (["query", "--images", "digits"], "nothing was written: ask again"),
        (["keys"], "call it again"),
        (["stop"], "call it again"),
    ],
)
def test_who_interrupts_is_told_what_fits_the_command(
    words: list[str],
    told: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    pytest.importorskip("spu", reason="needs the extra [secure]")
    monkeypatch.setattr(config, "read", interrupted)
    assert main(["secure", *words]) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line and "epoch" not in line
