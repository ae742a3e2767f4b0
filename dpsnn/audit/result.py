"""What an audit found, in plain values: JSON of a versioned schema, checked when it is written and when it is read."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dpsnn.atomic import staged
from dpsnn.audit.schema import LEVELS, QUANTILES, SCHEMA, SHOWN, STATUSES, Json, validate
from dpsnn.errors import UsageError, WorkFailed, reading, spelled

NAME = "audit.json"
"""Of the file in the folder of an audit."""

ODD = "audit.contradictory.json"
"""Of the file in its place where what was found contradicts itself."""

PAIRS = "not given"
"""Name of the model where there are only pairs of pictures and what was sent of them."""

__all__ = [
    "LEVELS",
    "NAME",
    "PAIRS",
    "QUANTILES",
    "SCHEMA",
    "SHOWN",
    "STATUSES",
    "AuditResult",
    "Contradictory",
    "Json",
    "finite",
    "validate",
]


TOLD = "no audit finds that, so do not use these numbers, and tell those who make dpsnn"


class Contradictory(WorkFailed):
    """An audit that was made, and whose numbers are not what any audit finds.

    Args:
        text: The line.
        result: What was found, for who wants to see it.
    """

    def __init__(self, text: str, result: "AuditResult") -> None:
        super().__init__(text)
        self.result = result


@dataclass(frozen=True)
class AuditResult:
    """An audit; docs/audit.md says what stands in it.

    Numbers are finite or None; a measured one is `{"value", "low", "high", "over"}`, with its 95 % interval and over
    what that is. Pictures are `data:image/png;base64,…`.
    """

    made: Json
    model: Json
    data: Json
    settings: Json
    measures: list[Json]
    cuts: list[Json]
    reproduce: str
    curve: list[Json] | None = None
    curve_cut: str | None = None
    """Of which cut the curve is."""
    recommended: Json | None = None
    schema: str = SCHEMA

    @classmethod
    def of(cls, content: object, where: str = "the audit") -> "AuditResult":
        """Of what a file says.

        Raises:
            UsageError: If that is no audit, one of another version, or one with something missing.
        """
        validate(content, where)
        assert isinstance(content, dict)
        known = {each.name for each in fields(cls)} & content.keys()
        return cls(**{name: content[name] for name in known})

    @classmethod
    def load(cls, path: str | Path) -> "AuditResult":
        """Read a file, or the one in a folder.

        Raises:
            UsageError: As `of`, or if the file is not there or is damaged.
        """
        path = Path(path)
        path = path / NAME if path.is_dir() else path
        with reading(path, "the JSON of an audit", "run the audit again"):
            content = json.loads(path.read_text(encoding="utf-8"))
            json.dumps(content, ensure_ascii=False).encode()  # half a character cannot be shown
        return cls.of(content, str(path))

    def plain(self) -> Json:
        """As it stands in the file: whatever is no finite number is None there."""
        content: Json = finite(asdict(self))
        return {"schema": content.pop("schema"), **content}

    def checked(self) -> "AuditResult":
        """As it is read again.

        Raises:
            Contradictory: If it is what no audit finds; it has this result.
        """
        try:
            return self.of(self.plain())
        except UsageError as error:
            raise Contradictory(f"{error}; {TOLD}", self) from error

    def save(self, path: str | Path) -> Path:
        """Write the file, whole or not at all, after a check of it.

        Raises:
            Contradictory: If it is what no audit finds. Nothing is lost: it is written under a name that says so, which
                nothing takes for an audit, and what lies at `path` of an earlier one stays.
        """
        path = Path(path)
        odd = path.with_name(ODD)
        try:
            self.checked()
        except Contradictory as error:
            self._write(odd)
            kept = "and what each attack found is kept for another call"
            raise Contradictory(f"{error}; what was found is in {odd}, {kept}", self) from error
        self._write(path)
        odd.unlink(missing_ok=True)
        return path

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged(path) as temporary:
            text = json.dumps(self.plain(), indent=1, ensure_ascii=False, allow_nan=False)
            temporary.write_text(f"{text}\n", encoding="utf-8")

    def cut(self, name: str) -> Json:
        """What was found at a cut.

        Raises:
            UsageError: If there is none of that name.
        """
        known = [each["name"] for each in self.cuts]
        if name not in known:
            raise UsageError(f"the audit has no cut {name!r}; choose from {known}")
        found: Json = self.cuts[known.index(name)]
        return found


def finite(value: Any) -> Any:
    """The same in what JSON knows: tuples as lists, and None for what is infinite or not a number.

    Of names of files that are not UTF-8 the bytes are spelled out, as no file of text can hold them.
    """
    if isinstance(value, Mapping):
        return {finite(str(key)): finite(each) for key, each in value.items()}
    if isinstance(value, str):
        return spelled(value)
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
