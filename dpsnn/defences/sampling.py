"""How a training loader draws examples: what DP-SGD's accounting assumes, and whether a loader does so."""

import math
import secrets
from collections import Counter
from collections.abc import Sized
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from dpsnn.batches import keyed_generator
from dpsnn.errors import UsageError


def poisson(loader: "DataLoader[Any]", seed: int | None = None) -> "DataLoader[Any]":
    """The same data and expected batch size, sampled as amplification by subsampling assumes: every example by itself.

    Args:
        loader: A loader of a map-style dataset with a batch size.
        seed: Seed of the draws, for tests: whoever knows it knows who took part in which step. None: a secret one.
    """
    from opacus.data_loader import DPDataLoader

    generator = (
        keyed_generator(secrets.token_bytes(32))
        if seed is None
        else torch.Generator().manual_seed(seed)
    )
    made: DataLoader[Any] = DPDataLoader.from_data_loader(loader, generator=generator)
    return made


class Sampling(NamedTuple):
    """How lots are drawn."""

    population: int
    """Examples that there are."""
    rate: float
    """Chance of each to be in a lot; 1 where an epoch shows every example once."""
    expected: float
    """Examples of a lot on average."""


def sampling(trainer: pl.Trainer, amplified: bool) -> Sampling:
    """How the trainer's loader draws.

    Raises:
        UsageError: If that is not what the accounting assumes.
    """
    loader: Any = trainer.train_dataloader
    if not hasattr(loader, "__iter__") or isinstance(loader, dict | list | tuple):
        raise UsageError("DP-SGD needs one training loader; give a single one")
    rate = getattr(loader, "sample_rate", None)
    if amplified and rate is None:
        raise UsageError(
            "the training loader does not sample every example by itself, so that an amplified epsilon would be"
            " wrong; wrap it in dpsnn.defences.dp_sgd.poisson, or set amplified=False"
        )
    population = getattr(loader, "population", None)
    if population is None:
        data = getattr(loader, "dataset", None)
        tensors = getattr(loader, "tensors", None)
        known = data if isinstance(data, Sized) else tensors[0] if tensors else None
        if known is None:
            raise UsageError(
                "the training data has no length, so that DP-SGD cannot tell how many examples share a step;"
                " give a map-style dataset"
            )
        population = len(known)
    if amplified and rate is not None:
        # torch compares the rate with numbers of 24 bits: of a million examples each is drawn by a hundredth more.
        drawn = math.ceil(rate * 2**24) / 2**24 if isinstance(loader, DataLoader) else float(rate)
        return Sampling(population, drawn, rate * population)
    if rate is not None:
        raise UsageError(
            "the training loader draws every example by itself, some more than once in an epoch, which the accounting"
            " without amplification does not cover; leave out amplified=False"
        )
    _once_each(loader, population)
    return Sampling(population, 1.0, population / len(loader))


def _once_each(loader: Any, population: int) -> None:
    """Refuse a loader that may show an example more than once in an epoch."""
    inner = getattr(loader, "batch_sampler", None)
    sampler = getattr(inner, "sampler", None) if type(inner) is BatchSampler else inner
    most = population
    if isinstance(sampler, RandomSampler) and not sampler.replacement:
        most = sampler.num_samples
    if getattr(sampler, "replacement", False) or most > population:
        raise UsageError(
            f"{type(sampler).__name__} draws examples more than once in an epoch, which the accounting without"
            " amplification does not cover; draw without replacement, or wrap the loader in"
            " dpsnn.defences.dp_sgd.poisson"
        )
    if sampler is None or isinstance(sampler, RandomSampler | SequentialSampler):
        return
    # A sampler that we do not know is asked for one epoch.
    rows = getattr(sampler, "indices", None) if isinstance(sampler, SubsetRandomSampler) else None
    with torch.random.fork_rng():
        drawn = list(sampler if rows is None else rows)
    flat = [i for each in drawn for i in (each if isinstance(each, list | tuple) else [each])]
    if flat and max(Counter(flat).values()) > 1:
        raise UsageError(
            f"{type(sampler).__name__} shows an example more than once in an epoch, which the accounting without"
            " amplification does not cover; show each once, or wrap the loader in dpsnn.defences.dp_sgd.poisson"
        )


def steps_of(trainer: pl.Trainer, amplified: bool) -> float:
    """Draws over the whole training, without amplification epochs; infinite where nothing ends it."""
    if amplified:
        return float(trainer.estimated_stepping_batches)
    epochs = trainer.max_epochs
    per_epoch = max(1, len(trainer.train_dataloader or ()))
    by_steps = math.ceil(trainer.max_steps / per_epoch) if trainer.max_steps >= 0 else math.inf
    return float(min(math.inf if epochs is None or epochs < 0 else epochs, by_steps))
