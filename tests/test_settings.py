"""Every setting says what it means, and `docs/settings.md` says it of all of them."""

import json
from pathlib import Path

import pytest

from cardiotune.config import read_yaml, shipped
from cardiotune.settings import Config, Settings
from cardiotune.settings.page import page, sections

DOCS = Path(__file__).parents[1] / "docs"
SETTINGS = [setting for section in sections() for setting in section.settings]


def classes(kind: type[Settings] = Settings) -> set[type[Settings]]:
    return {kind}.union(*(classes(below) for below in kind.__subclasses__()))


def test_no_class_of_settings_is_left_out() -> None:
    ours = {kind for kind in classes() if kind.__module__.startswith("cardiotune.settings.")}
    assert {section.kind for section in sections()} == ours - {Settings}
    assert len({setting.path for setting in SETTINGS}) == len(SETTINGS) > 150


@pytest.mark.parametrize("kind", [section.kind for section in sections()], ids=lambda kind: kind.__name__)
def test_every_setting_has_its_meaning_below_it(kind: type[Settings]) -> None:
    assert [name for name, field in kind.model_fields.items() if not (field.description or "").strip()] == []
    assert kind.__doc__


def test_the_document_is_what_the_code_says() -> None:
    assert (DOCS / "settings.md").read_text() == page(), "run: python -m cardiotune.settings > docs/settings.md"


def test_every_setting_is_in_the_document() -> None:
    told = [line.split("`")[1] for line in page().splitlines() if line.startswith("- `")]
    assert told == [setting.path for setting in SETTINGS]
    for path in ("train.learning_rate", "data.columns.NAME.derive.function", "evaluation.thresholds[].at"):
        assert path in told


def test_what_a_setting_may_be_in_words() -> None:
    said = {setting.path: (setting.values, setting.default) for setting in SETTINGS}
    assert said["train.epochs"] == ("number above 0", "default: `3`")
    assert said["seed"] == ("whole number 0 or more and below 4294967296", "default: `0`")
    assert said["method.target_modules"] == ("`all-linear` or list of text", "default: `all-linear`")
    assert said["evaluation.thresholds[].at"] == ("number above 0 and below 1", "default: none")
    assert said["imbalance.class_weights"][0] == "`none`, `balanced` or [number, number]"
    assert said["data.columns.NAME.codes"][0] == "mapping of text to text"
    assert said["data.path"] == ("text", "required")
    assert said["data.max_rows"][1] == "", "its meaning tells"


@pytest.mark.parametrize("document", ["settings.md", "compatibility.md"])
def test_generated_prose_wraps_at_100_columns(document: str) -> None:
    lines = (DOCS / document).read_text().splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


def test_what_the_shipped_files_set_is_in_the_document() -> None:
    told = {setting.path for setting in SETTINGS}
    for group in ("models", "tasks", "methods", "deepspeed"):
        for file in shipped(group).values():
            for section, keys in read_yaml(file).items():
                assert section in Config.model_fields
                assert not [
                    k for k in keys if section != "data" and f"{section}.{k}" not in {p.split("[")[0] for p in told}
                ]


def test_a_default_stands_as_yaml_takes_it() -> None:
    (bands,) = (s for s in SETTINGS if s.path == "evaluation.age_bands")
    said = json.loads(bands.default.removeprefix("default: ").strip("`"))
    kind = Config.model_fields["evaluation"].annotation
    assert kind.model_validate({"age_bands": said}).age_bands == kind().age_bands
