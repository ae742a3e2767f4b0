"""What the tests of encrypted inference share: free ports, a small trained network, a running cluster."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from dpsnn import ports
from dpsnn.batches import to_unit
from dpsnn.data import Digits
from dpsnn.networks import NETWORKS, SplitNetwork
from dpsnn.secure.config import Cluster, local_cluster


def free_cluster(**settings: Any) -> Cluster:
    """Three workers on ports that nobody uses just now."""
    return local_cluster(ports.free(13), **{"timeout": 120.0, **settings})


def trained(name: str = "keydana", steps: int = 60) -> SplitNetwork:
    """A network that has learnt the embedded digits a little: its scores are those of a real classifier."""
    torch.manual_seed(0)
    network = NETWORKS[name](Digits.image_shape, Digits.num_classes, Digits.mean, Digits.std)
    pixels, labels = Digits().tensors("train")
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(steps):
        rows = torch.arange(step * 64, step * 64 + 64) % len(pixels)
        loss = F.cross_entropy(network(to_unit(pixels[rows])), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def digits(count: int) -> torch.Tensor:
    return to_unit(Digits().tensors("test")[0][:count])


def until(condition: Callable[[], Any], seconds: float = 120.0) -> None:
    """Wait until something holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def resident(process: int) -> int:
    """Bytes of memory that a process holds now."""
    fields = Path(f"/proc/{process}/statm").read_text().split()
    return int(fields[1]) * 4096
