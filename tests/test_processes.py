"""Who a process is, whatever the environment says; and what processes that work together open to
others."""

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl
import psutil
import pytest

import cardiotune
from cardiotune import processes
from cardiotune.errors import ConfigError
from cardiotune.processes import GROUP, MEETING, OTHERS, PLACE, TRUSTED, Process, current, describing
from conftest import write_toy_experiment
from test_cli import call, check_refusal, run_tuned_alone

LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
STRAYS = [
    {"RANK": "3"},
    {"WORLD_SIZE": "2"},
    {"LOCAL_RANK": "1"},
    {"LOCAL_WORLD_SIZE": "4"},
    {"RANK": "3", "WORLD_SIZE": "8"},
    {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8", "MASTER_PORT": "29500"},
    {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
    {"RANK": "3", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"},
    {"RANK": "", "WORLD_SIZE": "", "MASTER_ADDR": ""},
    {"RANK": "three", "WORLD_SIZE": "many", "LOCAL_RANK": "-1", "MASTER_ADDR": "node1"},
    {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"},
    {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
    {"PMI_RANK": "3", "PMI_SIZE": "8", "MV2_COMM_WORLD_SIZE": "8", "TORCHELASTIC_USE_AGENT_STORE": "True"},
]


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*GROUP, *PLACE, *OTHERS, MEETING, TRUSTED):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    return run_tuned_alone(write_toy_experiment(tmp_path_factory.mktemp("processes"), toy_model))


def files_of(run: Path) -> set[str]:
    found = {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file()}
    return {re.sub(r"events\.out.*", "events", name) for name in found}


# --------------------------------------------------------------------------------------------------
# who it is


@pytest.mark.parametrize("environment", STRAYS)
def test_less_than_a_launcher_sets_is_nobody(environment: dict[str, str]) -> None:
    assert current(environment) == Process()


def test_what_launchers_set_is_read() -> None:
    assert current(LAUNCHED) == Process(1, 2, address="127.0.0.1", port=29500)
    torchrun = {**LAUNCHED, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert current(torchrun) == Process(1, 2, 1, 2, address="127.0.0.1", port=29500, store_is_there=True)
    deepspeed = {**LAUNCHED, "LOCAL_RANK": "1", "LOCAL_SIZE": "2"}
    assert current(deepspeed) == Process(1, 2, 1, 2, address="127.0.0.1", port=29500)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"RANK": None}, "needs RANK in its environment"),
        ({"MASTER_PORT": None, "RANK": ""}, "needs RANK and MASTER_PORT in its environment"),
        ({"RANK": "2"}, "RANK=2, but WORLD_SIZE=2: expected 0 to 1"),
        ({"RANK": "-1"}, "RANK=-1: expected a whole number from 0"),
        ({"RANK": "²"}, "expected a whole number from 0"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT=x: expected a whole number from 1"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK=x: expected"),
        ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE=0: expected a whole number from 1"),
        ({MEETING: "/not/there"}, "no such folder"),
        ({MEETING: "/", "RANK": None}, "needs RANK in its environment"),
    ],
)
def test_what_contradicts_itself_is_refused(changed: dict[str, str | None], said: str) -> None:
    environment = {name: value for name, value in {**LAUNCHED, **changed}.items() if value is not None}
    with pytest.raises(ConfigError, match=re.escape(said)):
        current(environment)


@pytest.mark.parametrize("environment", [{MEETING: "/not/there"}, {MEETING: "/"}, {**LAUNCHED, "RANK": "2"}], ids=str)
def test_a_command_says_it_in_one_line(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = call("audit", "nowhere")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1) and done.stderr.startswith("error: "), done.stderr


def test_a_process_is_described_to_itself(tmp_path: Path) -> None:
    process = Process(1, 3, 1, 3, tmp_path, "127.0.0.1", 7)
    strays = {"OMPI_COMM_WORLD_SIZE": "9", "LOCAL_SIZE": "9", "RANK": "9", "PATH": "kept"}
    environment = describing(process, strays)
    assert current(environment) == Process(1, 3, 1, 3, tmp_path)
    assert environment["PATH"] == "kept" and not {"OMPI_COMM_WORLD_SIZE", "LOCAL_SIZE"} & set(environment)


@pytest.mark.parametrize(
    ("address", "is_open"),
    [
        *(("127.0.0.1", False), ("127.1.2.3", False), ("::1", False), ("localhost", False)),
        *(("0.0.0.0", True), ("::", True), ("10.0.0.1", True), ("node1", True), ("127.example.org", True)),
    ],
)
def test_addresses_that_others_can_reach(address: str, is_open: bool) -> None:
    assert current({**LAUNCHED, "MASTER_ADDR": address}).is_open is is_open


def test_launchers_variables_are_read_in_one_place() -> None:
    source = Path(cardiotune.__file__).parent
    names = re.compile(r"[\"'](RANK|WORLD_SIZE|LOCAL_\w+|MASTER_\w+|SLURM_\w+|OMPI_\w+|PMI_\w+|TORCHELASTIC\w+)[\"']")
    readers = {file.name for file in source.rglob("*.py") if names.search(file.read_text("utf-8"))}
    assert readers == {"processes.py"}


# --------------------------------------------------------------------------------------------------
# commands


@pytest.mark.parametrize("environment", STRAYS)
def test_prepare_does_its_work_whatever_is_left_over(
    toy_experiment: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = call("prepare", toy_experiment, "models=[logistic_regression]")
    assert done.exit_code == 0, done.output
    run = toy_experiment.parent / "runs" / "toy"
    assert f"prepared: {run}" in done.stdout.replace("\n", "")
    assert json.loads((run / "manifest.json").read_text())["status"] == "prepared"
    told = [name for name in environment if name in (*GROUP, *PLACE)]
    alone = (environment.get("RANK"), environment.get("WORLD_SIZE")) == ("0", "1")
    assert ("ignored, for this process is not one of many" in done.stderr) is bool(told and not alone)
    assert all(os.environ[name] == value for name, value in environment.items()), "ours to ignore, not to change"


@pytest.mark.slow
def test_every_command_does_its_work_whatever_is_left_over(
    tmp_path: Path, toy_model: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_over = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "OMPI_COMM_WORLD_SIZE": "8", "PMI_SIZE": "8"}
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    run = run_tuned_alone(write_toy_experiment(tmp_path, toy_model))
    assert files_of(run) == files_of(trained)
    assert json.loads((run / "manifest.json").read_text())["training"]["processes"] == 1
    table = tmp_path / "table.csv"
    for command in (
        *(["evaluate", run, "--json"], ["audit", run], ["report", run]),
        *(["recalibrate", run, table], ["export-check", run], ["compare", run, trained, "--all-models"], ["doctor"]),
        ["predict", run, table, "--out", tmp_path / "risks.csv"],
        ["export", run, "--to", "merged", "--out", tmp_path / "exported"],
        ["predict", tmp_path / "exported", table],
        ["init", table, "--target", "disease", "--out", tmp_path / "study"],
    ):
        if command[:1] == ["compare"]:
            call("evaluate", trained)
        done = call(*command)
        assert done.exit_code in ((0, 3) if command[0] in ("audit", "export-check") else (0,)), done.output
        assert done.stdout, f"{command[0]} says what it did"
    assert {"metrics.json", "audit.json", "report.html", "sites/table.json"} <= files_of(run)
    assert pl.read_csv(tmp_path / "risks.csv").height == 240 and (tmp_path / "study" / "experiment.yaml").is_file()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["prepare", "EXPERIMENT"], "prepare is done by one process"),
        (["run", "EXPERIMENT", "--overwrite"], "run is done by one process"),
        (["train", "EXPERIMENT"], "prepare CONFIG"),
        (["report", "RUN"], "report is done by one process"),
        (["predict", "RUN", "TABLE"], "predict TABLE without --out is done by one process"),
    ],
)
def test_of_many_processes_none_does_what_one_has_to(
    trained: Path, command: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained.parents[1]
    named = {"EXPERIMENT": folder / "experiment.yaml", "RUN": trained, "TABLE": folder / "table.csv"}
    before = files_of(folder)
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    check_refusal(call(*(named.get(word, word) for word in command)), 2, said)
    assert files_of(folder) == before


# --------------------------------------------------------------------------------------------------
# what is open to others

WATCH = """
import os, socket
def look_up(*given, _ask=socket.getaddrinfo, **more):
    open(os.environ["ASKED"], "a").write(f"{given[0]}\\n")
    return _ask(*given, **more)
socket.getaddrinfo = look_up
"""


@contextmanager
def watched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """A set that gets the addresses where this process's children listen meanwhile; none of them
    may ask for a name."""
    (folder / "watch").mkdir(exist_ok=True)
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    asked = folder / "asked"
    asked.write_text("")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder / "watch"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("ASKED", str(asked))
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # it may have ended
                    seen.update(c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()
    assert asked.read_text() == "", "no name is looked up"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.1.2.3", "node1.example.org"])
def test_an_open_meeting_place_is_refused_unless_asked_for(
    trained: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**LAUNCHED, "RANK": "0", "MASTER_ADDR": address}.items():
        monkeypatch.setenv(name, value)
    check_refusal(call("train", trained, "--resume"), 2, f"MASTER_ADDR={address}: can be reached from other machines")
    table = trained.parents[1] / "table.csv"
    refused = call("predict", trained, table, "--out", table.with_name("risks.csv"))
    check_refusal(refused, 2, f"MASTER_ADDR={address}: can be reached from other machines")
    assert not table.with_name("risks.csv.parts").exists()
    if address.startswith("10."):  # asked for, it is tried: no such address is here
        monkeypatch.setenv(TRUSTED, "1")
        check_refusal(call("train", trained, "--resume"), 2, "cannot listen there")
    assert processes.current().is_open
