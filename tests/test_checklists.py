import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from cardiotune.config import dump
from cardiotune.data.small_counts import HIDDEN
from cardiotune.errors import ModelError
from cardiotune.evaluation.table1 import Table1, Table1Row
from cardiotune.files import write_json, write_text
from cardiotune.report.checklists import FILE, NOT_PROVIDED, as_markdown, facts, fill
from cardiotune.report.model_card import TERMS, render
from cardiotune.report.record import read_record
from cardiotune.report.report import write_report
from cardiotune.runs import RunFolder
from test_report import add_everything, make_run, settings


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return add_everything(make_run(tmp_path_factory.mktemp("runs") / "rich"))


def items(name: str) -> list[dict[str, str]]:
    return next(entry["items"] for entry in json.loads(FILE.read_text()) if entry["name"] == name)


def test_tripod_ai_has_its_27_items_and_52_lines_in_order() -> None:
    # Collins et al., BMJ 2024;385:e078378, table 2.
    letters = {
        3: "abc",
        5: "ab",
        6: "abc",
        8: "abc",
        9: "abc",
        12: "abcdefg",
        18: "abcdef",
        20: "abc",
        23: "ab",
        27: "abc",
    }
    published = [f"{number}{letter}" for number in range(1, 28) for letter in letters.get(number, "") or [""]]
    assert [item["number"] for item in items("TRIPOD+AI")] == published
    assert len(published) == 52


def test_tripod_llm_has_its_19_items_in_order() -> None:
    # Gallifant et al., Nat Med 2025;31:60, table 2; the abstract's own list (2a to 2l) is one line.
    letters = {3: "ab", 5: "abcde", 6: "abcde", 7: "abcde", 8: "abc", 9: "ab", 14: "abcdef", 16: "abcd", 19: "abcdefg"}
    published = [f"{number}{letter}" for number in range(1, 20) for letter in letters.get(number, "") or [""]]
    assert [item["number"] for item in items("TRIPOD-LLM")] == published


def test_probast_ai_has_its_16_and_18_questions_in_four_domains() -> None:
    # Moons et al., BMJ 2025;388:e082505, abstract: the domains, and how many questions each part
    # has.
    domains = ("participants and data sources", "predictors", "outcome", "analysis")
    published = [
        (f"{number}.{question}", f"{part}: {domain}")
        for part, sizes in (("Development", (3, 4, 4, 5)), ("Evaluation", (3, 4, 4, 7)))
        for number, (domain, size) in enumerate(zip(domains, sizes, strict=True), 1)
        for question in range(1, size + 1)
    ]
    assert [(item["number"], item["section"]) for item in items("PROBAST+AI")] == published
    assert [sum(part in section for _, section in published) for part in ("Development", "Evaluation")] == [16, 18]


def test_paraphrases_are_called_so(rich: RunFolder) -> None:
    assert "paraphrased by us" in as_markdown(fill(read_record(rich)))
    assert "the published tool decides" in as_markdown(fill(read_record(rich)))


def test_the_sum_of_missing_values_is_not_told_beside_a_small_count(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("prevalence", "logistic_regression"))
    found = json.loads(run.cohort.read_text())
    for counts, said in (
        ({"age": 20, "sbp_mmhg": 4}, "; values are missing in 2 of 2 columns"),
        ({"age": 20, "sbp_mmhg": 14}, "; 34 values are missing in 2 of 2 columns"),
    ):
        found["notes"]["missing"] = counts
        write_json(run.cohort, found)
        assert facts(read_record(run))["missing"].endswith(said)
    write_json(run.table1, Table1({}, [Table1Row(*"abcdef", missing) for missing in ("20 (9.0 %)", HIDDEN)]).as_json())
    assert facts(read_record(run))["missing"].endswith("; values are missing in 2 of 2 columns")


def test_a_file_that_says_something_else_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("prevalence", "logistic_regression"))
    write_json(run.table1, {"n": {}, "columns": [{"colour": "blue"}]})
    with pytest.raises(ModelError, match=r"table1.json: does not hold what CardioTune writes; restore it"):
        read_record(run)


def test_every_fact_that_an_item_names_can_be_known(rich: RunFolder) -> None:
    named = {fact for entry in json.loads(FILE.read_text()) for item in entry["items"] for fact in item["facts"]}
    known = facts(read_record(rich))
    assert named <= known.keys()
    assert {name for name in named if not known[name]} == {"sites", "date"}  # the toy table has no site


def test_items_are_filled_from_the_run_or_not_provided(rich: RunFolder) -> None:
    filled = {checklist.name: {a.number: a for a in checklist.answers} for checklist in fill(read_record(rich))}
    tripod = filled["TRIPOD+AI"]
    test = json.loads(rich.metrics.read_text())["parts"]["test"]
    assert f"{test['models']['tuned']['auroc']['value']:.3f}" in tripod["23a"].answer
    assert f"test: {test['n']} rows, {test['n_events']} events" in tripod["10"].answer
    assert "sample size" in tripod["10"].authors
    assert "2 excluded (target missing)" in tripod["6b"].answer
    assert "leaks: 1, warnings: 1" in tripod["7"].answer
    for number in ("2", "5b", "17", "18a", "19"):
        assert tripod[number].answer == NOT_PROVIDED
        assert tripod[number].authors
    assert "Base model toy, revision abc123" in filled["TRIPOD-LLM"]["6a"].answer


def test_a_run_without_a_language_model_has_no_llm_list(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("prevalence", "logistic_regression"))
    names = [checklist.name for checklist in fill(read_record(run))]
    assert names == ["TRIPOD+AI", "PROBAST+AI"]
    assert "Tuned" not in as_markdown(fill(read_record(run)))


def test_the_barest_run_gives_sound_tables(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("prevalence",), outcomes=(0,))
    write_json(run.manifest, {})
    run.cohort.unlink()
    text = as_markdown(fill(read_record(run)))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)
    assert not re.search(r"\b(None|nan)\b", text)


def test_the_card_has_front_matter_that_the_hub_reads(rich: RunFolder) -> None:
    card = ModelCard(render(read_record(rich)))
    test = json.loads(rich.metrics.read_text())["parts"]["test"]["models"]["tuned"]
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results["roc_auc"] == pytest.approx(test["auroc"]["value"], abs=1e-4)
    assert results["brier_score"] == pytest.approx(test["brier"]["value"], abs=1e-4)
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "peft"
    assert "not for clinical use" in card.text
    assert "Intended use" in card.text
    assert "Limits" in card.text
    assert f"{test['auroc']['value']:.3f}" in card.text
    assert not any(notice in card.text for notice in TERMS.values())


@pytest.mark.parametrize(
    ("name", "hub_id", "license_name", "notice"),
    [
        ("medgemma-4b", "google/medgemma-4b-it", "Health AI Developer Foundations terms", "medgemma"),
        ("gemma3-270m", "google/gemma-3-270m", "Gemma Terms of Use", "gemma"),
        ("mine", "google/gemma-3-1b-it", "Gemma Terms of Use", "gemma"),
    ],
)
def test_the_card_carries_the_terms_of_gemma_and_medgemma(
    tmp_path: Path, name: str, hub_id: str, license_name: str, notice: str
) -> None:
    run = make_run(tmp_path / "run", ("logistic_regression", "tuned"))
    config = settings(("logistic_regression", "tuned"))
    model = config.model.model_copy(update={"name": name, "hub_id": hub_id, "license": license_name})
    write_text(run.config, dump(config.model_copy(update={"model": model})))
    card = ModelCard(render(read_record(run)))
    assert TERMS[notice] in card.text
    assert sum(text in card.text for text in TERMS.values()) == 1
    assert card.data.base_model == hub_id
    assert card.data.license == ("gemma" if notice == "gemma" else "other")
    if notice == "medgemma":
        assert card.data.license_name == "health-ai-developer-foundations-terms"
        assert card.data.license_link == "https://example.org/licence"


def test_a_card_without_a_language_model_names_no_base(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("prevalence", "logistic_regression"))
    card = ModelCard(render(read_record(run)))
    assert card.data.base_model is None
    assert "Logistic regression for a yes/no prediction" in card.text


def test_files_hold_what_the_report_holds(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("prevalence", "logistic_regression"))
    write_report(run)
    assert (run.path / "checklists.md").read_text() == as_markdown(fill(read_record(run)))
    assert (run.path / "model_card.md").read_text() == render(read_record(run))
    left = sum(not answer.provided for checklist in fill(read_record(run)) for answer in checklist.answers)
    assert run.report.read_text().count('class="missing-answer"') == left > 20
