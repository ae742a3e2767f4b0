"""What should make a reader doubt a number: each flag says what raised it, why that matters and what to do.

A flag is no error. It stands beside results that may be right, and that nobody should quote before having looked.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import torch

from dpsnn import manifest
from dpsnn.attacks.base import BLOCK, DIVERGED, NO_MORE, Need
from dpsnn.errors import UsageError
from dpsnn.evaluation import legends, tables
from dpsnn.evaluation.columns import attack_columns
from dpsnn.evaluation.strongest import target_of
from dpsnn.evaluation.tables import number
from dpsnn.specs import AttackerSpec
from dpsnn.target import Target
from dpsnn.tensors import Images
from dpsnn.training import device

FEW = 500
"""Victims below which an interval is too wide to tell defences apart."""

FLAT = 1.0
"""Percentage of images at which the client may have no gradient at all."""

ERRORS = 2.0
"""Standard errors of a difference that are taken for chance."""

Row = Mapping[str, str]


@dataclass(frozen=True)
class Flag:
    """One reason to doubt."""

    of: str
    """The attacker or the model concerned."""
    raised: str
    """What was seen, with its numbers."""
    why: str
    """What it may mean."""
    do: str
    """The way out."""

    def __str__(self) -> str:
        return f"{self.of}: {self.raised}; {self.why}; {self.do}"


# ---------------------------------------------------------------- of a target


@torch.no_grad()
def restless(target: Target, images: Images) -> Flag | None:
    """Whether the client answers differently when it is asked twice: noise that nobody has declared."""
    return restless_row({"Model": target.name, "Restless": str(unrest(target, images))})


@torch.no_grad()
def unrest(target: Target, images: Images) -> float:
    """By how much two answers of the client to the same images differ at most."""
    given = images[:BLOCK].to(device())
    return float((target.client(given) - target.client(given)).abs().max())


def restless_row(row: Row) -> Flag | None:
    apart = number(row, "Restless")
    if not apart:
        return None
    return Flag(
        row["Model"],
        f"the client's answers to the same images differ by up to {apart:.3g}",
        "undeclared noise has no likelihood and no guarantee, and attackers that take the client at its word are weaker"
        " than they need be",
        "put the client into evaluation mode, or declare its noise as a defence on the wire",
    )


def flat(target: Target, images: Images) -> Flag | None:
    """Whether the client hides its gradients: attacks that follow them then find nothing, others may."""
    return flat_row({"Model": target.name, "NoGradient": str(flatness(target, images))})


def flatness(target: Target, images: Images) -> float:
    """Percentage of the images at which the client has no gradient."""
    silent = 0
    for block in images.split(BLOCK):
        given = block.to(device()).requires_grad_()
        with torch.enable_grad():
            # By squares, as sums of a softmax have no gradient.
            value = target.client(given).double().square().sum()
            (slope,) = torch.autograd.grad(value + 0 * given.sum(), given)
        silent += int((slope == 0).flatten(1).all(1).sum())
    return 100 * silent / len(images)


def flat_row(row: Row) -> Flag | None:
    share = number(row, "NoGradient")
    if share is None or share <= FLAT:
        return None
    return Flag(
        row["Model"],
        f"the client has no gradient at {share:.1f} % of the images",
        "an attack that follows gradients fails there whatever leaks: masked gradients are no privacy",
        "believe attacks that need no gradient, such as decoder and mixture, or smooth the client for the attack",
    )


# ---------------------------------------------------------------- of rows


def of_rows(rows: Sequence[Row]) -> list[Flag]:
    """All flags of a table of attackers.

    Args:
        rows: As read; columns that older rows lack raise nothing.
    """
    found = [flag for row in rows for look in ALONE if (flag := look(row))]
    targets: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        alike = (row.get("Surrogate", ""), row.get("Images", ""))
        targets.setdefault((*target_of(row), *alike), []).append(row)
    for members in targets.values():
        found += [f for look in TOGETHER for f in look(members)]
    return found


def write_flags(results_dir: str | Path) -> Path | None:
    """Write the flags of both tables beside them; where there is none, a table of earlier ones goes.

    Returns:
        Their table; None where there is none.
    """
    table = tables.attackers_table(results_dir)
    models = tables.read(tables.models_table(results_dir))
    found = [flag for row in models for look in OF_MODELS if (flag := look(row))]
    path, found = table.with_name("flags.csv"), [*found, *of_rows(tables.read(table))]
    if not found:
        manifest.removed(path)
        return None
    tables.write(path, [{"Of": f.of, "Raised": f.raised, "Why": f.why, "Do": f.do} for f in found])
    return path


def few_victims(row: Row) -> Flag | None:
    count = number(row, "Images")
    if count is None or count >= FEW:
        return None
    return Flag(
        row.get("Attacker", ""),
        f"it was scored on {count:.0f} victims",
        f"with fewer than {FEW} the intervals are too wide to tell defences apart",
        "score it on more images",
    )


def learnt_nothing(row: Row) -> Flag | None:
    own, mean = number(row, "OwnMSE"), number(row, "OwnMSEFloor")
    # Of the difference, picture by picture, where it is known.
    spread = number(row, "OwnMSESE") or 0.0
    if own is None or mean is None or own < mean - ERRORS * spread:
        return None
    return Flag(
        row.get("Attacker", ""),
        f"on own images its error is {own:.4g}, that of their mean image {mean:.4g}"
        + (f", and chance may be ±{ERRORS * spread:.2g}" if own < mean else ""),
        "an attacker that did not learn says nothing about what leaks",
        "give it another step size, more epochs or more images before calling the target private",
    )


def untrained(row: Row) -> Flag | None:
    gain = number(row, "Doubling")
    if gain == DIVERGED:
        return Flag(
            row.get("Attacker", ""),
            "training it for twice the epochs diverged",
            "whether it was trained for long enough is not known, so more may leak than its row shows",
            _slower(row),
        )
    if gain is None or gain <= NO_MORE:
        return None
    return Flag(
        row.get("Attacker", ""),
        f"the last doubling of its epochs, which its row has, took {100 * gain:.1f} % off its own-validation error",
        "it was stopped while it still learnt, so more may leak than its row shows",
        _longer(row),
    )


def _longer(row: Row) -> str:
    """How the attack is trained for longer: by an option of its own, if it is known here."""
    if "MaxEpochs" not in row:  # of an audit, which takes no options of attacks
        return "take what it found for less than leaks; a larger --budget, if there is one, trains it for longer"
    name = _option(row, "epochs")
    return f"train it with a larger --{name}" if name else "train it for more epochs"


def _slower(row: Row) -> str:
    """How its training is kept from diverging, likewise."""
    name = _option(row, "learning_rate") if "MaxEpochs" in row else ""
    return f"train it with a lower --{name}" if name else "take what it found for less than leaks"


def _option(row: Row, ending: str) -> str:
    """The attack's own option whose field ends so; empty where there is none, or the attack is not known here."""
    try:
        part = legends.attack(row)
    except UsageError:
        return ""
    names = (part.flat(each.name) for each in part.own_fields() if each.name.endswith(ending))
    return next(names, "")


def beyond_bound(row: Row) -> Flag | None:
    error, bound, spread = (number(row, c) for c in ("MSE", "MSEBound", "SEMSE"))
    if error is None or bound is None or error >= bound - ERRORS * (spread or 0):
        return None
    return Flag(
        row.get("Attacker", ""),
        f"its error, {error:.4g}, is below the bound of every attacker, {bound:.4g}",
        "it heard more than the accounting says, or the bound is wrong",
        "do not use the row; report how it came about",
    )


def less_knows_more(rows: Sequence[Row]) -> Iterator[Flag]:
    """Attackers that were beaten by one that knows less of the same target."""
    known = [(row, needs) for row in rows if (needs := _needs(row)) is not None]
    for (weak, few), (strong, many) in permutations(known, 2):
        if few < many and _beats(weak, strong):
            yield Flag(
                strong.get("Attacker", ""),
                f"its error is {number(strong, 'MSE'):.4g}, and {number(weak, 'MSE'):.4g} that of {weak['Attacker']},"
                " which knows less",
                "who knows more could always do the same: it does not use what it knows",
                "tune it, or take the other for the strongest",
            )


def naive_beats_adaptive(rows: Sequence[Row]) -> Iterator[Flag]:
    """Adaptive attackers that were beaten by their naive twins."""
    for naive, aware in permutations(rows, 2):
        if (naive.get("Adaptive"), aware.get("Adaptive")) != ("False", "True"):
            continue
        if _but(naive, "Adaptive") == _but(aware, "Adaptive") and _beats(naive, aware):
            yield Flag(
                aware.get("Attacker", ""),
                f"its error is {number(aware, 'MSE'):.4g}, and {number(naive, 'MSE'):.4g} that of its naive twin",
                "who knows the mechanism could always ignore it: its training failed",
                "give it another step size or more epochs",
            )


def starved(rows: Sequence[Row]) -> Iterator[Flag]:
    """Attackers to which half of the own images made a difference: more images would make another."""
    for half, whole in permutations(rows, 2):
        shares = number(half, "DataPct"), number(whole, "DataPct")
        if shares == (50, 100) and _but(half, "DataPct") == _but(whole, "DataPct"):
            if _beats(whole, half):
                yield Flag(
                    whole.get("Attacker", ""),
                    f"its error fell from {number(half, 'MSE'):.4g} to {number(whole, 'MSE'):.4g} from half to all of"
                    " its own images",
                    "an attacker with more images would get more",
                    "read its row as that of an attacker with so many images, and no more",
                )


OF_MODELS: tuple[Callable[[Row], Flag | None], ...] = (restless_row, flat_row)
ALONE: tuple[Callable[[Row], Flag | None], ...] = (
    few_victims,
    learnt_nothing,
    untrained,
    beyond_bound,
)
TOGETHER: tuple[Callable[[Sequence[Row]], Iterable[Flag]], ...] = (
    less_knows_more,
    naive_beats_adaptive,
    starved,
)


def _needs(row: Row) -> frozenset[Need] | None:
    """What an attack of equal training is handed; None of one that is not known here, or that was held back."""
    if row.get("Adaptive") == "False" or number(row, "DataPct") not in (None, 100):
        return None
    try:
        needs = frozenset(legends.attack(row).needs)
    except UsageError:
        return None
    # Who has the weights needs to ask nobody.
    return needs | {Need.QUERIES} if Need.WEIGHTS in needs else needs


def _but(row: Row, column: str) -> tuple[str, ...]:
    """How an attacker was made, but for one column."""
    kept = ("Attack", "Adaptive", "DataPct", "Seed", "MaxEpochs", *attack_columns(AttackerSpec()))
    return tuple(row.get(each, "") for each in kept if each != column)


def _beats(one: Row, other: Row) -> bool:
    """Whether an error is lower by more than chance makes it."""
    errors = [number(row, "MSE") for row in (one, other)]
    spreads = [number(row, "SEMSE") or 0.0 for row in (one, other)]
    if errors[0] is None or errors[1] is None:
        return False
    return errors[1] - errors[0] > ERRORS * math.hypot(*spreads)
