"""Whose pictures are whose: several of one person are no several people, neither for intervals nor as candidates."""

from collections import Counter
from collections.abc import Hashable, Sequence
from hashlib import sha256

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dpsnn.audit.held import Pictures
from dpsnn.audit.identity import as_bytes

People = Int[Tensor, " pictures"] | None
"""The person of each picture, numbered from 0 as they come; None where everybody has one picture."""


def people_of(pictures: Pictures) -> People:
    """Whose each picture is: as was said, else pictures that are the same, byte by byte, are one person's."""
    who = pictures.groups or [sha256(as_bytes(each)).digest() for each in pictures.images]
    numbers: dict[str | bytes, int] = {}
    found = [numbers.setdefault(each, len(numbers)) for each in who]
    return None if len(numbers) == len(found) else torch.tensor(found)


def one_of_each_first(pictures: Pictures) -> Pictures:
    """The same with a picture of everybody before the second one of anybody: the first victims are strangers then."""
    people = people_of(pictures)
    if people is None:
        return pictures
    order = in_turns(people.tolist())
    # Pictures may be many: what is in order is not copied.
    return pictures if bool((order.diff() == 1).all()) else pictures.rows(order)


def in_turns(people: Sequence[Hashable]) -> Int[Tensor, " pictures"]:
    """Places in an order in which everybody comes once before anybody comes twice."""
    seen: Counter[Hashable] = Counter()
    turns = []
    for who in people:
        turns.append(seen[who])
        seen[who] += 1
    return torch.tensor(turns).argsort(stable=True)


def by_person(values: Float[Tensor, " n"], people: People) -> Float[Tensor, " people"]:
    """One value for each person, with the mean of all pictures, and the scatter that this mean has over people.

    Where all have as many pictures it is the mean of a person's. Else it is the mean of all, plus by how much the
    person's are off it, in sum, in units of the pictures of an average person: the mean of clusters of any size,
    linearised as a ratio (Cochran 1977, chapter 6).

    Args:
        values: Of the first n pictures.
        people: Of all.
    """
    if people is None:
        return values
    numbers, rows = people[: len(values)].unique(return_inverse=True)
    if len(numbers) == len(values):
        return values
    mean = values.mean()
    off = torch.zeros(len(numbers), dtype=values.dtype).index_add_(0, rows, values - mean)
    return mean + off * len(numbers) / len(values)


def worst_of_each(values: Float[Tensor, " n"], people: People, lower_leaks: bool) -> Tensor:
    """For each person the value of the picture of theirs that fares worst; arguments as of `by_person`."""
    if people is None:
        return values
    numbers, rows = people[: len(values)].unique(return_inverse=True)
    start = torch.zeros(len(numbers), dtype=values.dtype)
    return start.scatter_reduce(
        0, rows, values, "amin" if lower_leaks else "amax", include_self=False
    )


def others(people: People, count: int, most: int) -> Int[Tensor, "times count"]:
    """For each of the first pictures some rows of other people's, far apart; none where all are of one person.

    Args:
        people: Whose each is.
        count: Of the first pictures; two or more.
        most: Rows for each, at most; fewer where there are few people.
    """
    whose = torch.arange(count) if people is None else people[:count]
    # By person: from a picture on, first come those of the persons before, then those behind.
    order, place = whose.argsort(stable=True), torch.empty(count, dtype=torch.long)
    place[order] = torch.arange(count)
    _, at, sizes = whose.unique(return_inverse=True, return_counts=True)
    first, theirs = (sizes.cumsum(0) - sizes)[at], sizes[at]
    strangers = count - theirs
    times = min(most, int(strangers.min()))
    steps = [place - first + strangers * each // max(1, times) for each in range(times)]
    found = [order[(first - 1 - step % strangers) % count] for step in steps]
    return torch.stack(found) if found else torch.empty(0, count, dtype=torch.long)
