"""Predictions of a large table: killed and resumed, or shared among processes, the file is the
same."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest

from cardiotune import reopen, studies
from cardiotune.deployment.bulk import Job, _planned, _score_own, score_to_file
from cardiotune.errors import ConfigError
from conftest import build_toy_table, write_toy_experiment
from test_cli import call, check_refusal, run_tuned_alone
from test_processes import watched

ROWS, CHUNK = 5000, 500


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    return run_tuned_alone(write_toy_experiment(tmp_path_factory.mktemp("bulk"), toy_model))


@pytest.fixture(scope="module")
def table(run: Path) -> Path:
    file = run.parent / "large.csv"
    build_toy_table(ROWS, seed=8).drop("disease").write_csv(file)
    return file


@pytest.fixture(scope="module")
def expected(run: Path, table: Path) -> Path:
    """Scored without a break, in one process."""
    out = run.parent / "expected.csv"
    done = call("predict", run, table, "--out", out, "--chunk-rows", str(CHUNK))
    assert done.exit_code == 0, done.output
    assert f"{ROWS} rows scored" in done.stdout
    return out


def test_chunks_change_no_risk_and_leave_nothing_behind(run: Path, table: Path, expected: Path) -> None:
    frame, whole = pl.read_csv(expected), studies.score_table(reopen.open_run(run), str(table), keep_ids=False)
    assert frame.columns == whole.columns and frame["row"].to_list() == list(range(1, ROWS + 1))
    assert frame["row_id"].equals(whole["row_id"]) and frame["values_missing"].sum() > 0
    np.testing.assert_allclose(frame["y_prob"], whole["y_prob"], atol=1e-5)
    assert frame["y_prob"].n_unique() > 100
    assert not expected.with_name("expected.csv.parts").exists()


def test_blank_lines_are_not_scored(run: Path) -> None:
    """Two patients, three blank lines and one of separators: two predictions, and the lines are
    told."""
    plain, spaced = run.parent / "plain.csv", run.parent / "spaced.csv"
    head, *rows = build_toy_table(2, seed=8).drop("disease").write_csv().splitlines()
    plain.write_text("\n".join([head, *rows]))
    spaced.write_text("\n".join([head, rows[0], "", rows[1], ",,,,,", "  ", "", ""]))
    outs = {}
    for file in (plain, spaced):
        for chunk in (1, 100):
            done = call(
                "predict", run, file, "--out", file.with_suffix(".out.csv"), "--chunk-rows", str(chunk), "--keep-ids"
            )
            assert done.exit_code == 0, done.output
            outs[file, chunk] = file.with_suffix(".out.csv").read_text()
            assert ("spaced.csv: 4 lines hold no value in any column" in done.stderr) == (file == spaced), done.stderr
    for chunk in (1, 100):
        assert outs[plain, chunk] == outs[spaced, chunk] and outs[plain, chunk].count("\n") == 3


def test_killed_it_goes_on_and_gives_the_same_file(run: Path, table: Path, expected: Path) -> None:
    out = run.parent / "killed.csv"
    options = ["predict", str(run), str(table), "--out", str(out), "--chunk-rows", str(CHUNK)]
    parts = out.with_name("killed.csv.parts")
    with subprocess.Popen([sys.executable, "-m", "cardiotune", *options], stderr=subprocess.PIPE) as process:
        while len(list(parts.glob("0*.csv.sha256"))) < 2:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    # A part that was killed before its hash is written is no whole part.
    whole = [proof.with_suffix("") for proof in parts.glob("0*.csv.sha256")]
    made = {part: part.stat().st_mtime_ns for part in whole}
    assert not out.exists() and 2 <= len(made) < ROWS // CHUNK
    other = call("predict", run, table, "--out", out, "--chunk-rows", str(CHUNK), "--keep-ids")
    check_refusal(other, 2, "was begun with another table, model or option")
    assert {part: part.stat().st_mtime_ns for part in whole} == made
    again = call(*options)
    assert again.exit_code == 0, again.output
    assert f"going on: {len(made)} of {ROWS // CHUNK} parts are done" in again.stderr
    assert out.read_bytes() == expected.read_bytes() and not parts.exists()


def test_a_damaged_part_is_scored_again(run: Path, table: Path, expected: Path) -> None:
    out = run.parent / "damaged.csv"
    job, parts = Job(run, str(table), chunk_rows=CHUNK), out.with_name("damaged.csv.parts")
    _score_own(job, parts, _planned(job, parts), ".csv")
    changed, cut, unproven, kept = (parts / f"000000{number}.csv" for number in (1, 4, 6, 7))
    changed.write_text(changed.read_text().replace("0.", "1."))
    cut.write_bytes(cut.read_bytes()[:-40])
    (parts / f"{unproven.name}.sha256").unlink()  # killed between the part and its hash
    before = {part: part.stat().st_mtime_ns for part in (changed, cut, unproven, kept)}
    _score_own(job, parts, _planned(job, parts), ".csv")
    assert [part for part, when in before.items() if part.stat().st_mtime_ns != when] == [changed, cut, unproven]
    assert score_to_file(job, out) == ROWS
    assert out.read_bytes() == expected.read_bytes() and not parts.exists()


def test_two_processes_give_the_same_file(
    run: Path, table: Path, expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run.parent / "shared.csv"
    with watched(tmp_path, monkeypatch) as listening:
        done = call("predict", run, table, "--out", out, "--chunk-rows", str(CHUNK), "--workers", "2")
    assert done.exit_code == 0, done.output
    assert listening == set()
    assert out.read_bytes() == expected.read_bytes() and not out.with_name("shared.csv.parts").exists()


@pytest.mark.slow  # the next test has such processes too, without torchrun's own
def test_processes_of_another_launcher_give_the_same_file(run: Path, table: Path, expected: Path) -> None:
    out = run.parent / "by_torchrun.csv"
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cardiotune"]
    command = [*starter, "predict", str(run), str(table), "--out", str(out), "--chunk-rows", str(CHUNK)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300)
    assert out.read_bytes() == expected.read_bytes() and not out.with_name("by_torchrun.csv.parts").exists()


def test_the_first_process_waits_for_one_that_starts_late(run: Path, table: Path, expected: Path) -> None:
    """Killed while the parts were put together, nothing is left to score; the late one would begin
    a table that is done."""
    out = run.parent / "late.csv"
    parts = out.with_name("late.csv.parts")
    job = Job(run, str(table), chunk_rows=CHUNK)
    _score_own(job, parts, _planned(job, parts), ".csv")
    command = [sys.executable, "-m", "cardiotune", "predict", str(run), str(table), "--out", str(out)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    group = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    command += ["--chunk-rows", str(CHUNK)]
    with subprocess.Popen(command, env={**group, "RANK": "0"}, stderr=subprocess.PIPE, text=True) as first:
        try:
            assert first.stderr and "going on: 5 of 5 parts are done" in first.stderr.readline()
            time.sleep(2)
            assert not out.exists() and first.poll() is None
            connections = psutil.Process(first.pid).net_connections()
            assert {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
            subprocess.run(command, env={**group, "RANK": "1"}, check=True, timeout=60)
            assert first.wait(60) == 0
        finally:
            first.kill()
    assert out.read_bytes() == expected.read_bytes() and not parts.exists()


def test_what_a_launcher_must_set_is_asked_for_at_the_start(
    run: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(ConfigError, match="needs MASTER_PORT in its environment"):
        score_to_file(Job(run, str(table)), run.parent / "unset.csv")
    assert not (run.parent / "unset.csv.parts").exists()


def test_parquet_holds_the_same(run: Path, table: Path, expected: Path) -> None:
    out = run.parent / "risks.parquet"
    done = call("predict", run, table, "--out", out, "--chunk-rows", str(CHUNK))
    assert done.exit_code == 0, done.output
    text = pl.read_csv(expected)
    frame = pl.read_parquet(out)
    assert frame["row_id"].equals(text["row_id"])
    np.testing.assert_array_equal(frame["y_prob"], text["y_prob"])


def test_several_processes_need_a_file(run: Path, table: Path) -> None:
    check_refusal(call("predict", run, table, "--workers", "2"), 2, "--workers needs --out")


def test_neither_the_table_nor_a_folder_of_other_files_gives_way(run: Path, table: Path, tmp_path: Path) -> None:
    before = table.read_bytes()
    check_refusal(call("predict", run, table, "--out", table), 2, "is the table itself; choose another file")
    (tmp_path / "link.csv").symlink_to(table)
    check_refusal(call("predict", run, tmp_path / "link.csv", "--out", table), 2, "is the table itself")
    assert table.read_bytes() == before
    (tmp_path / "risks.csv.parts").mkdir()
    (tmp_path / "risks.csv.parts" / "thesis.doc").write_text("years of work")
    check_refusal(
        call("predict", run, table, "--out", tmp_path / "risks.csv"), 2, "holds other files than parts of a table"
    )
    assert (tmp_path / "risks.csv.parts" / "thesis.doc").read_text() == "years of work"
