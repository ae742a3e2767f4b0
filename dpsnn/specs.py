"""What a run is, in plain values: checked here, stored in its checkpoint, spelled in its name.

Every default of training lives in these two dataclasses and nowhere else; the command line is made from their fields.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dpsnn.errors import UsageError, one_of
from dpsnn.numbers import Number

PRECISIONS = ("auto", "32", "bf16")
ATTACKS = ("decoder", "inversion", "sign")
DECODERS = ("conv", "linear", "deconv")
NORMS = ("", "batch", "group")
ACCOUNTANTS = ("rdp", "prv", "gdp")
"""How ε of DP-SGD is counted. `rdp`: an upper bound, fast (Mironov, Talwar & Zhang 2019); `prv`: a tighter one (Gopi,
Lee & Wutschitz 2021); `gdp`: a limit for many steps that can be too low (Bu et al. 2020)."""


WHOLE_PERCENT = "a whole percentage from 1 to 100; 50 is half"


def option(default: Any, text: str, wanted: str = "") -> Any:
    """A dataclass field with what `--help` shows for it.

    Args:
        default: Of the field, and of the option.
        text: A line.
        wanted: What is said to who gives no number of the right kind.
    """
    return field(default=default, metadata={"help": text, "wanted": wanted})


LARGEST = 2**31 - 1
"""Of whole numbers: beyond it some of torch's generators and loops overflow."""


def _check_number(spec: object, name: str, *, positive: bool = False) -> None:
    value = getattr(spec, name)
    bound = "greater than 0" if positive else "0 or greater"
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise UsageError(f"{name} is {value}; it must be a finite number, {bound}")


def _check_count(spec: object, name: str, *, least: int) -> None:
    value = getattr(spec, name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
        raise UsageError(
            f"{name} is {value!r}; it must be a whole number from {least} to {LARGEST}"
        )


def _check_share(spec: object, name: str) -> None:
    value = getattr(spec, name)
    if value is None or 0 <= value < 1:
        return
    percent = f": {value:g} % is {value / 100:g}" if 1 < value < 100 else ""
    raise UsageError(f"{name} is {value}; it must be from 0 to below 1, a share{percent}")


def _check_common(spec: Any) -> None:
    _check_count(spec, "seed", least=0)
    _check_count(spec, "max_epochs", least=1)
    _check_count(spec, "batch_size", least=1)
    if spec.learning_rate is not None:
        _check_number(spec, "learning_rate", positive=True)
    one_of(spec.precision, PRECISIONS, "precision")


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """One split classifier and its training.

    Raises:
        UsageError: If a value is out of range.
    """

    dataset: str = option("digits", "images to learn")
    network: str = option("titcombe", "architecture, cut into client and server")
    cut: str = option(
        "", "where client and server part, of networks with several cuts (default: the network's)"
    )
    norm: str = option(
        "", "normalisation, of networks that leave a choice (default: the network's)"
    )
    dropout: Number | None = option(
        None, "share of values dropped in training, of networks that do so (default: the network's)"
    )
    noise_scale: Number = option(
        0.0, "scale b of the Laplace(0, b) noise added to what crosses the wire"
    )
    gaussian_std: Number = option(0.0, "standard deviation of Gaussian noise on the wire")
    nopeek_weight: Number = option(
        0.0, "weight of the NoPeek loss: distance correlation of images and smashed tensor"
    )
    nopeek_exponent: Number = option(
        1.0, "power of the distances in NoPeek, in (0, 2]; 2 is the published statistic"
    )
    nopeek_clean: bool = option(
        False, "let NoPeek look at the activation before the noise, not at what crosses the wire"
    )
    dp_noise_multiplier: Number = option(
        0.0, "DP-SGD: standard deviation of the noise in a step, over the clip norm; 0 is none"
    )
    dp_target_epsilon: Number = option(
        0.0,
        "DP-SGD: budget; alone it sets the noise for the whole training, beside a noise multiplier it ends the"
        " training; 0 is no budget",
    )
    dp_max_grad_norm: Number = option(1.0, "DP-SGD: norm to which an image's gradient is clipped")
    dp_delta: Number = option(1e-5, "DP-SGD: delta of the guarantee, below 1 / training images")
    dp_coupled: bool = option(
        False,
        "DP-SGD: train although the network mixes images of a batch, as published; epsilon is void",
    )
    dp_accountant: str = option("rdp", "DP-SGD: how epsilon is counted")
    repeatable_noise: bool = option(
        False,
        "DP-SGD: take noise and lots from the public seed, not from a secret, for tests and studies on public data: who"
        " knows the seed can take the noise off",
    )
    suppress_sparsity: Number = option(
        0.0, "suppress-privacy: share of each layer's weights silenced while training; 0 is none"
    )
    suppress_start_epoch: int | None = option(
        None,
        "suppress-privacy: first epoch with mask rounds, from 1 (default: 0.3 of the training)",
    )
    suppress_end_epoch: int | None = option(
        None,
        "suppress-privacy: epoch that reaches the sparsity; the best of it and later ones is kept (default: 0.7 of the"
        " training, which then makes up for the last rounds; with --constant_rate the last, as published)",
    )
    suppress_mask_times: int | None = option(
        None, "suppress-privacy: mask rounds (default: 1,000, or one a step in shorter trainings)"
    )
    suppress_noise: Number = option(
        0.1, "suppress-privacy: half width of the noise on large weights of small layers"
    )
    seed: int = option(0, "seed of weights, shuffling and noise")
    max_epochs: int = option(10, "passes over the training images; the best on validation is kept")
    batch_size: int = option(128, "images per step")
    learning_rate: Number = option(1e-3, "step size, decayed to 0 along a cosine")
    sgd_momentum: Number | None = option(
        None, "train by SGD with this momentum, as often published (default: Adam)"
    )
    constant_rate: bool = option(
        False, "leave the step size as it is, as often published, instead of decaying it"
    )
    fixed_order: bool = option(
        False, "take the training images in the same order every epoch, as Titcombe et al. did"
    )
    precision: str = option("auto", "auto (bf16 where the machine is fast at it), 32 or bf16")
    validator: bool = option(False, "train the independent judge of reconstructions instead")

    def __post_init__(self) -> None:
        _check_common(self)
        strengths = ("noise_scale", "gaussian_std", "nopeek_weight")
        for name in (*strengths, "dp_noise_multiplier", "dp_target_epsilon"):
            _check_number(self, name)
        for name in ("dp_max_grad_norm", "dp_delta"):
            _check_number(self, name, positive=True)
        one_of(self.norm, NORMS, "norm")
        _check_share(self, "dropout")
        _check_share(self, "sgd_momentum")
        one_of(self.dp_accountant, ACCOUNTANTS, "dp_accountant")
        if self.dp_delta >= 1:
            raise UsageError(f"dp_delta is {self.dp_delta}; it must be below 1 / training images")
        if self.private and self.nopeek_weight:
            raise UsageError(
                "NoPeek compares the images of a batch with one another, which voids the guarantee of DP-SGD; leave"
                " out --nopeek_weight or the options of DP-SGD"
            )
        if self.repeatable_noise and not self.private:
            raise UsageError(
                "repeatable_noise says nothing without DP-SGD; leave it out, or give --dp_noise_multiplier"
            )
        if self.private and self.fixed_order:
            raise UsageError(
                "DP-SGD draws its lots at random, which its accounting needs; leave out --fixed_order"
            )
        if self.private and self.precision == "bf16":
            raise UsageError(
                "DP-SGD clips in full precision, lest rounding let a gradient exceed its norm; use --precision 32"
            )
        if not 0 < self.nopeek_exponent <= 2:
            raise UsageError(f"nopeek_exponent is {self.nopeek_exponent}; it must be in (0, 2]")
        if self.nopeek_weight and self.batch_size < 2:
            raise UsageError(
                "batch_size is 1; NoPeek compares images of a batch and needs 2 or more"
            )
        self._check_suppression()
        defended = self.private or self.suppress_sparsity
        if self.validator and (defended or any(getattr(self, name) for name in strengths)):
            raise UsageError("a validator judges clean images: train it without any defence")

    def _check_suppression(self) -> None:
        _check_share(self, "suppress_sparsity")
        _check_number(self, "suppress_noise")
        for name in ("suppress_start_epoch", "suppress_end_epoch", "suppress_mask_times"):
            if getattr(self, name) is None:
                continue
            _check_count(self, name, least=1)
            if not self.suppress_sparsity:
                raise UsageError(f"{name} says nothing without --suppress_sparsity; give both")
        start, end = self.suppress_start_epoch or 1, self.suppressed_from
        if start > end or end > self.max_epochs:
            raise UsageError(
                f"suppression from epoch {start} to {end} does not fit {self.max_epochs} epochs; it must start and end"
                " within them: lower --suppress_end_epoch and --suppress_start_epoch, or raise --max_epochs"
            )

    @property
    def suppressed_from(self) -> int:
        """The epoch, from 1, at whose end the weights are as sparse as asked for."""
        if self.suppress_end_epoch is not None:
            return self.suppress_end_epoch
        if self.constant_rate:
            return self.max_epochs
        return max(self.suppress_start_epoch or 1, round(0.7 * self.max_epochs))

    @property
    def private(self) -> bool:
        """Whether training is by DP-SGD."""
        return bool(self.dp_noise_multiplier or self.dp_target_epsilon)


@dataclass(frozen=True, kw_only=True)
class AttackerSpec:
    """One attacker of one classifier: a learned decoder, or an inversion that knows the client's weights.

    Raises:
        UsageError: If a value is out of range.
    """

    model: str = option("", "the classifier under attack, by name")
    attack: str = option(
        "decoder",
        "decoder (learned), inversion (white-box, strong) or sign (white-box, as published)",
    )
    cut: str = option(
        "", "where the attacker listens (default: where the classifier was cut in training)"
    )
    model_noise: Number | None = option(
        None, "Laplace scale the target uses now, if not the one it was trained with; 0 is none"
    )
    surrogate: str = option("", "images the attacker owns (default: the target's data set)")
    data_pct: int = option(
        100, "percentage of its images that the attacker uses, 1 to 100", wanted=WHOLE_PERCENT
    )
    decoder: str = option(
        "conv", "conv (with ReLUs), linear (Titcombe et al.) or deconv (published for Omniglot)"
    )
    queries: int = option(1, "transmissions of each image that the attacker sees and averages")
    naive: bool = option(False, "train on clean activations, ignoring the noise on the wire")
    steps: int | None = option(
        None, "steps of an inversion (default: 500, of the published one 100)"
    )
    restarts: int | None = option(None, "starts of an inversion, the best of which counts [2]")
    seed: int = option(0, "seed of weights, shuffling and noise")
    max_epochs: int = option(
        20, "passes over the attacker's images; the best on its own part is kept"
    )
    batch_size: int = option(64, "images per step")
    learning_rate: Number | None = option(
        None,
        "largest step size (default: of decoders tuned on own images, of inversions 0.1, of the published one 0.01)",
    )
    precision: str = option("auto", "auto (bf16 where the machine is fast at it), 32 or bf16")

    def __post_init__(self) -> None:
        _check_common(self)
        one_of(self.decoder, DECODERS, "decoder")
        one_of(self.attack, ATTACKS, "attack")
        for name, attacks in {
            "steps": ("inversion", "sign"),
            "restarts": ("inversion",),
            "naive": ("decoder", "inversion"),
        }.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, bool):
                _check_count(self, name, least=1)
            if value not in (None, False) and self.attack not in attacks:
                raise UsageError(
                    f"{name} says nothing about the attack {self.attack}, only about {' and '.join(attacks)};"
                    " leave it out"
                )
        if self.attack != AttackerSpec.attack:
            for name in ("decoder", "max_epochs", "batch_size"):
                if getattr(self, name) != getattr(AttackerSpec, name):
                    raise UsageError(
                        f"{name} says nothing about the attack {self.attack}, which learns no decoder; leave it out"
                    )
        if self.model_noise is not None:
            _check_number(self, "model_noise")
        _check_count(self, "queries", least=1)
        if not 1 <= self.data_pct <= 100 or not isinstance(self.data_pct, int):
            raise UsageError(f"data_pct is {self.data_pct}; it must be {WHOLE_PERCENT}")


def plain(spec: ClassifierSpec | AttackerSpec) -> dict[str, Any]:
    """The spec as a dict of plain values, as it stands in a checkpoint."""
    return dataclasses.asdict(spec)


def as_written(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a classifier's file, with what an older one lacks as it was then, whatever the defaults are now.

    DP-SGD drew its noise from the public seed; clients who trained together had secrets of their own from the first.
    """
    private = arguments.get("dp_noise_multiplier") or arguments.get("dp_target_epsilon")
    federated = "federated_mode" in arguments
    return {"repeatable_noise": bool(private) and not federated, **arguments}
