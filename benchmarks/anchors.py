"""What each budget of an audit finds, how long it takes, and whether twice the largest would find more.

    python benchmarks/anchors.py [--targets plain nopeek noise set xray resnet-layer1]
        [--budgets quick standard thorough doubled]

Four are MNIST targets whose strongest attackers are known, and need the checkpoints of `./main.sh all --dataset mnist`;
attackers own the same 5,000 images as there, and `thorough` shall reach the figure under *asked*. The others are the
models of docs/walks.md, whose files lie in the folder named by --walks. `doubled` is `thorough` with twice the epochs
that it came to, and twice its steps and seconds, and should change next to nothing. Attacks whose error came within a
quarter of the least one are doubled; the others, which could not become the strongest by what a doubling brings, stay
as they were. Audits are kept in a folder, and gone on with.
"""

import argparse
import contextlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from dpsnn.audit import plan
from dpsnn.audit.plan import BUDGETS, Budget, Planned
from dpsnn.audit.result import NAME, AuditResult
from dpsnn.audit.run import PARTS, audit
from dpsnn.bench.records import Results, begin

FEATURE = "SSIMGaussian"


class Known(NamedTuple):
    """A target."""

    model: str
    """The stem of a checkpoint, or a file and its function."""
    given: dict[str, Any] = {}
    """Of the audit, besides; folders and files are those of a walk."""
    asked: float | None = None
    """The error that shall be reached."""


TARGETS = {
    "plain": Known("mnist_00noise_00nopeek", asked=0.0045),
    "nopeek": Known("mnist_00noise_05nopeek", asked=0.0065),
    "noise": Known("mnist_10noise_00nopeek", asked=0.0265),
    "set": Known("mnist_00noise_00nopeek", {"noise_scale": 5.0}, 0.052),
    "xray": Known(
        "xray.py:make",
        {
            "weights": "xray.pt",
            "data": "pneumoniamnist.npz:test",
            "surrogate": "pneumoniamnist.npz:train",
            "cuts": ["10"],
        },
    ),
    # Cut by cut: each takes an hour or more, and what is close to the strongest differs.
    **{
        f"resnet-{cut}": Known(
            "resnet.py:make",
            {
                "weights": "resnet.pt",
                "data": "cifar10/test",
                "trained_on": "cifar10/train",
                "cuts": [cut],
            },
        )
        for cut in ("layer1", "layer2", "layer3", "layer4")
    },
}
MNIST = ["plain", "nopeek", "noise", "set"]

THOROUGH, DOUBLED = "thorough", "doubled"

CLOSE = 1.25
"""Times the least error, up to which an attack might become the strongest."""


EPOCHS = {"decoder": "max_epochs", "refiner": "epochs"}
"""What they are called among the settings of an attack that doubles them itself."""


def twice(budget: Budget, result: AuditResult) -> Budget:
    """The attacks that came close to the strongest with twice the epochs, steps and seconds; others as they were."""
    close: dict[str, int] = {}
    for cut in result.cuts:
        rows = [row for row in cut["attacks"] if row["measures"]]
        errors = {row["label"]: row["measures"]["MSE"]["value"] for row in rows}
        for row in rows:
            if errors[row["label"]] <= CLOSE * min(errors.values()):
                epochs = row["settings"].get("epochs", 0)
                close[row["label"]] = max(epochs, close.get(row["label"], 0))

    def longer(planned: Planned) -> Planned:
        if planned.label not in close:
            return planned
        more = {n: 2 * v for n, v in planned.settings.items() if n == "steps"}
        if planned.key in EPOCHS:
            name = EPOCHS[planned.key]
            once = close[planned.label] or planned.settings[name]
            more = {name: 2 * once, "doublings": 0}
        return replace(planned, settings={**planned.settings, **more})

    again = tuple(longer(each) for each in budget.attacks if each.maps or each.label in close)
    return replace(budget, seconds=2 * budget.seconds, attacks=again)


def audited(
    results: Results, known: Known, budget: str, options: argparse.Namespace, folder: Path
) -> AuditResult:
    """The audit of a target, made or read."""
    if (folder / NAME).exists():
        return AuditResult.load(folder / NAME)
    if ":" in known.model:
        begun = Path(options.walks or ".", known.model.partition(":")[0])
        if not begun.exists():
            results.not_run(
                f"no {begun}; make the files of docs/walks.md, and name their folder by --walks"
            )
        with contextlib.chdir(begun.parent):
            return audit(known.model, budget=budget, out=folder, **known.given)
    found = sorted(Path(options.models_dir, "classifiers").glob(f"{known.model}_epoch=*.ckpt"))
    if not found:
        results.not_run(
            f"no {known.model} in {options.models_dir}; run ./main.sh all --dataset mnist"
        )
    return audit(
        str(found[0]), "mnist", budget=budget, out=folder, data_dir=options.data_dir, **known.given
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=MNIST, choices=[*TARGETS])
    parser.add_argument(
        "--budgets", nargs="+", default=["quick", "standard"], choices=[*BUDGETS, DOUBLED]
    )
    parser.add_argument("--out", default="results/bench/anchors", help="where audits are kept")
    parser.add_argument("--models_dir", default="models")
    parser.add_argument("--walks", help="where the files of docs/walks.md are [here]")
    parser.add_argument("--data_dir", default="data")
    options, results = begin(parser, quick={"targets": ["plain"], "budgets": ["quick"]})
    for name in options.targets:
        known = TARGETS[name]

        def made(budget: str) -> AuditResult:
            folder = Path(options.out, f"{name}_{budget}").resolve()
            return audited(results, known, budget, options, folder)

        for budget in options.budgets:
            if budget == DOUBLED:
                plan.BUDGETS[DOUBLED] = twice(BUDGETS[THOROUGH], made(THOROUGH))
                # What is as it was need not be made again.
                kept, again = (Path(options.out, f"{name}_{b}", PARTS) for b in (THOROUGH, DOUBLED))
                if kept.is_dir() and not again.exists():
                    shutil.copytree(kept, again)
            show(results, name, budget, known, made(budget))
    results.write()


def show(results: Results, name: str, budget: str, known: Known, result: AuditResult) -> None:
    """Print what one audit found, and hand it over."""
    floor = next(each["floor"] for each in result.measures if each["column"] == FEATURE)
    minutes = result.made["seconds"] / 60
    results.add(f"audit of {name}, budget {budget}", minutes, "min")
    print(f"{name} {budget}: {minutes:.1f} min")
    for cut in result.cuts:
        best = cut["strongest"]
        error, told = best["MSE"]["value"], f"audit of {name} at {cut['name']}, budget {budget}"
        asked = f" (asked {known.asked})" if known.asked else ""
        print(
            f"  {cut['name']}: MSE {error:.5f}{asked} by {' / '.join(best['MSE']['by'])},"
            f" {FEATURE} {best[FEATURE]['value']:.4f}, {best[FEATURE]['value'] - floor:.4f} above the floor"
        )
        for row in cut["attacks"]:
            found = row["measures"].get("MSE", {}).get("value", float("nan"))
            print(
                f"    {row['label']:24} {row['status']:8} {row['seconds']:6.0f} s  {found:.5f}"
                f"  {row['victims']} victims"
            )
        held = ("asked", error / known.asked) if known.asked else ()
        results.add(f"{told}: least MSE", error, "", *held)
        results.add(f"{told}: {FEATURE} above the floor", best[FEATURE]["value"] - floor, "")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
