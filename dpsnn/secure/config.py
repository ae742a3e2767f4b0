"""Where the three workers are and what they put up with: cluster.toml, read and checked.

```toml
timeout = 60                 # seconds after which a query has failed
max_batch = 64               # images of a query
max_bytes = 536870912        # of a message
tls = true                   # default: true unless every worker is on the loopback
keys = "keys"                # folder that `dpsnn secure keys` wrote; relative to this file

[[workers]]                  # exactly three
host = "10.0.0.1"
port = 4000                  # owners, clients and the other workers connect here
engine_port = 4010           # only the other workers' engines connect here
```
"""

import ipaddress
import json
import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dpsnn.errors import UsageError, reading

Seconds = float | int
"""Callers write 2 where 2.0 is meant, and the checker of types under pytest is strict about it."""

LARGEST = 2**20
"""Bytes of a description."""

PARTIES = 3
"""Workers of a cluster; the protocol (ABY3) is made for exactly three."""

PORT = 4000
"""First of the default ports 4000, 4001, 4002; the engines' are ten above."""

START_SECONDS = 120.0
"""Within which all three workers have to be there."""


@dataclass(frozen=True)
class Address:
    """Where one worker listens."""

    host: str
    port: int
    engine_port: int


@dataclass(frozen=True)
class Cluster:
    """Three workers, known to everybody; nothing in it is secret."""

    workers: tuple[Address, ...]
    timeout: Seconds = 60.0
    max_batch: int = 64
    max_bytes: int = 512 * 1024**2
    tls: bool = False
    keys: Path = Path("keys")

    def __post_init__(self) -> None:
        if len(self.workers) != PARTIES:
            raise UsageError(
                f"a cluster has {PARTIES} workers, not {len(self.workers)}; name each in a [[workers]]"
            )
        for worker in self.workers:
            if not _is_host(worker.host):
                raise UsageError(f"host {worker.host!r} is neither a name nor an address")
            if ":" in worker.host:
                raise UsageError(
                    f"host {worker.host!r} is no name and no IPv4 address: workers listen on IPv4 alone, and a port"
                    " has a key of its own"
                )
        if "\0" in str(self.keys):
            raise UsageError(f"keys {str(self.keys)!r} is no folder")
        ports = [
            (worker.host, port)
            for worker in self.workers
            for port in (worker.port, worker.engine_port)
        ]
        for host, port in ports:
            if not 1 <= port <= 65535:
                raise UsageError(f"port {port} of {host} is not from 1 to 65535; choose another")
        if len(set(ports)) < len(ports):
            raise UsageError("two workers share a port; give each its own port and engine_port")
        limits = ("timeout", 0.1, 3600.0), ("max_batch", 1, 4096), ("max_bytes", 1024, 2**32)
        for name, least, most in limits:
            if not least <= getattr(self, name) <= most:
                raise UsageError(
                    f"{name} is {getattr(self, name)}; it must be from {least} to {most}"
                )
        if not self.tls and not self.local:
            raise UsageError(
                "a cluster beyond the loopback needs TLS: without it anyone on the way reads all three shares;"
                " leave out `tls = false`"
            )

    @property
    def local(self) -> bool:
        """Whether nothing leaves this machine."""
        return all(on_loopback(worker.host) for worker in self.workers)


def _is_host(host: str) -> bool:
    try:
        # The system's look-up encodes it so, too, and raises over what it cannot.
        return re.fullmatch(r"[\w.:%-]+", host) is not None and len(host.encode("idna")) < 256
    except UnicodeError:
        return False


def on_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def local_cluster(first_port: int = PORT, **settings: Any) -> Cluster:
    """Three workers on this machine, on ports in a row."""
    addresses = tuple(
        Address("127.0.0.1", first_port + rank, first_port + 10 + rank) for rank in range(PARTIES)
    )
    return Cluster(addresses, **settings)


def read(path: str | Path) -> Cluster:
    """The cluster that a file describes, or the local one where none is named.

    Raises:
        UsageError: If there is no such file, or something in it is missing, unknown, of the wrong type or out of range.
    """
    if not str(path):
        return local_cluster()
    path = Path(path)
    with reading(path, "TOML", "name a cluster.toml; dpsnn/secure/config.py has an example"):
        with open(path, "rb") as file:
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        content = tomllib.loads(raw.decode("utf-8"))
    try:
        return _cluster(content, path.parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _cluster(content: dict[str, Any], folder: Path) -> Cluster:
    workers = content.pop("workers", [])
    if not isinstance(workers, list):
        raise UsageError("workers is no list; write a [[workers]] for each")
    addresses = tuple(
        Address(**_checked(worker, {"host": str, "port": int, "engine_port": int}, complete=True))
        for worker in workers
    )
    types = {field.name: field.type for field in fields(Cluster) if field.name != "workers"}
    settings = _checked(content, {**types, "keys": str})
    settings["keys"] = folder / settings.get("keys", "keys")
    settings.setdefault("tls", not all(on_loopback(address.host) for address in addresses))
    return Cluster(addresses, **settings)


def _checked(given: Any, types: dict[str, Any], complete: bool = False) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise UsageError(f"{given!r} is no table; it has the keys {sorted(types)}")
    for name, value in given.items():
        if name not in types:
            raise UsageError(f"unknown key {name!r}; choose from {sorted(types)}")
        # True is an int in Python, but not a port.
        if not isinstance(value, types[name]) or isinstance(value, bool) != (types[name] is bool):
            raise UsageError(f"{name} is {value!r}, of the wrong type")
    missing = sorted(types.keys() - given.keys()) if complete else []
    if missing:
        raise UsageError(f"a worker lacks {', '.join(missing)}")
    return given


def to_toml(cluster: Cluster) -> str:
    """The file that `read` turns into this cluster, whatever characters its folder has.

    Raises:
        UsageError: If the name of the folder of keys is not UTF-8, which TOML cannot hold.
    """
    lines = [
        f"timeout = {cluster.timeout}",
        f"max_batch = {cluster.max_batch}",
        f"max_bytes = {cluster.max_bytes}",
        f"tls = {str(cluster.tls).lower()}",
        f"keys = {_quoted(str(cluster.keys.resolve()))}",
    ]
    for worker in cluster.workers:
        lines += ["", "[[workers]]", f"host = {_quoted(worker.host)}", f"port = {worker.port}"]
        lines.append(f"engine_port = {worker.engine_port}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A string of TOML: one of JSON, but that TOML wants one more control character escaped."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{text!r} is not UTF-8; rename that folder") from error
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
