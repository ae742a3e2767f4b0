"""Who has which pictures: an attacker its own ones, and the victims, whom nobody but their client has seen."""

import math
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpsnn.audit.held import Pictures
from dpsnn.audit.identity import of_marks
from dpsnn.audit.people import in_turns, one_of_each_first
from dpsnn.audit.picture_folder import PictureFolder
from dpsnn.audit.pictures import load_pictures, open_pictures
from dpsnn.audit.twice import near_duplicates
from dpsnn.batches import derived_seed
from dpsnn.errors import UsageError

SHARES = (0.5, 0.1, 0.4)
"""Of the pictures: the attacker's own, those on which it judges itself, and the victims."""

FEWEST = 6
"""Pictures with which there is anything to audit."""


@dataclass(frozen=True)
class Sides:
    """Pictures by whose they are, and what was seen in dealing them out."""

    own: Pictures
    validation: Pictures
    victims: Pictures
    total: int
    name: str
    surrogate: str | None = None
    groups: str | None = None
    near_duplicates: int = 0
    """Victims of whom the attacker owns, nearly, a picture already."""
    overlap: int | None = None
    """Victims on whose picture, nearly, the model was trained; None where the training data are not known."""
    notes: tuple[str, ...] = ()
    digest: str = ""
    """Of all pictures, however they are dealt out."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.victims.images.shape[1:])

    def within(self, own: int, victims: int) -> "Sides":
        """The first so many of each side, which were shuffled when they were dealt out; nothing is copied."""
        parts = zip((self.own, self.validation, self.victims), _limits(own, victims))
        some = [part.first(limit) for part, limit in parts]
        return replace(self, own=some[0], validation=some[1], victims=some[2])


def _limits(own: int, victims: int) -> tuple[int, int, int]:
    """How many of each side, with own validation pictures in proportion to the own ones."""
    return own, max(1, math.ceil(own * SHARES[1] / SHARES[0])), victims


def deal(
    labels: Tensor, groups: Sequence[str] | None, shares: Sequence[float], seed: int
) -> list[Tensor]:
    """Rows for each side, in a random order, the classes in proportion and no group on two sides.

    Args:
        labels: Classes.
        groups: Who must stay together; None is everybody by himself.
        shares: Of the sides, of which the sum is 1.
        seed: Of the order.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, 21))
    order = torch.randperm(len(labels), generator=generator).tolist()
    members: dict[Any, list[int]] = {}
    for row in order:
        members.setdefault(row if groups is None else groups[row], []).append(row)
    # Class by class, and the large groups first, so that the small ones can make up for them.
    units = sorted(members.values(), key=lambda rows: (-len(rows), int(labels[rows[0]])))
    sides: list[list[int]] = [[] for _ in shares]
    dealt = 0
    for number, unit in enumerate(units):
        dealt += len(unit)
        lacking = [share * dealt - len(side) for share, side in zip(shares, sides)]
        if len(units) - number <= sum(not side for side in sides):
            # Each side has somebody, where there are so many.
            lacking = [-math.inf if side else each for each, side in zip(lacking, sides)]
        sides[lacking.index(max(lacking))] += unit
    for side in sides:
        mixed = torch.randperm(len(side), generator=generator).tolist()
        side[:] = [side[row] for row in mixed]
    return [torch.tensor(side, dtype=torch.long) for side in sides]


def make_sides(
    data: Any,
    surrogate: Any = None,
    groups: str = "",
    trained_on: Any = None,
    channels: int | None = None,
    size: int | None = None,
    seed: int = 0,
    data_dir: str = "data",
    most: tuple[int, int] | None = None,
    scratch: Path | None = None,
) -> Sides:
    """Say whose the data are, and read what is needed of them.

    Args:
        data: What users send; see `open_pictures`, or the name of a data set of ours.
        surrogate: What an attacker owns; None splits the data.
        groups: Whose pictures stay on one side.
        trained_on: The training data of the model, if they are known.
        channels: Grey or colour, as the model wants it.
        size: Pixels on a side.
        seed: Of the split.
        data_dir: Where data sets of ours lie.
        most: Own pictures and victims, at most; None is all.
        scratch: Folder for files with pictures that are too many for memory; None is where temporary files lie.

    Raises:
        UsageError: If there are too few pictures, or they do not fit one another.
    """
    _fits((data, surrogate, trained_on), surrogate is not None, groups, size)
    reading = _Reading(channels, size, groups, scratch)
    deck = _Deck(seed, _limits(*most) if most else (sys.maxsize,) * 3, scratch)
    users, owners = _sources(data, surrogate, data_dir, reading)
    if owners is None:
        parts = _whole(deck, users)
        digest, total = of_marks(users.marks(torch.arange(len(users)))), len(users)
    else:
        rows, said = _strangers(owners, users) if groups else (torch.arange(len(owners)), "")
        _enough(owners, FEWEST // 2, len(rows))
        parts = _both(deck, owners, rows, users, said)
        digest = of_marks(chain(owners.marks(rows), users.marks(torch.arange(len(users)))))
        total = len(users) + (len(owners) if surrogate is None else 0)
    overlap = None
    if trained_on is not None:
        ours = _of_ours(trained_on, data_dir, ("train",))
        seen = ours[0] if ours else load_pictures(trained_on, channels, size, scratch=scratch)
        overlap = int(near_duplicates(parts[2].images, [seen.images]).sum())
    own, validation, victims = *parts[:2], one_of_each_first(parts[2])
    name = surrogate if isinstance(surrogate, str) else own.name
    made = Sides(
        own,
        validation,
        victims,
        total,
        victims.name,
        None if surrogate is None else name,
        groups or None,
        overlap=overlap,
        digest=digest,
    )
    return _looked(made)


Source = Pictures | PictureFolder
"""Both are dealt out alike; of a folder only those pictures are read that somebody gets."""


def _sources(
    data: Any, surrogate: Any, data_dir: str, reading: "_Reading"
) -> tuple[Source, Source | None]:
    """What users send, and what the attacker owns; None where he owns a part of it."""
    ours = _of_ours(data, data_dir)
    if ours is not None and surrogate is None:
        return ours[1], ours[0]
    users = ours[1] if ours is not None else reading.open(data)
    if surrogate is None:
        return users, None
    theirs = _of_ours(surrogate, data_dir)
    return users, theirs[0] if theirs is not None else reading.open(surrogate)


def _whole(deck: "_Deck", users: Source) -> list[Pictures]:
    """Own pictures, own ones for validation and victims, out of one source.

    Raises:
        UsageError: If it has too few.
    """
    _enough(users, FEWEST)
    parts = deck.split(users, SHARES)
    if not all(len(each) for each in parts):
        raise UsageError(
            f"{users.name} has too few groups to give each side one ({len(set(users.groups or ()))}); leave out"
            " --groups or give more"
        )
    return parts


def _both(deck: "_Deck", owners: Source, rows: Tensor, users: Source, said: str) -> list[Pictures]:
    """The same out of two sources.

    Raises:
        UsageError: If their pictures have different shapes.
    """
    own, validation = deck.split(owners, _renormed(SHARES[:2]), rows)
    victims = deck.mixed(users)
    if own.images.shape[1:] != victims.images.shape[1:]:
        raise UsageError(
            f"the surrogate has pictures of shape {tuple(own.images.shape[1:])}, the data of"
            f" {tuple(victims.images.shape[1:])}; give both one size with --size"
        )
    own = replace(own, notes=(*own.notes, said)) if said else own
    return [own, validation, victims]


class _Reading(NamedTuple):
    """How pictures are found."""

    channels: int | None
    size: int | None
    groups: str
    scratch: Path | None

    def open(self, source: Any) -> Source:
        return open_pictures(source, self.channels, self.size, self.groups, self.scratch)


class _Deck(NamedTuple):
    """Deals pictures out."""

    seed: int
    most: tuple[int, ...]
    """Own ones, own ones for validation, victims."""
    scratch: Path | None

    def split(
        self, source: Source, shares: Sequence[float], rows: Tensor | None = None
    ) -> list[Pictures]:
        """Between sides; a side may stay empty where there are few."""
        rows = torch.arange(len(source)) if rows is None else rows
        while True:
            groups = source.groups and [source.groups[row] for row in rows.tolist()]
            dealt = deal(source.labels[rows], groups, shares, self.seed)
            sides = [rows[side] for side in dealt]
            sides[2:] = [_firsts(source, side) for side in sides[2:]]
            parts = source.dealt(sides, self.most, self.scratch)
            broken: Collection[int] = source.left if isinstance(source, PictureFolder) else ()
            sound = [row for row in rows.tolist() if row not in broken]
            if all(len(part) for part in parts) or len(sound) == len(rows):
                return parts
            # A side had broken pictures alone.
            rows = torch.tensor(sound, dtype=torch.long)
            _enough(source, FEWEST if len(shares) == len(SHARES) else FEWEST // 2, len(rows))

    def mixed(self, source: Source) -> Pictures:
        """Victims, in a random order."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, 22))
        order = torch.randperm(len(source), generator=generator)
        return source.dealt([_firsts(source, order)], self.most[2:], self.scratch)[0]


def _firsts(source: Source, rows: Tensor) -> Tensor:
    """Rows of victims, a picture of everybody before the second one of anybody: fewer may be taken than there are."""
    if source.groups is None:
        return rows
    return rows[in_turns([source.groups[row] for row in rows.tolist()])]


def _fits(sources: Sequence[Any], surrogate: bool, groups: str, size: int | None) -> None:
    """Refuse what would be passed over: data sets of ours have a size, and do not say whose a picture is.

    Raises:
        UsageError: If groups or a size are asked for, and nobody has them.
    """
    ours = [is_of_ours(each) for each in sources]
    for source, known in zip(sources[: 2 if surrogate else 1], ours):
        if groups and known:
            raise UsageError(
                f"{source} does not say whose a picture is; leave out --groups, or give data that say it"
            )
    if size is not None and all(
        known for source, known in zip(sources, ours) if source is not None
    ):
        raise UsageError(
            f"--size scales pictures of a folder; {sources[0]} has them as they are; leave it out"
        )


def _strangers(own: Source, victims: Source) -> tuple[Tensor, str]:
    """Rows of the attacker's pictures without those of people who are victims, and what is to be said of it.

    Raises:
        UsageError: If none is left.
    """
    people = {*(victims.groups or ())}
    rows = [row for row, who in enumerate(own.groups or ()) if who not in people]
    if not rows:
        raise UsageError(
            f"all pictures of the surrogate {own.name} are of people in {victims.name}; give others, or leave out"
            " --groups"
        )
    left = len(own) - len(rows)
    said = f"left out: {left} pictures of the surrogate, as they are of people who are victims"
    return torch.tensor(rows), said * bool(left)


def _looked(sides: Sides) -> Sides:
    """The same, with what is to be said of them."""
    parts = (sides.own, sides.validation, sides.victims)
    notes = [*dict.fromkeys(note for part in parts for note in part.notes)]
    twice = near_duplicates(parts[2].images, [part.images for part in parts[:2]])
    count, victims = int(twice.sum()), len(parts[2])
    if count:
        notes.append(
            f"of {count} of {victims} victims the attacker owns nearly the same picture: leakage is overstated; keep"
            " pictures of one person on one side with --groups, or take copies out"
        )
    if sides.overlap:
        notes.append(
            f"the model was trained on {sides.overlap} of the {victims} victims: its accuracy on them is no forecast"
        )
    return replace(sides, near_duplicates=count, notes=tuple(notes))


def _renormed(shares: Sequence[float]) -> list[float]:
    return [share / sum(shares) for share in shares]


def _enough(pictures: Source, fewest: int, count: int | None = None) -> None:
    count = len(pictures) if count is None else count
    if count < fewest:
        raise UsageError(
            f"{pictures.name} has {count} pictures; give {fewest} or more, half of them an attacker's own"
        )


def _of_ours(
    source: Any, data_dir: str, roles: Sequence[str] = ("surrogate", "scoring")
) -> list[Pictures] | None:
    """An attacker's own images and the victims of a data set of ours, whose roles are fixed; None of anything else."""
    from dpsnn.data import DATASETS

    if not is_of_ours(source):
        return None
    data = DATASETS[source](data_dir)
    names = tuple(map(str, range(data.num_classes)))
    tensors = [data.tensors(role) for role in roles]
    return [Pictures(pixels, labels, names, source) for pixels, labels in tensors]


def is_of_ours(source: Any) -> bool:
    """Whether it is the name of a data set of ours."""
    from dpsnn.data import DATASETS

    return isinstance(source, str) and source in DATASETS
