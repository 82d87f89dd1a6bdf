"""The page as its user meets it: in a real browser, on a phone and a desk, by keyboard, with a
key."""

import csv
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from playwright.sync_api import Browser, Page, expect

from cardiotune.deployment.scorer import RowScorer
from cardiotune.errors import DataError
from serving import KEY, ROW, ROWS, serving, train_toy_run
from test_browser import DESK, PHONE, WIDER_THAN_THE_WINDOW, _violations, browser

__all__ = ["browser"]  # the fixture
SHOTS = os.environ.get("CARDIOTUNE_SHOTS")
"""A folder for pictures of the page, to be looked at."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    return train_toy_run(tmp_path_factory.mktemp("page"), toy_model, report=True)


@pytest.fixture(scope="module")
def scorer(run: Path) -> RowScorer:
    return RowScorer.load(run)


@pytest.fixture(scope="module")
def url(run: Path, scorer: RowScorer) -> Iterator[str]:
    with serving(run, lambda: scorer, requests_a_minute=10**6) as (client, _):
        yield str(client.base_url).rstrip("/")


@pytest.fixture
def opened(browser: Browser, url: str) -> Iterator[Page]:
    """The page, watched: no message in the console, no request to anyone else."""
    page = browser.new_page(viewport={"width": DESK, "height": 900})
    yield from watched(page, url)


def watched(page: Page, url: str) -> Iterator[Page]:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request",
        lambda request: said.append(request.url) if not request.url.startswith((url, "blob:", "data:")) else None,
    )
    page.goto(url)
    expect(page.locator("#app")).to_be_visible()
    yield page
    page.close()
    assert said == []


def fill(page: Page, row: dict[str, Any]) -> None:
    words = {"sex": {"1": "man", "0": "woman"}, "smoker": {"0": "no", "1": "yes"}, "pain": {"typical": "typical"}}
    names = {"sbp": "Systolic pressure", "pain": "Chest pain"}
    for column, value in row.items():
        field = page.get_by_label(names.get(column, column.capitalize()), exact=True)
        if column in words:
            field.select_option(label=words[column][str(value)])
        else:
            field.fill(str(value))


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def test_one_patient_from_form_to_what_it_rests_on(opened: Page, scorer: RowScorer) -> None:
    fill(opened, ROW)
    opened.get_by_role("button", name="Show the risk").click()
    risk = scorer.risks([ROW])[0]
    percent = f"{round(100 * risk)} %"
    expect(opened.locator("#risk")).to_have_text(percent)
    expect(opened.locator("#meaning")).to_contain_text(
        f"Of 100 people like this, about {round(100 * risk)} would have heart disease"
    )
    expect(opened.locator("#calibration")).to_contain_text("95 % interval")
    expect(opened.locator("#people i.in")).to_have_count(round(100 * risk))
    expect(opened.locator("#warning")).to_be_hidden()
    wanted = scorer.leave_one_field_out([ROW])["fields"]
    expect(opened.locator("#drivers tbody tr")).to_have_count(5)
    first = opened.locator("#drivers tbody tr").first
    name = {"sbp": "Systolic pressure", "pain": "Chest pain"}.get(wanted[0]["column"], wanted[0]["column"].capitalize())
    expect(first).to_contain_text(name)
    expect(first).to_contain_text(
        f"{'raises' if wanted[0]['change'] < 0 else 'lowers'} by {abs(100 * wanted[0]['change']):.1f}"
    )
    expect(opened.get_by_text("Research use only.")).to_be_visible()
    shoot(opened, "one_1400")


def test_out_of_range_there_is_a_warning_and_no_decision(opened: Page) -> None:
    fill(opened, {**ROW, "age": 150})
    expect(opened.locator("#fields")).to_contain_text("Outside 18 to 110 years: the model was not tried there.")
    opened.get_by_role("button", name="Show the risk").click()
    expect(opened.locator("#warning")).to_contain_text("Out of range: age.")
    expect(opened.locator("#decision")).to_have_text("no decision")
    expect(opened.locator("#meaning")).to_contain_text("Without age: of 100 people like this")
    shoot(opened, "warning_1400")


def test_what_cannot_be_read_is_said_at_its_field_and_not_sent(opened: Page) -> None:
    fill(opened, {**ROW, "age": "61.5"})
    opened.get_by_role("button", name="Show the risk").click()
    expect(opened.get_by_label("Age")).to_be_focused()
    expect(opened.get_by_label("Age")).to_have_attribute("aria-invalid", "true")
    expect(opened.locator("#fields")).to_contain_text("Expected a whole number, 18 to 110 years.")
    expect(opened.locator("#result-full")).to_be_hidden()


def test_the_keyboard_is_enough(opened: Page) -> None:
    opened.get_by_role("tab", name="One patient").focus()
    opened.keyboard.press("ArrowRight")
    expect(opened.get_by_role("tab", name="A table")).to_be_focused()
    expect(opened.get_by_role("tabpanel", name="A table")).to_be_visible()
    opened.keyboard.press("ArrowLeft")
    opened.keyboard.press("Tab")
    expect(opened.get_by_label("Age")).to_be_focused()
    opened.keyboard.type("61")
    opened.keyboard.press("Enter")
    expect(opened.locator("#result-full")).to_be_visible()
    expect(opened.locator("#result-head")).to_be_focused()


def upload(page: Page, file: Path) -> None:
    page.get_by_role("tab", name="A table").click()
    page.locator("#file").set_input_files(file)
    expect(page.locator("#checks")).to_be_visible()


def test_a_table_from_upload_to_download(opened: Page, scorer: RowScorer, tmp_path: Path) -> None:
    frame = pl.DataFrame(ROWS * 4)  # three parts of 100 rows
    frame = frame.with_columns(pl.lit('=1+1,"x"').alias("note")).cast(pl.String)
    rows = frame.rows()
    places = {name: place for place, name in enumerate(frame.columns)}
    changed = [list(row) for row in rows]
    changed[1][places["age"]] = "150"
    changed[2][places["age"]] = "old"
    changed[3][places["age"]] = "61,0"
    changed[4][places["smoker"]] = "yes"
    file = tmp_path / "patients.csv"
    with file.open("w", newline="", encoding="utf-8-sig") as out:
        csv.writer(out, delimiter=";").writerows([frame.columns, *changed])
    upload(opened, file)
    checks = opened.locator("#check-list")
    expect(checks).to_contain_text("240 rows, 6 columns.")
    expect(checks).to_contain_text("1 row will not be scored, for cells that cannot be read: age (1).")
    expect(checks).to_contain_text("Values out of range, where the answer abstains: age (1).")
    shoot(opened, "checks_1400")
    opened.get_by_role("button", name="Score the table").click()
    expect(opened.locator("#summary")).to_contain_text("239 of 240 rows scored", timeout=60_000)
    shoot(opened, "table_1400")
    with opened.expect_download() as download:
        opened.get_by_role("button", name="Download all results").click()
    saved = pl.read_csv(download.value.path())
    assert saved["row"].to_list() == list(range(1, 241))
    table = pl.DataFrame(changed, schema=frame.columns, orient="row").with_columns(
        pl.col("age").replace({"old": None, "150": None, "61,0": "61"})
    )
    wanted = scorer.risks(table.drop("note"))
    scored = saved["probability"].is_not_null().to_numpy()
    assert np.flatnonzero(~scored).tolist() == [2]
    np.testing.assert_allclose(saved["probability"].drop_nulls(), wanted[scored], atol=1e-5)
    assert saved["abstain"][1] == 1 and saved["decision"][1] is None and saved["out_of_range"][1] == "age"
    assert saved["problem"][2] == "cannot be read: age"


@pytest.fixture
def held(browser: Browser, run: Path) -> Iterator[tuple[Page, threading.Event, RowScorer]]:
    """The page of a server whose model answers when the event is set."""
    scorer, free = RowScorer.load(run), threading.Event()
    score = scorer.check_and_score

    def when_free(rows: Any) -> Any:
        assert free.wait(60)
        return score(rows)

    scorer.check_and_score = when_free  # type: ignore[method-assign]
    with serving(run, lambda: scorer) as (client, _):
        url = str(client.base_url).rstrip("/")
        for page in watched(browser.new_page(viewport={"width": DESK, "height": 900}), url):
            yield page, free, scorer
            free.set()


def test_a_stopped_table_does_not_end_in_the_next(
    held: tuple[Page, threading.Event, RowScorer], tmp_path: Path
) -> None:
    page, free, scorer = held
    pl.DataFrame(ROWS * 4).write_csv(tmp_path / "first.csv")
    second = pl.DataFrame(ROWS[30:35])
    second.write_csv(tmp_path / "second.csv")
    upload(page, tmp_path / "first.csv")
    page.get_by_role("button", name="Score the table").click()
    page.get_by_role("button", name="Stop").click()
    page.locator("#file").set_input_files(tmp_path / "second.csv")
    expect(page.locator("#many-problem")).to_contain_text("A table is being scored")
    expect(page.locator("#check-list")).to_contain_text("240 rows")
    free.set()
    expect(page.locator("#summary")).to_contain_text("Partly done: 100 of 240 rows scored")
    page.locator("#file").set_input_files(tmp_path / "second.csv")
    page.get_by_role("button", name="Score the table").click()
    expect(page.locator("#summary")).to_contain_text("5 of 5 rows scored")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all results").click()
    np.testing.assert_allclose(pl.read_csv(download.value.path())["probability"], scorer.risks(second), atol=1e-5)


def test_a_cleared_or_changed_form_shows_no_risk_of_before(held: tuple[Page, threading.Event, RowScorer]) -> None:
    page, free, _ = held
    fill(page, ROW)
    page.get_by_role("button", name="Show the risk").click()
    page.get_by_role("button", name="Clear").click()
    free.set()
    expect(page.get_by_role("button", name="Show the risk")).to_be_enabled()
    expect(page.locator("#result-full")).to_be_hidden()
    fill(page, ROW)
    page.get_by_role("button", name="Show the risk").click()
    expect(page.locator("#result-full")).to_be_visible()
    page.get_by_label("Age", exact=True).fill("62")
    expect(page.locator("#result-full")).to_be_hidden()
    expect(page.locator("#result-empty")).to_be_visible()


def test_a_row_that_the_server_refuses_is_named_and_the_others_scored(
    browser: Browser, run: Path, tmp_path: Path
) -> None:
    scorer = RowScorer.load(run)
    score, strange = scorer.check_and_score, ROWS[7]["age"]
    wanted = scorer.risks(ROWS)

    def refusing(rows: list[dict[str, Any]]) -> Any:
        if any(row["age"] == strange for row in rows):
            raise DataError("1 of the prompts is too long")
        return score(rows)

    scorer.check_and_score = refusing  # type: ignore[method-assign]
    pl.DataFrame(ROWS).write_csv(tmp_path / "table.csv")
    with serving(run, lambda: scorer, requests_a_minute=10**6, body_bytes=1500) as (client, _):
        page = browser.new_page()
        page.goto(str(client.base_url))
        expect(page.locator("#app")).to_be_visible()
        upload(page, tmp_path / "table.csv")
        page.get_by_role("button", name="Score the table").click()
        refused = [place for place, row in enumerate(ROWS) if row["age"] == strange]
        expect(page.locator("#summary")).to_contain_text(
            f"{len(ROWS) - len(refused)} of 60 rows scored", timeout=60_000
        )
        with page.expect_download() as download:
            page.get_by_role("button", name="Download all results").click()
        saved = pl.read_csv(download.value.path())
        page.close()
    assert np.flatnonzero(saved["probability"].is_null()).tolist() == refused
    assert set(saved["problem"][refused]) == {"1 of the prompts is too long"}
    scored = saved["probability"].is_not_null().to_numpy()
    np.testing.assert_allclose(saved["probability"].drop_nulls(), wanted[scored], atol=1e-5)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"age,sex\n61,1\n", "Columns that are not there: pain, sbp, smoker."),
        (b"a,b\n1,2\n", "None of the model's columns is in the header"),
        (b"age,sex,sbp,smoker,pain\n", "no rows below its header"),
        (b"age,age,sex,sbp,smoker,pain\n1,1,1,1,1,none\n", "Columns that stand twice: age."),
        (b'age,sex,sbp,smoker,pain\n61,1,145,0,"none\n', "A quotation mark is not closed"),
    ],
)
def test_a_table_that_does_not_fit_is_not_scored(opened: Page, tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    upload(opened, tmp_path / "table.csv")
    expect(opened.locator("#check-list")).to_contain_text(said)
    expect(opened.get_by_role("button", name="Score the table")).to_be_disabled()


def test_a_file_that_is_no_text_is_said(opened: Page, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"age\n\xff\xfe")
    opened.get_by_role("tab", name="A table").click()
    opened.locator("#file").set_input_files(tmp_path / "table.csv")
    expect(opened.locator("#many-problem")).to_contain_text("not UTF-8")


def test_the_model_is_shown_with_card_and_report(opened: Page, run: Path) -> None:
    opened.get_by_role("tab", name="The model").click()
    expect(opened.locator("#dictionary")).to_contain_text("systolic pressure")
    expect(opened.locator("#metrics")).to_contain_text("AUROC")
    expect(opened.locator("#card")).to_contain_text("Not intended for")
    shoot(opened, "model_1400")
    opened.get_by_role("link", name="Open the full report").click()
    opened.wait_for_url("**/v1/report")
    expect(opened.locator(".verdict, h2").first).to_be_visible()
    expect(opened.locator("svg").first).to_be_visible()


def test_a_key_is_asked_for_and_kept_for_the_tab(browser: Browser, run: Path, scorer: RowScorer) -> None:
    with serving(run, lambda: scorer, keys=[KEY.encode()]) as (client, _):
        page = browser.new_page()
        page.goto(str(client.base_url))
        page.get_by_label("Key").fill("a wrong key")
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("#key-problem")).to_contain_text("does not know this key")
        page.get_by_label("Key").fill(KEY)
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("#app")).to_be_visible()
        page.reload()
        expect(page.locator("#app")).to_be_visible()
        page.get_by_role("tab", name="The model").click()
        with page.expect_download() as download:
            page.get_by_role("link", name="Open the full report").click()
        assert download.value.path().read_bytes() == (run / "report.html").read_bytes()
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_is_wrong_at_any_width(browser: Browser, url: str, tmp_path: Path, width: int, scheme: Any) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    pl.DataFrame(ROWS).write_csv(tmp_path / "table.csv")
    contrast = width == PHONE  # it takes most of the time and is the same at every width
    for view in watched(page, url):
        fill(view, {**ROW, "age": 150})
        view.get_by_role("button", name="Show the risk").click()
        expect(view.locator("#drivers tbody tr").first).to_be_visible()
        views = ["One patient", "A table", "The model"]
        for name in views:
            view.get_by_role("tab", name=name).click()
            if name == "A table":
                view.locator("#file").set_input_files(tmp_path / "table.csv")
                view.get_by_role("button", name="Score the table").click()
                expect(view.locator("#results")).to_be_visible(timeout=60_000)
            assert view.evaluate(WIDER_THAN_THE_WINDOW) == []
            assert _violations(view, contrast) == []
            shoot(view, f"{views.index(name)}_{width}_{scheme}")


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_description_of_the_api_can_be_read_offline(browser: Browser, url: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{url}/docs")
    expect(page.get_by_text("POST /v1/predict")).to_be_visible()
    page.locator("summary", has_text=re.compile("^Row$")).click()
    expect(page.locator("pre", has_text="systolic pressure").first).to_be_visible()
    assert page.evaluate(WIDER_THAN_THE_WINDOW) == [] and _violations(page, True) == []
    assert all(name.startswith((url, "data:")) for name in asked)
    shoot(page, f"docs_{width}")
    page.close()


def test_the_page_without_scripts_says_where_else(url: str) -> None:
    assert "needs JavaScript" in httpx.get(url, trust_env=False).text
