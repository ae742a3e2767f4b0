"""How long MI-FACE takes for 40 people at 1,000 steps: all at once, and against one by one.

python benchmarks/mi_face.py            # seconds; made-up weights, pictures of 112x92, no data needed
"""

import argparse
import time

import torch

from dpsnn.attacks import MIFace
from dpsnn.attacks.mi_face import Centred
from dpsnn.bench.records import begin
from dpsnn.networks import NETWORKS
from dpsnn.networks.faces import unstrided
from dpsnn.training import keep_memory

SHAPE, PEOPLE = (1, 112, 92), 40

FACES = ["softmax_regression", "perceptron", "faces_cnn"]

NEVER = 1.1
"""A confidence that no picture reaches: every person takes every step."""


def seconds(name: str, steps: int, people: int = PEOPLE) -> float:
    """Wall-clock time of an attack on a network of untrained weights, without any early end."""
    torch.manual_seed(0)
    network = Centred(unstrided(NETWORKS[name](SHAPE, PEOPLE, 0.5, 0.5)))
    network.requires_grad_(False).to(memory_format=torch.channels_last)
    attack = MIFace(iterations=steps, patience=steps, confidence=NEVER)
    start = time.perf_counter()
    found = attack.invert(network, torch.arange(people), SHAPE)
    taken = time.perf_counter() - start
    assert found.iterations.tolist() == [steps] * people
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--networks", nargs="+", default=[*FACES], choices=[*FACES])
    options, results = begin(parser, quick={"steps": 10, "networks": FACES[:1]})
    steps = options.steps
    keep_memory()  # as every command does
    print(f"{torch.get_num_threads()} threads")
    for name in options.networks:
        seconds(name, 10)
        together = seconds(name, steps)
        alone = seconds(name, max(1, steps // 10), 1) * PEOPLE * 10
        print(
            f"{name}: {PEOPLE} people, {steps} steps: {together:.1f} s;"
            f" one by one (from a tenth of the steps) / all at once = {alone / together:.1f}",
            flush=True,
        )
        told = f"MI-FACE of {PEOPLE} people, {steps:,} steps, {name}"
        results.add(told, together, "s", "one by one", alone / together)
    results.write()


if __name__ == "__main__":
    main()
