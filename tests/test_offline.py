"""No socket is opened by whoever works with an existing run, even one that was allowed to download,
and without being told to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cardiotune.errors import ModelError
from cardiotune.settings import ModelConfig
from cardiotune.training import weights
from conftest import write_toy_experiment

FORBIDDEN = """
import os, socket, traceback

def refuse(*_, **__):
    with open(os.environ["SOCKETS"], "a") as log:
        log.write("".join(traceback.format_stack(limit=12)) + "\\n")
    raise OSError("sockets are forbidden here")

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, refuse)
"""
"""`sitecustomize.py` of a child process."""
SWITCHES = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE")
ROW = {"age": 61, "sex": "1", "sbp": 145, "smoker": "0", "pain": "typical"}
TRAIN = """
import sys
from cardiotune import stages
from cardiotune.config import load_config
made = stages.prepare(load_config(sys.argv[1], ["models=[zero_shot,tuned]", "train.max_steps=2"]))
stages.train(*made)
stages.predict(*made)
"""
LOAD = f"""
import pickle, sys
from cardiotune import RiskModel
model = RiskModel.load(sys.argv[2])
risks = model.predict_proba([{ROW}])
assert (pickle.loads(pickle.dumps(model)).predict_proba([{ROW}]) == risks).all()
"""
COMMAND = """
import sys
from typer.testing import CliRunner
from cardiotune.cli import app
_, _, run, table, out = sys.argv
for command in (["predict", run], ["predict", run, table], ["evaluate", run], ["export", run, "--to", "merged", "--out", out]):
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
"""


def in_hub_cache(home: Path, model: Path) -> Path:
    """The model as the hub's own library keeps it: a snapshot of links to blobs."""
    repository = home / "hub" / "models--someone--toy"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    for file in model.iterdir():
        shutil.copy(file, repository / "blobs" / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    return snapshot


class Child:
    """Processes that have no socket, and a hub cache of their own."""

    def __init__(self, folder: Path) -> None:
        self.home, self.log = folder / "hub_home", folder / "sockets.log"
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(FORBIDDEN)
        kept = {name: value for name, value in os.environ.items() if name not in SWITCHES}
        path = os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
        own = {"HF_HOME": str(self.home), "SOCKETS": str(self.log), "PYTHONPATH": path, "CARDIOTUNE_CACHE": str(folder)}
        self.environment = {**kept, **own}

    def run(self, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env={**self.environment, **more})

    @property
    def opened(self) -> str:
        return self.log.read_text() if self.log.is_file() else ""


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Child:
    return Child(tmp_path_factory.mktemp("child"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_model: Path, child: Child) -> Path:
    """Trained in a process without sockets on weights of the hub cache, though its settings would
    let it download."""
    folder = tmp_path_factory.mktemp("offline")
    in_hub_cache(child.home, toy_model)
    file = write_toy_experiment(folder, toy_model)
    experiment = yaml.safe_load(file.read_text())
    experiment["model"] = {"name": "toy", "hub_id": "someone/toy", "dtype": "float32", "allow_download": True}
    file.write_text(yaml.safe_dump(experiment))
    run, table = folder / "runs" / "toy", folder / "table.csv"
    done = child.run("-c", TRAIN + LOAD + COMMAND, file, run, table, folder / "out")
    assert done.returncode == 0, done.stderr
    return run


def test_a_run_is_made_and_used_without_a_socket(run: Path, child: Child) -> None:
    """Through the Python API without a word in the environment, then by the commands."""
    assert child.opened == ""


def test_without_its_base_weights_a_run_says_where_they_were_looked_for(
    run: Path, child: Child, tmp_path: Path
) -> None:
    done = child.run("-c", LOAD, "", run, HF_HOME=str(tmp_path / "empty"))
    assert done.returncode != 0 and child.opened == ""
    said = done.stderr.strip().splitlines()[-1]
    for word in (str(tmp_path / "empty" / "hub"), "hf download someone/toy", "an existing run downloads nothing"):
        assert said.startswith("cardiotune.errors.ModelError") and word in said


@pytest.mark.parametrize("command", ["prepare", "evaluate"])
def test_only_a_new_run_or_an_adapter_alone_may_download(
    child: Child, tmp_path: Path, toy_model: Path, command: str
) -> None:
    file = write_toy_experiment(tmp_path, toy_model)
    empty = {"HF_HOME": str(tmp_path / "empty"), "SOCKETS": str(tmp_path / "log")}
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "base.yaml").write_text("model: {name: toy, hub_id: someone/other}")
    of = {
        "prepare": [file, "model.path=null"],
        "evaluate": [
            tmp_path,
            "--base",
            tmp_path / "base.yaml",
            "--task",
            "heart_disease",
            "--dataset",
            "statlog_heart",
        ],
    }
    model = ["model.hub_id=someone/toy", "model.allow_download=true"]
    done = child.run("-m", "cardiotune", command, *of[command], *model, **empty)
    assert done.returncode == 4 and "someone/toy: download failed" in done.stderr
    assert (tmp_path / "log").is_file(), "asked for, it is tried; and here we would see it"


def test_same_weights_never_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_download", lambda _: pytest.fail("downloaded"))
    model = ModelConfig(name="toy", hub_id="no-one/nothing", revision="abc", allow_download=True)
    with pytest.raises(ModelError, match="hf download no-one/nothing --revision abc"):
        weights.find_weights(model, download=False)
