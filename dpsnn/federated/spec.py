"""What a federated run is, in plain values; it travels to every process as one JSON file."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpsnn.errors import UsageError, one_of
from dpsnn.numbers import Number
from dpsnn.parts import option
from dpsnn.specs import ClassifierSpec, plain

MODES = ("secure", "plain")
"""How updates are averaged: by SecAgg+, or in the open."""

FEWEST = 3
"""Clients of a secure average: of two, each could subtract its own update and read the other's."""


def threshold(clients: int) -> int:
    """Clients that together can take the masks off an average of `clients`: two thirds, hence always more than half."""
    return max(2, round(clients * 2 / 3))


@dataclass(frozen=True, kw_only=True)
class FederatedSpec:
    """Who takes part in a federated training, and for how long.

    Raises:
        UsageError: If a value is out of range.
    """

    clients: int = option(5, "clients, who share out the training images")
    rounds: int = option(10, "rounds: each client trains once in each, then updates are averaged")
    local_epochs: int = option(1, "passes of a client over its own images in a round")
    skew: Number = option(
        0.0,
        "concentration of Dirichlet label skew: the smaller, the fewer classes a client mostly has; 0 shares out at"
        " random",
    )
    drop: int = option(
        0, "clients killed in the middle of the run, when they should send an update"
    )
    timeout: Number = option(300.0, "seconds to wait for the clients in each exchange")

    def __post_init__(self) -> None:
        for name, least, most in (
            ("clients", FEWEST, 100),
            ("rounds", 1, 10_000),
            ("local_epochs", 1, 1000),
            ("drop", 0, 100),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise UsageError(
                    f"{name} is {value!r}; it must be a whole number from {least} to {most}"
                )
        if not (math.isfinite(self.skew) and self.skew >= 0):
            raise UsageError(f"skew is {self.skew}; it must be a finite number, 0 or greater")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise UsageError(f"timeout is {self.timeout}; it must be a finite number above 0")
        if self.drop > self.spare:
            raise UsageError(
                f"drop is {self.drop}; of {self.clients} clients at most {self.spare} may be lost:"
                f" {threshold(self.clients)} must be left to take the masks off, and {FEWEST} to average over"
            )

    @property
    def spare(self) -> int:
        """Clients that a round can do without."""
        return self.clients - max(FEWEST, threshold(self.clients))

    @property
    def drop_round(self) -> int:
        """The round, from 1, in which clients are killed."""
        return (self.rounds + 1) // 2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that a process of one run must know."""

    classifier: ClassifierSpec
    federated: FederatedSpec
    mode: str
    data_dir: str
    folder: str
    """Where the processes of this run leave logs and outcomes."""
    audit: bool = False
    """Whether clients also leave their updates in `folder`, so that the average can be checked. For measurements on one
    machine: what it writes is what secure averaging hides."""

    def __post_init__(self) -> None:
        one_of(self.mode, MODES, "mode")

    def write(self) -> Path:
        """Write `settings.json` into the folder."""
        path = Path(self.folder) / "settings.json"
        nested = {
            "classifier": plain(self.classifier),
            "federated": dataclasses.asdict(self.federated),
        }
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        path.write_text(json.dumps({**values, **nested}, indent=1), encoding="utf-8")
        return path

    @staticmethod
    def read(path: str | Path) -> "Settings":
        """What `write` wrote."""
        values: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        classifier = ClassifierSpec(**values.pop("classifier"))
        return Settings(
            classifier=classifier, federated=FederatedSpec(**values.pop("federated")), **values
        )


def arguments(settings: Settings) -> dict[str, Any]:
    """What the checkpoint of a run is compared by: the classifier's spec and all that shapes the averaging."""
    federated = dataclasses.asdict(settings.federated)
    del federated["timeout"]
    named = {f"federated_{name}": value for name, value in federated.items()}
    return {**plain(settings.classifier), **named, "federated_mode": settings.mode}
