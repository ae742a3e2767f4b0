"""The loss of a private training is the mean over its examples; those of torch that are known not to be are refused."""

import inspect
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dpsnn.errors import UsageError


def loss_of(output: Any) -> Tensor:
    """The loss in what a training step returned."""
    loss = output["loss"] if isinstance(output, dict) else output
    if not isinstance(loss, Tensor):
        raise UsageError("training_step returned no loss; under DP-SGD every lot must give one")
    return loss


def without_value(output: Any) -> Any:
    """The loss alone, with its gradient and the value 0 (or none, where it has no finite one)."""
    loss = loss_of(output)
    nothing = loss - loss.detach()
    # What a step returns beside it is of the examples as well.
    return {"loss": nothing} if isinstance(output, dict) else nothing


class MeanLosses(TorchFunctionMode):
    """Refuse, in every step, losses of torch that divide by more than the number of examples.

    A trial need not hold the rare class with the large weight, or the one example that ends in padding.

    Args:
        examples: In the batch that is seen.
    """

    def __init__(self, examples: int) -> None:
        super().__init__()
        self.examples = examples

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.cross_entropy or func is F.nll_loss:
            self._check(inspect.signature(func).bind(*args, **(kwargs or {})).arguments)
        return func(*args, **(kwargs or {}))

    def _check(self, given: dict[str, Any]) -> None:
        target, weight = given["target"], given.get("weight")
        mean = given.get("reduction", "mean") == "mean"
        # Targets that are probabilities are divided by their number, whatever the weights.
        if not mean or target.is_floating_point() or self.examples < 2:
            return
        if target.dim() == 0 or len(target) % self.examples:
            return
        if weight is not None and bool((weight != weight[0]).any()):
            raise UsageError(
                "cross-entropy with class weights divides by the weights of the whole batch, so that clipping an"
                ' example bounds nothing; use reduction="none", which weighs, then take the mean over the examples'
            )
        if bool((target == given.get("ignore_index", -100)).any()):
            raise UsageError(
                "cross-entropy divides by the number of labels in the batch that are not ignore_index, so that clipping"
                ' an example bounds nothing; use reduction="none", sum within each example, then take the mean over'
                " the examples"
            )
