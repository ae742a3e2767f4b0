"""What parts there are: `dpsnn parts`, and the tables of parts in the docs."""

import shutil
import textwrap

from dpsnn import parts
from dpsnn.errors import UsageError
from dpsnn.parts import Declared

HEADINGS = {
    "dataset": "data sets",
    "network": "networks",
    "defence": "defences",
    "attack": "attacks",
    "decoder": "decoders",
    "metric": "metrics",
    "study": "studies",
}


def missing(each: Declared) -> str:
    """Why a part cannot be used here; empty where it can."""
    try:
        parts.find(each.kind, each.key)
    except UsageError as error:
        return str(error)
    return ""


def options(each: Declared) -> str:
    """The options of a part with their defaults."""
    return ", ".join(
        f"--{made.name}" if made.default in (None, "", False) else f"--{made.name} [{made.default}]"
        for made in each.options
    )


def lines() -> list[str]:
    """Every part with what it is, its options, its papers, and why it cannot be used, if it cannot."""
    width = max(60, shutil.get_terminal_size().columns - 2)
    said: list[str] = []
    for kind, heading in HEADINGS.items():
        said += ["", f"{heading}:"] if said else [f"{heading}:"]
        known = parts.declared(kind)
        indent = 4 + max(map(len, (each.key for each in known)), default=0)
        for each in known:
            origin = f" (plug-in {each.plugin})" if each.plugin else ""
            papers = f" [{each.papers}]" if each.papers and each.papers not in each.says else ""
            reason = missing(each)
            for position, text in enumerate(
                (f"{each.says}{papers}{origin}", options(each), reason and f"not here: {reason}")
            ):
                head = f"  {each.key}".ljust(indent) if position == 0 else " " * indent
                if text or position == 0:
                    said += textwrap.wrap(
                        text or "-", width, initial_indent=head, subsequent_indent=" " * indent
                    )
    if refused := parts.refused():
        said += ["", "left out:"]
        for reason in refused.values():
            said += textwrap.wrap(reason, width, initial_indent="  ", subsequent_indent="    ")
    return said


def markdown() -> str:
    """The same as tables, for the docs; what cannot be used here is there elsewhere."""
    said = [
        "# Parts",
        "",
        "Made by `dpsnn parts --markdown`; [extending.md](extending.md) says how to add to them.",
    ]
    for kind, heading in HEADINGS.items():
        said += ["", f"## {heading[0].upper()}{heading[1:]}", ""]
        said += ["| key | what it is | options |", "|---|---|---|"]
        for each in parts.declared(kind):
            papers = f" ({each.papers})" if each.papers and each.papers not in each.says else ""
            chosen = ", ".join(f"`--{made.name}`" for made in each.options)
            said.append(f"| `{each.key}` | {each.says}{papers} | {chosen} |")
    return "\n".join(said)
