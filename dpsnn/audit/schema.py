"""The schema of an audit's result: what stands where, and what is said where something is missing or wrong."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dpsnn.audit.agreement import agree
from dpsnn.audit.lacking import CAUSES
from dpsnn.errors import UsageError
from dpsnn.numbers import Number

SCHEMA = "dpsnn-audit/1"

Json = dict[str, Any]

LEVELS = ("leaks", "partly", "floor", "unknown")
"""Of a verdict: near the truth, above what no information gives, at that, and too few victims to say."""

STATUSES = ("ok", "failed", "skipped")

SHOWN = ("best", "median", "worst")
"""Victims whose pictures are kept, from the victim's point of view: of the worst one the picture was rebuilt best."""

Check = Callable[[object, str], None]
"""Of a value, and where it stands: raises `UsageError` where it will not do."""


MOST = 2**63
"""Whole numbers are below it: what no machine counts to is no count."""


def _refuse(value: object, where: str, wanted: str) -> None:
    try:
        shown = json.dumps(value, default=str)
    except (ValueError, RecursionError):
        shown = f"too large to be shown ({type(value).__name__})"
    shown = shown if len(shown) < 60 else f"{shown[:57]}..."
    raise UsageError(f"{where} is {shown}; it must be {wanted}")


def _is(wanted: str, test: Callable[[Any], bool]) -> Check:
    def check(value: object, where: str) -> None:
        if not test(value):
            _refuse(value, where, wanted)

    return check


def _or_none(check: Check) -> Check:
    return lambda value, where: None if value is None else check(value, where)


def _one_of(*allowed: str) -> Check:
    return _is(f"one of {', '.join(allowed)}", lambda value: value in allowed)


def _list(check: Check) -> Check:
    def each(value: object, where: str) -> None:
        if not isinstance(value, list):
            _refuse(value, where, "a list")
        assert isinstance(value, list)
        for at, item in enumerate(value):
            check(item, f"{where}[{at}]")

    return each


def _named(check: Check, keys: Sequence[str] = ()) -> Check:
    """A mapping from any names, among them `keys`, to what passes a check."""

    def each(value: object, where: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, where, "an object")
        assert isinstance(value, dict)
        for key in keys:
            if key not in value:
                raise UsageError(f"{where} lacks {key!r}")
        for key, item in value.items():
            check(item, f"{where}.{key}")

    return each


def _object(_more: Mapping[str, Check] | None = None, **checks: Check) -> Check:
    """A mapping that has all of these; what else it has is nobody's concern.

    Args:
        _more: What may be missing, as it is in files of earlier versions.
        checks: What may not.
    """

    def each(value: object, where: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, where, "an object")
        assert isinstance(value, dict)
        for key, check in checks.items():
            if key not in value:
                raise UsageError(f"{where} lacks {key!r}")
            check(value[key], f"{where}.{key}")
        for key, check in (_more or {}).items():
            if key in value:
                check(value[key], f"{where}.{key}")

    return each


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < MOST if isinstance(value, int) else math.isfinite(value)


_text = _is("a text", lambda value: isinstance(value, str))
_flag = _is("true or false", lambda value: isinstance(value, bool))
_number = _is("a finite number", _is_number)
_count = _is("a whole number, 0 or more", lambda v: type(v) is int and 0 <= v < MOST)
_whole = _is("a whole number", lambda v: type(v) is int and abs(v) < MOST)
SLACK = 1e-6
"""By how much rounding may leave a range."""


def _within(low: Number, high: Number) -> Check:
    ends = f"in [{low:g}, {high:g}]" if math.isfinite(high) else f"{low:g} or more"
    test = lambda value: _is_number(value) and low - SLACK <= value <= high + SLACK  # noqa: E731
    return _is(f"a finite number, {ends}", test)


_share, _percent, _size = _within(0, 1), _within(0, 100), _within(0, math.inf)
_signed = _within(-1, 1)
_maybe_number, _maybe_count, _maybe_text = map(_or_none, (_number, _count, _text))
_maybe_share, _maybe_percent, _maybe_size = map(_or_none, (_share, _percent, _size))
_maybe_signed = _or_none(_signed)
_picture = _is(
    "a picture, data:image/png;base64,…",
    lambda value: isinstance(value, str) and value.startswith("data:image/png;base64,"),
)
_texts, _counts = _list(_text), _list(_count)
_pictures = _named(_picture, SHOWN)


def _estimate(value: object, where: str) -> None:
    """A value with its interval, and over what that is."""
    _interval(value, where)
    assert isinstance(value, dict)
    over = _one_of("victims", "people", "seeds", "victims and seeds", "people and seeds")
    (over if value["low"] is not None else _or_none(over))(value.get("over"), f"{where}.over")


def _interval(value: object, where: str) -> None:
    """A value, and an interval around it."""
    _object(value=_maybe_number, low=_maybe_number, high=_maybe_number)(value, where)
    assert isinstance(value, dict)
    ends = [value[end] for end in ("low", "value", "high") if value[end] is not None]
    slack = 1e-9 * max(map(abs, ends), default=0.0)
    if any(first > second + slack for first, second in zip(ends, ends[1:])):
        told = ", ".join(f"{end} {value[end]}" for end in ("low", "value", "high"))
        raise UsageError(f"{where} is {told}; low, value and high must not fall")


_attack = _object(
    {
        "cause": _or_none(_one_of(*CAUSES)),
        "learns": _flag,
        "own_spread": _maybe_size,
        "diverged": _flag,
    },
    attack=_text,
    label=_text,
    settings=_named(lambda value, where: None),
    status=_one_of(*STATUSES),
    reason=_maybe_text,
    victims=_count,
    measures=_named(_estimate),
    seconds=_maybe_size,
    own_error=_maybe_size,
    own_floor=_maybe_size,
    doubling=_maybe_number,
)


def _strongest(value: object, where: str) -> None:
    _estimate(value, where)
    more = {
        **dict.fromkeys(("floor", "class_floor"), _maybe_number),
        "reach": _number,
        "people": _count,
        "open": _texts,
    }
    _object(more, by=_texts, tried=_count, best_of_each=_maybe_number, victims=_count)(value, where)


QUANTILES = ("0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99")

_shown = _object(
    truth=_pictures,
    guess=_pictures,
    victims=_named(_count, SHOWN),
    scores=_named(_named(_maybe_number), SHOWN),
)


def _gain(value: object, where: str) -> None:
    """A share of what lies between no information and the truth."""
    _interval(value, where)
    _object({"reach": _number}, victims=_count, floor=_number)(value, where)


def _accuracy(value: object, where: str) -> None:
    _interval(value, where)
    ends = dict.fromkeys(("value", "low", "high", "floor"), _maybe_percent)
    _object(None, **ends)(value, where)


def _reidentified(value: object, where: str) -> None:
    _interval(value, where)
    more = {"by": _texts, "victims": _count, "tried": _count, "open": _texts, "reach": _share}
    _object(more, value=_share, low=_share, high=_share, candidates=_count)(value, where)


def _copied(value: object, where: str) -> None:
    """Who was rebuilt nearly exactly, and by what chance pictures of others are."""
    _interval(value, where)
    shares = dict.fromkeys(("value", "low", "high", "chance"), _share)
    _object(None, **shares, victims=_count, by=_texts, tried=_count)(value, where)


def _dcorr(value: object, where: str) -> None:
    more = {"low": _maybe_signed, "high": _maybe_signed, "n": _count}
    _object(more, value=_maybe_signed, floor=_maybe_signed)(value, where)
    assert isinstance(value, dict)
    _interval({"low": None, "high": None, **value}, where)


_cut = _object(
    {
        "gains": _named(_gain),
        "matched": _or_none(_reidentified),
        "copied": _or_none(_copied),
    },
    name=_text,
    order=_count,
    kind=_text,
    shape=_counts,
    values=_count,
    bytes=_count,
    weights_share=_maybe_share,
    flops_share=_maybe_share,
    notes=_texts,
    accuracy=_or_none(_accuracy),
    dcorr=_or_none(_dcorr),
    attacks=_list(_attack),
    strongest=_named(_strongest),
    reidentified=_or_none(_reidentified),
    distribution=_or_none(
        _object(
            {
                "worst_one_percent_floor": _number,
                "one_percent": _interval,
                "fare_worse": _share,
                "worst_by": _text,
            },
            column=_text,
            quantiles=_named(_number, QUANTILES),
            worst_one_percent=_number,
            worst_victim=_count,
        )
    ),
    by_class=_list(
        _object(
            dict.fromkeys(("low", "high", "floor"), _named(_maybe_number)),
            victims=_count,
            MSE=_maybe_number,
            SSIM=_maybe_number,
            **{"class": _text},
        )
    ),
    guarantees=_object(
        dict.fromkeys(("dfil_low", "dfil_high"), _maybe_size),
        set=_text,
        epsilon=_maybe_size,
        delta=_maybe_share,
        naming=_maybe_share,
        candidates=_count,
        dfil=_maybe_size,
        words=_text,
        with_clip=_or_none(_object(bound=_size, naming=_share, words=_text)),
    ),
    bounds=_or_none(
        _object(
            dict.fromkeys(("low", "high"), _maybe_number),
            mse=_maybe_size,
            share=_maybe_size,
            named=_maybe_share,
            n=_count,
        )
    ),
    flags=_list(_object(raised=_text, why=_text, do=_text)),
    verdict=_object(level=_one_of(*LEVELS), sentence=_text),
    pictures=_or_none(_shown),
)

_audit = _object(
    {"curve_cut": _maybe_text},
    made=_object(
        date=_text,
        dpsnn=_text,
        torch=_text,
        python=_text,
        machine=_text,
        command=_text,
        seconds=_size,
    ),
    model=_object(
        {
            "notes": _texts,
            "no_cuts": _list(_object(name=_text, reason=_text)),
            "digest": _maybe_text,
            "answers": _or_none(_list(_maybe_number)),
        },
        name=_text,
        source=_text,
        parameters=_maybe_count,
        image_shape=_counts,
        attacked_shape=_counts,
        classes=_maybe_count,
    ),
    data=_object(
        {"digest": _maybe_text, "people": _maybe_count},
        name=_text,
        images=_count,
        own=_count,
        own_validation=_count,
        victims=_count,
        surrogate=_maybe_text,
        groups=_maybe_text,
        near_duplicates=_count,
        overlap_with_training=_maybe_count,
        notes=_texts,
    ),
    settings=_object(
        budget=_text,
        seeds=_list(_whole),
        queries=_count,
        defences=_texts,
        victims_scored=_count,
    ),
    measures=_list(
        _object(
            column=_text,
            label=_text,
            lower_leaks=_flag,
            floor=_maybe_number,
            class_floor=_maybe_number,
            perfect=_maybe_number,
        )
    ),
    cuts=_list(_cut),
    curve=_or_none(
        _list(
            _object(
                {"intervals": _named(_or_none(_interval))},
                noise=_size,
                kind=_text,
                accuracy=_maybe_percent,
                SSIM=_maybe_signed,
                MSE=_maybe_size,
                naming=_maybe_share,
                pictures=_or_none(_shown),
            )
        )
    ),
    recommended=_or_none(_object(cut=_text, reason=_text)),
    reproduce=_text,
)


def validate(content: object, where: str = "the audit") -> None:
    """Whether this is an audit of this version.

    Args:
        content: What a file says.
        where: What to call it.

    Raises:
        UsageError: If not, with the place and what had to stand there.
    """
    if not isinstance(content, dict) or "schema" not in content:
        raise UsageError(f"{where} is no audit: it names no schema; make one with dpsnn audit")
    if content["schema"] != SCHEMA:
        raise UsageError(
            f"{where} has the schema {content['schema']!r}, not {SCHEMA!r}; make it again with this version of dpsnn"
        )
    try:
        _audit(content, "")
        agree(content)
    except UsageError as error:
        raise UsageError(f"{where}: {str(error).removeprefix('.')}") from error
