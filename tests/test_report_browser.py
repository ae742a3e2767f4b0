"""The page of an audit in a real browser, where there is one: it opens, sorts, slides, prints and complains of nothing.

Any Chromium will do; DPSNN_CHROMIUM names one that is not on the PAth:nth-child(4).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audit_example import content
from browser import Browser, browser, chromium

from dpsnn.audit.report import write_report
from dpsnn.audit.result import AuditResult

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not chromium(), reason="no Chromium found; install one, or name it with DPSNN_CHROMIUM"
    ),
]

HOSTILE = '</script><img src=x onerror="document.title=1"><script>document.title=2</script>'

SHOWN = "[...document.querySelectorAll('#cuts .state')].map(s => getComputedStyle(s).display !== 'none')"

ORDER = (
    "[...document.querySelectorAll('.sortable tbody th')].map(h => h.firstChild.textContent.trim())"
)


def example() -> dict[str, Any]:
    made = content()
    made["model"]["name"] = HOSTILE
    noise = {"kind": "gaussian", "accuracy": 90.0, "SSIM": 0.5, "MSE": 0.01, "naming": 0.5}
    made["curve"] = [
        {"noise": n, "pictures": made["cuts"][0]["pictures"], **noise} for n in (0.5, 1.0)
    ]
    return made


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, str]]:
    folder = tmp_path_factory.mktemp("browser")
    path = write_report(AuditResult.of(example()), folder / "report.html")
    with browser(folder / "profile") as made:
        yield made, path.as_uri()


@pytest.fixture
def page(started: tuple[Browser, str]) -> Iterator[Browser]:
    """The page, opened anew; afterwards nothing has been complained of, and nothing but itself was fetched."""
    made, address = started
    made.complaints.clear()
    made.fetched.clear()
    made.look()
    made.open(address)
    yield made
    assert made.complaints == []
    assert {each.split(",")[0] for each in made.fetched} <= {
        address,
        "data:image/png;base64",
        "data:",
    }


def test_it_opens_and_what_is_written_in_names_does_not_run(page: Browser) -> None:
    assert page.run("document.title") == f"What leaks from {HOSTILE}"
    assert page.run("document.querySelector('h1').textContent") == f"What leaks from {HOSTILE}"
    assert page.run("document.scripts.length") == 1
    assert page.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 2000])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_any_screen(page: Browser, width: int, dark: bool) -> None:
    page.look(width, 800, dark)
    assert page.run("document.documentElement.scrollWidth") == width
    # Letters of charts are about as large as those of the text, and never too small to read.
    small = "Math.min(...[...document.querySelectorAll('.chart text')].map(t => t.getBoundingClientRect().height))"
    assert page.run(small) >= 9


def test_long_names_and_many_cuts_fit_a_phone(page: Browser, tmp_path: Path) -> None:
    made = example()
    first, second = made["cuts"]
    made["cuts"] = [{**first, "name": "features_" * 12 + str(at), "order": at} for at in range(12)]
    made["cuts"].append({**second, "name": "conv2", "order": 12})
    path = write_report(AuditResult.of(made), tmp_path / "long.html")
    page.look(320, 800)
    page.open(path.as_uri())
    assert page.run("document.documentElement.scrollWidth") == 320
    page.fetched.clear()


def _contrast(page: Browser) -> list[float]:
    """Of each text with what lies behind it, by WCAG 2."""
    found: list[float] = page.run("""(() => {
        const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number);
        const light = c => { const [r, g, b] = rgb(c).map(v => v / 255).map(
            v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const behind = e => { for (; e; e = e.parentElement) {
            const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] !== 0) return c; } };
        const found = [];
        for (const e of document.querySelectorAll("body *")) {
            if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
            if (e.closest("script, title, desc") || !e.getClientRects().length) continue;
            const style = getComputedStyle(e);
            const a = light(e.closest("svg") ? style.fill : style.color), b = light(behind(e));
            found.push((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
        }
        return found; })()""")
    return found


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_can_be_read_in_light_and_dark(page: Browser, dark: bool) -> None:
    page.look(dark=dark)
    assert len(found := _contrast(page)) > 100
    assert min(found) >= 4.5


def test_it_sorts_by_click_and_by_key(page: Browser) -> None:
    assert page.run(ORDER) == ["conv1", "conv2"]
    page.click("th:nth-child(5) button")
    assert page.run("document.querySelector('th:nth-child(5)').ariaSort") == "ascending"
    assert page.run(ORDER) == ["conv1", "conv2"]
    page.click("th:nth-child(5) button")
    assert page.run("document.querySelector('th:nth-child(5)').ariaSort") == "descending"
    assert page.run(ORDER) == ["conv2", "conv1"]
    assert (
        page.run("document.getElementById('sorted').textContent") == "Sorted by MSE, highest first."
    )
    page.run("document.querySelector('th:nth-child(4) button').focus()")
    page.key("Enter", 13, "\r")
    assert page.run("document.querySelectorAll('th[aria-sort]').length") == 1
    assert page.run("document.querySelector('th:nth-child(4)').ariaSort") == "ascending"
    assert page.run(ORDER) == ["conv2", "conv1"]


def test_it_slides_by_key_and_says_where_it_is(page: Browser) -> None:
    assert page.run(SHOWN) == [False, True]
    page.run("document.getElementById('cuts-range').focus()")
    page.key("ArrowLeft", 37)
    assert page.run(SHOWN) == [True, False]
    assert (
        page.run("document.getElementById('cuts-range').getAttribute('aria-valuetext')")
        == "conv1: Leaks"
    )
    assert page.run("document.querySelector('#cuts output').textContent") == "1 of 2"
    # The other slider is another one.
    assert page.run("document.querySelector('#noise output').textContent") == "1 of 2"


def test_printed_it_shows_every_state_and_every_attack_and_no_controls(
    page: Browser, tmp_path: Path
) -> None:
    page.look(media="print")
    assert page.run(SHOWN) == [True, True]
    for control in (".slider", "nav"):
        assert page.run(f"getComputedStyle(document.querySelector('{control}')).display") == "none"
    assert page.run("matchMedia('print').matches")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("[...document.querySelectorAll('details')].every(d => d.open)")
    page.run("dispatchEvent(new Event('afterprint'))")
    assert not page.run("[...document.querySelectorAll('details')].some(d => d.open)")
    assert page.paper(tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_without_script_everything_is_there(started: tuple[Browser, str]) -> None:
    made, address = started
    made.scripts(False)
    try:
        made.open(address)
        assert made.run(SHOWN) == [True, True]
        assert made.run("getComputedStyle(document.querySelector('.slider')).display") == "none"
        assert made.run("document.querySelectorAll('thead button').length") == 0
    finally:
        made.scripts(True)


def test_a_screen_reader_is_told_what_there_is(page: Browser) -> None:
    names = page.names()
    roles = [role for role, _ in names]
    for role in (
        "banner",
        "navigation",
        "main",
        "contentinfo",
        "slider",
        "table",
        "columnheader",
        "rowheader",
    ):
        assert role in roles, role
    told = [name for role, name in names if role == "image"]
    assert "SSIM of the strongest attack, by depth of the cut" in " ".join(told)
    assert any("reconstruction of victim 7 at conv2: SSIM 0.100" in name for name in told)
    assert all(told)
    assert all(
        name
        for role, name in names
        if role in ("table", "region", "slider", "link", "button", "heading")
    )
