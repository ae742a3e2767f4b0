"""What a run is, in plain values: checked here, stored in its checkpoint, spelled in its name.

Every default of training lives in these two dataclasses and in the parts, and nowhere else; the command line is made
from their fields.
"""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from dpsnn import parts
from dpsnn.errors import NoSetting, UsageError, one_of, passed_on
from dpsnn.numbers import Number
from dpsnn.parts import Declared, Option, Part, check_count, check_number, option

PRECISIONS = ("auto", "32", "bf16")
NORMS = ("", "batch", "group")
ACCOUNTANTS = ("rdp", "prv", "gdp")
"""How ε of DP-SGD is counted. `rdp`: an upper bound, fast (Mironov, Talwar & Zhang 2019); `prv`: a tighter one (Gopi,
Lee & Wutschitz 2021); `gdp`: a limit for many steps that can be too low (Bu et al. 2020)."""


WHOLE_PERCENT = "a whole percentage from 1 to 100; 50 is half"

AnySpec = TypeVar("AnySpec")


def replace(spec: AnySpec, **changes: Any) -> AnySpec:
    """A spec with other settings, also those of its parts."""
    changed: AnySpec = dataclasses.replace(spec, **changes)  # type: ignore[type-var]
    return changed


def _no_setting(name: str) -> NoSetting:
    return NoSetting(f"there is no setting {name}; if a plug-in brings it, name that with --plugin")


def _set_own(spec: Any, given: dict[str, Any]) -> None:
    """Take the options of a frozen dataclass out of what was given."""
    for each in fields(spec):
        if "help" in each.metadata:
            object.__setattr__(spec, each.name, given.pop(each.name, each.default))


@dataclass(frozen=True, init=False)
class ClassifierSpec:
    """One split classifier and its training: settings of its own, and those of its defences under flat names.

    `ClassifierSpec(noise_scale=0.5)` is the spec with one defence, and its `noise_scale` is 0.5.

    Raises:
        NoSetting: If there is no such setting.
        UsageError: If a value is out of range.
    """

    dataset: str = option("digits", "images to learn")
    network: str = option("titcombe", "architecture, cut into client and server")
    cut: str = option(
        "", "where client and server part, of networks with several cuts (default: the network's)"
    )
    norm: str = option(
        "", "normalisation, of networks that leave a choice (default: the network's)"
    )
    dropout: Number | None = option(
        None, "share of values dropped in training, of networks that do so (default: the network's)"
    )
    seed: int = option(0, "seed of weights, shuffling and noise")
    max_epochs: int = option(10, "passes over the training images; the best on validation is kept")
    batch_size: int = option(128, "images per step")
    learning_rate: Number = option(1e-3, "step size, decayed to 0 along a cosine")
    sgd_momentum: Number | None = option(
        None, "train by SGD with this momentum, as often published (default: Adam)"
    )
    constant_rate: bool = option(
        False, "leave the step size as it is, as often published, instead of decaying it"
    )
    fixed_order: bool = option(
        False, "take the training images in the same order every epoch, as Titcombe et al. did"
    )
    precision: str = option("auto", "auto (bf16 where the machine is fast at it), 32 or bf16")
    validator: bool = option(False, "train the independent judge of reconstructions instead")
    defences: tuple[Part, ...] = field(default=())
    """Those that are not at their defaults, in their order."""

    def __init__(self, **given: Any) -> None:
        known = {part.key: part for part in given.pop("defences", ())}
        _set_own(self, given)
        for key, changes in parts_of("defence", given, known).items():
            part = known[key] if key in known else parts.find("defence", key)()
            known[key] = dataclasses.replace(part, **changes)
        # Not equal to the default where a value is not a number, and then refused.
        kept = sorted(
            (part for part in known.values() if part != type(part)()),
            key=lambda part: (part.order, part.key),
        )
        object.__setattr__(self, "defences", tuple(kept))
        self.__post_init__()

    def __post_init__(self) -> None:
        check_count(self.seed, "seed", 0)
        check_count(self.max_epochs, "max_epochs", 1)
        check_count(self.batch_size, "batch_size", 1)
        check_number(self.learning_rate, "learning_rate", "positive")
        one_of(self.precision, PRECISIONS, "precision")
        one_of(self.norm, NORMS, "norm")
        for name in ("dropout", "sgd_momentum"):
            if getattr(self, name) is not None:
                check_number(getattr(self, name), name, "share")
        for part in self.defences:
            part.check(self)  # type: ignore[attr-defined]
        if self.validator and self.active:
            raise UsageError("a validator judges clean images: train it without any defence")

    def __getattr__(self, name: str) -> Any:
        # Asked for what is no attribute: a setting of a defence.
        found = None if name.startswith("_") else parts.located("defence", name)
        if found is None:
            raise AttributeError(f"{type(self).__name__} has no setting {name}")
        part = next((p for p in self.__dict__.get("defences", ()) if p.key == found[0].key), None)
        return found[1].default if part is None else getattr(part, found[1].field)

    @property
    def active(self) -> tuple[Any, ...]:
        """The defences that do anything."""
        return tuple(part for part in self.defences if part.on)

    @property
    def private(self) -> bool:
        """Whether training protects each training image by itself."""
        return any(part.private for part in self.active)

    def part(self, key: str) -> Any:
        """The settings of a defence, or its defaults."""
        own = {part.key: part for part in self.defences}
        return own[key] if key in own else parts.find("defence", key)()


def refuse_idle(spec: ClassifierSpec) -> None:
    """Raise UsageError if a setting is of a defence that is off: who typed it thinks that it does something."""
    for part in spec.defences:
        strength, *others = part.own_fields()
        said = next((each for each in others if getattr(part, each.name) != each.default), None)
        if said and not part.on:
            raise UsageError(
                f"{part.flat(said.name)} says nothing without --{part.flat(strength.name)}; give that too, or leave it"
                " out"
            )


def parts_of(
    kind: str, given: Mapping[str, Any], known: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Flat settings by the key of their part: for each its fields.

    Args:
        kind: Of the parts.
        given: Settings by flat name.
        known: Parts of which defaults matter too; of others a value at its default is left out.

    Raises:
        NoSetting: If there is no such setting.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        place = parts.located(kind, name)
        if place is None:
            raise _no_setting(name)
        declared, made = place
        # Also by type: True is 1 in Python.
        if declared.key in known or value != made.default or type(value) is not type(made.default):
            found.setdefault(declared.key, {})[made.field] = value
    return found


def parts_with(values: Mapping[str, Any], own: Collection[Part] = ()) -> dict[str, Part]:
    """Defences by key, with these settings: those of `own` changed, others from their defaults."""
    every = [each.key for each in parts.declared("defence")]
    base = {part.key: part for part in own}
    made = {}
    for key, changed in parts_of("defence", values, every).items():
        part = base[key] if key in base else parts.find("defence", key)()
        made[key] = dataclasses.replace(part, **changed)
    return made


def of_versions(spec: AnySpec, versions: Mapping[str, int]) -> AnySpec:
    """A spec whose parts behave as those of earlier versions did.

    Args:
        spec: As read with the present parts.
        versions: Key → version, of the parts of its file; of others the first.

    Raises:
        UsageError: If a part has no such version.
    """
    if isinstance(spec, AttackerSpec):
        aged = spec.method.aged(versions.get(spec.attack, 1))
        return replace(spec, was=aged.was)
    assert isinstance(spec, ClassifierSpec)
    aged = [part.aged(versions.get(part.key, 1)) for part in spec.defences]
    return replace(spec, defences=tuple(aged))


def settings(kind: type) -> list[Option]:
    """Everything that can be chosen of a spec, its parts' settings included.

    Args:
        kind: `ClassifierSpec`, or any dataclass whose fields are options.
    """
    own = [_as_option(each) for each in fields(kind) if "help" in each.metadata]
    if kind is ClassifierSpec:
        own += [made for each in parts.declared("defence") for made in each.options]
    if kind is AttackerSpec:
        own += [made for made, _ in of_attacks().values()]
        own += [_of_attacker(made) for made in afterwards().values()]
    return own


def _of_attacker(made: Option) -> Option:
    text = f"{made.text}: what the target uses now, if not what it was trained with"
    return made._replace(name=made.after, default=None, optional=True, text=text, after="")


def _as_option(each: dataclasses.Field[Any]) -> Option:
    kinds = parts.types_of(each)
    first = next(k for k in (bool, str, float, int) if k in kinds)
    about = each.metadata
    return Option(
        each.name,
        each.name,
        first,
        type(None) in kinds,
        each.default,
        about["help"],
        about["wanted"],
    )


@dataclass(frozen=True, init=False)
class AttackerSpec:
    """One attacker of one classifier: settings of its own, and those of its attack under flat names.

    `AttackerSpec(attack="inversion", steps=9)` is one that takes nine steps, and `AttackerSpec(model_noise=2.0)` one
    whose target uses another noise than in training.

    Raises:
        NoSetting: If there is no such setting.
        UsageError: If a value is out of range.
    """

    model: str = option("", "the classifier under attack, by name")
    attack: str = option("decoder", "how the attacker goes about it")
    cut: str = option(
        "", "where the attacker listens (default: where the classifier was cut in training)"
    )
    surrogate: str = option("", "images the attacker owns (default: the target's data set)")
    data_pct: int = option(
        100, "percentage of its images that the attacker uses, 1 to 100", wanted=WHOLE_PERCENT
    )
    queries: int = option(1, "transmissions of each image that the attacker sees and averages")
    seed: int = option(0, "seed of weights, shuffling and noise")
    precision: str = option("auto", "auto (bf16 where the machine is fast at it), 32 or bf16")
    own: tuple[tuple[str, Any], ...] = field(default=())
    """Settings of the attack that are not at their defaults, by flat name."""
    was: int = field(default=0)
    """An earlier version of the attack, whose behaviour this is; 0 is the present one."""
    changes: tuple[tuple[str, Any], ...] = field(default=())
    """Settings of the target's defences that are not those of its training, by flat name."""

    def __init__(self, **given: Any) -> None:
        own, changes = dict(given.pop("own", ())), dict(given.pop("changes", ()))
        object.__setattr__(self, "was", given.pop("was", 0))
        _set_own(self, given)
        known, of_any = afterwards(), of_attacks()
        for name, value in given.items():
            if name in of_any:
                default = of_any[name][0].default
                own.pop(name, None)
                # Also by type: True is 1 in Python.
                if value != default or type(value) is not type(default):
                    own[name] = value
            elif name in known:
                changes.pop(known[name].name, None)
                if value is not None:
                    changes[known[name].name] = value
            else:
                raise _no_setting(name)
        object.__setattr__(self, "own", tuple(sorted(own.items())))
        object.__setattr__(self, "changes", tuple(sorted(changes.items())))
        self.__post_init__()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            if name in (known := of_attacks()):
                return dict(self.__dict__.get("own", ())).get(name, known[name][0].default)
            if made := afterwards().get(name):
                return dict(self.__dict__.get("changes", ())).get(made.name)
        raise AttributeError(f"{type(self).__name__} has no setting {name}")

    def __post_init__(self) -> None:
        check_count(self.seed, "seed", 0)
        one_of(self.precision, PRECISIONS, "precision")
        one_of(self.attack, [each.key for each in parts.declared("attack")], "attack")
        for name, _ in self.own:
            if self.attack not in (attacks := of_attacks()[name][1]):
                raise UsageError(
                    f"{name} says nothing about the attack {self.attack}, only about {' and '.join(attacks)};"
                    " leave it out"
                )
        if self.own:
            self.method  # in range
        for name, made in afterwards().items():
            if (value := getattr(self, name)) is not None:
                with passed_on(made.name, name):
                    parts_with({made.name: value})
        check_count(self.queries, "queries", 1)
        if not 1 <= self.data_pct <= 100 or not isinstance(self.data_pct, int):
            raise UsageError(f"data_pct is {self.data_pct}; it must be {WHOLE_PERCENT}")

    def own_images(self, there: int) -> int:
        """How many images, the first, of those `there` are the attacker owns."""
        return max(2, round(there * self.data_pct / 100))

    @property
    def method(self) -> Any:
        """The settings of the attack; its file is imported for them."""
        fields_of = {
            made.name: made.field
            for each in parts.declared("attack")
            if each.key == self.attack
            for made in each.options
        }
        own = {fields_of[name]: value for name, value in self.own}
        return parts.find("attack", self.attack)(**own, was=self.was)


def default_of(kind: type, name: str) -> Any:
    """Of a setting of a spec, its parts' included."""
    return next(made.default for made in settings(kind) if made.name == name)


def of_attacks() -> dict[str, tuple[Option, list[str]]]:
    """Option of attacks → what is known of it, and the attacks that have it."""
    return _merged(tuple(parts.declared("attack")))


@functools.cache  # asked for at every look at a setting of an attacker
def _merged(declared: tuple[Declared, ...]) -> dict[str, tuple[Option, list[str]]]:
    found: dict[str, list[tuple[str, Option]]] = {}
    for each in declared:
        for made in each.options:
            found.setdefault(made.name, []).append((each.key, made))
    merged = {}
    for name, said in found.items():
        first = said[0][1]
        alike = len({made.text for _, made in said}) == 1
        text = first.text if alike else "; ".join(f"{key}: {made.text}" for key, made in said)
        merged[name] = first._replace(text=text), [key for key, _ in said]
    return merged


def afterwards() -> dict[str, Option]:
    """Option of an attacker → the setting of a defence that may differ from that of training."""
    every = (made for each in parts.declared("defence") for made in each.options)
    return {made.after: made for made in every if made.after}


def plain(spec: ClassifierSpec | AttackerSpec) -> dict[str, Any]:
    """The spec as a dict of plain values, as it stands in a checkpoint: parts of others only where they are used."""
    values = {
        each.name: getattr(spec, each.name) for each in fields(spec) if "help" in each.metadata
    }
    if isinstance(spec, ClassifierSpec):
        used = {part.key for part in spec.active}
        for each in parts.declared("defence"):
            if each.is_own or each.key in used:
                values |= {made.name: getattr(spec, made.name) for made in each.options}
    else:
        for each in parts.declared("attack"):
            if each.is_own or each.key == spec.attack:
                values |= {made.name: getattr(spec, made.name) for made in each.options}
        values |= {name: getattr(spec, name) for name in afterwards()}
    return values


def as_written(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a classifier's file, with what an older one lacks as it was then, whatever is usual now."""
    then: dict[str, Any] = {}
    for each in parts.declared("defence"):
        lacking = [made for made in each.options if made.name not in arguments]
        if not each.is_own and len(lacking) == len(each.options):
            continue
        then |= {made.name: made.default for made in lacking}
        if lacking and any(arguments.get(made.name) for made in each.options):
            said = parts.find("defence", each.key).as_then(arguments)
            then |= {made.name: said[made.name] for made in lacking if made.name in said}
    return {**then, **arguments}
