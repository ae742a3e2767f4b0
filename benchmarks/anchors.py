"""What each budget of an audit finds on four MNIST targets whose strongest attackers are known, and how long it takes.

    python benchmarks/anchors.py [--targets plain nopeek noise set] [--budgets quick standard thorough doubled]

Needs the checkpoints of `./main.sh all --dataset mnist`. Attackers own the same 5,000 images as there. `thorough` shall
reach the figure under *asked*; `doubled` is `thorough` with twice its epochs, steps and seconds, and should change next
to nothing. Of its attacks those are made whose error came within a quarter of the least one; the others could not
become the strongest by what a doubling brings. Audits are kept in a folder, and gone on with.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import dpsnn
from dpsnn.audit import plan
from dpsnn.audit.plan import BUDGETS, Budget, Planned
from dpsnn.audit.result import NAME, AuditResult
from dpsnn.bench.records import Results, begin

FEATURE = "SSIMGaussian"


class Known(NamedTuple):
    """A target, and the error that shall be reached."""

    stem: str
    asked: float
    defences: dict[str, Any]


TARGETS = {
    "plain": Known("mnist_00noise_00nopeek", 0.0045, {}),
    "nopeek": Known("mnist_00noise_05nopeek", 0.0065, {}),
    "noise": Known("mnist_10noise_00nopeek", 0.0265, {}),
    "set": Known("mnist_00noise_00nopeek", 0.052, {"noise_scale": 5.0}),
}

THOROUGH, DOUBLED = "thorough", "doubled"

CLOSE = 1.25
"""Times the least error, up to which an attack might become the strongest."""


def twice(budget: Budget, result: AuditResult) -> Budget:
    """The attacks that came close to the strongest, with twice the epochs, steps and seconds."""
    (cut,) = result.cuts
    errors = {
        row["label"]: row["measures"]["MSE"]["value"] for row in cut["attacks"] if row["measures"]
    }
    close = {label for label, error in errors.items() if error <= CLOSE * min(errors.values())}

    def longer(planned: Planned) -> Planned:
        counts = {
            n: 2 * v for n, v in planned.settings.items() if n in ("max_epochs", "epochs", "steps")
        }
        return replace(planned, settings={**planned.settings, **counts})

    again = tuple(longer(each) for each in budget.attacks if each.label in close)
    return replace(budget, seconds=2 * budget.seconds, attacks=again)


def audited(
    results: Results, known: Known, budget: str, options: argparse.Namespace, folder: Path
) -> AuditResult:
    """The audit of a target, made or read."""
    if (folder / NAME).exists():
        return AuditResult.load(folder / NAME)
    found = sorted(Path(options.models_dir, "classifiers").glob(f"{known.stem}_epoch=*.ckpt"))
    if not found:
        results.not_run(
            f"no {known.stem} in {options.models_dir}; run ./main.sh all --dataset mnist"
        )
    return dpsnn.audit(
        str(found[0]), "mnist", budget=budget, out=folder, data_dir=options.data_dir, **known.defences
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=[*TARGETS], choices=[*TARGETS])
    parser.add_argument(
        "--budgets", nargs="+", default=["quick", "standard"], choices=[*BUDGETS, DOUBLED]
    )
    parser.add_argument("--out", default="results/bench/anchors", help="where audits are kept")
    parser.add_argument("--models_dir", default="models")
    parser.add_argument("--data_dir", default="data")
    options, results = begin(parser, quick={"targets": ["plain"], "budgets": ["quick"]})
    for name in options.targets:
        known = TARGETS[name]

        def made(budget: str) -> AuditResult:
            folder = Path(options.out, f"{name}_{budget}")
            return audited(results, known, budget, options, folder)

        for budget in options.budgets:
            if budget == DOUBLED:
                plan.BUDGETS[DOUBLED] = twice(BUDGETS[THOROUGH], made(THOROUGH))
            show(results, name, budget, known, made(budget))
    results.write()


def show(results: Results, name: str, budget: str, known: Known, result: AuditResult) -> None:
    """Print what one audit found, and hand it over."""
    (cut,) = result.cuts
    best, minutes = cut["strongest"], result.made["seconds"] / 60
    floor = next(each["floor"] for each in result.measures if each["column"] == FEATURE)
    print(
        f"{name:7} {budget:9} {minutes:5.1f} min  MSE {best['MSE']['value']:.5f} (asked {known.asked})"
        f"  {FEATURE} {best[FEATURE]['value']:.4f}, {best[FEATURE]['value'] - floor:.4f} above the floor"
        f"  by {' / '.join(best['MSE']['by'])}"
    )
    for row in cut["attacks"]:
        error = row["measures"].get("MSE", {}).get("value", float("nan"))
        print(
            f"    {row['label']:24} {row['status']:8} {row['seconds']:6.0f} s  {error:.5f}  {row['victims']} victims"
        )
    sys.stdout.flush()
    told = f"audit of {name}, budget {budget}"
    results.add(told, minutes, "min")
    results.add(
        f"{told}: least MSE", best["MSE"]["value"], "", "asked", best["MSE"]["value"] / known.asked
    )


if __name__ == "__main__":
    main()
