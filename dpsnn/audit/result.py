"""What an audit found, in plain values: JSON of a versioned schema, checked when it is written and when it is read."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dpsnn.atomic import staged
from dpsnn.audit.schema import LEVELS, QUANTILES, SCHEMA, SHOWN, STATUSES, Json, validate
from dpsnn.errors import UsageError, reading

NAME = "audit.json"
"""Of the file in the folder of an audit."""

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
    "Json",
    "finite",
    "validate",
]


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
        return cls.of(content, str(path))

    def plain(self) -> Json:
        """As it stands in the file: whatever is no finite number is None there."""
        content: Json = finite(asdict(self))
        return {"schema": content.pop("schema"), **content}

    def save(self, path: str | Path) -> Path:
        """Write the file, whole or not at all, after a check of it.

        Raises:
            UsageError: If something is missing.
        """
        path, content = Path(path), self.plain()
        validate(content, str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged(path) as temporary:
            text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
            temporary.write_text(f"{text}\n", encoding="utf-8")
        return path

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
    """The same in what JSON knows: tuples as lists, and None for what is infinite or not a number."""
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
