"""Let a module train on examples again and again without a trace, and with the same random numbers each time."""

import contextlib
import copy
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics import Metric

Plain = bool | int | float | str


LOGGING = "log", "log_dict", "log_means"
"""What a module has to tell others of its batches."""


@contextlib.contextmanager
def silent(module: pl.LightningModule) -> Iterator[None]:
    """Let nothing be logged inside the block, by the module or by `log_metrics` of its loggers.

    What they write to (`logger.experiment`) is left as it is: each kind has calls of its own.
    """
    trainer = getattr(module, "_trainer", None)  # `trainer` raises where there is none
    loggers = [] if trainer is None else trainer.loggers
    names = [(module, name) for name in LOGGING] + [(each, "log_metrics") for each in loggers]
    before = [(owner, name, vars(owner)[name]) for owner, name in names if name in vars(owner)]
    for owner, name in names:
        setattr(owner, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for owner, name in names:
            vars(owner).pop(name, None)
        for owner, name, own in before:
            vars(owner)[name] = own


@contextlib.contextmanager
def untouched(module: pl.LightningModule) -> Iterator[Callable[[], None]]:
    """Leave no trace of what the module does inside the block: nothing logged, everything in it as it was.

    Yields:
        What puts weights, buffers and plain numbers back at once, but leaves all else that the module may remember.
    """

    def tensors() -> Iterator[tuple[str, Tensor]]:
        return itertools.chain(module.named_buffers(), module.named_parameters())

    held = {name: tensor.detach().clone() for name, tensor in tensors()}
    metrics = [(m, copy.deepcopy(m.__dict__)) for m in module.modules() if isinstance(m, Metric)]
    ours = ("training_step", "configure_optimizers", "forward", *LOGGING)
    kept: list[tuple[nn.Module, dict[str, Any]]] = [
        (m, {k: _held(v) for k, v in vars(m).items() if not k.startswith("_") and k not in ours})
        for m in module.modules()
        if not isinstance(m, Metric)
    ]

    def rewind() -> None:
        with torch.no_grad():
            for name, tensor in tensors():
                if (
                    name in held
                    and tensor.shape == held[name].shape
                    and not torch.equal(tensor, held[name])
                ):
                    tensor.copy_(held[name])
        for each, attributes in kept:
            for name, value in attributes.items():
                if isinstance(value, Plain) and name != "training":
                    vars(each)[name] = value
            for name, value in [*vars(each).items()]:
                new = name not in attributes and name not in ours and not name.startswith("_")
                if new and isinstance(value, Plain):
                    del vars(each)[name]

    def restore() -> None:
        rewind()
        for each, attributes in kept:
            for name, value in attributes.items():
                _put_back(vars(each), name, value)
            for name in [n for n in vars(each) if n not in attributes and not n.startswith("_")]:
                if name not in ours:
                    del vars(each)[name]
        for metric, state in metrics:
            metric.__dict__.update(state)

    with silent(module):
        try:
            yield rewind
        finally:
            restore()


def _held(value: Any) -> Any:
    """A copy of what may be changed in place."""
    if isinstance(value, Tensor):
        return (value, value.detach().clone())
    return copy.copy(value) if isinstance(value, list | dict | set) else value


def _put_back(attributes: dict[str, Any], name: str, value: Any) -> None:
    now = attributes.get(name)
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Tensor):
        tensor, content = value
        if not torch.equal(tensor.detach(), content):
            with torch.no_grad():
                tensor.copy_(content)
        attributes[name] = tensor
    elif isinstance(now, list) and isinstance(value, list):
        now[:] = value
    elif isinstance(now, dict | set) and type(now) is type(value):
        now.clear()
        now.update(value)
    else:
        attributes[name] = value


_IN_PLACE = {"bernoulli_", "normal_", "uniform_", "exponential_", "log_normal_", "cauchy_", "geometric_",
             "random_"}  # fmt: skip
_LIKE = {"rand_like", "randn_like", "randint_like", "bernoulli", "normal", "poisson", "multinomial", "binomial",
         "_standard_gamma", "_sample_dirichlet"}  # fmt: skip
_SIZED = {"rand", "randn"}


class _SameDraws(TorchDispatchMode):
    """Every example draws the same numbers, those of a batch of one: then a batch's size changes no dropout mask."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if name == "native_dropout":
            scale = 1 / (1 - args[1]) if args[1] < 1 else 0.0
            # Within recurrent layers time comes first.
            time_first = args[0].dim() > 2 and len(args[0]) != self.rows == args[0].shape[1]
            one = args[0][:, :1] if time_first else args[0][:1]
            mask = torch.empty_like(one).bernoulli_(1 - args[1]).bool().expand_as(args[0])
            return args[0] * mask * scale, mask.contiguous()
        if name == "randint":
            # The size comes after one bound or two.
            at = next(i for i, a in enumerate(args) if isinstance(a, list | tuple))
            if self._of_examples(args[at]):
                return self._spread(func(*args[:at], [1, *args[at][1:]], *args[at + 1 :], **kwargs))
            return func(*args, **kwargs)
        if name not in _IN_PLACE | _LIKE | _SIZED or not self._of_examples(args[0]):
            return func(*args, **kwargs)
        if name in _SIZED:
            return self._spread(func([1, *args[0][1:]], *args[1:], **kwargs))
        one = [a[:1].clone() if self._of_examples(a) and isinstance(a, Tensor) else a for a in args]
        drawn = func(*one, **kwargs)
        if name in _IN_PLACE:
            return args[0].copy_(drawn.expand_as(args[0]))
        return self._spread(drawn)

    def _of_examples(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            return value.dim() > 0 and len(value) == self.rows
        return isinstance(value, list | tuple) and len(value) > 0 and value[0] == self.rows

    def _spread(self, drawn: Tensor) -> Tensor:
        return drawn.expand(self.rows, *drawn.shape[1:]).contiguous()


def random_states() -> tuple[Any, ...]:
    """Where all generators stand; two are equal if nothing was drawn in between."""
    name, words, *rest = np.random.get_state(legacy=True)
    cuda = [torch.cuda.get_rng_state().tolist()] if torch.cuda.is_initialized() else []
    own = torch.get_rng_state().numpy().tobytes()
    return random.getstate(), np.asarray(words).tobytes(), *rest, own, *cuda


def _seed(seed: int) -> None:
    """`torch.manual_seed`, which takes a millisecond for a GPU that nothing is on: it writes down who called."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextlib.contextmanager
def same_draws(rows: int, seed: int = 0) -> Iterator[None]:
    """Whatever is drawn in the block is drawn again in the next such block, the same for every example.

    In full precision: what a GPU rounds to ten bits would differ by more than the trial allows for.
    """
    python, numpy = random.getstate(), np.random.get_state()
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        with torch.random.fork_rng(), _SameDraws(rows):
            _seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
