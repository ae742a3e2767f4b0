"""The page of an audit: what it says, that it runs nothing of others, and that no number is lost on the way."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from audit_example import BLACK, WHITE, content

from dpsnn.audit.report import report, write_report
from dpsnn.audit.report_charts import depth_chart, spread_chart, tradeoff_chart
from dpsnn.audit.report_digest import digest
from dpsnn.audit.report_page import TEMPLATES, page
from dpsnn.audit.report_pictures import png
from dpsnn.audit.report_table import class_table, spread_table
from dpsnn.audit.report_words import (
    NOTHING,
    Estimate,
    Scale,
    clean,
    count,
    lasted,
    listed,
    moment,
    sentence,
    size,
)
from dpsnn.audit.result import AuditResult
from dpsnn.cli import main
from dpsnn.errors import UsageError

Json = dict[str, Any]

VOID = {"meta", "link", "img", "input", "br"}


class Element:
    """Of a parsed page."""

    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list["Element | str"] = []

    def walk(self) -> Iterator["Element"]:
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, tag: str) -> list["Element"]:
        return [each for each in self.walk() if each.tag == tag]

    @property
    def text(self) -> str:
        told = (c.text if isinstance(c, Element) else c for c in self.children)
        return re.sub(r"\s+", " ", " ".join(told)).strip()


class Tree(HTMLParser):
    """A parser that forgives nothing: what is opened is closed, in its order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        made = Element(tag, dict(attrs))
        self.open[-1].children.append(made)
        if tag not in VOID:
            self.open.append(made)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def tree(made: Json) -> Element:
    return Tree(page(digest(AuditResult.of(made)))).root


@pytest.fixture(scope="module")
def root() -> Element:
    return tree(content())


def by_id(root: Element, name: str) -> Element:
    (found,) = [each for each in root.walk() if each.attributes.get("id") == name]
    return found


# ---------------------------------------------------------------- numbers and words


@pytest.mark.parametrize(
    "values, digits",
    [
        ([0.07, 0.0, 0.005], 4),
        ([0.1, 1.0, 0.9], 3),
        ([11.6, 30.0], 1),
        ([0.0], 3),
        ([], 3),
        ([5e5, 0], 0),
    ],
)
def test_a_column_has_as_many_digits_as_tell_its_values_apart(
    values: list[float], digits: int
) -> None:
    assert Scale.of(values).digits == digits


def test_estimates_are_written_with_their_interval() -> None:
    scale = Scale(3)
    assert scale.both(Estimate(0.9, 0.87, 0.93)) == "0.900 (0.870 to 0.930)"
    assert scale.both(Estimate(-0.5)) == "\N{MINUS SIGN}0.500"
    assert scale.both(Estimate()) == "–"
    assert Estimate.of({"value": 0.5, "low": None, "high": None}, 100).known() == [50]


@pytest.mark.parametrize(
    "made, expected",
    [
        (count(1, "cut"), "1 cut"),
        (count(12345, "cut"), "12,345 cuts"),
        (count(None), "–"),
        (size(512), "512\N{NO-BREAK SPACE}B"),
        (size(16384), "16.0\N{NO-BREAK SPACE}KiB"),
        (size(3 * 2**20), "3.0\N{NO-BREAK SPACE}MiB"),
        (listed(["a", "b", "c"]), "a, b and c"),
        (listed([]), ""),
        (lasted(3.21), "3.2 s"),
        (lasted(125), "2 min 5 s"),
        (lasted(3780), "1 h 3 min"),
        (moment("2026-01-31T12:00:00+00:00"), "2026-01-31 12:00 UTC"),
        (moment("yesterday"), "yesterday"),
        (sentence("it failed"), "It failed."),
        (clean("a\x1b[2J\u202egnp.exe\nb"), "a\\x1b[2J\\u202egnp.exe b"),
    ],
)
def test_words(made: str, expected: str) -> None:
    assert made == expected


# ---------------------------------------------------------------- the digest


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("conv1 leaks: much", "Leaks: much."),
        ("conv1 leaks in part: some", "Leaks in part: some."),
        ("conv1: unknown, as it is", "Unknown, as it is."),
        ("conv12 leaks: much", "Conv12 leaks: much."),
    ],
)
def test_a_verdict_does_not_begin_with_the_name_that_stands_beside_it(
    told: str, shown: str
) -> None:
    made = content()
    made["cuts"][0]["verdict"]["sentence"] = told
    assert digest(AuditResult.of(made)).cuts[0].sentence == shown


@pytest.mark.parametrize(
    ("share", "shown"), [(1.0, "100.0"), (0.9998, "over 99.9"), (0.9994, "99.9"), (0.0, "0.0")]
)
def test_not_quite_all_is_not_all(share: float, shown: str) -> None:
    """Of a cut that leaves the server a little, nobody shall read that nothing is left."""
    made = content()
    made["cuts"][0]["weights_share"] = share
    table = digest(AuditResult.of(made)).table
    column = [each.text for each in table.headings].index("Weights")
    assert table.rows[0].cells[column].text == f"{shown}\N{NO-BREAK SPACE}%"


def test_the_headline_counts_verdicts() -> None:
    made = content()
    found = digest(AuditResult.of(made))
    assert found.headline == "1 of 2 cuts leaks, 1 is at the floor."
    assert (found.recommended, found.reason) == ("conv2", "the first cut at which nothing is seen.")
    assert found.doubt == "1 reason to doubt, 2 attacks failed"
    made["cuts"][1]["verdict"]["level"] = "leaks"
    assert digest(AuditResult.of(made)).headline == "Both cuts leak."
    made |= {"cuts": made["cuts"][:1], "recommended": None}
    assert digest(AuditResult.of(made)).headline == "The cut leaks."
    assert digest(AuditResult.of(made | {"cuts": []})).headline == "No cut was audited."


def test_cuts_stand_by_depth_whatever_their_order_in_the_file() -> None:
    made = content()
    made["cuts"].reverse()
    found = digest(AuditResult.of(made))
    assert [(cut.number, cut.name) for cut in found.cuts] == [(1, "conv1"), (2, "conv2")]
    assert [row.cells[0].text for row in found.table.rows] == ["conv1", "conv2"]


def test_the_table_has_every_number_with_its_interval_and_a_key_to_sort_by() -> None:
    table = digest(AuditResult.of(content())).table
    names = [heading.text for heading in table.headings]
    assert names == "Cut,Verdict,Accuracy,SSIM,MSE,Re-identified,Named,Sent,Weights,Work".split(",")
    first = dict(zip(names, table.rows[0].cells))
    assert (first["SSIM"].text, first["SSIM"].below, first["SSIM"].sort) == (
        "0.900",
        "0.870 to 0.930",
        0.9,
    )
    assert (first["MSE"].text, first["MSE"].below) == ("0.0050", "0.0020 to 0.0080")
    assert (first["Accuracy"].text, first["Accuracy"].below) == (
        "92.5\N{NO-BREAK SPACE}%",
        "79.6 to 98.4",
    )
    assert first["Named"].text == "none"
    feet = {row.cells[0].text: [c.text for c in row.cells[3:5]] for row in table.foot}
    assert feet == {
        "Floor: the mean picture": ["0.100", "0.0700"],
        "Mean picture of the class": ["0.200", "0.0500"],
        "Perfect": ["1.000", "0.0000"],
    }
    assert [row.marked for row in table.rows] == ["", "recommended"]


def test_floors_of_other_victims_are_not_those_of_all() -> None:
    made = content()
    for cut, floor in zip(made["cuts"], (0.068, 0.071)):
        cut["strongest"]["MSE"] |= {"floor": floor, "class_floor": None, "people": 35}
    shown = digest(AuditResult.of(made))
    feet = {row.cells[0].text: [c.text for c in row.cells[3:5]] for row in shown.table.foot}
    assert feet["Floor: the mean picture"] == ["0.100", "0.0680 to 0.0710"]
    assert feet["Mean picture of the class"] == ["0.200", ""]
    ssim, mse = shown.series.depth
    assert (ssim.axis.floor, mse.axis.floor) == (0.1, None)
    assert (
        [point.floor for point in mse.points]
        == [0.068, 0.071]
        != [point.floor for point in ssim.points]
    )
    assert "dashed in each line" in mse.caption and "floor 0.0680" in mse.words
    assert "floor 0.0680" in depth_chart(mse)
    assert "the floor" in ssim.caption and "floor" not in ssim.words
    for cut in made["cuts"]:
        cut["strongest"]["MSE"]["floor"] = 0.069  # of all cuts, and of other victims than measures'
    assert digest(AuditResult.of(made)).series.depth[1].axis.floor == 0.069


def test_people_and_copies_are_said() -> None:
    made = content()
    made["data"]["people"] = 35
    cut = made["cuts"][0]
    cut["copied"] = {"value": 0.05, "low": 0.01, "high": 0.17, "chance": 0.0006}
    cut["copied"] |= {"victims": 40, "by": ["nearest"], "tried": 3}
    cut["gains"]["MSE"]["reach"] = 0.95
    cut["distribution"]["worst_by"] = "nearest own image"
    result = AuditResult.of(made)
    shown = digest(result)
    assert any(each.startswith("Victims are 35 people, some") for each in shown.assumptions)
    facts = {fact.name: fact.text for fact in shown.cuts[0].facts}
    percent = "\N{NO-BREAK SPACE}%"
    assert facts["Rebuilt nearly exactly"] == (
        f"5.0{percent} (1.0 to 17.0) of 40 victims; others by chance: 0.06{percent}"
    )
    told = f"; attacks on fewer victims may reach 95.0{percent}"
    assert facts["Of the way to the truth, MSE"].endswith(told)
    spread = spread_table(cut, result)
    assert spread and ", by nearest own image, the worst of the attacks" in (
        spread.rows[0].cells[-1].below
    )
    made["cuts"][0]["strongest"]["MSE"]["people"] = 41
    with pytest.raises(UsageError, match="people is 41, of 40 victims"):
        AuditResult.of(made)


def test_flags_that_cuts_share_are_said_once() -> None:
    made = content()
    (flag,) = digest(AuditResult.of(made)).flags
    assert (flag.raised, flag.cuts) == ("It was scored on 40 victims.", "all cuts")
    made["cuts"][1]["flags"] = []
    (flag,) = digest(AuditResult.of(made)).flags
    assert flag.cuts == "cut conv1"


def test_a_failed_attack_says_why_in_its_row() -> None:
    rows = digest(AuditResult.of(content())).cuts[0].attacks.rows
    assert [row.cells[0].text for row in rows] == [
        "ridge regression",
        "nearest own image",
        "inversion",
    ]
    assert rows[2].note == "Failed: the client has no gradient"
    facts = {fact.name: fact.text for fact in digest(AuditResult.of(content())).cuts[0].facts}
    assert facts["Of the way to the truth, MSE"] == "92.9\N{NO-BREAK SPACE}%"


def test_guarantees_are_numbers_beside_words() -> None:
    made = content()
    made["cuts"][1]["guarantees"] |= {
        "naming": 0.053, "candidates": 1000, "epsilon": 8.0, "delta": 1e-5, "dfil": 0.002, "words": "a bound",
        "with_clip": {"bound": 4.0, "naming": 0.031, "words": "in a ball of radius 4"},
    }  # fmt: skip
    made["cuts"][1]["bounds"] = {"mse": 0.05, "share": 0.05 / 0.069, "named": 0.61, "n": 40}
    made["cuts"][1]["matched"] = {"value": 0.61, "low": 0.445, "high": 0.76, "candidates": 40}
    bare, bounded = digest(AuditResult.of(made)).cuts
    assert bare.promised == "No guarantee: no noise crosses the wire."
    assert [fact.name for fact in bare.guarantees] == ["Values"]
    told = {fact.name: fact.text for fact in bounded.guarantees}
    assert told["Naming bound"] == "Nobody names more than 5.3\N{NO-BREAK SPACE}% among 1,000."
    assert told["Local differential privacy"] == "ε = 8, δ = 1 × 10⁻⁵"
    assert told["Least possible MSE"] == "0.05 over 40 pictures; ≤ 0.069 measured"
    assert bounded.clipped == "In a ball of radius 4."
    assert told["Named by who holds the pictures"] == "61.0\N{NO-BREAK SPACE}% (44.5 to 76.0) of 40"
    made["cuts"][1]["bounds"] |= {"low": 0.04, "high": 0.06}
    told = {f.name: f.text for f in digest(AuditResult.of(made)).cuts[1].guarantees}
    assert told["Least possible MSE"].startswith("0.05 (0.04 to 0.06) over 40 pictures; ")
    assert told["1/dFIL"].startswith("0.002, of")  # of an earlier version
    made["cuts"][1]["guarantees"] |= {"dfil_low": 0.001, "dfil_high": 0.003}
    told = {f.name: f.text for f in digest(AuditResult.of(made)).cuts[1].guarantees}
    assert told["1/dFIL"].startswith("0.002 (0.001 to 0.003), of")
    made["cuts"][1]["bounds"] |= {"mse": 0.071, "share": 0.071 / 0.069, "high": 0.08}
    told = {f.name: f.text for f in digest(AuditResult.of(made)).cuts[1].guarantees}
    assert "0.069 measured, less by the chance of" in told["Least possible MSE"]


def test_what_is_not_known_is_said_not_to_be() -> None:
    """An audit with as little as the schema allows."""
    made = content()
    made["recommended"] = None
    made["model"] |= {"parameters": None, "classes": None}
    for cut in made["cuts"]:
        cut |= {
            "accuracy": None,
            "dcorr": None,
            "reidentified": None,
            "distribution": None,
            "bounds": None,
        }
        cut |= {"by_class": [], "pictures": None, "strongest": {}, "attacks": [], "flags": []}
        cut |= {"weights_share": None, "flops_share": None}
        cut["guarantees"] |= {"naming": None}
    found = digest(AuditResult.of(made))
    assert (
        found.series.depth == () and found.series.tradeoff is None and found.series.spread is None
    )
    assert found.galleries == () and found.flags == ()
    text = tree(made).text
    assert "No cut is recommended." in text and "raised none" in text
    assert not re.search(r"\b(None|nan|inf)\b", text)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        "https://example.org/a.png",
        "data:text/html;base64,PGI+",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:image/png;base64,PHN2Zz4=",
        'data:image/png;base64,iVBORw0KGgo="onerror="alert(1)',
        f"{BLACK}\n",
        f" {BLACK}",
        "data:image/png;base64,iVBORw0KGg",
        None,
        7,
    ],
)
def test_what_is_no_picture_is_not_shown(address: object) -> None:
    assert png(address) == ""


def test_pictures_are_shown_with_what_they_are_worth(root: Element) -> None:
    images = [each.attributes for each in by_id(root, "cuts").all("img")]
    assert {each["src"] for each in images} == {BLACK, WHITE}
    assert len(images) == 2 * 3 * 2
    assert images[1]["alt"] == (
        "The attacker’s reconstruction of victim 7 at conv1: SSIM 0.900, MSE 0.0050"
    )


def test_the_slider_begins_at_the_recommended_cut() -> None:
    (gallery,) = digest(AuditResult.of(content())).galleries
    assert (gallery.start, [state.name for state in gallery.states]) == (1, ["conv1", "conv2"])


def test_a_curve_has_a_slider_and_a_line_of_its_own() -> None:
    made = content()
    pictures = made["cuts"][0]["pictures"]
    same = {"kind": "gaussian", "MSE": 0.01, "naming": 0.5}
    made["curve"] = [
        {"noise": n, "accuracy": 90.0 - n, "SSIM": 0.9 / (1 + n), "pictures": p, **same}
        for n, p in ((2.0, pictures), (0.5, pictures), (1.0, None))
    ]
    made["curve_cut"] = made["cuts"][0]["name"] = "conv1 <b>"
    found = digest(AuditResult.of(made))
    noise = found.galleries[1]
    assert [state.name for state in noise.states] == ["gaussian noise 0.5", "gaussian noise 2"]
    assert noise.states[0].told == "accuracy 89.5\N{NO-BREAK SPACE}%, SSIM 0.600, MSE 0.0100"
    assert found.series.tradeoff is not None
    assert [point.short for point in found.series.tradeoff.line] == ["0.5", "1", "2"]
    assert noise.title == "What an attacker sees at conv1 <b> as noise grows"
    assert "the line is the cut conv1 <b> under growing noise" in found.series.tradeoff.caption
    assert "at conv1 <b> as noise grows" in by_id(tree(made), "noise-title").text
    del made["curve_cut"]
    found = digest(AuditResult.of(made))
    assert found.galleries[1].title == "What an attacker sees as noise grows"
    assert found.series.tradeoff and "the line is one cut" in found.series.tradeoff.caption


# ---------------------------------------------------------------- charts


@pytest.fixture(scope="module")
def drawn() -> dict[str, ElementTree.Element]:
    made = content()
    made["cuts"][0]["bounds"] = {"mse": 0.002, "share": 0.4, "named": 0.5, "n": 40}
    made["cuts"][1]["name"] = "$\\frac{<b>&"
    made["recommended"]["cut"] = made["cuts"][1]["name"]
    found = digest(AuditResult.of(made)).series
    assert found.tradeoff and found.spread
    texts = {chart.key: depth_chart(chart) for chart in found.depth}
    texts |= {"tradeoff": tradeoff_chart(found.tradeoff), "spread": spread_chart(found.spread)}
    return {key: ElementTree.fromstring(text) for key, text in texts.items()}


SVG = "{http://www.w3.org/2000/svg}"


def test_charts_have_a_title_and_their_numbers_in_words(
    drawn: dict[str, ElementTree.Element],
) -> None:
    assert [*drawn] == ["depth-1", "depth-2", "tradeoff", "spread"]
    for key, svg in drawn.items():
        title, told = svg[0], svg[1]
        assert (title.tag, told.tag) == (f"{SVG}title", f"{SVG}desc")
        assert (
            svg.get("aria-labelledby")
            == f"{title.get('id')} {told.get('id')}"
            == f"{key}-title {key}-desc"
        )
        assert svg.get("role") == "img"
    assert "conv1: 0.900 (0.870 to 0.930)" in str(drawn["depth-1"][1].text)
    assert "an upright stroke is the least" in str(drawn["depth-2"][1].text)


def test_charts_have_no_style_and_no_colour_of_their_own(
    drawn: dict[str, ElementTree.Element],
) -> None:
    css = (TEMPLATES / "page.css").read_text()
    names = set[str]()
    for svg in drawn.values():
        for element in svg.iter():
            assert "style" not in element.attrib and element.tag not in (
                f"{SVG}style",
                f"{SVG}script",
            )
            for name in ("fill", "stroke"):
                assert element.get(name, "none") == "none"
            names |= {*element.get("class", "").split()}
        assert "width" not in svg.attrib
    assert {"fill-ink", "stroke-line", "stroke-leaks", "stroke-floor", "stroke-accent"} <= names
    assert [name for name in names if f".{name} " not in css] == []


def test_names_in_a_chart_are_its_own(drawn: dict[str, ElementTree.Element]) -> None:
    for key, svg in drawn.items():
        names = [each.attrib["id"] for each in svg.iter() if "id" in each.attrib]
        assert all(name.startswith(f"{key}-") for name in names)
        assert len({*names}) == len(names)
        for element in svg.iter():
            assert element.get("href", f"#{names[0]}").removeprefix("#") in names
            for clip in re.findall(r"url\(#(.*?)\)", element.get("clip-path", "")):
                assert clip in names


def test_names_are_no_mathematics(drawn: dict[str, ElementTree.Element]) -> None:
    texts = [each.text for each in drawn["depth-1"].iter(f"{SVG}text")]
    assert "2 · $\\frac{<b>&" in texts


def test_floors_are_lines(drawn: dict[str, ElementTree.Element]) -> None:
    dashed = [each for each in drawn["depth-1"].iter() if each.get("stroke-dasharray")]
    # Of the mean image, and of the mean of the class.
    assert len(dashed) == 2


def test_a_chart_is_the_same_whenever_it_is_drawn() -> None:
    first, *_ = digest(AuditResult.of(content())).series.depth
    assert depth_chart(first) == depth_chart(first)


# ---------------------------------------------------------------- the page


def test_the_page_says_each_verdict_on_top(root: Element) -> None:
    verdict = by_id(root, "verdict")
    assert [each.text for each in verdict.all("li")] == [
        "1 conv1 Leaks A sentence that says leaks.",
        "2 conv2 At the floor A sentence that says floor.",
    ]
    assert "Recommended cut: conv2 — the first cut at which nothing is seen" in verdict.text


def test_a_cut_at_which_pictures_leak_is_not_recommended() -> None:
    made = content()
    made["cuts"][1]["verdict"]["level"] = "leaks"
    page = tree(made)
    assert "Least leaks at conv2 —" in by_id(page, "verdict").text
    assert "conv2 least leaks" in by_id(page, "all").text
    assert "recommended" not in page.text.lower()
    # Of a single one it does not say that it is the least.
    made["cuts"] = made["cuts"][1:]
    page = tree(made)
    assert "At conv2 —" in by_id(page, "verdict").text
    assert "least leaks" not in page.text.lower()


def test_the_page_says_what_it_rests_on(root: Element) -> None:
    text = by_id(root, "how").text
    for said in (
        "The attacker owns 50 pictures",
        "Whether the model was trained on the victims is not known.",
        "Left out: broken.png.",
        "PyTorch 2.11.0",
        "Seed 0",
        "dpsnn audit --model net.py:make --data pictures",
    ):
        assert said in text
    assert "give more images" in by_id(root, "doubts").text.lower()


def test_the_page_says_what_is_to_be_known_of_the_model_and_where_it_is_not_cut() -> None:
    made = content()
    made["model"] |= {
        "notes": ["no --weights: <script>alert(1)</script> it is untrained"],
        "no_cuts": [{"name": "stage.0.<b>", "reason": "a skip connection crosses beside it"}],
    }
    root = tree(made)
    assert "<script>alert(1)</script> it is untrained." in by_id(root, "verdict").text
    assert "stage.0.<b> A skip connection crosses beside it." in by_id(root, "how").text
    assert len(root.all("script")) == 1 and not root.all("b")
    del made["model"]["notes"], made["model"]["no_cuts"]
    assert "refused" not in [each.attributes.get("id") for each in tree(made).walk()]


def test_of_pairs_the_page_grants_the_attacker_no_model() -> None:
    made = content()
    made["model"] |= {"name": "not given", "parameters": None}
    told = digest(AuditResult.of(made)).assumptions
    assert any("knows neither the model nor its defences" in line for line in told)
    assert not any("hears each picture" in line or "on the wire" in line for line in told)


def test_attacks_that_were_left_out_are_a_reason_to_doubt() -> None:
    made = content()
    for cut, cause in zip(made["cuts"], ("unpaid", "inapplicable")):
        cut["attacks"][2] |= {"status": "skipped", "cause": cause}
    assert digest(AuditResult.of(made)).doubt == "1 reason to doubt, 1 attack left out"


def test_a_screen_reader_finds_its_way(root: Element) -> None:
    (html,) = root.all("html")
    assert html.attributes["lang"] == "en"
    assert [len(root.all(tag)) for tag in ("main", "header", "nav", "footer", "h1")] == [1] * 5
    names = {each.attributes["id"] for each in root.walk() if "id" in each.attributes}
    for each in root.walk():
        for name in str(each.attributes.get("aria-labelledby") or "").split():
            assert name in names
        if each.tag == "a":
            assert str(each.attributes["href"]).removeprefix("#") in names
        if each.tag == "img":
            assert each.attributes["alt"]
        if each.tag == "input":
            assert each.attributes["id"] in {
                label.attributes.get("for") for label in root.all("label")
            }
    ids = [each.attributes["id"] for each in root.walk() if "id" in each.attributes]
    assert len(ids) == len({*ids})
    for table in root.all("table"):
        assert table.all("caption")[0].text
        assert all(head.attributes["scope"] in ("row", "col") for head in table.all("th"))
        width = len(table.all("thead")[0].all("th"))
        for row in [
            *table.all("tbody")[0].all("tr"),
            *(r for f in table.all("tfoot") for r in f.all("tr")),
        ]:
            cells = row.all("th") + row.all("td")
            assert sum(int(str(cell.attributes.get("colspan", 1))) for cell in cells) == width


def test_headings_leave_out_no_level(root: Element) -> None:
    levels = [int(each.tag[1]) for each in root.walk() if re.fullmatch("h[1-6]", each.tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))


def test_the_policy_allows_this_script_and_this_style_alone(root: Element) -> None:
    (policy,) = [
        str(each.attributes["content"])
        for each in root.all("meta")
        if each.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    assert rules.pop("img-src") == "data:"
    for tag in ("script", "style"):
        (element,) = root.all(tag)
        (text,) = element.children
        assert isinstance(text, str)
        digest_of = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules.pop(f"{tag}-src") == f"'sha256-{digest_of}'"
    assert rules == {}


HOSTILE = '</script></style><img src=x onerror="alert(1)">\'"><svg onload=alert(2)>{{ 7*7 }}$x^2$\x00\u202e'


def poisoned(value: Any) -> Any:
    """The same with every free text turned against its reader."""
    if isinstance(value, dict):
        kept = ("schema", "status", "cause", "level", "over", "column")
        return {key: each if key in kept else poisoned(each) for key, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each) for each in value]
    return HOSTILE if isinstance(value, str) and not value.startswith("data:") else value


def test_no_text_becomes_an_element(root: Element) -> None:
    made = poisoned(content())
    for at, cut in enumerate(made["cuts"]):
        cut["name"] = f"{HOSTILE}{at}"
        for row, attack in enumerate(cut["attacks"]):
            attack["label"] = f"{HOSTILE}{row}"
    made["recommended"]["cut"] = made["cuts"][1]["name"]
    found = tree(made)
    assert [each.tag for each in found.walk() if each.tag in ("script", "style", "h1")] == [
        "style",
        "h1",
        "script",
    ]
    assert len(found.all("img")) == len(root.all("img"))
    for each in found.walk():
        assert not [name for name in each.attributes if name.startswith("on") or name == "style"]
        assert each.attributes.get("src", "data:").startswith("data:image/png") or each.tag != "img"
    assert "{{ 7*7 }}" in found.all("h1")[0].text
    for text in (each.text for each in found.walk()):
        assert "\x00" not in text and "\u202e" not in text


def test_a_picture_that_is_none_leaves_a_note() -> None:
    made = content()
    made["cuts"][0]["pictures"]["guess"]["worst"] = 'data:image/png;base64,x" onerror=alert(1)'
    found = by_id(tree(made), "cuts")
    assert len(found.all("img")) == 11
    (nothing,) = [each for each in found.walk() if each.attributes.get("class") == "nothing"]
    assert "not shown, as the results hold no PNG picture here" in str(
        nothing.attributes["aria-label"]
    )


def test_the_page_asks_nothing_of_the_network(root: Element) -> None:
    for each in root.walk():
        for name in ("src", "href", "action", "srcset", "data"):
            value = each.attributes.get(name)
            assert not value or value.startswith(("#", "data:")), (each.tag, value)
    style = (TEMPLATES / "page.css").read_text()
    assert "url(" not in style and "@import" not in style


def test_the_page_is_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    result = AuditResult.of(content())
    first, second = (write_report(result, tmp_path / name).read_bytes() for name in "ab")
    assert first == second


# ---------------------------------------------------------------- the command


def test_the_command_takes_a_folder_and_needs_no_torch(tmp_path: Path) -> None:
    AuditResult.of(content()).save(tmp_path / "audit.json")
    asked = (
        "import sys; from dpsnn.cli import main; code = main(sys.argv[1:]);"
        " print('torch' in sys.modules, file=sys.stderr); raise SystemExit(code)"
    )
    words = ["report", str(tmp_path), "--savepath", str(tmp_path / "deep" / "page.html")]
    done = subprocess.run([sys.executable, "-c", asked, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "False\n")
    assert done.stdout == f"{tmp_path / 'deep' / 'page.html'}\n"
    assert (tmp_path / "deep" / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "is damaged or not the JSON of an audit"),
        ("{", "is damaged or not the JSON of an audit"),
        ("[]", "is no audit: it names no schema"),
        ("{}", "is no audit: it names no schema"),
        (json.dumps(content() | {"schema": "dpsnn-audit/2"}), "has the schema 'dpsnn-audit/2'"),
        (json.dumps({k: v for k, v in content().items() if k != "cuts"}), "lacks 'cuts'"),
        (json.dumps(content() | {"cuts": [{}]}), "cuts[0] lacks 'name'"),
        (json.dumps(content()).replace("0.005", "NaN"), "it must be"),
    ],
)
def test_what_is_no_audit_of_this_version_is_refused_in_one_line(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "audit.json"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        report(
            Namespace(
                audit=str(path),
                savepath="",
                fail_above=[],
                fail_below=[],
                baseline="",
                allow_missing_cuts=False,
                junit="",
            )
        )
    assert said in str(refused.value) and len(str(refused.value).splitlines()) == 1
    assert not path.with_name("report.html").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["nowhere.json"], "there is no nowhere.json"),
        (["audit.json", "--savepath", "page.pdf"], "end the name in .html"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *words]) == 2
    heard = capsys.readouterr()
    assert said in heard.err and len(heard.err.splitlines()) == 1


def test_classes_and_the_worst_have_floors_and_intervals_where_they_are_known() -> None:
    made = content()
    result = AuditResult.of(made)
    classes, spread = class_table(made["cuts"][0], result), spread_table(made["cuts"][0], result)
    assert classes and spread
    (_, _, error, _), (_, _, plain, missing) = (row.cells for row in classes.rows)
    assert error.below == "0.00400 to 0.00600; mean image: 0.07000" and not plain.below
    assert missing.text == NOTHING
    one, *_, worst = spread.rows[0].cells[1:]
    assert not one.below  # an end that no victim reaches
    assert worst.below.startswith("worst victim: no. 7; mean image: 0.03")
    assert worst.below.endswith("; at most 7.0\N{NO-BREAK SPACE}% of people fare worse")
    made["cuts"][0]["distribution"]["one_percent"]["low"] = 0.001
    again = spread_table(AuditResult.of(made).cuts[0], result)
    assert again and again.rows[0].cells[1].below.startswith("0.0010")
    for name in ("one_percent", "fare_worse", "worst_one_percent_floor"):  # of an earlier version
        del made["cuts"][0]["distribution"][name]
    older = spread_table(AuditResult.of(made).cuts[0], result)
    assert older and older.rows[0].cells[-1].below == "worst victim: no. 7"
