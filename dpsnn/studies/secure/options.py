"""The command line of `dpsnn secure …`: one command for each role, and one that starts all workers on this machine."""

import argparse
from collections.abc import Sequence
from typing import Any

from dpsnn.folders import Folders
from dpsnn.options import add_options


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The commands below `dpsnn secure`.

    Args:
        parser: Of `dpsnn secure`, which without a command is the group of experiments.
    """
    commands = parser.add_subparsers(metavar="COMMAND", title="the roles")

    def folders(made: argparse.ArgumentParser, names: Sequence[str]) -> None:
        add_options(made, Folders, names)

    def command(name: str, text: str, resume: str = "; call it again") -> Any:
        made = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False
        )
        made.set_defaults(action=f"dpsnn.secure.commands:{name}", resume=resume)
        made.add_argument(
            "--config",
            default="",
            metavar="FILE",
            help="cluster.toml [three workers on this machine, ports 4000 to 4002]",
        )
        return made

    limit: dict[str, Any] = dict(type=int, default=0, metavar="N")
    limit["help"] = "stop by itself after so many requests [never]"
    model: dict[str, Any] = dict(default="", metavar="NAME", help="the classifier to share")
    timeout: dict[str, Any] = dict(type=float, default=None, metavar="SECONDS")
    timeout["help"] = (
        "after which a query has failed; workers and clients each go by their own [60]"
    )
    split: dict[str, Any] = dict(action="store_true")
    split["help"] = (
        "share the server half; write the client half, which clients run on their device"
    )

    made = command("worker", "be one of the three workers")
    made.add_argument("--rank", type=int, required=True, metavar="RANK", help="which: 0, 1 or 2")
    made.add_argument("--num_requests", **limit)

    made = command(
        "serve",
        "run three workers on this machine",
        "; the workers have ended, and the shares are gone with them: serve and share again",
    )
    made.add_argument("--num_requests", **limit)
    made.add_argument("--timeout", **timeout)
    made.add_argument("--model", **model)
    made.add_argument("--split", **split)
    folders(made, ["models_dir"])

    made = command(
        "share",
        "share the weights of a classifier among the workers",
        "; the workers may have the model or not: share it again",
    )
    made.add_argument("--model", **model | {"required": True})
    made.add_argument("--split", **split)
    folders(made, ["models_dir"])

    made = command(
        "query", "classify images that no worker sees", "; nothing was written: ask again"
    )
    _query_options(made, timeout)
    folders(made, ["data_dir"])

    made = command("keys", "make certificates of all parties that have none")
    made.add_argument(
        "--client", default="client", metavar="NAME", help="client to make one for [%(default)s]"
    )
    command("status", "what the workers have done and hold")
    command("stop", "end a running cluster")


def _query_options(made: argparse.ArgumentParser, timeout: dict[str, Any]) -> None:
    made.add_argument(
        "--images",
        required=True,
        metavar="IMAGES",
        help="a data set (its test images), an array (.npy) or a picture",
    )
    made.add_argument("--count", type=int, default=3, metavar="N", help="images [%(default)s]")
    made.add_argument(
        "--batch_size",
        type=int,
        default=1,
        metavar="SIZE",
        help="images of a request [%(default)s]",
    )
    made.add_argument(
        "--device",
        default="",
        metavar="FILE",
        help="the client half, of a model shared with --split",
    )
    made.add_argument(
        "--client", default="client", metavar="NAME", help="certificate to use [%(default)s]"
    )
    made.add_argument("--timeout", **timeout)
    made.add_argument(
        "--output",
        default="results/secure/scores.csv",
        metavar="FILE",
        help="table to write [%(default)s]",
    )
