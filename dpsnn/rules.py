"""What a part may declare: rules that keep parts out of one another's way, whoever brings them.

A part that breaks one is refused when it is found, before anything is imported, in one line.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dpsnn.errors import UsageError
from dpsnn.numbers import CHECKS, check_count, check_number
from dpsnn.source import Declared, Option

NAME = re.compile(r"[a-z][a-z0-9_]*")
"""Of keys and options: names of files and of settings are made of them."""

COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

TAKEN = frozenset(
    # Settings of classifiers, attackers and folders.
    "dataset network cut norm dropout seed max_epochs batch_size learning_rate sgd_momentum constant_rate fixed_order"
    " precision validator model attack surrogate data_pct queries data_dir models_dir results_dir wandb"
    # Of all commands, of some, and what they keep beside them.
    " help version plugin config like all attacker savepath validation_model dry_run output seeds attacker_epochs"
    " max_epochs_given command action resume tidies defences own was changes markdown accept orphans yes"
    " examples epochs delta noise_multiplier target_epsilon classic"
    # Of where it runs.
    " jobs engine threads gpus_per_job ray_address slurm devices strategy"
    # Of audits and of what is made of them.
    " audit audit_model audit_data audit_weights audit_smashed audit_surrogate audit_groups audit_trained_on weights"
    " data groups trained_on smashed size cuts budget out noise noise_kind clip target accuracy finetune_epochs"
    " fail_above fail_below baseline allow_missing_cuts junit"
    # Of benchmarks.
    " only folder again quick"
    # Of studies.
    " protocol secure plain clients rounds local_epochs skew drop timeout iterations published_dir"
    " rank num_requests split images count device client".split()
)
"""Options that are no part's."""

SHARED = frozenset(("max_epochs", "batch_size", "learning_rate"))
"""Those among them that an attack which learns has too."""

COLUMNS = frozenset(
    "Doubling OwnMSE OwnMSEFloor BoundN BoundShare DFILBound MSEBound NamedBound NamingBound NamingBoundHere"
    " Model MeanTrainAcc SETrainAcc MeanValAcc SEValAcc MeanTrainDCorr SETrainDCorr MeanValDCorr SEValDCorr"
    " TestAcc SETestAcc AccFloor TrainDCorrFloor ValDCorrFloor DCorrN DPEpsilon Epsilon EpsilonDelta Sparsity Restless"
    " NoGradient"
    " Dataset DataSource Network Cut Seed Epoch MaxEpochs BatchSize LearningRate Norm Dropout SGDMomentum"
    " ConstantRate FixedOrder Precision Versions Digest Identity Attacker ValAccuracy SEValAccuracy MSE SEMSE"
    " PSNR SSIM SESSIM SSIM2 SESSIM2 RelativeL2 SERelativeL2 ValConfidence SEValConfidence RelativeL2Shuffled"
    " SSIMShuffled SSIM2Shuffled ValAccuracyShuffled ValConfidenceShuffled Images DCorrFloor MSEFloor PSNRFloor"
    " SSIMFloor SSIM2Floor RelativeL2Floor ValConfidenceFloor ValAccuracyFloor ValAccuracyCeiling"
    " ValConfidenceCeiling SSIMGaussian SESSIMGaussian SSIMGaussianFloor TargetAcc Adaptive Attack Surrogate"
    " SurrogateSource SurrogateImages DataPct Queries Validator ValidatorDigest TargetDigest Measures".split()
)
"""Of tables, that are no part's option."""


def complaint(each: Declared, others: Sequence[Declared]) -> str:
    """Which rule a part breaks, and what to do about it; empty where it keeps them all.

    Args:
        each: The part.
        others: Parts that were there before it.
    """
    rules: tuple[Callable[[Declared, Sequence[Declared]], Iterator[str]], ...]
    rules = (_key, _attributes, _options, _names, _columns)
    return next((said for rule in rules for said in rule(each, others)), "")


def _key(each: Declared, others: Sequence[Declared]) -> Iterator[str]:
    if not NAME.fullmatch(each.key):
        yield (
            f"the {each.kind} is called {each.key!r}; a key has small letters, digits and _, a letter first: rename it"
        )
    if any((each.kind, each.key) == (other.kind, other.key) for other in others):
        yield f"brings the {each.kind} {each.key}, which there is already; give it another key"


def _attributes(each: Declared, others: Sequence[Declared]) -> Iterator[str]:
    of = f"the {each.kind} {each.key} has"
    for name in ("version", "since", "order"):
        if type(value := getattr(each, name)) is not int or value < (name != "order"):
            yield f"{of} {name} = {value!r}; it must be a whole number{', 1 or greater' * (name != 'order')}"
    if not isinstance(each.heading, str):
        yield f"{of} heading = {each.heading!r}; it must be text"
    if not each.is_own and each.since < 3:
        yield f"{of} since = {each.since}, but files of then do not know it; leave it out"
    if not each.is_own and each.always:
        yield f"{of} always = True, which would rename every model; say always = False"
    if each.options and each.kind not in ("defence", "attack"):
        yield f"{of} options, which only defences and attacks have; leave them out"
    if each.kind == "defence" and not each.options:
        yield f"{of} no option, so that nothing can turn it on; its first option is its strength"
    elif each.kind == "defence" and each.options[0].default and not each.decides:
        first = each.options[0]
        yield (
            f"{of} the strength {first.name}, whose default is {first.default!r}, not off; make it 0, empty"
            " or False, or say in `on` when it is on"
        )


def _options(each: Declared, others: Sequence[Declared]) -> Iterator[str]:
    for made in each.options:
        yield from (f"the option {made.name} {said}" for said in _option(each, made))


def _option(each: Declared, made: Option) -> Iterator[str]:
    kind, default = made.kind, made.default
    if kind is bool and (default is not False or made.optional):
        yield "is a bool that is not False by default, but naming it turns it on; turn its meaning round"
    if type(default) not in ((int, float) if kind is float else (kind,)) and not (
        made.optional and default is None
    ):
        yield f"has the default {default!r}, which is no {kind.__name__}; correct one of them"
    elif default is not None:
        yield from _range(made)
    if made.after and (each.kind != "defence" or kind in (bool, str)):
        yield "says after, which only numbers of defences may; leave it out"


def _range(made: Option) -> Iterator[str]:
    if made.check not in CHECKS:
        yield f"has check={made.check!r}; choose from {sorted(filter(None, CHECKS))}"
    elif made.check and made.kind is not float:
        yield "says check, which is for floats; leave it out, or give a whole number its least"
    elif made.least and made.kind is not int:
        yield "says least, which is for whole numbers; leave it out, or give a float its check"
    try:
        if made.kind is float:
            check_number(made.default, "the default", made.check)
        elif made.kind is int:
            check_count(made.default, "the default", made.least)
    except UsageError as error:
        yield f"refuses its own default: {error}"


def _names(each: Declared, others: Sequence[Declared]) -> Iterator[str]:
    known = [(other, made) for other in others for made in other.options]
    for made in each.options:
        for name in filter(None, (made.name, made.after)):
            if not NAME.fullmatch(name):
                yield f"the option {name!r} of {each.key} must have small letters, digits and _; rename it"
            if name in TAKEN and not (each.kind == "attack" and name in SHARED):
                yield f"the option {name} of {each.key} is one of the commands; give it another name"
            for other, theirs in known:
                if name not in (theirs.name, theirs.after):
                    continue
                if {each.kind, other.kind} != {"attack"} or each is other:
                    yield (
                        f"the option {name} of {each.key} is one of the {other.kind} {other.key}; give it another name"
                    )
                elif (made.kind, made.default) != (theirs.kind, theirs.default):
                    yield (
                        f"the option {name} of {each.key} has the default {made.default!r}, and that of the attack"
                        f" {other.key} {theirs.default!r}; give both one, or it another name"
                    )
        known.append((each, made))


def _columns(each: Declared, others: Sequence[Declared]) -> Iterator[str]:
    known = {
        column: made for other in others for made in other.options for column in columns_of(made)
    }
    for made in each.options:
        for column in columns_of(made):
            theirs = known.get(column)
            if not COLUMN.fullmatch(column):
                yield f"the column {column!r} of {made.name} must have letters, digits and _; rename it"
            if (theirs and theirs.name != made.name) or (
                column in COLUMNS and made.name not in SHARED
            ):
                yield f"the column {column} of {made.name} says something else; give it another"
        known |= dict.fromkeys(columns_of(made), made)


def columns_of(made: Option) -> list[str]:
    return [made.column, *([f"Train{made.column}"] if made.after else [])]


def mismatch(each: Declared, made: Any) -> str:
    """In what a part, imported, is not what its source says; empty where it is.

    Args:
        each: What its source says.
        made: Its class or function.
    """
    if each.kind not in ("defence", "attack"):
        return ""
    is_options = {made.flat(own.name): own.default for own in made.own_fields()}
    if is_options != {option.name: option.default for option in each.options}:
        return (
            f"its source shows the options {[option.name for option in each.options]}, its class has"
            f" {list(is_options)}; make it a dataclass(frozen=True, kw_only=True), with every option a line of its own"
        )
    for name in ("version", "order", "always"):
        if getattr(made, name) != getattr(each, name):
            return f"its {name} cannot be read from its source; write it out"
    for option in each.options:
        theirs = (base for base in made.__mro__[1:] if base.__module__.startswith("dpsnn."))
        if any(option.field in vars(base) and not is_field(base, option.field) for base in theirs):
            return f"its option {option.field} hides what every {each.kind} has; rename it"
    usual = made()
    if each.kind == "defence" and usual.on:
        return "it is on by default; let its strength be off"
    own = {option.column for option in each.options}
    if not each.is_own and (taken := sorted(COLUMNS & usual.columns({}).keys() - own)):
        return f"its column {taken[0]} says something else; give it another"
    return ""


def is_field(of: Any, name: str) -> bool:
    """Whether a class has a field of this name, of which it keeps the default."""
    return name in getattr(of, "__dataclass_fields__", {})
