"""The options of `dpsnn calibrate`; nothing here imports torch."""

import argparse
import json
import shlex
from pathlib import Path

from dpsnn.audit.options import BUDGETS, TEXTS
from dpsnn.errors import GateFailed, UsageError, one_of
from dpsnn.folders import Folders
from dpsnn.options import add_options
from dpsnn.runner.study import Command

NAMED = ("model", "weights", "data", "surrogate", "groups")
"""Of `TEXTS`, those that it shares with an audit."""

NOISES = ("best", "gaussian", "laplace")


def add_calibrate_options(parser: argparse.ArgumentParser) -> None:
    """All of them."""
    for name, value, text in TEXTS:
        if name in NAMED:
            parser.add_argument(
                f"--{name}", dest=f"audit_{name}", default="", metavar=value, help=text
            )
    for name, kind, default, value, text in (
        ("size", int, None, "PIXELS", "scale and crop pictures of a folder to this side"),
        ("cut", str, "", "NAME", "module behind which the model is cut; an audit lists them"),
        ("target", str, "", "PROMISE", "naming=0.05@1000, mse=0.05 or ssim=0.3"),
        ("noise_kind", str, "best", "KIND", "gaussian, laplace, or best: whichever costs less"),
        (
            "clip",
            float,
            None,
            "C",
            "clip what is sent to this norm (Gaussian) or size (Laplace): name the kind with it",
        ),
        ("queries", int, 1, "K", "how often each picture is sent"),
        ("accuracy", float, None, "PERCENT", "refuse what leaves no server so much"),
        ("finetune_epochs", int, 0, "N", "train the server so long with the noise on"),
        ("budget", str, "quick", "BUDGET", ", ".join(BUDGETS)),
        ("seed", int, 0, "SEED", "of the split of the data, of noise and of attacks"),
        (
            "out",
            str,
            "audit",
            "DIR",
            "folder for the result; an audit that lies there gets the curve",
        ),
    ):
        shown = "" if default in (None, "") else " [%(default)s]"
        parser.add_argument(
            f"--{name}", type=kind, default=default, metavar=value, help=f"{text}{shown}"
        )
    add_options(parser, Folders, ["data_dir"])


COMMAND = Command(
    name="calibrate",
    action="dpsnn.audit.calibrate_options:run",
    heading="audit a model",
    said="the noise that keeps a promise to users of any model, and what it costs",
    options=add_calibrate_options,
    resume="",
)


def run(options: argparse.Namespace) -> Path:
    """Calibrate as asked, and write what was found.

    Raises:
        UsageError: If something is not there, out of range, or cannot be had.
        GateFailed: After the file was written and named, if fresh victims break the promise.
    """
    for name in ("audit_model", "audit_data", "cut", "target"):
        if not getattr(options, name):
            raise UsageError(f"name --{name.removeprefix('audit_')}")
    one_of(options.noise_kind, NOISES, "noise_kind")
    one_of(options.budget, BUDGETS, "budget")
    from dpsnn.audit.calibrate_run import calibrate_model

    path = calibrate_model(
        options.audit_model,
        options.audit_data,
        options.cut,
        options.target,
        weights=options.audit_weights,
        surrogate=options.audit_surrogate or None,
        groups=options.audit_groups,
        size=options.size,
        kind=options.noise_kind,
        clip=options.clip,
        queries=options.queries,
        accuracy=options.accuracy,
        finetune_epochs=options.finetune_epochs,
        budget=options.budget,
        seed=options.seed,
        data_dir=options.data_dir,
        out=options.out,
        command=typed(options),
    )
    found = json.loads(path.read_text("utf-8"))["calibration"]
    if found["checked"]["kept"] is False:
        print(path, flush=True)
        raise GateFailed(
            f"the promise is not kept on {found['checked']['victims']} victims that had no part in finding the noise;"
            " unless its notes name a cause, ask for a little more than is needed, or give --data with more images"
        )
    return path


def typed(options: argparse.Namespace) -> str:
    """The command line that asks for the same."""
    parser = argparse.ArgumentParser(add_help=False)
    add_calibrate_options(parser)
    words = ["dpsnn", "calibrate"]
    for action in parser._actions:
        value = getattr(options, action.dest)
        if value != action.default:
            words += [action.option_strings[0], str(value)]
    return shlex.join(words)
