"""The report as its reader sees it: in a real browser, from the file, on a phone, a desk and
paper."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from cardiotune.evaluation.evaluate import evaluate_predictions
from cardiotune.files import write_json
from cardiotune.models.predictions import Prediction, write_predictions
from cardiotune.report.report import write_report
from test_report import add_everything, make_run

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PHONE, DESK, PAPER = 360, 1400, 680
"""Pixels; the last is what A4 leaves between margins of 1.5 cm."""
WIDER_THAN_THE_WINDOW = """() => {
    const page = document.documentElement;
    return page.scrollWidth > page.clientWidth ? [`${page.scrollWidth} in ${page.clientWidth}`] : [];
}"""
CUT_OFF = """() => [...document.querySelectorAll("svg")].flatMap(svg => {
    const frame = svg.getBoundingClientRect();
    const inside = box => box.left > frame.left - 1 && box.right < frame.right + 1
        && box.top > frame.top - 1 && box.bottom < frame.bottom + 1;
    return [...svg.querySelectorAll("text")].filter(text => !inside(text.getBoundingClientRect()))
        .map(text => text.textContent);
})"""

OVERLAPPING = """() => [...document.querySelectorAll("svg")].flatMap(svg => {
    const texts = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    return texts.flatMap(([one, a], place) => texts.slice(place + 1)
        .filter(([_, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2)
        .map(([other, _]) => `${one} / ${other}`));
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        missing = f"no browser: install one of {', '.join(PROGRAMS)}"
        if os.environ.get("CARDIOTUNE_NEEDS_BROWSER"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=program, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With every model, section and figure."""
    return write_report(add_everything(make_run(tmp_path_factory.mktemp("runs") / "full")))


def faults(
    browser: Browser, file: Path, width: int, scheme: Any = "light", media: Any = "screen", contrast: bool = True
) -> dict[str, list[str]]:
    """What is wrong with a page whose details are all open, by kind; empty when nothing is."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.emulate_media(media=media, color_scheme=scheme)
    found: dict[str, list[str]] = {"console": [], "requests": []}
    page.on("console", lambda said: found["console"].append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found["console"].append(str(error)))
    page.on("request", lambda request: found["requests"].append(request.url))
    page.goto(file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    found["requests"] = [url for url in found["requests"] if url != file.as_uri() and not url.startswith("data:")]
    found["overflow"] = page.evaluate(WIDER_THAN_THE_WINDOW)
    found["cut off"] = page.evaluate(CUT_OFF)
    found["overlapping"] = page.evaluate(OVERLAPPING)
    found["accessibility"] = _violations(page, contrast)
    page.close()
    return {kind: said for kind, said in found.items() if said}


def _violations(page: Page, contrast: bool) -> list[str]:
    """Serious and critical ones by the rules of axe."""
    options = {"resultTypes": ["violations"], "rules": {"color-contrast": {"enabled": contrast}}}
    return [
        f"{violation['id']}: {node['html'][:200]}"
        for violation in Axe().run(page, options=options).response["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_reader_finds_nothing_wrong(browser: Browser, report: Path, width: int, scheme: str) -> None:
    # Contrast takes most of the time and is the same at every width.
    assert faults(browser, report, width, scheme, contrast=width == PHONE) == {}


def test_nothing_is_cut_off_on_paper(browser: Browser, report: Path) -> None:
    assert faults(browser, report, PAPER, media="print", contrast=False) == {}


def test_long_names_are_not_cut_off(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("logistic_regression", "tuned"))
    rows = [json.loads(line) for line in run.predictions.read_text().splitlines()]
    name = "boosted_trees_of_the_hospital_with_monotone_pressure"
    rows += [{**row, "model": name} for row in rows if row["model"] == "tuned"]
    told = [Prediction.from_json(row) for row in rows]
    write_predictions(run.predictions, told)
    write_json(run.metrics, evaluate_predictions(told, 100, 0))
    column = "walking_pace_in_the_last_four_weeks_as_said_by_the_patient"
    write_json(
        run.path / "explanations.json",
        {
            "importance": [{"column": column, "value": 0.1, "ci": [0.05, 0.15], "model": name}],
            "partial_dependence": [
                {"column": column, "unit": "kilometres an hour", "x": [1, 2], "models": {name: [0.2, 0.3]}}
            ],
        },
    )
    assert faults(browser, write_report(run), PHONE, contrast=False) == {}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("console", "<script>undefined.field</script>"),
        ("console", "<script>console.error('no')</script>"),
        ("requests", "<img alt='none' src='http://127.0.0.1:9/pixel.png'>"),
        ("requests", "<style>body { background: url(http://127.0.0.1:9/paper.png) }</style>"),
        ("overflow", "<p style='width: 2000px'>wide</p>"),
        ("overflow", "<details><summary>closed</summary><p style='width: 2000px'>wide</p></details>"),
        ("cut off", "<svg width='50' height='20' role='img' aria-label='x'><text y='10'>a long legend</text></svg>"),
        ("overlapping", "<svg role='img' aria-label='x'><text y='20'>label</text><text y='25'>legend</text></svg>"),
        ("accessibility", "<img src='data:,'>"),
        ("accessibility", "<p style='color: #bbb; background: #fff'>pale</p>"),
    ],
)
def test_what_is_wrong_is_found(browser: Browser, tmp_path: Path, kind: str, body: str) -> None:
    file = tmp_path / "page.html"
    file.write_text(f"<!doctype html><html lang='en'><title>page</title><main><h1>Page</h1>{body}</main></html>")
    assert kind in faults(browser, file, DESK)


def test_pale_text_is_found_in_the_dark_only_where_it_is_pale(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    style = "p { color: #222; background: #fff } @media (prefers-color-scheme: dark) { p { background: #111 } }"
    file.write_text(
        f"<!doctype html><html lang='en'><title>page</title><style>{style}</style><main><h1>Page</h1><p>text</p></main></html>"
    )
    assert faults(browser, file, DESK, "light") == {}
    assert faults(browser, file, DESK, "dark").keys() == {"accessibility"}


def test_the_numbers_of_each_figure_are_saved_by_a_click(browser: Browser, report: Path) -> None:
    page = browser.new_page(viewport={"width": DESK, "height": 800})
    page.goto(report.as_uri())
    links = page.locator("a[download]").all()
    assert len(links) == page.locator("figure").count() > 10
    for number, link in enumerate(links):
        if number % 10 == 9:
            page.wait_for_timeout(1500)  # Chromium drops an eleventh download in a second
        with page.expect_download() as saved:
            link.click()
        assert saved.value.suggested_filename == link.get_attribute("download")
        href = link.get_attribute("href") or ""
        assert saved.value.path().read_text() == unquote(href.partition(",")[2])
    page.close()
