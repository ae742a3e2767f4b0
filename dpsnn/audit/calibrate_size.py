"""Of how many pictures, and of which size, noise is found: of those that memory has room for, as in an audit."""

import math
import sys
from dataclasses import replace

import torch

from dpsnn.audit.calibrate_curve import Roles
from dpsnn.audit.cuts import Cut
from dpsnn.audit.sides import Sides
from dpsnn.audit.wire import FEWEST, attacked_shape, check_room, encoded, reduced, room
from dpsnn.batches import to_unit
from dpsnn.target import Target
from dpsnn.training import seeded

GUESSES = 25
"""Of every victim that are kept at the same time, about: attackers times noises of a curve."""

GUESSED = 3 * 10**8
"""Values of guesses that are kept in memory, 1.2 GB."""


def fitting(sides: Sides, place: Cut, queries: int) -> Sides:
    """The pictures that there is room for, with a note where these are fewer, or are attacked at a lower resolution.

    Args:
        sides: All.
        place: Where they are sent.
        queries: How often each is.

    Raises:
        UsageError: If memory does not suffice for the fewest.
    """
    values, shape = math.prod(place.shape), attacked_shape(sides.image_shape)
    own, victims = len(sides.own), len(sides.victims)
    check_room(values, (own, len(sides.validation), victims), queries)
    guesses = max(FEWEST, GUESSED // (GUESSES * math.prod(shape)))
    less = sides.within(room(values), min(room(values, queries), guesses))
    said = []
    if (len(less.own), len(less.victims)) != (own, victims):
        said.append(
            f"{len(less.own)} of {own} own pictures and {len(less.victims)} of {victims} victims are taken, as memory"
            f" has no room for more at {place.name}"
        )
    if shape != sides.image_shape:
        size = "×".join(map(str, shape[1:]))
        said.append(
            f"attacked at {size} pixels, while the client sees pictures as they are sent; attacks that ask the client"
            " for pictures of their own are left out"
        )
    for each in said:
        print(each, file=sys.stderr, flush=True)
    return replace(less, notes=(*sides.notes, *said))


def roles_of(sides: Sides, target: Target, seed: int) -> Roles:
    """The pictures at the size at which they are attacked, and what the client makes of them as they are sent.

    Args:
        sides: Whose are whose.
        target: Of pictures as they are sent.
        seed: Of what the client draws, if it does.
    """
    shape = attacked_shape(sides.image_shape)
    labelled = bool(sides.victims.classes)
    alike = labelled and sides.own.classes == sides.victims.classes
    own, victims = (sides.own.images, sides.validation.images), sides.victims.images
    with seeded(seed, 48):
        codes = encoded(target, victims)
        own_codes = torch.cat([encoded(target, part) for part in own])
    return Roles(
        torch.cat([reduced(part, shape) for part in own]),
        to_unit(reduced(victims, shape)),
        torch.cat([sides.own.labels, sides.validation.labels]) if alike else None,
        sides.victims.labels if labelled else None,
        own_codes,
        codes,
        lambda: encoded(target, victims),
        shape != sides.image_shape,
    )
