"""Everything that is wrong with folders of models and results; nothing is changed."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dpsnn import manifest
from dpsnn.checkpoints import ATTACKER, CLASSIFIER
from dpsnn.evaluation import tables
from dpsnn.integrity.folders import Finding, Pair
from dpsnn.integrity.leftovers import (
    changed_scores,
    leftovers,
    lone_attackers,
    lone_scores,
    torn_scores,
)

FEW = 3
"""Files of a folder of which the same is said one by one, and names in a line; for more there is one line, a number."""

ACCEPT = "dpsnn verify --accept"


def look(pair: Pair) -> list[Finding]:
    """What is missing, changed, damaged or belongs to nothing, each told once, by its cause where that is known."""
    _, rows = pair.models_there, pair.tables  # reading them says what is broken
    broken = {finding.where for finding in pair.broken}
    listed = [finding for root in pair.roots for finding in _against(root)]
    told = broken | {finding.where for finding in listed}
    return [
        *pair.broken,
        *folded(finding for finding in listed if finding.where not in broken),
        *_other_targets(pair),
        *folded(Finding(each.path, each.why, each.do) for each in lone_attackers(pair)),
        *(finding for path in rows for finding in _rows(pair, path)),
        *folded(torn_scores(pair)),
        # A row that somebody changed is told by its table.
        *folded(() if tables.attackers_table(pair.results) in told else changed_scores(pair)),
        *folded(Finding(each.path, each.why, each.do) for each in lone_scores(pair)),
        *folded(Finding(each.path, each.why, each.do) for each in leftovers(pair)),
    ]


def folded(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Findings, of which many alike in one folder are told in one line."""
    alike: dict[tuple[Path, str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.where.parent, finding.what, finding.do), []).append(finding)
    for (folder, what, do), members in alike.items():
        if len(members) <= FEW:
            yield from members
        else:
            names = _few([member.where.name for member in members])
            yield Finding(folder, f"{len(members)} files of which each {what}: {names}", do)


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return f"{', '.join(names[:FEW])}{more}"


# ---------------------------------------------------------------- digests


def _against(root: Path) -> Iterator[Finding]:
    """What a folder's list says of its files."""
    listed, there = manifest.read(root), [*manifest.files(root)]
    if not (root / manifest.NAME).exists():
        if there:
            what = f"is missing, hence nobody can tell what became of {len(there)} files"
            yield Finding(root / manifest.NAME, what, f"look at them, then {ACCEPT}")
        return
    for number, line in listed.garbled.items():
        again = manifest.named_in(line)
        what = f"names {again} twice" if again else "is no digest and name"
        place = root / manifest.NAME
        yield Finding(place, f"line {number} {what}", f"look at what it was of, then {ACCEPT}")
    for name in sorted(listed.digests.keys() | {manifest.name_of(path, root) for path in there}):
        yield from _of_file(root, name, listed)


def _of_file(root: Path, name: str, listed: manifest.Manifest) -> Iterator[Finding]:
    path = root / name
    if path.is_dir():
        yield Finding(path, "is a folder", "move it away, and make the file anew")
        return
    try:
        found = manifest.digest_of(path) if path.exists() else manifest.GONE
    except OSError as error:
        yield Finding(path, f"cannot be read ({error.strerror})", "change its permissions")
        return
    allowed = listed.allowed(name)
    if found not in allowed:
        # Whoever writes it now has announced that before.
        allowed |= manifest.read(root).allowed(name)
    accept = f"{ACCEPT} {path}"
    if name in listed.altered:
        yield Finding(
            path,
            "had been changed or removed by others when rows were added to it",
            f"compare it with an earlier copy, then {accept}",
        )
    elif found in allowed or (not allowed and listed.garbled):
        return
    elif not allowed:
        yield Finding(
            path,
            "is not listed: others wrote it, or a version that kept no list",
            "move it away, or dpsnn verify --accept",
        )
    elif found == manifest.GONE:
        yield Finding(path, "is missing", "make it anew, bring it back, or dpsnn verify --accept")
    else:
        yield Finding(path, "was changed since it was written", f"make it anew, or {accept}")


# ---------------------------------------------------------------- what belongs to what


def _other_targets(pair: Pair) -> Iterator[Finding]:
    """Attackers of a classifier that has been trained anew since."""
    for seen in pair.models_there[ATTACKER].values():
        model = str(seen.arguments.get("model")) if seen else ""
        target = pair.models_there[CLASSIFIER].get(model)
        if seen and target and seen.arguments.get("target") not in (None, target.digest):
            what = f"attacked another {model} than the one here"
            yield Finding(seen.path, what, "move it away and train it again")


def _rows(pair: Pair, table: Path) -> Iterator[Finding]:
    """Rows of other weights than their checkpoint's, rows without one, and rows that stand twice."""
    rows = pair.tables[table]
    keys = {
        tables.models_table(pair.results): tables.CLASSIFIER_KEY,
        tables.attackers_table(pair.results): tables.ATTACKER_KEY,
    }
    if table in keys:
        counts = Counter(tuple(row[column] for column in keys[table]) for row in rows)
        for key, count in counts.items():
            if count > 1:
                yield Finding(
                    table, f"has {count} rows of {key[-1]}", "delete all but the right one"
                )
    for kind, name, digest in _subjects(rows):
        seen = pair.models_there[kind].get(name)
        if seen and digest not in ("", seen.digest):
            what = f"has rows of {name} with other weights than {seen.path}"
            yield Finding(table, what, "evaluate it with --all, or delete them")
    listed = manifest.read(pair.models)
    known = {pair.models / name for name in (*listed.digests, *listed.away)}
    lone: dict[Path, list[str]] = {}
    for path in _lone(pair, table):
        if path not in known:
            lone.setdefault(path.parent, []).append(path.name.removesuffix(".ckpt"))
    for folder, names in lone.items():
        what = f"has rows of {len(names)} models that are not in {folder}: {_few(names)}"
        do = f"train them again, delete the rows, or {ACCEPT} if they are kept elsewhere"
        yield Finding(table, what, do)


def away(pair: Pair) -> list[Path]:
    """Where the checkpoints would lie that rows are of and that are not here."""
    return [*dict.fromkeys(path for table in pair.tables for path in _lone(pair, table))]


def _lone(pair: Pair, table: Path) -> Iterator[Path]:
    """Those of one table, once each; none where there are no models at all, as in a checkout."""
    if any(pair.models_there.values()):
        for kind, name in dict.fromkeys((k, n) for k, n, _ in _subjects(pair.tables[table])):
            if name not in pair.models_there[kind]:
                yield pair.folder(kind) / f"{name}.ckpt"


def _subjects(rows: Iterable[Mapping[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Kind, name and digest of each checkpoint that rows say they are of, once; digests of weights are the sign."""
    found: dict[tuple[str, str, str], None] = {}
    for row in rows:
        own, apart = row.get("Digest"), "AttackerDigest" in row
        if own is None:
            continue
        attacker = row.get("Attacker", "")
        if attacker:
            found[ATTACKER, attacker, row["AttackerDigest"] if apart else own] = None
        # Of attackers' rows the first table of attackers is asked alone, so that one is told once.
        if row.get("Model") and (apart or "Attacker" not in row):
            found[CLASSIFIER, row["Model"], own] = None
    yield from found
