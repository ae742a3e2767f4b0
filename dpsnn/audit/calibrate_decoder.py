"""One decoder for every noise of a curve: it is told how much of it is on the wire.

Whoever attacks knows the mechanism (Kerckhoffs), and can draw from it: how far two transmissions of the same activation
lie apart tells the decoder where on the curve it stands, for noise of any kind, clipped before or rounded after.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpsnn.attacks.base import AttackModule, Knowledge, Learn, held_out
from dpsnn.attacks.decoder import DecoderAttack
from dpsnn.batches import to_unit
from dpsnn.networks.conditioned import conditioned, evenly
from dpsnn.networks.decoder import DECODERS
from dpsnn.networks.front import Front
from dpsnn.tensors import Activation, Images, Number, Smashed
from dpsnn.training import Fitted, seeded

AS_GOOD = 1.03
"""Of a dedicated decoder's own error: what that of the conditioned one must not be beyond."""

CHECKED = 3
"""Noises, the least and the largest among them, at which that is looked at."""

SPREAD = 2 * 10**7
"""Values by which the spread of the noise is told."""

DRAWS = 4
"""Of the noise on every own image held out, by which decoders are compared."""


class ConditionedDecoder(DecoderAttack):
    """Learn from own images under all noises at once, each image under another one at every step.

    What crosses the wire is looked at for each noise by itself; what the decoder sees of it ends in that noise's place
    among the others.

    Args:
        knowledges: The same client and own images, and a mechanism for each noise.
        decoder: Of `DECODERS`.
        queries: Transmissions of every image that the attacker averages.
        learning_rate: As of `DecoderAttack`.
        max_epochs: Passes over the own images.
        seed: As there.
        augment: As there.
        batch_size: Images per step.
    """

    def __init__(
        self,
        knowledges: Sequence[Knowledge],
        decoder: str = "conv",
        queries: int = 1,
        learning_rate: Number | None = None,
        max_epochs: int = 20,
        seed: int = 0,
        augment: str = "auto",
        batch_size: int = 64,
    ) -> None:
        first = knowledges[0]
        channels, height, width = first.image_shape
        shape = first.cut_shape
        plain = DECODERS[decoder](shape, (channels, height, width))
        super().__init__(
            conditioned(plain, shape),
            first,
            False,
            queries,
            learning_rate,
            batch_size,
            max_epochs,
            seed,
            None,
            augment,
        )
        self.knowledges = knowledges
        self.named = decoder
        self.fronts = nn.ModuleList(Front(shape) for _ in knowledges)
        self.register_buffer("told", torch.zeros(len(knowledges)))

    told: Tensor

    def prepare(self, learn: Learn) -> Fitted:
        """Look at the wire under every noise, then learn."""
        first = self.knowledges[0]
        rows, _ = held_out(len(first.surrogate), self.seed)
        own = first.activations[rows], to_unit(first.surrogate[rows])
        some = own[0][: max(1, SPREAD // own[0][0].numel())]
        spreads = []
        for front, known in zip(self.fronts, self.knowledges):
            assert isinstance(front, Front)
            front.look(own[0], known.defend, self.queries, own[1])
            again = known.defend(some) - known.defend(some)
            spreads.append(float(again.square().mean().sqrt()) / math.sqrt(2))
        self.told.copy_(evenly(torch.tensor(spreads)))
        return super().prepare(learn)

    def _like(self, rate: Number | None, epochs: int) -> "ConditionedDecoder":
        made = ConditionedDecoder(
            self.knowledges,
            self.named,
            self.queries,
            rate,
            epochs,
            self.seed,
            self.augment,
            self.batch_size,
        )
        made.decoder.load_state_dict(self.decoder.state_dict())
        made.fronts, made.told = self.fronts, self.told
        made._copies = self._copies if epochs >= self.max_epochs else []
        return made

    def _sent(self, activation: Activation) -> Iterator[Smashed]:
        """Transmissions, each row under a noise of its own, which stands in its last value."""
        count = len(self.knowledges)
        places = torch.arange(len(activation), device=activation.device) % count
        if self.training:
            places = torch.randint(count, places.shape, device=places.device)
        for _ in range(self.queries):
            sent = activation.flatten(1).clone()
            for place in places.unique().tolist():
                rows = places == place
                sent[rows] = self.knowledges[place].defend(activation[rows]).flatten(1)
            yield torch.cat([sent, places.to(sent.dtype).unsqueeze(1)], 1)

    def _seen(self, heard: Iterable[Smashed]) -> Smashed:
        parts = list(heard)
        places = parts[0][:, -1].long()
        seen = torch.cat([torch.zeros_like(parts[0][:, :-1]), self.told[places].unsqueeze(1)], 1)
        shape = self.knowledges[0].cut_shape
        for place in places.unique().tolist():
            rows = places == place
            own = (part[rows, :-1].unflatten(1, shape) for part in parts)
            seen[rows, :-1] = self.fronts[place](own).flatten(1)
        return seen

    def at(self, place: int) -> AttackModule:
        """The attack on the wire with one of the noises."""
        return _At(self, place)


class _At(AttackModule):
    """A conditioned decoder under one noise."""

    at_once = DecoderAttack.at_once

    def __init__(self, everywhere: ConditionedDecoder, place: int) -> None:
        super().__init__()
        self.everywhere, self.place = everywhere, place

    def infer(self, heard: Float[Tensor, "queries n *cut"]) -> Images:
        place = heard.new_full((*heard.shape[:2], 1), self.place)
        return self.everywhere.infer(torch.cat([heard.flatten(2), place], 2))


def own_error(attack: AttackModule, knowledge: Knowledge, queries: int, seed: int) -> float:
    """The mean squared error on the own images that `held_out` leaves for it, over several draws of the noise."""
    _, out = held_out(len(knowledge.surrogate), seed)
    truth = to_unit(knowledge.surrogate[out])
    activation = knowledge.activations[out]
    errors = []
    with torch.no_grad(), seeded(seed, 31):
        for _ in range(DRAWS):
            heard = torch.stack([knowledge.defend(activation) for _ in range(queries)])
            guess = attack.infer_in_parts(heard)
            errors.append(float((guess - truth.to(guess.device)).square().mean()))
    return sum(errors) / DRAWS


def checked_places(count: int) -> list[int]:
    """Which of so many noises are looked at: the ends, and what is evenly between."""
    if count <= CHECKED:
        return list(range(count))
    return [round(step * (count - 1) / (CHECKED - 1)) for step in range(CHECKED)]


class Check(NamedTuple):
    """A conditioned decoder beside one that was trained under one noise alone."""

    place: int
    conditioned: float
    dedicated: float

    @property
    def passed(self) -> bool:
        return self.conditioned <= AS_GOOD * self.dedicated
