"""A digest as one page of HTML that needs nothing else: no network, no font, no library.

The last of three stages: JSON → digest → page. All texts are escaped by the template. A policy in the page allows its
own script and style sheet, by their digests, pictures within the page, and nothing else: were a text ever to get
through, it still could neither run nor fetch anything.
"""

import base64
import hashlib
from pathlib import Path

import jinja2
from markupsafe import Markup

from dpsnn.audit.report_charts import depth_chart, spread_chart, tradeoff_chart
from dpsnn.audit.report_digest import Digest
from dpsnn.audit.report_series import Depth, Spread, Tradeoff

TEMPLATES = Path(__file__).parent / "templates"


def page(digest: Digest) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (
        (TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    # Ours alone is marked as safe: what svg() makes is written by an XML library, which escapes.
    drawn = digest.series
    charts: list[tuple[Depth | Spread | Tradeoff, Markup]] = [
        (chart, Markup(depth_chart(chart))) for chart in drawn.depth
    ]
    if drawn.tradeoff:
        charts.insert(1, (drawn.tradeoff, Markup(tradeoff_chart(drawn.tradeoff))))
    if drawn.spread:
        charts.append((drawn.spread, Markup(spread_chart(drawn.spread))))
    return environment.get_template("page.html").render(
        d=digest,
        charts=charts,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
    )


def _policy(style: str, script: str) -> str:
    """Content-Security-Policy: nothing but these two texts and pictures within the page."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}';"
        " base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
