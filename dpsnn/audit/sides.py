"""Who has which pictures: an attacker its own ones, and the victims, whom nobody but their client has seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dpsnn.audit.identity import of_tensors
from dpsnn.audit.people import one_of_each_first
from dpsnn.audit.pictures import Pictures, load_pictures
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
        """The first so many of each side, which were shuffled when they were dealt out."""
        most = max(1, own * SHARES[1] / SHARES[0]).__ceil__()
        some = [
            part.rows(torch.arange(min(len(part), limit)))
            for part, limit in zip((self.own, self.validation, self.victims), (own, most, victims))
        ]
        return replace(self, own=some[0], validation=some[1], victims=some[2])


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
) -> Sides:
    """Read the data and say whose they are.

    Args:
        data: What users send; see `load_pictures`, or the name of a data set of ours.
        surrogate: What an attacker owns; None splits the data.
        groups: Whose pictures stay on one side.
        trained_on: The training data of the model, if they are known.
        channels: Grey or colour, as the model wants it.
        size: Pixels on a side.
        seed: Of the split.
        data_dir: Where data sets of ours lie.

    Raises:
        UsageError: If there are too few pictures, or they do not fit one another.
    """
    _fits((data, surrogate, trained_on), surrogate is not None, groups, size)
    known = _of_ours(data, data_dir)
    if known is not None and surrogate is None:
        own, victims = known
        split = deal(own.labels, None, _renormed(SHARES[:2]), seed)
        parts = [own.rows(split[0]), own.rows(split[1]), _mixed(victims, seed)]
        total = len(own) + len(victims)
    elif surrogate is None:
        whole = load_pictures(data, channels, size, groups)
        _enough(whole, FEWEST)
        split = deal(whole.labels, whole.groups, SHARES, seed)
        if not all(len(each) for each in split):
            raise UsageError(
                f"{whole.name} has too few groups to give each side one ({len(set(whole.groups or ()))}); leave out"
                " --groups or give more"
            )
        parts, total = [whole.rows(each) for each in split], len(whole)
    else:
        victims = known[1] if known is not None else load_pictures(data, channels, size, groups)
        other = _of_ours(surrogate, data_dir)
        own = other[0] if other is not None else load_pictures(surrogate, channels, size, groups)
        if own.images.shape[1:] != victims.images.shape[1:]:
            raise UsageError(
                f"the surrogate has pictures of shape {tuple(own.images.shape[1:])}, the data of"
                f" {tuple(victims.images.shape[1:])}; give both one size with --size"
            )
        own = _strangers(own, victims) if groups else own
        _enough(own, 3)
        split = deal(own.labels, own.groups, _renormed(SHARES[:2]), seed)
        parts = [own.rows(split[0]), own.rows(split[1]), _mixed(victims, seed)]
        total = len(victims)
    overlap = None
    if trained_on is not None:
        ours = _of_ours(trained_on, data_dir, ("train",))
        seen = ours[0] if ours is not None else load_pictures(trained_on, channels, size)
        overlap = int(near_duplicates(parts[2].images, seen.images).sum())
    own, validation, victims = *parts[:2], one_of_each_first(parts[2])
    made = Sides(
        own, validation, victims, total, victims.name, groups=groups or None, overlap=overlap
    )
    if surrogate is not None:
        made = replace(made, surrogate=surrogate if isinstance(surrogate, str) else own.name)
    return _looked(made)


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


def _strangers(own: Pictures, victims: Pictures) -> Pictures:
    """The attacker's pictures without those of people who are victims.

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
    if not left:
        return own
    said = f"left out: {left} pictures of the surrogate, as they are of people who are victims"
    return replace(own.rows(torch.tensor(rows)), notes=(*own.notes, said))


def _looked(sides: Sides) -> Sides:
    """The same, with what is to be said of them."""
    parts = (sides.own, sides.validation, sides.victims)
    notes = [*dict.fromkeys(note for part in parts for note in part.notes)]
    twice = near_duplicates(parts[2].images, torch.cat([part.images for part in parts[:2]]))
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
    digest = of_tensors(part.images for part in parts)
    return replace(sides, near_duplicates=count, notes=tuple(notes), digest=digest)


def _mixed(pictures: Pictures, seed: int) -> Pictures:
    """In a random order."""
    generator = torch.Generator().manual_seed(derived_seed(seed, 22))
    return pictures.rows(torch.randperm(len(pictures), generator=generator))


def _renormed(shares: Sequence[float]) -> list[float]:
    return [share / sum(shares) for share in shares]


def _enough(pictures: Pictures, fewest: int) -> None:
    if len(pictures) < fewest:
        raise UsageError(
            f"{pictures.name} has {len(pictures)} pictures; give {fewest} or more, half of them an attacker's own"
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
