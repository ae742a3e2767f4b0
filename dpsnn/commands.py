"""What our own commands do with their options, those of no study; each returns what it wrote.

`cli.py` imports this when a command runs, and not for `--help`: it brings torch.
"""

import argparse
import math
from pathlib import Path

from dpsnn import catalogue, checkpoints
from dpsnn.checkpoints import ATTACKER, CLASSIFIER
from dpsnn.devices import Devices
from dpsnn.errors import UsageError, one_of
from dpsnn.evaluation.epsilon import costs, noises, steps_of
from dpsnn.evaluation.pictures import plot_attacks
from dpsnn.evaluation.summary import write_summaries
from dpsnn.folders import Folders
from dpsnn.options import choices, spec_from
from dpsnn.runner import run, train
from dpsnn.runner.figures import draw, figure_path
from dpsnn.runner.figures import figures as known
from dpsnn.runner.figures import write_texts
from dpsnn.runner.leaving import LeftOut
from dpsnn.runner.ledger import write_ledger
from dpsnn.runner.tracking import summarise
from dpsnn.specs import ACCOUNTANTS, AttackerSpec, ClassifierSpec, refuse_idle


def train_model(options: argparse.Namespace) -> Path:
    spec = spec_from(ClassifierSpec, options)
    refuse_idle(spec)
    devices = spec_from(Devices, options)
    return train.train_classifier(spec, spec_from(Folders, options), devices=devices)


def train_attacker(options: argparse.Namespace) -> Path:
    spec, folders = spec_from(AttackerSpec, options), spec_from(Folders, options)
    if options.dataset and spec.model:
        path = checkpoints.find(folders.classifiers, spec.model, CLASSIFIER)
        _check_dataset(path, CLASSIFIER, folders, options.dataset)
    return train.train_attacker(spec, folders)


def _check_dataset(path: Path, kind: str, folders: Folders, dataset: str) -> None:
    trained_on = run.dataset_of(path, kind, folders)
    if trained_on != dataset:
        raise UsageError(
            f"{path.name} is for {trained_on}, not {dataset}; drop --dataset or name another --model"
        )


def evaluate_models(options: argparse.Namespace) -> Path:
    folders = spec_from(Folders, options)
    return run.evaluate_models(_selected(options, CLASSIFIER), folders, options.all)


def evaluate_attackers(options: argparse.Namespace) -> Path:
    folders = spec_from(Folders, options)
    paths = _selected(options, ATTACKER)
    return run.evaluate_attackers(paths, folders, options.validation_model, options.all)


def _selected(options: argparse.Namespace, kind: str) -> list[Path]:
    """The named checkpoints, or all of them; with --dataset only those on that data set."""
    folders = spec_from(Folders, options)
    folder = folders.classifiers if kind == CLASSIFIER else folders.attackers
    if options.model:
        named = [checkpoints.find(folder, name, kind) for name in options.model]
        for path in named if options.dataset else []:
            _check_dataset(path, kind, folders, options.dataset)
        return named
    paths = run.select(folders, kind, options.dataset)
    if not paths:
        raise UsageError(
            f"{folder} holds no {kind}{' for ' + options.dataset if options.dataset else ''}; train one first"
        )
    return paths


def plot_attack(options: argparse.Namespace) -> Path:
    folders = spec_from(Folders, options)
    if not options.model or not options.attacker:
        raise UsageError("name both --model NAME and --attacker NAME")
    model = checkpoints.find(folders.classifiers, options.model, CLASSIFIER)
    paths = [checkpoints.find(folders.attackers, n, ATTACKER) for n in options.attacker]
    for path in paths:
        attacked = checkpoints.read(path, ATTACKER).arguments.get("model")
        if attacked != model.name.removesuffix(".ckpt"):
            raise UsageError(
                f"{path.name} attacks {attacked}, not {options.model}; name one that attacks it"
            )
    default = Path(folders.results_dir) / "figures" / f"{paths[0].name.removesuffix('.ckpt')}.png"
    labelled = [(path.name.split("_model<")[0], path) for path in paths]
    return plot_attacks(labelled, folders, Path(options.savepath or default), model.stem)


def figures(options: argparse.Namespace) -> Path | None:
    folders = spec_from(Folders, options)
    one_of(options.dataset, choices()["dataset"], "dataset")
    if options.dry_run:
        print(*(figure_path(folders, name, options.dataset) for name in known()), sep="\n")
        return None
    written = draw(folders, options.dataset)
    if not written:
        raise UsageError(
            f"nothing to draw for {options.dataset}; run ./main.sh all --dataset {options.dataset}"
        )
    if folders.wandb:
        summarise("figures", options.dataset, Path(folders.results_dir), written)
    print(*write_texts(folders, options.dataset), *written[:-1], sep="\n")
    return written[-1]


def ledger(options: argparse.Namespace) -> Path:
    one_of(options.dataset, choices()["dataset"], "dataset")
    own = {**vars(options)}
    dataset, *paths = (own.pop(name) for name in ("dataset", "results_dir", "output"))
    return write_ledger(dataset, *map(Path, paths), **own)


def epsilon(options: argparse.Namespace) -> None:
    """Print what a training costs, or the noise that it needs, by every accountant."""
    known, wanted = options.noise_multiplier, options.target_epsilon
    if (known is None) == (wanted is None):
        raise UsageError("name either --noise_multiplier or --target_epsilon")
    for name in ("noise_multiplier", "target_epsilon"):
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} is {value}; it must be a finite number, greater than 0")
    rate, steps = steps_of(options.examples, options.batch_size, options.epochs)
    if not 0 < options.delta < 1 / options.examples:
        raise UsageError(
            f"delta is {options.delta}; it must be above 0 and below 1 / {options.examples} examples"
        )
    print(
        f"{steps:,} steps, each example drawn with probability {rate:.4g}, delta {options.delta:g}"
    )
    accountants = [*ACCOUNTANTS, *(["classic"] if options.classic else [])]
    lines = (
        costs(known, rate, steps, options.delta, accountants)
        if known is not None
        else noises(wanted, rate, steps, options.delta, accountants)
    )
    for line in lines:
        print(line, flush=True)


def performance(options: argparse.Namespace) -> Path | None:
    folders = spec_from(Folders, options)
    if options.dry_run:
        print("\n".join(run.evaluation_commands(folders, options.dataset)))
        return None
    try:
        made = run.performance(folders, options.dataset)
    except LeftOut:
        write_summaries(folders.results_dir)
        raise
    written = [path for path in made if path.exists()]
    print(*written[:-1], *write_summaries(folders.results_dir), sep="\n")
    return written[-1]


def parts(options: argparse.Namespace) -> None:
    """Print what parts there are."""
    print(catalogue.markdown() if options.markdown else "\n".join(catalogue.lines()))
