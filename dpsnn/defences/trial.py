"""Try on a few examples whether a module can be trained privately: what DP-SGD's guarantee rests on, checked by doing.

Clipping bounds what an example adds only if its gradient is its own: the same whoever its neighbours are, and however
many. So the same examples are put beside others, alone, and into batches of other sizes, and their gradients compared,
with torch's own for batches of one as the reference. What training leaves in buffers is compared as well.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from dpsnn.defences.lots import altered, joined, length, take, unlike
from dpsnn.defences.mean_losses import loss_of
from dpsnn.defences.per_example import OneByOne, PerExampleGradients
from dpsnn.defences.rehearsal import random_states, same_draws, untouched
from dpsnn.errors import Diverged, UsageError

SEEDS = 16
"""Sets of random numbers under which a module that draws any is tried at first: some mix a batch only now and then."""

FOCUS = 4
"""Examples whose gradients are compared; as many neighbours are exchanged."""

WAY_OUT = (
    "take out what couples them (batch statistics, penalties over a batch; a mean over class weights, valid labels or"
    ' tokens: use reduction="none", weigh, sum within each example, then take the mean over the examples)'
)


Step = Callable[[Any], Any]
"""The module's training step, of a batch."""


class Trial:
    """One trial of a module, on examples of a lot.

    Args:
        module: Left as it was found: buffers, metrics, attributes, random numbers.
        step: Its training step.
        watch: Watches the module, and does so again afterwards.
        seeds: Of the random numbers that the module draws meanwhile; further ones are used only if it draws.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        step: Step,
        watch: PerExampleGradients,
        seeds: Sequence[int] = (0,),
    ) -> None:
        self.module, self.step, self.watch, self.seeds = module, step, watch, seeds
        self._seed, self._draws = seeds[0], False
        self._written: dict[str, Tensor] = {}

    def __call__(self, lot: Any, part: Any = None) -> None:
        """Run it.

        Args:
            lot: One example or more; the more, the sharper.
            part: A whole batch as it is trained on, which begins with the same examples, to look at as well.

        Raises:
            UsageError: If something voids the guarantee, or gradients of single examples cannot be had.
        """
        total = length(lot)
        order = [i % total for i in range(FOCUS)]
        rest = unlike(lot, total)
        others = [i for i in rest if i not in order] or rest
        focus = take(lot, order)
        strange = take(lot, [others[i % len(others)] for i in range(FOCUS)])
        usual = take(lot, [others[-1 - i % len(others)] for i in range(FOCUS)])
        if len(others) < 2 * FOCUS:
            strange = altered(strange)
        beside, beside_others = joined(focus, usual), joined(focus, strange)
        self.weights = torch.linspace(0.5, 1.5, FOCUS) * torch.tensor([1.0, -1.0] * (FOCUS // 2))
        with untouched(self.module) as rewind:
            self._rewind = rewind
            if isinstance(self.watch, OneByOne):
                self._alone(focus, beside, beside_others, strange)
            else:
                self._watched(focus, beside, beside_others, strange)
                if part is not None and length(part) > FOCUS:
                    self._same("size", self._found, self._sum(part))

    def _watched(self, focus: Any, beside: Any, beside_others: Any, strange: Any) -> None:
        device = self.watch.parameters[0].device
        self.weights = self.weights.to(device, self.watch.parameters[0].dtype)
        self.watch.weighing = True
        together = self._of_batch(beside)
        self.watch.weighing = False
        self._plain(strange)
        self._same("history", self._found, self._sum(beside))
        self._adds_up(together, self._plain(beside))
        self._same("neighbours", self._found, self._sum(beside_others))
        alone = self._sum(focus)
        if _alike(self._found, {p: 2 * g for p, g in alone.items()}, 0.01):
            raise UsageError(
                "the loss grows with the number of examples in a batch; DP-SGD needs their mean, not their sum"
            )
        self._same("size", self._found, alone)
        self._same("single", self._found, self._singles(focus))
        for self._seed in self.seeds[1:] if self._draws else ():
            self._written = {}
            self._same("neighbours", self._sum(beside), self._sum(beside_others))
        self._seed = self.seeds[0]

    def _alone(self, focus: Any, beside: Any, beside_others: Any, strange: Any) -> None:
        """The same where every gradient is of a batch of one, which only what the module remembers could couple."""
        self._found = self._singles(focus)
        self._sizes = {p: torch.zeros(()) for p in self._found}
        self._plain(strange)
        each = [take(beside, [i]) for i in range(length(beside))]
        mean = _summed([(1 / len(each), self._plain(one)) for one in each])
        self._same("history", self._found, self._singles(focus))
        if not _alike(mean, self._plain(beside), 0.01):
            raise UsageError(
                "the loss of a batch is not the mean of its examples' losses; " + WAY_OUT
            )

    # ------------------------------------------------------------ gradients

    def _of_batch(self, batch: Any) -> dict[Tensor, Tensor]:
        """The mean of the gradients of single examples; notes the sum that others are compared with, and its sizes."""
        norms = self._norms(batch)
        if not bool(norms.isfinite().all()):
            every = not bool(norms.isfinite().any())
            raise (Diverged if every else UsageError)(
                f"{'training diverged: no' if every else 'not every'} gradient of an example is a finite number; look"
                " for NaN or infinite values in the training data, or lower --learning_rate"
            )
        weights = self._padded(len(norms))
        self._found = self.watch.weighted_sum(weights)
        # Rounding within an example, and in the sum over all of them.
        self._sizes = {p: sizes.sum() for p, sizes in self.watch.sizes.items()}
        together = self.watch.weighted_sum(torch.full_like(norms, 1 / len(norms)))
        self._forget()
        return together

    def _norms(self, batch: Any) -> Tensor:
        """Of the gradient of every example of a batch."""
        self._run(batch)
        norms = self.watch.norms()
        if len(norms) != length(batch):
            raise UsageError(
                f"layers see {len(norms)} rows for {length(batch)} examples; the first axis must be the examples"
                ' throughout, or take DPSGD(gradients="single"), one backward pass an example'
            )
        return norms

    def _padded(self, rows: int) -> Tensor:
        return F.pad(self.weights, (0, rows - FOCUS))

    def _sum(self, batch: Any) -> dict[Tensor, Tensor]:
        """Gradients of the first examples, weighted."""
        norms = self._norms(batch)
        found = self.watch.weighted_sum(self._padded(len(norms)))
        self._forget()
        return found

    def _plain(self, batch: Any) -> dict[Tensor, Tensor]:
        """torch's own gradient of the batch."""
        self.watch.detach()
        try:
            self._run(batch)
            return {p: p.grad.to_dense() for p in self.watch.parameters if p.grad is not None}
        finally:
            self._forget()
            self.watch.attach()

    def _singles(self, focus: Any) -> dict[Tensor, Tensor]:
        """The same weighted sum, one batch for every example, by torch alone."""
        terms = []
        for i, weight in enumerate(self.weights.tolist()):
            try:
                terms.append((weight, self._plain(take(focus, [i]))))
            except UsageError:
                raise
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                reason = " ".join(str(error).split())[:120]
                raise UsageError(
                    f"training_step fails on a batch of one example ({reason}), but a lot that is drawn at random may"
                    " be that small; let it take any size"
                ) from error
        return _summed(terms)

    def _run(self, batch: Any) -> None:
        self._rewind()
        with same_draws(length(batch), self._seed):
            before = random_states()
            try:
                loss_of(self.step(batch)).backward()
            except RuntimeError as error:
                if "differentiate twice" not in str(error):
                    raise
                raise UsageError(
                    "the loss holds gradients that are differentiated again (a gradient penalty), which is known of"
                    ' single examples only: DPSGD(gradients="single"), one backward pass an example'
                ) from error
            self._draws |= random_states() != before
        self._check_written()

    def _forget(self) -> None:
        self.watch.clear()
        for parameter in self.module.parameters():
            parameter.grad = None

    # ------------------------------------------------------------ comparisons

    def _adds_up(self, together: dict[Tensor, Tensor], own: dict[Tensor, Tensor]) -> None:
        total = _norm(own)
        for parameter in {**own, **together}:
            expected = own.get(parameter, torch.zeros_like(parameter))
            found = together.get(parameter, torch.zeros_like(parameter))
            if not self._near(parameter, found, expected, total, loose=True):
                raise UsageError(
                    f"gradients of single examples do not add up to the batch's for {self.watch.names[parameter]}; use"
                    " every parameter through its layer only, freeze it, or take"
                    ' DPSGD(gradients="single"), one backward pass an example'
                )

    def _same(self, what: str, one: dict[Tensor, Tensor], other: dict[Tensor, Tensor]) -> None:
        reasons = {
            "neighbours": "depends on the others of its batch, so that clipping it bounds nothing; "
            + WAY_OUT,
            "size": "depends on how many others are in its batch, so that clipping it bounds nothing; "
            + WAY_OUT,
            "single": "is not the one it has in a batch of its own, so that clipping it bounds nothing; "
            + WAY_OUT,
            "history": "depends on the examples seen before, which no noise covers; let the loss depend on nothing"
            " that training_step keeps from one batch to the next",
        }
        loose = what in ("size", "single")
        total = max(_norm(one), _norm(other))
        for parameter in {**one, **other}:
            a = one.get(parameter, torch.zeros_like(parameter))
            b = other.get(parameter, torch.zeros_like(parameter))
            if not self._near(parameter, a, b, total, loose=loose):
                raise UsageError(f"the gradient of an example {reasons[what]}")

    def _near(self, p: Tensor, a: Tensor, b: Tensor, total: float, *, loose: bool) -> bool:
        """Whether two gradients differ by rounding alone.

        In batches of one shape the same arithmetic is done, and next to nothing may differ; in those of another, sums
        are taken in another order. Rounding goes with the size of what was added up, which may all but cancel.
        """
        relative, rounding, rest = (1e-2, 2e-5, 2e-5) if loose else (1e-4, 2e-6, 1e-6)
        added = float(self._sizes.get(p, torch.zeros(())))
        allowed = relative * float(b.norm()) + rounding * added + rest * total
        return float((a - b).norm()) <= allowed

    def _check_written(self) -> None:
        """Refuse buffers and weights that hold something else after other examples went through the step.

        Raises:
            UsageError: With the name of the first.
        """
        cures = {
            "buffer": "take it out, or freeze it (track_running_stats=False, eval())",
            "weight": "write it from nothing but weights, or let the optimiser train it",
        }
        held = {"buffer": self.module.named_buffers(), "weight": self.module.named_parameters()}
        for kind, tensors in held.items():
            for name, tensor in tensors:
                now = tensor.detach()
                first = self._written.setdefault(name, now.clone())
                same = torch.equal(first, now)
                if not same and first.shape == now.shape:
                    same = torch.equal(first.nan_to_num(), now.nan_to_num())
                if not same:
                    raise UsageError(
                        f"training writes {name}, a {kind}, from the examples: they would leave with the model without"
                        f" any noise; {cures[kind]}"
                    )


def _summed(terms: list[tuple[float, dict[Tensor, Tensor]]]) -> dict[Tensor, Tensor]:
    total: dict[Tensor, Tensor] = {}
    for weight, gradients in terms:
        for parameter, gradient in gradients.items():
            total[parameter] = total.get(parameter, 0) + weight * gradient
    return total


def _norm(gradients: dict[Tensor, Tensor]) -> float:
    return float(sum(float(g.square().sum()) for g in gradients.values()) ** 0.5)


def _alike(one: dict[Tensor, Tensor], other: dict[Tensor, Tensor], relative: float) -> bool:
    """Whether two gradients are the same as a whole, and not both nothing."""
    difference = _summed([(1.0, one), (-1.0, other)])
    return _norm(difference) <= relative * _norm(one) and _norm(one) > 0
