"""One cut with all that is heard there: computed once, and shared by every attack."""

import contextlib
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dpsnn.attacks.base import Knowledge, Need
from dpsnn.audit.cuts import within
from dpsnn.audit.held import at_once, gigabytes
from dpsnn.audit.identity import as_bytes
from dpsnn.audit.people import People, people_of
from dpsnn.audit.sides import Sides
from dpsnn.batches import to_unit
from dpsnn.defences import DefenceList
from dpsnn.errors import UsageError
from dpsnn.evaluation.flags import unrest
from dpsnn.memory import memory_bytes
from dpsnn.metrics.floors import mean_image
from dpsnn.target import Target
from dpsnn.tensors import Activation
from dpsnn.training import device, seeded

SIDE = 64
"""Pixels on the longer side at which pictures are attacked, at most; the client sees them as they are."""

HELD = 2 * 10**8
"""Values of activations, and of what is heard, that are kept in memory, 0.8 GB each."""

FEWEST = 30
"""Pictures whose activations are kept, however large they are."""

NO_MORE = re.compile("allocate memory|(not enough|out of) memory", re.IGNORECASE)
"""In what PyTorch says where memory ends."""

CHUNK = 250
"""Pictures that are sent at a time."""

LOOKED = 100
"""Own pictures for which the client is asked twice, at most."""

SLOPES = 4
"""Own pictures at which two clients are told apart by their gradients."""

NO_CLIENT = "does not apply: it asks the client, and only pairs of images and what was sent of them are given"


@dataclass
class Wire:
    """What there is to attack at one cut. Pictures are of the size at which they are attacked."""

    own: Tensor
    activations: Float[Tensor, " own *cut"]
    """Of the own pictures, before any mechanism; of pairs alone what was sent."""
    validation: Tensor
    heard_validation: Float[Tensor, "queries m *cut"]
    victims: Tensor
    """In [0, 1]."""
    labels: Tensor
    heard: Float[Tensor, "queries victims *cut"]
    queries: int = 1
    target: Target | None = None
    """Of pictures of that size; None where there are pairs alone."""
    client_images: Tensor = field(default_factory=lambda: torch.zeros(0))
    """Own pictures as the client sees them, in [0, 1], some."""
    whole: Target | None = None
    """Of pictures as the client sees them."""
    work: int | None = None
    """Operations of the client for one picture, where they could be counted."""
    clear: Activation | None = None
    """Of the victims, before the mechanism, where that is needed to bound what can be known."""
    endless: int = 0
    """Pictures for which the client gives infinity or no number; here stands the nearest finite value instead."""
    given: int = 0
    """Own pictures that there were before those were left out for whose activations there is no room; 0 is the same."""
    beyond: bool = False
    """Whether activations lie outside the set in which the client's last layer would put them."""
    wavers: bool = False
    """Whether the client answers otherwise when it is asked once more."""
    people: People = None
    """Whose pictures the victims are, one of everybody first."""

    @property
    def cut_shape(self) -> tuple[int, ...]:
        return tuple(self.activations.shape[1:])

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.own.shape[1:])

    @property
    def is_reduced(self) -> bool:
        """Whether pictures are attacked at a lower resolution than they are sent."""
        return self.target is not None and self.whole is not self.target

    @property
    def strangers(self) -> int:
        """So many of the victims, the first ones, are pictures of different people."""
        return len(self.victims) if self.people is None else int(self.people.max()) + 1

    @cached_property
    def usual(self) -> Tensor:
        """The mean of the own pictures, `(c, h, w)`: the best guess of who hears nothing."""
        return mean_image(self.own, 1)[0]

    @property
    def noisy(self) -> bool:
        """Whether what is sent of an image differs from time to time."""
        return self.target is not None and any(d.random for d in self.target.mechanism)

    @cached_property
    def digest(self) -> str:
        """What tells this cut, with its mechanism, from every other, by all that is heard of the same pictures."""
        made = sha256()
        parts = (self.own, self.activations, self.validation, self.victims, self.heard)
        for part in parts:
            made.update(repr(tuple(part.shape)).encode())
            made.update(as_bytes(part))
        if self.target is not None:
            made.update(repr(self.target.mechanism.mechanism()).encode())
        return made.hexdigest()

    @cached_property
    def slope(self) -> str:
        """What tells how gradients flow through the client at a few own pictures; rounded, as sums of them are."""
        if self.target is None:
            return ""
        generator = torch.Generator().manual_seed(0)
        given = to_unit(self.own[:SLOPES]).to(device())
        try:
            with torch.enable_grad(), seeded(0):
                given.requires_grad_()
                sent = self.target.client(given)
                probe = torch.randn(sent.shape, generator=generator).to(sent)
                (slope,) = torch.autograd.grad((sent * probe).sum(), given)
        except RuntimeError as error:
            return type(error).__name__
        looks = torch.randn(SLOPES, given[0].numel(), generator=generator).double()
        seen = (slope.detach().cpu().flatten(1).double() * looks[: len(given)]).sum(1)
        return " ".join(f"{float(each):.3g}" for each in seen)

    @cached_property
    def answers(self) -> str:
        """What tells the server from others, by its answers to a few own pictures."""
        if self.target is None or self.target.server is None:
            return ""
        with seeded(0):
            found = self.target.answer(self.activations[:SLOPES].unsqueeze(0))
        return sha256(found.float().cpu().contiguous().numpy().tobytes()).hexdigest()

    def knowledge(self, needs: Collection[Need]) -> Knowledge:
        """What an attack is granted; the client's answers to the own pictures are known already.

        Raises:
            UsageError: If it needs the client, and there is none.
        """
        if self.target is not None:
            known = self.target.knowledge(self.own, needs)
        elif {*needs} <= {Need.QUERIES, Need.TRANSMISSIONS}:
            known = Knowledge(_withheld, lambda activation: activation, self.own)
        else:
            raise UsageError(NO_CLIENT)
        if Need.QUERIES in needs or Need.WEIGHTS in needs:
            # In the place of the cached properties: own pictures are asked for once for all attacks.
            known.__dict__["activations"] = self.activations.to(device())
            known.__dict__["cut_shape"] = self.cut_shape
        return known


def _withheld(images: Tensor) -> Tensor:
    raise UsageError(NO_CLIENT)


def attacked_shape(image_shape: tuple[int, ...], side: int = SIDE) -> tuple[int, ...]:
    """At which size pictures are attacked: theirs, or scaled down until the longer side is `side`."""
    channels, height, width = image_shape
    scale = min(1.0, side / max(height, width))
    return (channels, max(1, round(height * scale)), max(1, round(width * scale)))


def reduced(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Pictures at another size by area interpolation; bytes stay bytes."""
    if tuple(images.shape[1:]) == shape:
        return images
    parts = []
    for block in images.split(at_once(images.shape[1:], CHUNK)):
        small = F.interpolate(to_unit(block), shape[1:], mode="area")
        parts.append((255 * small).round().byte() if images.dtype == torch.uint8 else small)
    return torch.cat(parts)


def at_lower(target: Target, shape: tuple[int, ...]) -> Target:
    """The same for pictures of a lower resolution, which its client is given enlarged."""
    if shape == target.image_shape:
        return target
    size, seen = target.image_shape[1:], target.client

    def enlarged(images: Tensor) -> Tensor:
        return seen(F.interpolate(images, size, mode="bilinear", align_corners=False))

    return replace(target, client=enlarged, image_shape=shape)


def room(values: int, queries: int = 1) -> int:
    """How many pictures' activations are kept in memory."""
    return max(FEWEST, HELD // max(1, values * queries))


def check_room(values: int, counts: Sequence[int], queries: int = 1) -> None:
    """Refuse a cut of which memory cannot even hold as many activations as `room` says at least.

    Args:
        values: That are sent of one picture.
        counts: Own pictures, own validation pictures and victims.
        queries: How often each is sent.

    Raises:
        UsageError: If it is too large.
    """
    own, validation, victims = counts
    most = room(values), room(values, queries)
    # What is heard lies beside the activations, and attacks copy the own ones.
    copies = 3 * min(own, most[0]) + (1 + queries) * min(validation + victims, 2 * most[1])
    need, there = 4 * values * copies, memory_bytes()
    if need > there:
        raise UsageError(
            f"memory does not suffice for a cut that sends {values:,} values of each picture: about"
            f" {gigabytes(need)} for the fewest pictures that tell anything, and there are {gigabytes(there)}; name a"
            " later cut, or give smaller pictures, in a folder with --size"
        )


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """What is raised where memory ends becomes one line.

    Raises:
        UsageError: Then.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        told = " ".join(str(error).split())
        if not (isinstance(error, MemoryError) or NO_MORE.search(told)):
            raise
        raise UsageError(
            f"memory does not suffice ({told[:120] or 'nothing is left'}); give fewer or smaller pictures, in a folder"
            " with --size, name later cuts, or take a smaller --budget"
        ) from error


def wire_of(
    target: Target,
    mechanism: DefenceList,
    sides: Sides,
    queries: int,
    seed: int,
    work: int | None = None,
    side: int = SIDE,
) -> Wire:
    """Send the own pictures, and those of the victims, through one cut.

    Args:
        target: The halves.
        mechanism: On the wire; one without defences leaves what is there.
        sides: Whose pictures are whose.
        queries: How often each is sent.
        seed: Of the noise.
        work: Operations of the client for one picture.
        side: At which pictures are attacked, at most.
    """
    whole = replace(target, mechanism=mechanism) if len(mechanism) else target
    values, given = math.prod(target.cut_shape), len(sides.own)
    sides = sides.within(room(values), room(values, queries))
    dealt = (sides.own, sides.validation, sides.victims)
    # Who draws random numbers in the client draws the same ones when an audit is gone on with.
    with seeded(seed, 11, 2):
        activations = [encoded(whole, part.images) for part in dealt]
        wavers = bool(unrest(whole, to_unit(sides.own.images[:LOOKED])))
        anew = queries > 1 and wavers
        if anew:
            # Attackers average what they hear, and learn from as much of their own pictures.
            more = [encoded(whole, sides.own.images) for _ in range(queries - 1)]
            activations[0] = torch.stack([activations[0], *more]).mean(0)
    endless = sum(int((~part.isfinite()).flatten(1).any(1).sum()) for part in activations)
    if endless:
        finite = _finite(activations[0])
        before = whole.client
        whole = replace(whole, client=lambda images: finite(before(images)))
        activations = [finite(part) for part in activations]
    claimed = whole.values
    for part in activations:
        whole = within(whole, part)
    shape = attacked_shape(sides.image_shape, side)
    attacked = at_lower(whole, shape)

    def sent(activation: Activation, images: Tensor, stream: int) -> Tensor:
        with seeded(seed, 11, stream):
            if anew:
                # Whoever hears it several times hears several of its answers.
                times = [whole.transmit(encoded(whole, images)).cpu() for _ in range(queries)]
                return torch.cat(times)
            if whole.sends_as_is and queries == 1:
                return activation.unsqueeze(0)  # and no copy of it
            parts = [whole.transmit(part, queries).cpu() for part in activation.split(CHUNK)]
        return torch.cat(parts, 1)

    own, validation, victims = (reduced(part.images, shape) for part in dealt)
    clear = activations[2]
    return Wire(
        own,
        activations[0],
        validation,
        sent(activations[1], sides.validation.images, 1),
        to_unit(victims),
        sides.victims.labels,
        sent(clear, sides.victims.images, 0),
        queries,
        attacked,
        to_unit(sides.own.images[: at_once(sides.image_shape, CHUNK)]),
        whole,
        work,
        None if whole.sends_as_is or anew else clear,
        endless,
        given,
        whole.values != claimed,
        wavers,
        people_of(sides.victims),
    )


def _finite(activations: Activation) -> Callable[[Activation], Activation]:
    """Puts the least and the largest finite of these values in the place of infinite ones, and 0 where is no number.

    Raises:
        UsageError: If none of them is finite.
    """
    known = activations[activations.isfinite()]
    if not len(known):
        raise UsageError(
            "the client gives no finite number for any picture; mend it, or name other cuts"
        )
    low, high = float(known.min()), float(known.max())
    return lambda given: given.nan_to_num(0.0, high, low)


def encoded(target: Target, images: Tensor) -> Activation:
    """What the client makes of pictures, few at a time: `(N, *cut)`, in float32 on the CPU."""
    blocks = images.split(at_once(images.shape[1:], CHUNK))
    return torch.cat([target.encode(to_unit(block)) for block in blocks])


def wire_of_pairs(sides: Sides, smashed: Tensor) -> Wire:
    """Of pictures and what was sent of them, where the client is not at hand.

    Args:
        sides: Whose pictures are whose.
        smashed: What was sent, of all pictures as they were given.
    """
    parts = (sides.own, sides.validation, sides.victims)
    shape = attacked_shape(sides.image_shape)
    own, validation, victims = (reduced(part.images, shape) for part in parts)
    heard = [smashed[part.places].float() for part in parts]
    return Wire(
        own,
        heard[0],
        validation,
        heard[1].unsqueeze(0),
        to_unit(victims),
        sides.victims.labels,
        heard[2].unsqueeze(0),
        people=people_of(sides.victims),
    )
