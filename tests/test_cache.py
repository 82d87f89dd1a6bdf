"""Tokens kept in the run folder: made once, made anew when anything behind them differs, never
wrong, never public."""

import json
import logging
import multiprocessing
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardiotune.data.cache import keep_tokens, run_tokens
from cardiotune.data.prepare import read_prepared
from cardiotune.data.serialize import Pieces
from cardiotune.data.tokens import PromptEncoder
from cardiotune.errors import DataError
from cardiotune.runs import RunFolder
from conftest import build_toy_table, toy_config

PIECES = Pieces("Judge from the patient's findings.", "Answer:")
TEXTS = [f"age {age} years, sex {sex}" for age in range(30, 80) for sex in ("man", "woman")]


class Spy:
    """A tokenizer that counts the texts it was given in batches."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.texts = tokenizer, 0

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        self.texts += len(text) if isinstance(text, list) else 0
        return self.tokenizer(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def encoder(model: Path, limit: int = 400) -> PromptEncoder:
    from transformers import AutoTokenizer  # not at the top: processes that a test starts import this file

    return PromptEncoder(Spy(AutoTokenizer.from_pretrained(model, local_files_only=True)), PIECES, "plain", limit)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def test_a_second_process_does_not_tokenize(run: RunFolder, toy_model: Path) -> None:
    first, second = encoder(toy_model), encoder(toy_model)
    made = run_tokens(run, TEXTS, first, toy_model)
    kept = run_tokens(run, TEXTS, second, toy_model)
    assert (first.tokenizer.texts, second.tokenizer.texts) == (len(TEXTS), 0)
    assert list(kept) == list(made) == first.encode(TEXTS)
    assert isinstance(kept.tokens, np.memmap), "processes of one machine share the pages"
    shown = second.with_examples([("age 30 years", "No")])
    assert list(shown.prompts(kept.take([3, 1]))) == [shown.encode(TEXTS)[row] for row in (3, 1)]


def test_what_prepare_kept_is_found(run: RunFolder, toy_model: Path) -> None:
    first, second = encoder(toy_model), encoder(toy_model)
    keep_tokens(run, TEXTS, first.prompts(TEXTS), toy_model)
    assert list(run_tokens(run, TEXTS, second, toy_model)) == first.encode(TEXTS)
    assert second.tokenizer.texts == 0


def test_only_the_owner_may_read_them(run: RunFolder, toy_model: Path) -> None:
    run_tokens(run, TEXTS, encoder(toy_model), toy_model)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [*run.path.rglob("*")]}
    assert modes == {"tokens": 0o700, "tokens.npy": 0o600, "starts.npy": 0o600, "record.json": 0o600}


def test_the_limit_is_that_of_the_encoder_at_hand(run: RunFolder, toy_model: Path) -> None:
    run_tokens(run, TEXTS, encoder(toy_model), toy_model)
    with pytest.raises(DataError, match=r"100 of 100 prompts are longer than serialize.max_tokens = 10 "):
        run_tokens(run, TEXTS, encoder(toy_model, limit=10), toy_model)


@pytest.mark.parametrize(
    "settings",
    [
        {"style": "list"},
        {"style": "template", "template": "{{ age }} {{ sex }}"},
        {"missing": "omit"},
        {"order": "by_cardinality"},
    ],
)
def test_other_text_settings_make_other_tokens(
    settings: dict[str, Any], run: RunFolder, toy_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_toy_table(60).write_csv(tmp_path / "t.csv")
    table = {"path": str(tmp_path / "t.csv")}
    before = read_prepared(toy_config(toy_model, data=table))
    after = read_prepared(toy_config(toy_model, data=table, serialize=settings))
    check_renewal(run, before.texts, after.texts, toy_model, toy_model, caplog)


def test_another_table_makes_other_tokens(run: RunFolder, toy_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_renewal(run, TEXTS, [*TEXTS[:-1], "age 99 years"], toy_model, toy_model, caplog)
    check_renewal(run, ["a", "bc"], ["ab", "c"], toy_model, toy_model, caplog)


def test_another_tokenizer_makes_other_tokens(
    run: RunFolder, toy_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Path(shutil.copytree(toy_model, tmp_path / "other"))
    rules = json.loads((other / "tokenizer.json").read_text())
    rules["model"]["merges"] = rules["model"]["merges"][:20]
    (other / "tokenizer.json").write_text(json.dumps(rules))
    assert encoder(other).encode(TEXTS) != encoder(toy_model).encode(TEXTS)
    check_renewal(run, TEXTS, TEXTS, toy_model, other, caplog)


def check_renewal(
    run: RunFolder, before: list[str], after: list[str], model: Path, other: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With tokens of one kind in the cache, those of the other are made anew, said, and then
    kept."""
    logging.getLogger("cardiotune").propagate = True
    run_tokens(run, before, encoder(model), model)
    caplog.clear()
    renewed, again = encoder(other), encoder(other)
    with caplog.at_level(logging.WARNING, "cardiotune"):
        assert list(run_tokens(run, after, renewed, other)) == encoder(other).encode(after)
    assert renewed.tokenizer.texts == len(after)
    said = {id(record) for record in caplog.records if "made anew" in record.getMessage()}
    assert len(said) == 1  # other tests may have left a second handler, which sees the same record again
    assert list(run_tokens(run, after, again, other)) == encoder(other).encode(after)
    assert again.tokenizer.texts == 0


def flip_last_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("name", ["tokens.npy", "starts.npy", "record.json"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-4],
        lambda content: b"",
        lambda content: b"\0" * len(content),
        flip_last_bit,
        lambda content: content.replace(b"<i4", b"<u4").replace(b"<i8", b"<u8").replace(b'"format": 1', b'"format": 0'),
    ],
    ids=["half", "four_bytes_short", "empty", "zeros", "one_bit", "another_kind"],
)
def test_a_damaged_file_is_made_anew(
    name: str, damage: Any, run: RunFolder, toy_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("cardiotune").propagate = True
    expected = list(run_tokens(run, TEXTS, encoder(toy_model), toy_model))
    file = run.path / "tokens" / name
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert file.read_bytes() != whole
    renewed, again = encoder(toy_model), encoder(toy_model)
    with caplog.at_level(logging.WARNING, "cardiotune"):
        assert list(run_tokens(run, TEXTS, renewed, toy_model)) == expected
    assert "damaged" in caplog.text and renewed.tokenizer.texts == len(TEXTS)
    assert file.read_bytes() == whole
    assert list(run_tokens(run, TEXTS, again, toy_model)) == expected and again.tokenizer.texts == 0


@pytest.mark.parametrize("name", ["tokens.npy", "starts.npy", "record.json"])
def test_a_write_that_was_cut_off_is_no_cache(name: str, run: RunFolder, toy_model: Path) -> None:
    expected = list(run_tokens(run, TEXTS, encoder(toy_model), toy_model))
    (run.path / "tokens" / name).unlink()
    assert list(run_tokens(run, TEXTS, encoder(toy_model), toy_model)) == expected


def test_rows_without_tokens_of_their_own(run: RunFolder, toy_model: Path) -> None:
    """As `missing: omit` writes a row of which nothing is known."""
    for texts in (["", ""], ["", "age 30 years", ""]):
        for _ in range(2):
            assert list(run_tokens(run, texts, encoder(toy_model), toy_model)) == encoder(toy_model).encode(texts)


def test_where_nothing_can_be_kept_the_run_goes_on(
    run: RunFolder, toy_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("cardiotune").propagate = True
    (run.path / "tokens").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "cardiotune"):
        assert list(run_tokens(run, TEXTS, encoder(toy_model), toy_model)) == encoder(toy_model).encode(TEXTS)
    assert "not kept" in caplog.text


ROUNDS = 5


def read_and_write(path: Path, model: Path, start: Any, told: Any) -> None:
    """In a process of its own: at every turn the cache must give the right tokens, or none."""
    run, made = RunFolder(path), encoder(model)
    expected = made.encode(TEXTS)
    start.wait()
    right = 0
    for _ in range(ROUNDS):
        rows = run_tokens(run, TEXTS, made, model)
        right += list(rows) == expected
        keep_tokens(run, TEXTS, rows, model)
    told.put(right)


def test_processes_that_write_at_once(run: RunFolder, toy_model: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    start, told = spawn.Barrier(2), spawn.Queue()
    workers = [spawn.Process(target=read_and_write, args=(run.path, toy_model, start, told)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [told.get(timeout=5) for _ in workers] == [ROUNDS, ROUNDS]
    late = encoder(toy_model)
    assert list(run_tokens(run, TEXTS, late, toy_model)) == encoder(toy_model).encode(TEXTS)
    assert late.tokenizer.texts == 0
    assert sorted(path.name for path in (run.path / "tokens").iterdir()) == ["record.json", "starts.npy", "tokens.npy"]
