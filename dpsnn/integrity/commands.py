"""What `dpsnn verify` and `dpsnn clean` do with their options."""

import argparse
import sys
from pathlib import Path

from dpsnn import manifest
from dpsnn.errors import UsageError, WorkFailed, one_line
from dpsnn.folders import Folders
from dpsnn.integrity.folders import Pair, pairs
from dpsnn.integrity.leftovers import leftovers, lone_attackers, lone_scores, remove
from dpsnn.integrity.look import away, look
from dpsnn.runner.progress import note


def _pairs(options: argparse.Namespace) -> list[Pair]:
    """The folders to look at.

    Raises:
        UsageError: If one that was named is not there, or neither is.
    """
    named = {name: getattr(options, name) for name in ("models_dir", "results_dir")}
    gone = [name for name, folder in named.items() if not Path(folder).is_dir()]
    for name in gone:
        if named[name] != getattr(Folders, name) or len(gone) == 2:
            raise UsageError(f"there is no folder {named[name]}; correct --{name}")
    return [*pairs(Path(options.models_dir), Path(options.results_dir))]


def verify(options: argparse.Namespace) -> None:
    """Print what is wrong, a line each.

    Raises:
        WorkFailed: If anything is.
    """
    checked = _pairs(options)
    if options.accept is not None:
        _accept(checked, [Path(path) for path in options.accept])
    found = [finding for pair in checked for finding in look(pair)]
    for finding in found:
        print(one_line(finding))
    if found:
        raise WorkFailed(
            f"{len(found)} finding{'s' if len(found) > 1 else ''}; nothing was changed"
            f"{'' if options.accept is None else ' but the lists'}"
        )
    roots = [root for pair in checked for root in pair.roots]
    count = sum(len(manifest.read(root).digests) for root in roots)
    note(f"{count} files are as they were written")


def _accept(checked: list[Pair], paths: list[Path]) -> None:
    """List these files, or all that there are, as they are now."""
    whose = {root: pair for pair in checked for root in pair.roots if root.is_dir()}
    roots = [*whose]
    for root in roots if not paths else ():
        if any(manifest.files(root)) or (root / manifest.NAME).exists():
            pair = whose[root]
            elsewhere = away(pair) if root == pair.models else ()
            print(f"{root / manifest.NAME}: {manifest.accept(root, away=elsewhere)} files")
    for path in paths:
        home = manifest.home(path)
        if home is None or home not in [root.absolute() for root in roots]:
            raise UsageError(
                f"{path} is no checkpoint, table or figure in {' or '.join(map(str, roots))}; name one that is"
            )
        manifest.accept(home, [path])


def clean(options: argparse.Namespace) -> None:
    """Name what serves nothing any more, and remove it if that is wanted."""
    left = []
    for pair in _pairs(options):
        left += leftovers(pair)
        if options.orphans:
            left += [*lone_attackers(pair), *lone_scores(pair)]
    for each in left:
        print(one_line(f"{each.path}: {each.why}"))
    if not left or options.dry_run or not (options.yes or _agreed(len(left))):
        note(f"nothing was removed{'' if options.dry_run or not left else '; --yes removes it'}")
        return
    count = sum(map(remove, left))
    changed = len(left) - count
    note(f"removed {count} files{f', kept {changed} that changed meanwhile' if changed else ''}")


def _agreed(count: int) -> bool:
    """Whether somebody at a terminal says so."""
    if not sys.stdin or not sys.stdin.isatty():
        return False
    print(f"remove {count} files? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
