"""The likelihood mixture: how long own images take to meet what was heard, for noise of several kinds.

    python benchmarks/mixture.py

Prints the seconds from what was heard to the posterior means, on random images and a linear client with tanh.
"""

import argparse
import time

import torch
from torch import Tensor, nn

from dpsnn.attacks.mixture import LikelihoodMixture, Mixture
from dpsnn.bench.records import begin
from dpsnn.defences import DefenceList
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.target import Target
from dpsnn.training import keep_memory

WIRES = {
    "Laplace": [LaplaceNoise(5.0)],
    "Gaussian": [GaussianNoise(5.0)],
    "the sum of both": [LaplaceNoise(5.0), GaussianNoise(5.0)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds of the likelihood mixture.")
    parser.add_argument("--victims", type=int, default=5000, help="images heard [%(default)s]")
    parser.add_argument("--own", type=int, default=20000, help="images to mix [%(default)s]")
    parser.add_argument("--values", type=int, default=500, help="on the wire [%(default)s]")
    parser.add_argument(
        "--wires", default="Laplace,Gaussian", help=f"of {', '.join(WIRES)} [%(default)s]"
    )
    options, results = begin(parser, quick={"victims": 100, "own": 500})

    keep_memory()  # as every command does
    torch.manual_seed(0)
    client = nn.Sequential(nn.Flatten(), nn.Linear(784, options.values), nn.Tanh())
    own = torch.randint(0, 256, (options.own, 1, 28, 28), dtype=torch.uint8)
    victims: Tensor = torch.rand(options.victims, 1, 28, 28)
    for name in options.wires.split(","):
        target = Target.of_client(client, (1, 28, 28), DefenceList(WIRES[name]))
        known = target.knowledge(own, LikelihoodMixture.needs)
        heard = target.transmit(target.encode(victims))
        start = time.perf_counter()
        Mixture(known).infer(heard)  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
        print(
            f"{name}: {options.victims} victims by {options.own} images of {options.values} values in"
            f" {seconds:.0f} s on {torch.get_num_threads()} threads",
            flush=True,
        )
        told = (
            f"{options.victims:,} victims by {options.own:,} own images of {options.values} values"
        )
        results.add(f"likelihood mixture, {name} noise, {told}", seconds, "s")
    results.write()


if __name__ == "__main__":
    main()
