"""Small models of the kinds that people bring: FILE.py:FUNCTION is how an audit is given one."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _seeded() -> None:
    torch.manual_seed(0)


def layers(channels: int = 1, side: int = 8) -> nn.Sequential:
    """A plain sequence with batch normalisation and dropout."""
    _seeded()
    model = nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(4 * (side // 2) ** 2, 16),
        nn.Tanh(),
        nn.Linear(16, 10),
    )
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
    norm.running_mean.normal_()
    return model


class Functional(nn.Module):
    """Functions between modules, and a view by the size of the batch."""

    def __init__(self) -> None:
        super().__init__()
        _seeded()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(16, 10)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        count = images.size(0)
        x = F.relu(self.conv1(images))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        if mask is not None:
            x = x * mask
        return self.fc(torch.tanh(x.view(count, -1)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.conv_again = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.conv_again(self.act(self.conv(x))))


class Residual(nn.Module):
    """Two blocks with a skip connection each, and, if asked, a dict for an answer and code that cannot be traced."""

    def __init__(self, awkward: bool = False) -> None:
        super().__init__()
        _seeded()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.stage = nn.Sequential(Block(), Block())
        self.pool, self.head = nn.AdaptiveAvgPool2d(2), nn.Linear(16, 10)
        self.awkward = awkward

    def forward(self, images: Tensor) -> Any:
        x = self.stage(self.stem(images))
        if self.awkward and bool(x.isnan().any()):
            raise ValueError("not a number")
        x = self.head(self.pool(x).flatten(1))
        return {"loss": None, "logits": x} if self.awkward else x


class Tied(nn.Module):
    """The last layer has the weights of the first."""

    def __init__(self) -> None:
        super().__init__()
        _seeded()
        self.first, self.middle = nn.Linear(64, 64), nn.Linear(64, 64)
        self.last = nn.Linear(64, 64)
        self.last.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.last(torch.relu(self.middle(torch.relu(self.first(images.flatten(1))))))


class Restless(nn.Module):
    """Dropout that never ends."""

    def __init__(self) -> None:
        super().__init__()
        _seeded()
        self.fc1, self.fc2 = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc2(F.dropout(torch.tanh(self.fc1(images.flatten(1))), 0.5))


def functional() -> nn.Module:
    return Functional()


def residual() -> nn.Module:
    return Residual()


def awkward() -> nn.Module:
    return Residual(awkward=True)


def tied() -> nn.Module:
    return Tied()


def restless() -> nn.Module:
    return Restless()


def identity() -> nn.Module:
    """The client sends the image itself."""
    _seeded()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class Constant(nn.Module):
    """The client sends the same for every image."""

    def __init__(self) -> None:
        super().__init__()
        self.silent = nn.Linear(64, 16)
        nn.init.zeros_(self.silent.weight)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.silent(images.flatten(1)))


def constant() -> nn.Module:
    _seeded()
    return Constant()


def needy(width: int, depth: int, *more: int, wide: bool = False) -> nn.Module:
    return nn.Linear(width, depth)


class Needy(nn.Linear):
    def __init__(self, width: int) -> None:
        super().__init__(width, 2)


def broken() -> nn.Module:
    raise RuntimeError("no such layer")


def no_model() -> int:
    return 3


class _Blind(torch.autograd.Function):
    """Lets no gradient back, and says so when it is asked for one."""

    @staticmethod
    def forward(context: Any, images: Tensor) -> Tensor:
        return images.flatten(1)


def blind(images: Tensor) -> Tensor:
    """A client that sends what it is given, and has no gradient."""
    sent: Tensor = _Blind.apply(images)  # type: ignore[no-untyped-call]
    return sent
