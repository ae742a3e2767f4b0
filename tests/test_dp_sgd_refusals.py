"""DP-SGD refuses what its guarantee would not cover: with images, tokens and labels of any type, at any moment."""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning, GradientAccumulationScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    DataLoader,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from dpsnn.batches import TensorBatches
from dpsnn.defences.dp_sgd import DPSGD, poisson
from dpsnn.errors import UsageError
from dpsnn.metrics.privacy import dp_sgd_epsilon

QUIET: dict[str, Any] = dict(
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
N, CLASSES, WORDS, LENGTH = 96, 3, 11, 6


class Images(pl.LightningModule):
    """A small classifier of uint8 images of 6×6 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh())
        self.head = nn.Linear(8, CLASSES)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return self.loss(images.float() / 255, labels)

    def logits(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(images), labels)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Words(pl.LightningModule):
    """The same for sentences of six tokens, with a label for every token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 5)
        self.head = nn.Linear(5, CLASSES)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(*batch)

    def logits(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens).tanh())

    def loss(self, tokens: Tensor, tags: Tensor) -> Tensor:
        each = F.cross_entropy(self.logits(tokens).flatten(0, 1), tags.flatten(), reduction="none")
        return each.view(len(tokens), -1).sum(1).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def images(n: int = N, rare: int = 3) -> TensorDataset:
    """Labels 0 and 1, and `rare` of 2."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (n, 1, 6, 6), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 2, (n,), generator=generator)
    labels[torch.randperm(n, generator=generator)[:rare]] = 2
    return TensorDataset(pixels, labels)


def words(n: int = N, padded: bool = False) -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(1, WORDS, (n, LENGTH), generator=generator)
    tags = tokens % CLASSES
    if padded:
        ends = torch.randint(1, LENGTH + 1, (n, 1), generator=generator)
        tags = tags.masked_fill(torch.arange(LENGTH) >= ends, -100)
    return TensorDataset(tokens, tags)


def train(
    module: pl.LightningModule,
    data: Any,
    callback: DPSGD | None = None,
    extra: tuple[pl.Callback, ...] = (),
    batch: int = 24,
    **options: Any,
) -> DPSGD:
    """Train on a data set, sampled by Poisson, or on a loader."""
    callback = callback or DPSGD(1.0, delta=1e-3)
    torch.manual_seed(0)
    loader = (
        poisson(DataLoader(data, batch_size=batch), seed=4)
        if isinstance(data, TensorDataset)
        else data
    )
    trainer = pl.Trainer(**{"max_epochs": 1, **QUIET, **options}, callbacks=[*extra, callback])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader)
    return callback


# ---------------------------------------------------------------- losses that couple


class CentredImages(Images):
    def logits(self, images: Tensor) -> Tensor:
        return super().logits(images - images.mean(0))


class CentredEmbedding(Words):
    def logits(self, tokens: Tensor) -> Tensor:
        embedded = self.embed(tokens)
        return self.head((embedded - embedded.mean(0)).tanh())


class LabelShare(Images):
    """An example weighs by how rare its label is in the batch."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        each = F.cross_entropy(self.logits(images), labels, reduction="none")
        share = (labels[:, None] == labels).float().mean(1)
        return (each / share).mean()


class ClassWeights(Images):
    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(images), labels, torch.tensor([1.0, 1.0, 1000.0]))


class ClassWeightsOfAModule(Images):
    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.NLLLoss(weight=torch.tensor([1.0, 1.0, 1000.0]))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.criterion(self.logits(images).log_softmax(1), labels)


class ClassWeightsByHand(Images):
    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        weights = torch.tensor([1.0, 1.0, 1000.0])[labels]
        each = F.cross_entropy(self.logits(images), labels, reduction="none")
        return (weights * each).sum() / weights.sum()


class ValidTokens(Words):
    def loss(self, tokens: Tensor, tags: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(tokens).flatten(0, 1), tags.flatten())


class ValidTokensByHand(Words):
    def loss(self, tokens: Tensor, tags: Tensor) -> Tensor:
        valid = tags >= 0
        each = F.cross_entropy(self.logits(tokens).mT, tags.clamp(0), reduction="none")
        return (each * valid).sum() / valid.sum()


class InBatchNegatives(Images):
    """Contrastive: the others of the batch are what an example is told apart from."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        found = F.normalize(self.logits(images), dim=1)
        return F.cross_entropy(found @ found.T / 0.5, torch.arange(len(found)))


class TimeFirst(Words):
    """Each layer sees time steps where it should see examples."""

    def logits(self, tokens: Tensor) -> Tensor:
        return super().logits(tokens.T).transpose(0, 1)


class Mixup(Images):
    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        order = torch.randperm(len(images))
        return super().loss(0.6 * images + 0.4 * images[order], labels)


class Weakly(Images):
    """Two in a thousand of the loss are about the batch."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return super().loss(images, labels) + 0.002 * self.logits(images).mean(0).square().sum()


class RootOfNumber(Images):
    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return super().loss(images, labels) / math.sqrt(len(images))


class FromEpochOne(Images):
    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = super().loss(images, labels)
        return loss + (self.current_epoch > 0) * self.logits(images).mean(0).square().sum()


class HiddenAtFirst(CentredImages):
    """The weights behind the coupling get no gradient until the head has moved."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.head.weight)
        self.head.bias.requires_grad_(False)


class Remembers(Images):
    """Compares with the batch before, kept in an ordinary attribute."""

    last = torch.zeros(CLASSES)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = self.logits(images)
        loss = F.cross_entropy(logits - self.last, labels)
        self.last = logits.detach().mean(0)
        return loss


OTHERS = "depends on (the|how many) others"

COUPLED: dict[str, tuple[Callable[[], pl.LightningModule], TensorDataset, str]] = {
    "mean of uint8 images": (CentredImages, images(), OTHERS),
    "mean behind an embedding": (CentredEmbedding, words(), OTHERS),
    "share of labels": (LabelShare, images(), OTHERS),
    "class weights": (ClassWeights, images(), 'class weights.*reduction="none".*weighs.*mean over the'),
    "class weights, none of the rare": (ClassWeights, images(rare=0), 'class weights.*reduction="none"'),
    "class weights of a module": (ClassWeightsOfAModule, images(), 'class weights.*reduction="none"'),
    "class weights by hand": (ClassWeightsByHand, images(rare=24), OTHERS + '.*reduction="none", weigh'),
    "ignored labels": (ValidTokens, words(padded=True), "not ignore_index.*sum within each example"),
    "valid tokens by hand": (ValidTokensByHand, words(padded=True), OTHERS),
    "in-batch negatives": (InBatchNegatives, images(), OTHERS),
    "time first": (TimeFirst, words(), "6 rows for 8 examples.*first axis"),
    "mixup": (Mixup, images(), OTHERS),
    "weakly": (Weakly, images(), OTHERS),
    "root of the number": (RootOfNumber, images(), "depends on how many others"),
    "memory": (Remembers, images(), "examples seen before"),
}  # fmt: skip


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("batch", [24, 3])
def test_losses_that_couple_examples_are_refused(name: str, batch: int) -> None:
    module, data, message = COUPLED[name]
    with pytest.raises(UsageError, match=message):
        train(module(), data, batch=batch)


@pytest.mark.parametrize("module", [FromEpochOne, HiddenAtFirst])
def test_what_couples_later_is_refused_then(module: Callable[[], pl.LightningModule]) -> None:
    with pytest.raises(UsageError, match=OTHERS):
        train(module(), images(), max_epochs=3)


class Weighed(Images):
    """The way out that the refusal of class weights names."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        weights = torch.tensor([1.0, 1.0, 1000.0])
        return F.cross_entropy(self.logits(images), labels, weights, reduction="none").mean()


class SummedTokens(Words):
    def loss(self, tokens: Tensor, tags: Tensor) -> Tensor:
        each = F.cross_entropy(self.logits(tokens).mT, tags, reduction="none")
        return each.sum(1).mean()


class Drops(Images):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Dropout(0.5), nn.Tanh())

    def logits(self, images: Tensor) -> Tensor:
        noisy = images + 0.1 * torch.randn_like(images)
        return super().logits(noisy * torch.rand(len(images), 1, 1, 1))


class Counts(Images):
    """A number of its own, raised in every step, on which the loss depends: nothing about the examples."""

    step = 0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.seen: list[Tensor] = []

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        self.step += 1
        self.steps += 1
        loss = super().loss(images, labels)
        self.seen.append(loss.detach())
        return loss * min(1.0, self.step / 3)


@pytest.mark.parametrize(
    "module, data",
    [
        (Images, images()),
        (Weighed, images()),
        (Words, words()),
        (SummedTokens, words(padded=True)),
        (ValidTokens, words()),
        (Drops, images()),
        (Counts, images()),
    ],
)
@pytest.mark.parametrize("batch", [24, 3])
def test_what_couples_nothing_is_trained(
    module: Callable[[], pl.LightningModule], data: TensorDataset, batch: int
) -> None:
    callback = train(module(), data, batch=batch, max_epochs=2)
    assert callback.steps == 2 * N // batch


def test_a_trial_leaves_the_module_as_it_found_it() -> None:
    module = Counts()
    callback = train(module, images(), max_epochs=2)
    assert module.step == callback.steps == 8
    assert int(module.steps) == 8 and len(module.seen) == 8


# ---------------------------------------------------------------- one example moves the clipped sum by at most C


def clipped_sum(module: pl.LightningModule, lot: list[Tensor], clip: float = 1.0) -> Tensor:
    """What DP-SGD makes of one lot, next to no noise added."""

    class Lot:
        sample_rate, population = 1.0, len(lot[0])

        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Iterator[list[Tensor]]:
            yield lot

    before = nn.utils.parameters_to_vector(module.parameters()).detach().clone()
    coupled = isinstance(module, ClassWeights)
    callback = DPSGD(1e-6, max_grad_norm=clip, delta=1e-3, coupled=coupled)
    train(module, Lot(), callback)
    after = nn.utils.parameters_to_vector(module.parameters()).detach()
    return (before - after) / 0.1 * len(lot[0])


def without(lot: list[Tensor], row: int) -> list[Tensor]:
    return [torch.cat([t[:row], t[row + 1 :]]) for t in lot]


def moved(module: Callable[[], pl.LightningModule], data: TensorDataset) -> float:
    """The most that taking out one example moves the sum, for the first 40 and every one of the rare."""
    lot = [t[:40] for t in data.tensors]
    worst = 0.0
    for row in range(40):
        sums = []
        for part in (lot, without(lot, row)):
            torch.manual_seed(1)
            sums.append(clipped_sum(module(), part))
        worst = max(worst, float((sums[0] - sums[1]).norm()))
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("module, data", [(Images, images()), (Weighed, images(rare=9))])
def test_one_example_moves_an_accepted_sum_by_the_clip_norm_at_most(
    module: Callable[[], pl.LightningModule], data: TensorDataset
) -> None:
    assert 0.2 < moved(module, data) <= 1.0 + 1e-3


def test_one_example_moves_a_refused_sum_by_more() -> None:
    assert moved(ClassWeights, images(40, rare=1)) > 10


# ---------------------------------------------------------------- buffers


class Buffered(Images):
    """Keeps something of the batch in a buffer."""

    def __init__(self, keep: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.keep = keep
        self.register_buffer("kept", torch.zeros(()))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        self.kept = 0.9 * self.kept + self.keep(images)
        return super().loss(images, labels)


class InstanceNorm(Images):
    def __init__(self, track: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 2, 3),
            nn.InstanceNorm2d(2, track_running_stats=track),
            nn.Flatten(),
            nn.Linear(32, 8),
        )


@pytest.mark.parametrize(
    "module",
    [
        lambda: InstanceNorm(True),
        lambda: Buffered(lambda x: x.mean()),
        lambda: Buffered(lambda x: x[0, 0, 0, 0]),
        lambda: Buffered(lambda x: torch.tensor(float(len(x)))),
    ],
)
def test_buffers_that_hold_the_data_are_refused(module: Callable[[], pl.LightningModule]) -> None:
    with pytest.raises(UsageError, match="a buffer, from the examples.*track_running_stats=False"):
        train(module(), images())


@pytest.mark.parametrize(
    "module", [lambda: InstanceNorm(False), lambda: Buffered(lambda _: torch.tensor(1.0))]
)
def test_buffers_that_hold_none_are_no_reason(module: Callable[[], pl.LightningModule]) -> None:
    assert train(module(), images()).steps == 4


# ---------------------------------------------------------------- what is trained changes


class Backbone(Images):
    """As Lightning's finetuning wants it."""

    def __init__(self, couples: bool) -> None:
        super().__init__()
        self.backbone = self.body
        self.couples = couples

    def logits(self, images: Tensor) -> Tensor:
        trained = self.backbone[1].weight.requires_grad
        return super().logits(images - images.mean(0) * (self.couples and trained))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1)


class Finetuning(BackboneFinetuning):
    """Without its printing."""


def test_a_weight_unfrozen_later_is_clipped_and_noised() -> None:
    module = Backbone(couples=False)
    before = module.backbone[1].weight.detach().clone()
    callback = DPSGD(1e-6, max_grad_norm=1e-4, delta=1e-3)
    finetuning = Finetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=1.0)
    train(module, images(), callback, (finetuning,), max_epochs=2, batch=N)
    change = module.backbone[1].weight.detach() - before
    assert 0 < change.norm() <= 2e-4, "one step, of a gradient that was clipped"


def test_a_weight_unfrozen_later_is_tried() -> None:
    finetuning = Finetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=1.0)
    with pytest.raises(UsageError, match=OTHERS):
        train(Backbone(couples=True), images(), extra=(finetuning,), max_epochs=2)


class Hidden(Images):
    """A layer that the module does not list."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Linear(CLASSES, CLASSES)]

    def logits(self, images: Tensor) -> Tensor:
        return self.hidden[0](super().logits(images))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([*self.parameters(), *self.hidden[0].parameters()], 0.1)


def test_a_weight_that_only_the_optimiser_knows_is_refused() -> None:
    with pytest.raises(UsageError, match=r"weight of shape \(3, 3\).*nn.ModuleList"):
        train(Hidden(), images())


class Later(pl.Callback):
    """Adds a group in the middle of an epoch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, index: int) -> None:
        if index == 2:
            pl_module.hidden = [nn.Linear(CLASSES, CLASSES)]
            added = {"params": list(pl_module.hidden[0].parameters())}
            trainer.optimizers[0].add_param_group(added)


def test_a_group_added_later_is_refused() -> None:
    with pytest.raises(UsageError, match=r"weight of shape \(3, 3\)"):
        train(Images(), images(), extra=(Later(),))


class Replaces(pl.Callback):
    """Puts another gradient in place of the private one."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        pl_module.head.bias.grad = torch.ones(CLASSES)


def test_a_gradient_that_is_not_ours_is_refused() -> None:
    trainer = pl.Trainer(max_epochs=1, callbacks=[DPSGD(1.0, delta=1e-3), Replaces()], **QUIET)
    with pytest.raises(UsageError, match="gradient of head.bias was replaced"):
        trainer.fit(Images(), poisson(DataLoader(images(), batch_size=24), seed=0))


class Freezes(pl.Callback):
    """Lets batch statistics of evaluation become those of training after some steps."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, index: int) -> None:
        pl_module.norm.train(index >= 2)


class Normed(Images):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8).eval()

    def logits(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.body(images)))


def test_frozen_batch_normalisation_is_trained_until_it_thaws() -> None:
    assert train(Normed(), images(), batch=N // 2).steps == 2
    with pytest.raises(UsageError, match="norm is a BatchNorm1d.*eval()"):
        train(Normed(), images(), extra=(Freezes(),))


# ---------------------------------------------------------------- budgets


@pytest.mark.parametrize("more", [{"min_epochs": 40}, {"min_steps": 100}])
def test_a_trainer_that_goes_on_is_stopped_before_the_budget_is_exceeded(
    more: dict[str, int],
) -> None:
    callback = DPSGD(1.0, target_epsilon=6, delta=1e-3)
    with pytest.raises(UsageError, match="next step would exceed.*min_epochs or min_steps"):
        train(Images(), images(), callback, max_epochs=40, **more)
    assert 0 < callback.epsilon <= 6
    rate = 24 / N
    assert dp_sgd_epsilon([(1.0, rate, callback.steps + 1)], 1e-3) > 6


class Crashes(pl.Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, index: int) -> None:
        if index == 2:
            raise RuntimeError("power")


def test_a_crash_in_the_first_epoch_has_been_paid_for() -> None:
    callback = DPSGD(2.0, delta=1e-3, amplified=False)
    with pytest.raises(RuntimeError, match="power"):
        train(Images(), DataLoader(images(), 24, shuffle=True), callback, (Crashes(),))
    assert callback.history == [(2.0, 1.0, 1)]
    assert callback.epsilon == pytest.approx(dp_sgd_epsilon([(2.0, 1.0, 1)], 1e-3))


def test_without_amplification_the_budget_ends_with_an_epoch() -> None:
    callback = DPSGD(4.0, target_epsilon=2.0, delta=1e-3, amplified=False)
    train(Images(), DataLoader(images(), 24, shuffle=True), callback, max_epochs=40)
    assert callback.epsilon <= 2 < dp_sgd_epsilon([(4.0, 1.0, callback.steps + 1)], 1e-3)


@pytest.mark.parametrize("amplified", [True, False])
def test_a_training_without_end_needs_noise(amplified: bool) -> None:
    data: Any = images() if amplified else DataLoader(images(), 24, shuffle=True)
    with pytest.raises(UsageError, match="nothing ends this one; give max_epochs"):
        budget = DPSGD(target_epsilon=3, delta=1e-3, amplified=amplified)
        train(Images(), data, budget, max_epochs=-1)
    both = DPSGD(2.0, target_epsilon=3, delta=1e-3, amplified=amplified)
    assert 0 < train(Images(), data, both, max_epochs=-1).epsilon <= 3


# ---------------------------------------------------------------- loaders, optimisers, schedules


class Twice(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter([*range(N), 0])

    def __len__(self) -> int:
        return N + 1


@pytest.mark.parametrize(
    "sampler, message",
    [
        (RandomSampler(images(), replacement=True), "RandomSampler draws examples more than once"),
        (RandomSampler(images(), num_samples=2 * N), "RandomSampler draws examples more than once"),
        (WeightedRandomSampler([1.0] * N, N), "WeightedRandomSampler draws examples more than once"),
        (Twice(), "Twice shows an example more than once"),
    ],
)  # fmt: skip
def test_without_amplification_no_example_comes_twice(sampler: Any, message: str) -> None:
    loader = DataLoader(images(), 24, sampler=sampler)
    with pytest.raises(UsageError, match=message):
        train(Images(), loader, DPSGD(1.0, delta=1e-3, amplified=False))


def test_a_loader_of_another_kind_that_repeats_itself_is_found_out() -> None:
    loader = TensorBatches(*images().tensors, batch_size=24, shuffle_seed=0, passes=2)
    with pytest.raises(UsageError, match="more than the 96 examples that there are"):
        train(Images(), loader, DPSGD(1.0, delta=1e-3, amplified=False))


def test_without_amplification_lots_drawn_by_chance_are_refused() -> None:
    with pytest.raises(UsageError, match="leave out amplified=False"):
        train(Images(), images(), DPSGD(1.0, delta=1e-3, amplified=False))


def first_last(examples: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """Time first, and the examples second, in every tensor."""
    return [torch.stack(each, 1) for each in zip(*examples)]


class TimeFirstBatches(Words):
    def loss(self, tokens: Tensor, tags: Tensor) -> Tensor:
        return super().loss(tokens, tags)


def test_a_loader_that_puts_time_first_is_refused() -> None:
    loader = poisson(DataLoader(words(), 24, collate_fn=first_last), seed=0)
    with pytest.raises(UsageError, match="6 rows of 2 examples.*first axis"):
        train(TimeFirstBatches(), loader)


def test_tensors_of_different_lengths_are_refused() -> None:
    def collate(examples: list[tuple[Tensor, ...]]) -> list[Tensor]:
        pixels, labels = (torch.stack(each) for each in zip(*examples))
        return [pixels, labels, torch.arange(7)]

    with pytest.raises(UsageError, match="and 7 rows"):
        train(Images(), poisson(DataLoader(images(), 24, collate_fn=collate), seed=0))


@pytest.mark.parametrize(
    "optimiser, message",
    [(torch.optim.LBFGS, "LBFGS looks at a lot several times")],
)
def test_optimisers_that_look_twice_are_refused(optimiser: Any, message: str) -> None:
    class Other(Images):
        def configure_optimizers(self) -> Any:
            return optimiser(self.parameters(), 0.1)

    with pytest.raises(UsageError, match=message):
        train(Other(), images())


class Again(torch.optim.SGD):
    """Evaluates its closure two times, as sharpness-aware optimisers do."""

    def step(self, closure: Any = None) -> Any:
        closure()
        super().step()
        return super().step(closure)


def test_an_optimiser_of_another_kind_that_looks_twice_is_found_out() -> None:
    class Other(Images):
        def configure_optimizers(self) -> Any:
            return Again(self.parameters(), 0.1)

    with pytest.raises(UsageError, match="Again looks at a lot several times"):
        train(Other(), images())


class Accumulates(pl.Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.accumulate_grad_batches = 2


@pytest.mark.parametrize(
    "schedule, name",
    [
        (GradientAccumulationScheduler({0: 1, 1: 2}), "GradientAccumulationScheduler"),
        (Accumulates(), "accumulate_grad_batches"),
    ],
)
def test_schedules_of_accumulation_are_refused(schedule: pl.Callback, name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}; set the lot"):
        train(Images(), images(), extra=(schedule,))


def test_clipping_by_the_trainer_afterwards_is_fine() -> None:
    assert train(Images(), images(), gradient_clip_val=0.1).steps == 4


# ---------------------------------------------------------------- numbers that are none


@pytest.mark.parametrize("batch, first", [(N, True), (8, False)])
def test_an_example_that_is_not_a_number_stops_training(batch: int, first: bool) -> None:
    data = images().tensors
    values = data[0].float() / 255
    values[41, 0, 2, 2] = math.nan

    class Floats(Images):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return self.loss(*batch)

    module = Floats()
    with pytest.raises(
        UsageError, match="gradient of (an )?example.*not a finite number.*damaged|example"
    ):
        train(module, TensorDataset(values, data[1]), batch=batch, max_epochs=3)
    assert all(bool(p.isfinite().all()) for p in module.parameters())
