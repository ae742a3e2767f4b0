"""The options of `dpsnn bench`; nothing here imports torch."""

import argparse

from dpsnn.runner.study import Command


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these benchmarks alone")
    parser.add_argument(
        "--quick", action="store_true", help="show that all work, at small sizes, in minutes"
    )
    parser.add_argument("--again", action="store_true", help="also those that are finished")
    parser.add_argument(
        "--out", default="results/bench", metavar="DIR", help="where to write [%(default)s]"
    )
    parser.add_argument(
        "--folder",
        default="benchmarks",
        metavar="DIR",
        help="where the benchmarks are [%(default)s]",
    )
    parser.add_argument("--dry_run", action="store_true", help="print the commands and do nothing")


BENCH = Command(
    name="bench",
    action="dpsnn.bench.run:bench",
    heading="tables, figures and accounts",
    said="run every benchmark against its baseline, and put all in one table",
    about="Run the benchmarks one after another, each in a process of its own, and write bench.json and bench.md: every"
    " number beside its baseline, with the machine, the versions, and how busy the machine was. One that is finished"
    " on this machine with these versions is not run again. One that fails or lacks something is told, and stops no"
    " other.",
    options=_bench,
    resume="; call again to go on with the next benchmark",
    tidies=False,
)
