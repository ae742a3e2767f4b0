"""What no attacker can beat, of the very transmissions that one is scored on; docs/guarantees.md has the proofs."""

import math
from collections import OrderedDict
from hashlib import sha256

import torch
from jaxtyping import Float
from scipy.stats import binom
from torch import Tensor

from dpsnn.defences.mechanism import pace
from dpsnn.errors import NoLikelihood, WorkFailed
from dpsnn.metrics.base import Cells, mean
from dpsnn.metrics.optimum import (
    BEYOND_DOUBT,
    TILTS,
    capital,
    evidence,
    named,
    posterior,
    posterior_mean,
)
from dpsnn.metrics.squared_error import mse
from dpsnn.target import Target
from dpsnn.tensors import Activation, Images

PATIENCE = 60e9
"""Nanoseconds, about, that the posterior of all scored images may take on a core; else it is of the first of them."""

PICTURES = 5
"""Scored images at which Jacobians are taken."""

BOUNDS = (
    *("MSEBound", "BoundShare", "NamedBound", "BoundN"),
    *("NamingBound", "NamingBoundHere", "DFILBound"),
)
"""Columns, empty where no noise of a known distribution crosses the wire; docs/guarantees.md says what each means."""


class Beaten(WorkFailed):
    """An attacker is better than anybody can be: what was heard is not what was accounted for."""


class Bounds:
    """Hears what an attacker hears, knows all images that may have been sent, and watches what the attacker guesses.

    Args:
        target: What is attacked.
        activations: Of all images that are scored, before the mechanism.
        images: The same.
        queries: How often each is sent.

    Raises:
        NoLikelihood: If no noise of a known distribution crosses the wire.
    """

    def __init__(
        self, target: Target, activations: Activation, images: Images, queries: int
    ) -> None:
        each = pace(target.mechanism.mechanism(), activations) * activations[0].numel() * queries
        count = max(1, min(len(images), math.isqrt(int(PATIENCE / each))))
        self.target, self.queries = target, queries
        self.activations, self.images = activations[:count], images[:count]
        self.client = _digest(self.activations, self.images, target.mechanism.mechanism(), queries)
        self.heard = 0
        self.measured: list[Tensor] = []
        self.least: list[Tensor] = []
        self.right: list[Tensor] = []
        self.gains = torch.zeros(len(TILTS), dtype=torch.double)

    @torch.inference_mode()
    def hear(self, heard: Float[Tensor, "queries n *cut"], guesses: Images) -> None:
        """The transmissions of the next n images, and what the attacker makes of them."""
        start = self.heard
        self.heard += heard.shape[1]
        truth = self.images[start : self.heard]
        if len(truth):
            heard, guesses = heard[:, : len(truth)], guesses[: len(truth)]
            weights = self._posterior(heard)
            best = posterior_mean(weights, self.images)
            self.measured.append(mse(guesses, truth))
            self.least.append(mse(best, truth))
            self.right.append(named(weights, start))
            self.gains += evidence(guesses, best, weights, self.images, start)

    def _posterior(self, heard: Float[Tensor, "queries n *cut"]) -> Float[Tensor, "n m"]:
        name = _digest(self.client, heard.cpu())
        if name not in _POSTERIORS:
            known = self.activations.to(heard.device)
            _POSTERIORS[name] = posterior(self.target.mechanism.pairwise(known, heard)).cpu()
        _POSTERIORS.move_to_end(name)
        most = len(self.images) ** 2
        while sum(weights.numel() for weights in _POSTERIORS.values()) > most:
            _POSTERIORS.popitem(last=False)
        return _POSTERIORS[name]

    def cells(self) -> Cells:
        """Column → value; shares in percent, but `BoundShare`, which is between 0 and about 1.

        Raises:
            Beaten: If the attacker is better than anybody can be.
        """
        measured, least = mean(torch.cat(self.measured)), mean(torch.cat(self.least))
        odds = capital(self.gains)
        if odds > BEYOND_DOUBT:
            raise Beaten(
                f"an attacker with a mean squared error of {measured:.4g}, where {least:.4g} is the least, knows what"
                f" nobody can (1 to 10^{odds / math.log(10):.0f}): more crosses the wire, or there is less noise, than"
                " the mechanism says, or its guesses use what was heard of other images"
            )
        right, promised = torch.cat(self.right), self._guaranteed()
        self._kept(int(right.sum()), promised)
        return {
            "MSEBound": least,
            "BoundShare": least / measured if measured else None,
            "NamedBound": 100 * mean(right),
            "BoundN": len(self.images),
            **promised,
        }

    def _kept(self, right: int, promised: Cells) -> None:
        """Look whether the best attacker names no more than is promised.

        Of images with different odds, `promised` on average, no number far above the average is likelier to be right
        than if all had the same (Hoeffding 1956).
        """
        for column in ("NamingBoundHere", "NamingBound"):
            percent = promised[column]
            assert isinstance(percent, float)
            share = min(1.0, percent / 100)
            if binom.logsf(right - 1, len(self.images), share) < -BEYOND_DOUBT:
                raise Beaten(
                    f"of {len(self.images)} images {right} are named, and {column} promises {100 * share:.3g} %: values"
                    " lie outside the set that they are said to lie in, or there is less noise"
                )

    def _guaranteed(self) -> Cells:
        """What does not depend on what was heard."""
        if self.client not in _GUARANTEED:
            count = len(self.images)
            anywhere = self.target.naming(count, self.queries)
            here = self.target.naming(count, self.queries, self.activations)
            try:
                dfil = mean(self.target.unbiased_bound(self.images[:PICTURES], self.queries))
            except (NoLikelihood, RuntimeError):  # or a client that lets no gradient back
                dfil = None
            _GUARANTEED.clear()
            _GUARANTEED[self.client] = {
                "NamingBound": 100 * anywhere,
                "NamingBoundHere": 100 * min(here, anywhere),
                "DFILBound": dfil,
            }
        return _GUARANTEED[self.client]


def bounds_of(
    target: Target, activations: Activation, images: Images, queries: int
) -> Bounds | None:
    """`Bounds`, or None where there are none."""
    try:
        return Bounds(target, activations, images, queries)
    except NoLikelihood:
        return None


def _digest(*parts: object) -> str:
    made = sha256()
    for part in parts:
        made.update(part.numpy().tobytes() if isinstance(part, Tensor) else repr(part).encode())
    return made.hexdigest()


_POSTERIORS: OrderedDict[str, Tensor] = OrderedDict()
_GUARANTEED: dict[str, Cells] = {}
"""Attackers come one after another, and those of one target and one seed hear the same."""
