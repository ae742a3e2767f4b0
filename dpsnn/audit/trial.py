"""How a model is tried: with which images, and whether two answers to them are the same."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dpsnn.training import seeded

TOLERANCE = 1e-4
"""By how much, of the spread of the answers over the images, the halves may differ from the whole."""

ROUNDING = 1e-6
"""And of the largest answer, as sums in float32 are rounded."""

SATURATING = frozenset(
    ("softmax", "log_softmax", "sigmoid", "log_sigmoid", "tanh", "hardtanh", "hardsigmoid")
)
"""Functions of aten behind which two answers that differ may look the same."""


def probes(image_shape: tuple[int, ...]) -> Tensor:
    """Images to try a model with, the same always: of grey noise, of black and white noise, and plain ones."""
    generator = torch.Generator().manual_seed(0)
    soft = torch.rand(2, *image_shape, generator=generator)
    hard = (torch.rand(2, *image_shape, generator=generator) > 0.5).float()
    plain = torch.tensor([0.3, 1.0]).view(2, *[1] * len(image_shape)).expand(2, *image_shape)
    return torch.cat([soft, hard, plain])


class _Open(TorchDispatchMode):
    """Functions that saturate give what they are given: what depends on what stays as it is, and shows."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.strip("_") not in SATURATING:
            return func(*args, **(kwargs or {}))
        return args[0] if name.endswith("_") else args[0].clone()


class Trial:
    """A model's answers to a few images, as they are and before anything saturates.

    Random numbers are the same whenever anything is tried.

    Args:
        model: Images → a row of scores each.
        images: Some, of which the answers should differ.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.images = images
        self.answer = _run(lambda: model(images.clone()))
        self.clear: Tensor | None = None
        try:
            with _Open():
                clear = _run(lambda: model(images.clone()))
        except Exception:  # an answer may have to be a probability for what comes after it
            return
        self.clear = clear if bool(clear.isfinite().all()) else None

    @property
    def tells(self) -> bool:
        """Whether any two answers differ, so that it shows when one image is taken for another."""
        return _spread(self.answer if self.clear is None else self.clear) > 0

    def wrong(self, client: nn.Module, server: nn.Module) -> str:
        """Why two halves are not the whole; empty where they are."""
        try:
            if not self._agree(client, server, self.answer):
                return (
                    "the halves do not give the answer of the whole: more than this tensor crosses"
                )
        except Exception as error:  # whatever anyone's layers may raise
            return f"the halves cannot be run by themselves ({_told(error)})"
        try:
            _run(lambda: server(client(self.images[:1].clone())))
        except Exception as error:  # such as a normalisation over the images of a batch
            return f"the halves cannot be run for one image alone ({_told(error)})"
        if self.clear is not None:
            try:
                with _Open():
                    same = self._agree(client, server, self.clear)
            except Exception:
                same = False
            if not same:
                return "more than this tensor crosses, which the answer of the whole hides, as it is saturated"
        return ""

    def _agree(self, client: nn.Module, server: nn.Module, whole: Tensor) -> bool:
        """A server that does the client's work once more draws the client's random numbers once more."""

        def in_turn() -> Any:
            return server(client(self.images.clone()))

        def anew() -> Any:
            sent = client(self.images.clone())
            with seeded(0):
                return server(sent)

        return same(_run(in_turn), whole) or same(_run(anew), whole)


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


@torch.no_grad()
def _run(made: Callable[[], Any]) -> Tensor:
    with seeded(0):
        answer: Tensor = made()
    return answer


def same(answer: Tensor, whole: Tensor) -> bool:
    """Whether an answer is that of the whole, measured by how much that varies from image to image."""
    if answer.shape != whole.shape or not torch.equal(answer.isfinite(), whole.isfinite()):
        return False
    answer, whole = (each.double().nan_to_num(0, 0, 0) for each in (answer, whole))
    allowed = TOLERANCE * _spread(whole) + ROUNDING * float(whole.abs().max())
    return float((answer - whole).abs().max()) <= allowed


def _spread(answer: Tensor) -> float:
    return float((answer - answer[:1]).double().nan_to_num(0, 0, 0).abs().max())
