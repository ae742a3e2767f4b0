"""What lies in folders of models and results and serves nothing any more."""

import math
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dpsnn import checkpoints, manifest, progress_file
from dpsnn.atomic import abandoned
from dpsnn.checkpoints import ATTACKER, CLASSIFIER, PROGRESS
from dpsnn.errors import UsageError
from dpsnn.evaluation import measures, tables, victims
from dpsnn.integrity.folders import KINDS, Finding, Pair

CLEAN = "dpsnn clean"


@dataclass(frozen=True)
class Left:
    """A file to be removed."""

    path: Path
    why: str
    do: str
    mark: tuple[int, ...]
    """What it was when it was named: another that has taken its place since stays."""

    @classmethod
    def of(cls, path: Path, why: str, do: str) -> "Left | None":
        """None where it is gone by now."""
        mark = _mark(path)
        return cls(path, why, do, mark) if mark else None


def _mark(path: Path) -> tuple[int, ...]:
    try:
        said = os.lstat(path)
    except FileNotFoundError:
        return ()
    return said.st_ino, said.st_mtime_ns, said.st_size


def leftovers(pair: Pair) -> list[Left]:
    """Temporary files of processes that are gone, and progress that no training can go on from."""
    found: list[Left | None] = []
    for root in pair.roots:
        for folder in (root, *(path for path in sorted(root.rglob("*")) if path.is_dir())):
            for path in abandoned(folder):
                found.append(Left.of(path, "was left by a process that is gone", CLEAN))
    finished = {path for kind in KINDS for path in _finished(pair, kind)}
    for kind in KINDS:
        folder = pair.folder(kind) / PROGRESS
        for path in sorted(folder.glob("*.ckpt")) if folder.is_dir() else []:
            why = "is the progress of a training that is finished"
            if path not in finished:
                why = _unreadable(path)
            found += [Left.of(path, why, CLEAN)] if why else []
    return [each for each in found if each]


def _finished(pair: Pair, kind: str) -> Iterator[Path]:
    """Where the progress of what is there would lie."""
    for seen in pair.models_there[kind].values():
        if seen:
            name = seen.path.name.removesuffix(".ckpt")
            name = name.rsplit("_epoch=", 1)[0] if kind == CLASSIFIER else name
            own = checkpoints.progress_path(pair.folder(kind), name, dict(seen.arguments))
            yield from checkpoints.all_progress(own)


def _unreadable(path: Path) -> str:
    """Why nobody can go on from a file; nothing where somebody can, or where it is gone by now."""
    try:
        progress_file.read(path)
    except UsageError:
        return "is the progress of a training, and damaged" if path.exists() else ""
    return ""


def lone_attackers(pair: Pair) -> list[Left]:
    """Attackers whose classifier is gone for good; one that is listed is missed by itself."""
    found = []
    for seen in pair.models_there[ATTACKER].values():
        model = str(seen.arguments.get("model")) if seen else ""
        if seen and model not in pair.models_there[CLASSIFIER].keys() | pair.lost[CLASSIFIER]:
            do = f"train that again, or {CLEAN} --orphans"
            found.append(Left.of(seen.path, f"attacks {model}, which is not here", do))
    return [each for each in found if each]


def _scores(pair: Pair) -> list[Path]:
    folder = pair.results / "victims"
    return sorted(folder.glob("*.npz")) if folder.is_dir() else []


def lone_scores(pair: Pair) -> list[Left]:
    """What victims lost to attackers of which no row tells; nothing where there is no telling."""
    table = tables.attackers_table(pair.results)
    if table not in pair.tables:
        return []
    known = {row["Attacker"] for row in pair.tables[table]}
    why, do = "is of an attacker without a row", f"evaluate that, or {CLEAN} --orphans"
    lone = (path for path in _scores(pair) if path.name.removesuffix(".npz") not in known)
    return [each for path in lone if (each := Left.of(path, why, do))]


def torn_scores(pair: Pair) -> Iterator[Finding]:
    """Scores of victims whose own checksums are wrong; they come and go with evaluations, and are in no list."""
    for path in _scores(pair):
        try:
            with zipfile.ZipFile(path) as archive:
                whole = archive.testzip() is None
        except FileNotFoundError:
            continue
        except victims.TORN:
            whole = False
        if not whole:
            yield Finding(path, "is damaged", "evaluate its attacker with --all")


def changed_scores(pair: Pair) -> Iterator[Finding]:
    """Scores of victims that have another mean than the row says whose they are: the strongest is chosen by them."""
    shown = [measure for measure in measures.reconstructions() if measure.shown]
    for row in pair.tables.get(tables.attackers_table(pair.results), ()):
        name = row.get("Attacker", "")
        scores = victims.load(pair.results, name, victims.mark(row)) if name else None
        if not scores:
            continue
        for measure in shown:
            try:
                said, values = tables.number(row, measure.column), scores.get(measure.name)
            except UsageError as error:
                table = tables.attackers_table(pair.results)
                what, _, do = str(error).removeprefix(f"{table}, ").rpartition("; ")
                yield Finding(table, what, do)
                break
            # Of values that are not finite the row says something of its own.
            if said is None or values is None or not bool(values.isfinite().all()):
                continue
            if not math.isclose(said, float(values.double().mean()), rel_tol=1e-3, abs_tol=1e-6):
                where = pair.results / "victims" / f"{name}.npz"
                yield Finding(
                    where, "has another mean than its row", "evaluate its attacker with --all"
                )
                break


def remove(left: Left) -> bool:
    """Remove a file as long as it is the one that was named; whether it was."""
    if _mark(left.path) != left.mark:
        return False
    manifest.removed(left.path)
    return True
