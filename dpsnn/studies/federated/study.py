"""`dpsnn federated`: train, secure and plain side by side, and write what came of it."""

import argparse
import importlib.util
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from rich.console import Console
from rich.progress import Progress

from dpsnn import building, checkpoints
from dpsnn.atomic import scratch
from dpsnn.checkpoints import CLASSIFIER
from dpsnn.data import DATASETS
from dpsnn.errors import UsageError, choose
from dpsnn.evaluation import tables
from dpsnn.federated.audit import Audit, audit
from dpsnn.federated.partition import partition
from dpsnn.federated.processes import Processes, process_commands, run_command
from dpsnn.federated.spec import MODES, FederatedSpec, Settings, arguments
from dpsnn.metrics import correct
from dpsnn.options import spec_from
from dpsnn.runner.beforehand import check_places
from dpsnn.runner.progress import note
from dpsnn.runner.train import Folders
from dpsnn.specs import ClassifierSpec, replace

KEY = ("Model", "Round")


def ensure_flower() -> None:
    """Raise UsageError where Flower is not installed."""
    if importlib.util.find_spec("flwr") is None:
        raise UsageError(
            "federated training needs Flower: `./main.sh federated` installs it, or pip install -e '.[federated]'"
        )


def as_trained(classifier: ClassifierSpec, federated: FederatedSpec) -> ClassifierSpec:
    """The spec of what a run really does: every client starts each round with a fresh optimiser at a constant rate."""
    epochs = federated.rounds * federated.local_epochs
    return replace(classifier, constant_rate=True, max_epochs=epochs, precision="32")


def name_of(settings: Settings) -> str:
    federated = settings.federated
    return checkpoints.federated_name(
        settings.classifier, federated.clients, settings.mode, federated.skew, federated.drop
    )


def federated_table(results_dir: str | Path) -> Path:
    return Path(results_dir) / "quantitative_measures" / "federated.csv"


def commands(federated: FederatedSpec) -> list[str]:
    """What is started for each run, in words for a shell."""
    made = process_commands("settings.json", federated.clients, "PORT", "PARENT").values()
    return [shlex.join(command) for command in (*made, run_command("APP", "settings.json"))]


def federated(
    classifier: ClassifierSpec,
    federated: FederatedSpec,
    folders: Folders,
    modes: Sequence[str] = MODES,
) -> tuple[str, Path]:
    """Train one classifier for each mode, unless it is there already with its rows.

    Args:
        classifier: What to train; its rate stays constant, in float32.
        federated: Among whom and for how long.
        folders: Where to read and write.
        modes: `secure`, `plain`, or both; with both, each secure average is checked against the clients' updates.

    Returns:
        A text with both side by side, and the table.

    Raises:
        UsageError: If an argument is out of range, Flower is missing, data cannot be reached, a name is taken, or a run
            failed.
    """
    ensure_flower()
    spec = as_trained(classifier, federated)
    data = choose(DATASETS, spec.dataset, "dataset")(folders.data_dir)
    for role in ("train", "validation", "test"):
        data.rows(role)
    building.build_classifier(spec)
    parts = partition(data.tensors("train")[1], federated.clients, spec.seed, federated.skew)
    if spec.private and spec.dp_delta >= 1 / max(map(len, parts)):
        raise UsageError(
            f"dp_delta is {spec.dp_delta}; with {max(map(len, parts))} images on a client it must be below"
            f" {1 / max(map(len, parts)):.2g}"
        )
    results = Path(folders.results_dir)
    table = federated_table(results)
    check_places(folders, [(table, KEY)])
    both = set(modes) >= set(MODES)
    rows: dict[str, list[dict[str, Any]]] = {}
    for mode in modes:
        with scratch("dpsnn-federated") as folder:
            settings = Settings(
                classifier=spec,
                federated=federated,
                mode=mode,
                data_dir=str(Path(folders.data_dir).absolute()),
                folder=str(folder),
                audit=both and mode == "secure",
            )
            name = name_of(settings)
            there = checkpoints.already(folders.classifiers, name, CLASSIFIER, arguments(settings))
            known = [row for row in tables.read(table, KEY) if row["Model"] == name]
            if there and len(known) == federated.rounds:
                note(f"{there.name} exists, with its rows")
                rows[mode] = [_numbers(row) for row in known]
                continue
            try:
                rows[mode], weights, record = _train(settings, results / "logs" / name)
            except KeyboardInterrupt:
                note(f"{name} starts again from its first round when called again")
                raise
            path = there or folders.classifiers / f"{name}_epoch={federated.rounds - 1:02d}.ckpt"
            if not there:
                checkpoints.save(path, CLASSIFIER, arguments(settings), record, weights)
            tables.drop(table, "Model", [name])
            tables.upsert(table, rows[mode], KEY)
            for client, epsilon in record.get("dp_epsilon_by_client", {}).items():
                note(f"  client {client}: epsilon {epsilon:.4g} at delta {spec.dp_delta:g}")
            note(f"  {path}")
    return side_by_side(rows), table


def _train(
    settings: Settings, logs: Path
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor], dict[str, Any]]:
    """One run: its rows, the weights in the end, and the record that stands beside them."""
    name, federated = name_of(settings), settings.federated
    folder = Path(settings.folder)
    data = DATASETS[settings.classifier.dataset](settings.data_dir, batch_size=500)
    labels = data.tensors("train")[1]
    parts = partition(labels, federated.clients, settings.classifier.seed, federated.skew)
    images = {i: len(rows) for i, rows in enumerate(parts)}
    fewest, most = min(images.values()), max(images.values())
    note(f"training {name}: {federated.clients} clients with {fewest} to {most} images each")
    rows: list[dict[str, Any]] = []
    source = ""
    with (
        Processes(settings, logs) as processes,
        Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar,
    ):
        task = bar.add_task(settings.mode, total=federated.rounds)
        for event in processes.events():
            if "round" not in event:
                source = event["source"]
                continue
            checked = None
            if settings.audit:
                checked = audit(folder, event["round"], images, federated.clients)
            rows.append(_row(name, event, rows, checked, _notes(folder, event["round"])))
            bar.advance(task)
            if not sys.stderr.isatty():
                note(f"  round {event['round']}/{federated.rounds}  {_line(rows[-1])}")
    weights = torch.load(folder / "weights.pt", weights_only=True)
    classifier = building.build_classifier(settings.classifier)
    classifier.load_state_dict(weights)
    classifier.eval()
    with torch.no_grad():
        right = [correct(classifier(x), y) for x, y in data.batches("test")]
    rows[-1]["TestAcc"] = 100 * torch.cat(right).mean().item()
    record = {
        "epoch": federated.rounds - 1,
        "best": rows[-1]["ValAcc"] / 100,
        "seconds": round(sum(row["Seconds"] for row in rows), 1),
        "precision": "32-true",
        "torch": str(torch.__version__),
        "lightning": str(pytorch_lightning.__version__),
        "data_source": source,
        **_spent(_notes(folder)),
    }
    return rows, weights, record


def _notes(folder: Path, current: int | None = None) -> list[dict[str, Any]]:
    """What each client noted for itself in a round, or in its last one."""
    lines = [
        json.loads(line)
        for path in sorted(folder.glob("client_*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    if current is None:
        return list({line["client"]: line for line in lines}.values())
    return [line for line in lines if line["round"] == current]


def _spent(notes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """ε of every client, and of the whole: an image is on one client, so the worst ε holds for all of them."""
    private = [line for line in notes if "dp_epsilon" in line]
    if not private:
        return {}
    worst = max(private, key=lambda line: line["dp_epsilon"])
    by_client = {str(line["client"]): line["dp_epsilon"] for line in private}
    whole = {key: value for key, value in worst.items() if key.startswith("dp_")}
    return {**whole, "dp_epsilon_by_client": by_client}


def _row(
    name: str,
    event: dict[str, Any],
    before: Sequence[dict[str, Any]],
    checked: Audit | None,
    notes: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    epsilons = [line["dp_epsilon"] for line in notes if "dp_epsilon" in line]
    sent = event["sent"] - sum(row["BytesToClients"] for row in before)
    received = event["received"] - sum(row["BytesFromClients"] for row in before)
    return {
        "Model": name,
        "Round": event["round"],
        "Clients": event["clients"],
        "ValAcc": event["accuracy"],
        "TestAcc": None,
        "MaxDifference": checked.difference if checked else None,
        "QuantisationBound": checked.bound if checked else None,
        "LargestUpdate": max((line["largest"] for line in notes), default=None),
        "BytesToClients": sent,
        "BytesFromClients": received,
        "Seconds": event["seconds"],
        "MinEpsilon": min(epsilons, default=None),
        "MaxEpsilon": max(epsilons, default=None),
    }


def _numbers(row: dict[str, str]) -> dict[str, Any]:
    """A row as read, with its numbers as numbers."""
    return {k: v if k == "Model" else tables.number(row, k) for k, v in row.items()}


def _line(row: dict[str, Any]) -> str:
    shown = f"accuracy {row['ValAcc']:.1f} %, {row['Clients']} clients, {row['Seconds']:.1f} s"
    if row["MaxDifference"] is not None:
        shown += f", off by {row['MaxDifference']:.1e} of {row['QuantisationBound']:.1e} at most"
    if row["MaxEpsilon"] is not None:
        shown += f", epsilon {row['MaxEpsilon']:.3g}"
    return shown


COLUMNS = {
    "Round": "round",
    "secure": "secure %",
    "plain": "plain %",
    "MaxDifference": "off by",
    "QuantisationBound": "at most",
    "secure MB": "secure MB",
    "plain MB": "plain MB",
    "secure s": "secure s",
    "plain s": "plain s",
    "MaxEpsilon": "epsilon",
}


def side_by_side(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Rounds of both modes beside each other: validation accuracy, error of the average, traffic, seconds, ε."""
    lines: list[dict[str, Any]] = []
    for at in range(max(map(len, rows.values()))):
        line: dict[str, Any] = {"Round": str(at + 1)}
        for mode, own in rows.items():
            row = own[at]
            line |= {
                mode: row["ValAcc"],
                f"{mode} MB": (row["BytesToClients"] + row["BytesFromClients"]) / 1e6,
                f"{mode} s": row["Seconds"],
            }
            for name in ("MaxDifference", "QuantisationBound"):
                if row[name] is not None:
                    line[name] = f"{row[name]:.1e}"
            if row["MaxEpsilon"] is not None:
                line["MaxEpsilon"] = row["MaxEpsilon"]
        lines.append(line)
    present = {key for line in lines for key in line}
    return tables.as_text(lines, {k: v for k, v in COLUMNS.items() if k in present})


def run_federated(options: argparse.Namespace) -> Path | None:
    """`dpsnn federated`."""
    spec, among = spec_from(ClassifierSpec, options), spec_from(FederatedSpec, options)
    chosen = [mode for mode in MODES if getattr(options, mode)] or list(MODES)
    if options.dry_run:
        print(*commands(among) * len(chosen), sep="\n")
        return None
    text, table = federated(spec, among, spec_from(Folders, options), chosen)
    print(f"{text}\n")
    return table
