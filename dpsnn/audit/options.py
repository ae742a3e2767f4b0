"""The options of `dpsnn audit`; nothing here imports torch."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from dpsnn import parts
from dpsnn.audit.gate import Gate, add_gate_options
from dpsnn.audit.result import NAME
from dpsnn.errors import UsageError, one_of
from dpsnn.folders import Folders
from dpsnn.options import WholeNumbers, add_options
from dpsnn.runner.offers import where_options
from dpsnn.runner.study import Command
from dpsnn.specs import ClassifierSpec

KINDS = {"laplace": "noise_scale", "gaussian": "gaussian_std"}
"""Kind of noise → the setting of the defence that adds it."""

BUDGETS = ("quick", "standard", "thorough")

TEXTS = (
    ("model", "MODEL", "FILE.py:FUNCTION, a name of torchvision's, or a checkpoint of ours"),
    ("weights", "FILE", "the model's state dict; no code in it is run"),
    ("smashed", "FILE.npz", "instead of model and data: images and what was sent of each, smashed"),
    (
        "data",
        "DATA",
        "what users send: a folder with a subfolder for each class, FILE.npz, FILE.py:FUNCTION, or a set of ours",
    ),
    ("surrogate", "DATA", "what an attacker owns (default: half of the data)"),
    (
        "groups",
        "NAME",
        "keep a person's pictures on one side: subfolder, or an array beside the images",
    ),
    ("trained_on", "DATA", "what the model was trained on: an overlap with the victims is said"),
)
"""Options that name things."""


def defence_options() -> list[str]:
    """Names of the settings of every defence."""
    return [made.name for each in parts.declared("defence") for made in each.options]


def add_audit_options(parser: argparse.ArgumentParser) -> None:
    """All of them."""
    for name, value, text in TEXTS:
        # Its own name is that of a data set of ours elsewhere, and would be checked as one.
        parser.add_argument(f"--{name}", dest=f"audit_{name}", default="", metavar=value, help=text)
    parser.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="scale and crop pictures of a folder to this side",
    )
    parser.add_argument(
        "--cuts",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help="modules behind which the model is cut, also with commas between [all, but where the next layer computes"
        " value by value]",
    )
    parser.add_argument(
        "--noise", type=float, default=0.0, metavar="S", help="scale of noise on the wire [0]"
    )
    parser.add_argument(
        "--noise_kind", default="laplace", metavar="KIND", help=f"{' or '.join(KINDS)} [laplace]"
    )
    parser.add_argument(
        "--queries", type=int, default=1, metavar="K", help="how often each picture is sent [1]"
    )
    parser.add_argument(
        "--budget", default="quick", metavar="BUDGET", help=f"{', '.join(BUDGETS)} [quick]"
    )
    parser.add_argument(
        "--seeds", nargs="+", action=WholeNumbers, default=[0], metavar="SEED", help="[0]"
    )
    parser.add_argument(
        "--out",
        default="audit",
        metavar="DIR",
        help="folder for the result, which is gone on with [audit]",
    )
    add_options(parser, Folders, ["data_dir"])
    add_options(parser, ClassifierSpec, defence_options())


def add_command_options(parser: argparse.ArgumentParser) -> None:
    """Those of the audit, where its attacks run, and of the gate that its result must pass."""
    add_audit_options(parser)
    where_options(parser)
    add_gate_options(parser)


COMMAND = Command(
    name="audit",
    action="dpsnn.audit.options:run",
    heading="audit a model",
    said="how much of its inputs any model leaks at each cut, and what is guaranteed",
    options=add_command_options,
    resume="; call again to go on behind the last finished attack",
)


def run(options: argparse.Namespace) -> Path:
    """Audit as asked, write the result, and check it if a gate is asked for.

    Raises:
        UsageError: Of a gate before anything is audited, as far as it can be told then.
        GateFailed: After the result was written and named, if it does not pass.
    """
    from dpsnn.audit.apart import make_ahead
    from dpsnn.audit.run import audit
    from dpsnn.metrics.base import known

    gate, path = Gate.of(options), Path(options.out) / NAME
    if gate:
        gate.check(
            [{"column": each.column, "lower_leaks": each.leaks == "lower"} for each in known()]
        )
    make_ahead(options)
    result = audit(**arguments(options), out=options.out, command=typed(options))
    if gate:
        gate.close(result, path)
    return path


def arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Of `audit`, but for where the result goes.

    Raises:
        UsageError: If noise is named twice, or of no known kind.
    """
    one_of(options.noise_kind, KINDS, "noise_kind")
    one_of(options.budget, BUDGETS, "budget")
    defences = {
        made.name: value
        for each in parts.declared("defence")
        for made in each.options
        if (value := getattr(options, made.name)) != made.default
    }
    if options.noise:
        name = KINDS[options.noise_kind]
        if name in defences:
            raise UsageError(f"--noise and --{name} say the same; leave one out")
        defences[name] = options.noise
    return {
        "model": options.audit_model or None,
        "data": options.audit_data or None,
        "weights": options.audit_weights,
        "smashed": options.audit_smashed,
        "surrogate": options.audit_surrogate or None,
        "groups": options.audit_groups,
        "trained_on": options.audit_trained_on or None,
        "size": options.size,
        "cuts": options.cuts,
        "queries": options.queries,
        "budget": options.budget,
        "seeds": options.seeds,
        "data_dir": options.data_dir,
        **defences,
    }


def typed(options: argparse.Namespace) -> str:
    """The command line that asks for the same."""
    parser = argparse.ArgumentParser(add_help=False)
    add_audit_options(parser)
    words = ["dpsnn", "audit"]
    for action in parser._actions:
        value = getattr(options, action.dest)
        if value == action.default:
            continue
        words.append(action.option_strings[0])
        if isinstance(value, list):
            words += map(str, value)
        elif value is not True:
            words.append(str(value))
    return shlex.join(words)
