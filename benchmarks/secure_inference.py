"""Encrypted inference: plaintext, the cluster, and the engine driven by hand, in one run; and what they send.

python benchmarks/secure_inference.py            # minutes; three worker processes, untrained networks, no data needed

By hand means: three processes with the same engine, the same graph, compiled, its weights set, the image's shares in
place; timed is `run` alone. What the cluster takes beyond that is our layer: shares, messages, the order of requests.
Both are asked in turn, so that whatever else the machine does touches both.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dpsnn.bench.records import Results, begin
from dpsnn.errors import UsageError
from dpsnn.networks import NETWORKS
from dpsnn.secure import require

if TYPE_CHECKING:
    from dpsnn.secure.convert import Converted

EXTRA = "secure"
"""What it needs: `./main.sh install secure` makes an environment for it."""

SHAPE, CLASSES = (1, 28, 28), 10


def by_hand(
    rank: int, model: "Converted", batches: list[int], port: int, orders: Connection
) -> None:
    """One party of the engine without our layer: told a batch size, it says how long `run` took."""
    import spu
    from spu import libspu

    from dpsnn.secure import graph, shares

    description = libspu.link.Desc()
    for party in range(3):
        description.add_party(f"party-{party}", f"127.0.0.1:{port + party}")
    description.recv_timeout_ms = 600_000
    runtime = spu.Runtime(libspu.link.create_brpc(description, rank), shares.config())
    names = [f"weight-{number}" for number in range(len(model.weights))]
    # Zeros cost what any numbers cost, and every party can share them by itself.
    for name, weight in zip(names, model.weights):
        runtime.set_var(name, shares.wrap(bytes(shares.size(weight.shape)), weight.shape))
    graphs = {n: graph.compile_graph(model.plan, n, model.input_shape, names) for n in batches}
    orders.send("ready")
    while batch := orders.recv():
        shape = (batch, *model.input_shape)
        runtime.set_var("input", shares.wrap(bytes(shares.size(shape)), shape))
        start = time.perf_counter()
        runtime.run(graphs[batch])
        orders.send(time.perf_counter() - start)


def timed(compute: Callable[[], Any]) -> float:
    start = time.perf_counter()
    compute()
    return time.perf_counter() - start


def measure(results: Results, name: str, batches: list[int], repeats: int, port: int) -> None:
    # Here, as they need the extra.
    from dpsnn.secure import owner
    from dpsnn.secure.client import Client
    from dpsnn.secure.cluster import LocalCluster
    from dpsnn.secure.config import local_cluster

    torch.manual_seed(0)
    network = NETWORKS[name](SHAPE, CLASSES, 0.1307, 0.3081).eval()
    model = owner.whole(network)
    images = torch.rand(max(batches), *SHAPE)
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in range(3)]
    parties = [
        spawn.Process(target=by_hand, args=(rank, model, batches, port + 20, pipes[rank][1]))
        for rank in range(3)
    ]
    for party in parties:
        party.start()
    cluster = local_cluster(port, timeout=600)
    with (
        tempfile.TemporaryDirectory() as folder,
        open(Path(folder) / "log", "wb") as log,
        LocalCluster(cluster, Path(folder), log=log),
    ):
        sharing = timed(lambda: owner.share(cluster, model))
        for ours, _ in pipes:
            ours.recv()
        with Client(cluster) as client:
            for batch in batches:
                asked = images[:batch].numpy()

                def hand() -> float:
                    for ours, _ in pipes:
                        ours.send(batch)
                    return max(ours.recv() for ours, _ in pipes)

                client.scores(asked)
                hand()
                before, sent = owner.status(cluster), sum(client.traffic)
                pairs = [(timed(lambda: client.scores(asked)), hand()) for _ in range(repeats)]
                after = owner.status(cluster)
                with torch.no_grad():
                    plain = min(timed(lambda: network(images[:batch])) for _ in range(repeats))
                ratios = [ours / theirs for ours, theirs in pairs]
                ours, theirs = (statistics.median(column) for column in zip(*pairs))
                engine = sum(a.engine_bytes - b.engine_bytes for a, b in zip(after, before))
                client_bytes = sum(client.traffic) - sent
                print(
                    f"{name}, batch {batch}: cluster {ours:.2f} s, engine by hand {theirs:.2f} s, ratio"
                    f" {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), plaintext"
                    f" {1000 * plain:.1f} ms; between workers {engine / repeats / 1e6:.2f} MB, client and workers"
                    f" {client_bytes / repeats / 1e6:.3f} MB per query",
                    flush=True,
                )
                told = (
                    f"encrypted inference, {name}, a warm query of {batch} image{'s'[: batch > 1]}"
                )
                values = [column for column, _ in pairs]
                speeds = [1 / ratio for ratio in ratios]
                results.add(told, values, "s", "the engine driven by hand", speeds)
                results.add(told, ours, "s", "plaintext", plain / ours)
            peak = max(state.peak_bytes for state in owner.status(cluster)) / 1024**3
            print(
                f"{name}: weights shared once in {sharing:.1f} s, graphs compiled for {len(batches)} sizes; a worker"
                f" held at most {peak:.2f} GiB",
                flush=True,
            )
            results.add(f"encrypted inference, {name}: a worker held at most", peak, "GiB")
    for (ours, _), party in zip(pipes, parties):
        ours.send(0)
        party.join(10)
        party.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["keydana", "titcombe"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--port", type=int, default=4100)
    options, results = begin(parser, quick={"networks": ["keydana"], "batches": [1], "repeats": 2})
    try:
        require()
    except UsageError as error:
        results.not_run(error)
    torch.set_num_threads(1)
    for name in options.networks:
        measure(results, name, options.batches, options.repeats, options.port)
    results.write()


if __name__ == "__main__":
    main()
