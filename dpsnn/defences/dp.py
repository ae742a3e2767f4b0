"""DP-SGD as a part of a classifier: its settings, and what they mean for a training."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dpsnn.defences.base import Defence
from dpsnn.defences.dp_sgd import DPSGD
from dpsnn.errors import UsageError, one_of
from dpsnn.parts import option, spell
from dpsnn.specs import ACCOUNTANTS
from dpsnn.tensors import Number


@dataclass(frozen=True, kw_only=True)
class PrivateTraining(Defence):
    """Training by DP-SGD, which protects the training images and no others (Abadi et al. 2016, arXiv 1607.00133)."""

    key = "dp"
    heading = "DP-SGD"
    label = "DP-SGD"
    order = 40
    since = 1
    private = True
    precision = "32"

    noise_multiplier: Number = option(
        0.0,
        "standard deviation of the noise in a step, over the clip norm; 0 is none",
        column="DPNoiseMultiplier",
    )
    target_epsilon: Number = option(
        0.0,
        "budget; alone it sets the noise for the whole training, beside a noise multiplier it ends the training; 0 is"
        " no budget",
        column="DPTargetEpsilon",
        whole=True,
    )
    max_grad_norm: Number = option(
        1.0,
        "norm to which an image's gradient is clipped",
        check="positive",
        column="DPMaxGradNorm",
    )
    delta: Number = option(
        1e-5,
        "delta of the guarantee, below 1 / training images",
        check="positive",
        column="DPDelta",
    )
    coupled: bool = option(
        False,
        "train although the network mixes images of a batch, as published; epsilon is void",
        column="DPCoupled",
        whole=True,
    )
    accountant: str = option("rdp", "how epsilon is counted", column="DPAccountant")
    repeatable: bool = option(
        False,
        "take noise and lots from the public seed, not from a secret, for tests and studies on public data: who knows"
        " the seed can take the noise off, which is drawn in single precision",
        name="repeatable_noise",
        column="DPRepeatable",
    )

    @property
    def on(self) -> bool:
        return bool(self.noise_multiplier or self.target_epsilon)

    def check(self, spec: Any) -> None:
        one_of(self.accountant, ACCOUNTANTS, "dp_accountant")
        if self.delta >= 1:
            raise UsageError(f"dp_delta is {self.delta}; it must be below 1 / training images")
        if not self.on:
            if self.repeatable:
                raise UsageError(
                    "repeatable_noise says nothing without DP-SGD; leave it out, or give --dp_noise_multiplier"
                )
            return
        for other in spec.active:
            if other.couples:
                raise UsageError(
                    f"{other.couples}, which voids the guarantee of DP-SGD; leave out"
                    f" --{other.flat(other.own_fields()[0].name)} or the options of DP-SGD"
                )
        if spec.fixed_order:
            raise UsageError(
                "DP-SGD draws its lots at random, which its accounting needs; leave out --fixed_order"
            )
        if spec.precision == "bf16":
            raise UsageError(
                "DP-SGD clips in full precision, lest rounding let a gradient exceed its norm; use --precision 32"
            )

    def callback(self, spec: Any, resumable: bool = False) -> DPSGD:
        return DPSGD(
            self.noise_multiplier or None,
            self.target_epsilon or None,
            self.max_grad_norm,
            self.delta,
            self.accountant,
            coupled=self.coupled,
            repeatable=self.repeatable,
            resumable=resumable,
        )

    def prepare(self, callback: DPSGD, data: Any) -> None:
        data.lot_seed, data.poisson = callback.lot_seed, True

    def record(self, callback: DPSGD) -> Mapping[str, Any]:
        return callback.spent()

    def token(self) -> str:
        if not self.on:
            return ""
        noise = spell(self.noise_multiplier) if self.noise_multiplier else ""
        budget = f"_eps{spell(self.target_epsilon)}" if self.target_epsilon else ""
        coupled, repeatable = "_coupled" * self.coupled, "_repeatable" * self.repeatable
        return f"_{noise}dpsgd{coupled}{budget}{repeatable}"

    def later_token(self) -> str:
        tokens = {
            "max_grad_norm": f"_{spell(self.max_grad_norm)}clip",
            "delta": f"_{spell(self.delta)}delta",
            "accountant": f"_{self.accountant}",
        }
        off = {each.name: each.default for each in self.own_fields()}
        return "".join(t for name, t in tokens.items() if getattr(self, name) != off[name])

    def once(self) -> "PrivateTraining":
        return replace(self, repeatable=False)  # as it always was

    def legend(self) -> str:
        budget = self.on and not self.noise_multiplier  # the noise is found in training
        return f"{self.label} ε {self.target_epsilon:g}" if budget else super().legend()

    @classmethod
    def as_then(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        # The noise came from the public seed; clients who trained together had secrets of their own from the first.
        private = arguments.get("dp_noise_multiplier") or arguments.get("dp_target_epsilon")
        return {"repeatable_noise": bool(private) and "federated_mode" not in arguments}

    def columns(self, record: Mapping[str, Any]) -> dict[str, Any]:
        usual = self.accountant == "rdp"
        return {
            **super().columns(record),
            "DPTargetEpsilon": self.target_epsilon or None,
            "DPAccountant": None if usual or not self.on else self.accountant,
            # As it came out: for a budget the noise was found.
            "DPNoiseMultiplier": record.get("dp_noise_multiplier"),
            "DPEpsilon": record.get("dp_epsilon"),
        }
