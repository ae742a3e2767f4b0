"""What lies in a folder of models and the folder of its results, read once."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from dpsnn import checkpoints, manifest
from dpsnn.checkpoints import ATTACKER, CLASSIFIER
from dpsnn.errors import Lacking, UsageError
from dpsnn.evaluation import tables
from dpsnn.folders import Folders

KINDS = (CLASSIFIER, ATTACKER)


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was left."""

    where: Path
    what: str
    do: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.do}"


class Seen(NamedTuple):
    """What is asked of a checkpoint, without its weights."""

    path: Path
    digest: str
    arguments: dict[str, object]


class Pair:
    """A folder of models and the folder of its results; either may be missing.

    Args:
        models: Of the checkpoints.
        results: Of the tables and figures.
    """

    def __init__(self, models: Path, results: Path) -> None:
        self.models, self.results = models, results
        self.broken: list[Finding] = []
        """Files that are not what they should be, whatever their digests say."""

    @property
    def roots(self) -> tuple[Path, Path]:
        return self.models, self.results

    def folder(self, kind: str) -> Path:
        folders = Folders(models_dir=str(self.models))
        return folders.classifiers if kind == CLASSIFIER else folders.attackers

    @cached_property
    def models_there(self) -> dict[str, dict[str, Seen | None]]:
        """Kind → name of a checkpoint → what it says; None where it cannot be read here."""
        found: dict[str, dict[str, Seen | None]] = {}
        for kind in KINDS:
            found[kind] = {}
            for path in checkpoints.all_in(self.folder(kind)):
                found[kind][path.name.removesuffix(".ckpt")] = self._seen(path, kind)
        return found

    def _seen(self, path: Path, kind: str) -> Seen | None:
        try:
            stored = checkpoints.read(path, kind)
        except Lacking:
            return None  # of a plug-in that was not named
        except UsageError as error:
            what, _, do = (
                str(error).removeprefix(f"{path} ").removeprefix(f"{path}: ").rpartition("; ")
            )
            self.broken.append(Finding(path, what or do, do if what else "train it again"))
            return None
        return Seen(path, stored.digest, stored.arguments)

    @cached_property
    def lost(self) -> dict[str, set[str]]:
        """Kind → names of checkpoints that are listed and not there."""
        listed = manifest.read(self.models)
        found = {}
        for kind in KINDS:
            place = self.folder(kind)
            names = (self.models / name for name in listed.digests)
            gone = (path for path in names if path.parent == place and not path.exists())
            found[kind] = {path.name.removesuffix(".ckpt") for path in gone}
        return found

    @cached_property
    def tables(self) -> dict[Path, list[tables.ReadRow]]:
        """Every table that can be read → its rows."""
        keys = {
            tables.models_table(self.results): tables.CLASSIFIER_KEY,
            tables.attackers_table(self.results): tables.ATTACKER_KEY,
        }
        found = {}
        for path in manifest.files(self.results):
            if path.suffix != ".csv":
                continue
            try:
                found[path] = tables.read(path, keys.get(path, ()))
            except UsageError as error:
                what, _, do = str(error).removeprefix(f"{path} ").rpartition("; ")
                self.broken.append(Finding(path, what, do))
        return found


def pairs(models_dir: Path, results_dir: Path) -> Iterator[Pair]:
    """Both folders, then those in them that are such folders of their own, as those of the group `published`."""
    yield Pair(models_dir, results_dir)
    inner = {
        below.name
        for root in (models_dir, results_dir)
        for below in (root.iterdir() if root.is_dir() else ())
        if (below / manifest.NAME).exists()
        or any((below / name).is_dir() for name in manifest.BEGINS)
    }
    for name in sorted(inner):
        yield Pair(models_dir / name, results_dir / name)
