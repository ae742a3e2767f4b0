"""Suppress-privacy as a part of a classifier: its settings, and what they mean for a training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpsnn.defences.base import Defence
from dpsnn.defences.suppression import Suppression
from dpsnn.errors import UsageError
from dpsnn.parts import option, spell
from dpsnn.tensors import Number


@dataclass(frozen=True, kw_only=True)
class Silencing(Defence):
    """Suppress-privacy: weights silenced for good while training (MindSpore Armour)."""

    key = "suppress"
    heading = "suppress-privacy"
    order = 60
    since = 1

    sparsity: Number = option(
        0.0,
        "share of each layer's weights silenced while training; 0 is none",
        check="share",
        whole=True,
    )
    start_epoch: int | None = option(
        None,
        "first epoch with mask rounds, from 1 (default: 0.3 of the training)",
        least=1,
        whole=True,
    )
    end_epoch: int | None = option(
        None,
        "epoch that reaches the sparsity; the best of it and later ones is kept (default: 0.7 of the training, which"
        " then makes up for the last rounds; with --constant_rate the last, as published)",
        least=1,
        whole=True,
    )
    mask_times: int | None = option(
        None,
        "mask rounds (default: 1,000, or one a step in shorter trainings)",
        least=1,
        whole=True,
    )
    noise: Number = option(
        0.1, "half width of the noise on large weights of small layers", whole=True
    )

    def check(self, spec: Any) -> None:
        for name in ("start_epoch", "end_epoch", "mask_times"):
            if getattr(self, name) is not None and not self.on:
                raise UsageError(
                    f"{self.flat(name)} says nothing without --suppress_sparsity; give both"
                )
        start, end = self.start_epoch or 1, self.reached(spec)
        if start > end or end > spec.max_epochs:
            raise UsageError(
                f"suppression from epoch {start} to {end} does not fit {spec.max_epochs} epochs; it must start and end"
                " within them: lower --suppress_end_epoch and --suppress_start_epoch, or raise --max_epochs"
            )

    def reached(self, spec: Any) -> int:
        """The epoch, from 1, at whose end the weights are as sparse as asked for."""
        if self.end_epoch is not None:
            return self.end_epoch
        if spec.constant_rate:
            return int(spec.max_epochs)
        return max(self.start_epoch or 1, round(0.7 * spec.max_epochs))

    def first_epoch(self, spec: Any) -> int:
        return self.reached(spec) - 1

    def callback(self, spec: Any, resumable: bool = False) -> Suppression:
        return Suppression(
            self.sparsity,
            self.start_epoch,
            self.reached(spec),
            self.mask_times,
            weight_noise=self.noise,
            seed=spec.seed,
        )

    def record(self, callback: Suppression) -> Mapping[str, Any]:
        return {"sparsity": callback.achieved()}

    def token(self) -> str:
        return f"_suppress{spell(self.sparsity)}" if self.on else ""

    def later_token(self) -> str:
        tokens = {
            "start_epoch": f"_from{self.start_epoch}",
            "end_epoch": f"_to{self.end_epoch}",
            "mask_times": f"_{self.mask_times}rounds",
            "noise": f"_{spell(self.noise)}masknoise",
        }
        off = {each.name: each.default for each in self.own_fields()}
        return "".join(t for name, t in tokens.items() if getattr(self, name) != off[name])
