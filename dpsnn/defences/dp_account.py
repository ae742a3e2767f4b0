"""What a training with DP-SGD may reveal and has revealed, and the secret that its noise comes from."""

import copy
import math
from typing import Any

from pytorch_lightning.callbacks import Callback

from dpsnn.defences.secret import Secret
from dpsnn.errors import UsageError, one_of
from dpsnn.metrics.privacy import dp_sgd_epsilon
from dpsnn.specs import ACCOUNTANTS
from dpsnn.tensors import Number

GRADIENTS = ("auto", "explicit", "single")

LOTS = 1
"""Stream of the secret from which lots are drawn; that of the noise is another."""


class Account(Callback):
    """The settings of DP-SGD, and the account of the steps taken so far.

    Args:
        noise_multiplier: σ, standard deviation of the noise over the clip norm; None: as little as
            `target_epsilon` allows.
        target_epsilon: Budget; training stops before the step that would exceed it.
        max_grad_norm: C, the L2 norm to which the gradient of an example is clipped.
        delta: δ of the guarantee, below one over the number of examples.
        accountant: `rdp`, `prv` or `gdp` (approximate, not a bound).
        physical_batch: Largest number of examples in memory at once; larger lots are processed in parts.
        gradients: `auto`, the fastest; `explicit`: all gradients formed, as opacus' hooks do; `single`: one backward
            pass for every example, for modules that the others refuse.
        amplified: False accepts a loader that shuffles, and accounts for it without amplification by sampling: every
            epoch shows every example once. Neighbours then differ by an example that adds nothing.
        coupled: Train although examples of a batch mix (batch normalisation), as some published studies did; there is
            no guarantee then, and `epsilon` is infinite.
        repeatable: Draw the noise from torch's generator, hence from a public seed, for tests and studies on public
            data. Who knows the seed can take the noise off: `epsilon` is what it would be if the seed were secret.
        resumable: Keep the secret in this callback's state, so that a training that is resumed draws what it would
            have drawn. The file must stay private and be deleted in the end. Without, it goes on with another secret,
            which is as safe.

    Raises:
        UsageError: If an option is out of range.
    """

    def __init__(
        self,
        noise_multiplier: Number | None = None,
        target_epsilon: Number | None = None,
        max_grad_norm: Number = 1.0,
        delta: Number = 1e-5,
        accountant: str = "rdp",
        physical_batch: int | None = None,
        gradients: str = "auto",
        amplified: bool = True,
        coupled: bool = False,
        repeatable: bool = False,
        resumable: bool = False,
    ) -> None:
        if noise_multiplier is None and target_epsilon is None:
            raise UsageError("DP-SGD needs a noise multiplier, a target epsilon, or both")
        for name, value in {
            "noise multiplier": noise_multiplier,
            "target epsilon": target_epsilon,
            "clip norm": max_grad_norm,
            "physical batch": physical_batch,
        }.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"the {name} is {value}; it must be a finite number above 0")
        if not 0 < delta < 1:
            raise UsageError(f"delta is {delta}; it must be between 0 and 1")
        one_of(accountant, ACCOUNTANTS, "accountant")
        one_of(gradients, GRADIENTS, "gradients")
        self.noise_multiplier = noise_multiplier
        self.target_epsilon = target_epsilon
        self.max_grad_norm = max_grad_norm
        self.delta = delta
        self.accountant = accountant
        self.physical_batch = physical_batch
        self.gradients = gradients
        self.amplified = amplified
        self.coupled = coupled
        self.repeatable = repeatable
        self.resumable = resumable
        self.history: list[tuple[float, float, int]] = []
        self._secret = Secret()
        self._drawn = 0
        """Steps for which noise was drawn: no two share a stream of the secret."""

    def __getstate__(self) -> dict[str, Any]:
        # Also of `copy.copy`, which would share the secret and count by itself.
        return {**vars(self), "_secret": copy.copy(self._secret)}

    @property
    def steps(self) -> int:
        """Steps (without amplification: epochs) accounted for so far."""
        return sum(count for _, _, count in self.history)

    @property
    def epsilon(self) -> float:
        """ε at `delta` of everything trained so far, resumed parts included; with public noise, were it secret."""
        if self.coupled:
            return math.inf
        return dp_sgd_epsilon(self.history, self.delta, self.accountant) if self.history else 0.0

    def lot_seed(self, epoch: int) -> bytes | None:
        """Key of the lots of one epoch, for a loader that draws them; None where the public seed is to be taken.

        Another one in every training that this callback is given to: the same lots twice would be no amplification.
        """
        return None if self.repeatable else self._secret.derive(32, LOTS, epoch, self._drawn)

    def spent(self) -> dict[str, float]:
        """What stands beside a model that was trained so, all epochs counted: choosing the best of them is not free."""
        assert self.noise_multiplier is not None
        return {
            "dp_epsilon": self.epsilon,
            "dp_noise_multiplier": self.noise_multiplier,
            "dp_steps": self.steps,
        }

    def _account(self, noise_multiplier: float, rate: float) -> None:
        last = self.history[-1] if self.history else None
        if last and last[:2] == (noise_multiplier, rate):
            self.history[-1] = (noise_multiplier, rate, last[2] + 1)
        else:
            self.history.append((noise_multiplier, rate, 1))

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "history": list(self.history),
            "noise_multiplier": self.noise_multiplier,
        }
        if self.resumable and not self.repeatable:
            state |= {"secret": self._secret.key.hex(), "drawn": self._drawn}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [(float(s), float(q), int(n)) for s, q, n in state_dict["history"]]
        # Noise that was given stands; noise that was found for a budget goes on as it began.
        if self.noise_multiplier is None:
            self.noise_multiplier = state_dict["noise_multiplier"]
        if "secret" in state_dict:
            self._secret = Secret(bytes.fromhex(state_dict["secret"]))
            self._drawn = int(state_dict["drawn"])
