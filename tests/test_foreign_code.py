"""A folder's own code is never run, whatever its files ask for and whatever is typed: it is refused
before anything is loaded."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import Result
from typer.testing import CliRunner

from cardiotune import RiskModel
from cardiotune.cli import app
from cardiotune.config import load_resolved
from cardiotune.deployment.scorer import RowScorer
from cardiotune.errors import ModelError
from cardiotune.files import HASHES, hash_files, sha256
from cardiotune.models.language import LanguageScorer
from cardiotune.runs import RunFolder
from cardiotune.training.checkpoint import load_weights
from cardiotune.training.model import build_encoder, load_base, with_head
from cardiotune.training.weights import check_safe
from conftest import TOY_COLUMNS, write_toy_experiment
from test_cli import call

CPU = torch.device("cpu")
CODE = "open({canary!r}, 'w').close()\nclass Own:\n    pass\n"
ASKS: dict[str, Any] = {
    "config.json": {"auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoModel": "own.Own"}},
    "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}},
    "processor_config.json": {"auto_map": {"AutoProcessor": "own.Own"}},
    "preprocessor_config.json": {"auto_map": {"AutoImageProcessor": "own.Own"}},
    "generation_config.json": {"custom_generate": "own"},
    "special_tokens_map.json": {"deep": [{"auto_map": {}}]},
}
SETTINGS = [
    {"custom_pipelines": {"risk": {"impl": "own.Own"}}},
    {"trust_remote_code": True},
    {"tokenizer_kwargs": {"trust_remote_code": True}},
    {"megatron_config": {}, "deep": {"megatron_config": {"a": 1}}},
    {"_attn_implementation": "someone/kernel"},
    {"_attn_implementation_internal": "someone/kernel:layer"},
    {"text_config": {"attn_implementation": "paged|someone/kernel@main"}},
    {"experts_implementation": {"": "someone/kernel"}},
]


def typed(*arguments: str | Path) -> Result:
    """A command whose user says yes to everything."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input="y\n" * 20)


def ask_for_code(folder: Path, file: str, canary: Path) -> None:
    """Put code into a model folder, and a JSON file that asks to run it; a record of hashes that is
    there fits them."""
    (folder / "own.py").write_text(CODE.format(canary=str(canary)))
    settings = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    (folder / file).write_text(json.dumps({**settings, **ASKS.get(file, ASKS["config.json"])}))
    sign(folder)


def sign(folder: Path) -> None:
    """As whoever plants files would: the record of hashes fits them."""
    for place in (folder, folder.parent):
        if (record := place / HASHES).is_file():
            record.unlink()
            record.write_text(json.dumps({name: d for name, d in hash_files(place).items() if name != "probe.json"}))


def rerecord(run: Path, file: Path) -> None:
    """The run's record fits a changed file, and all others are still vouched for."""
    folder = RunFolder(run)
    files = folder.read_manifest()["files"]
    folder.update_manifest(files={**files, file.relative_to(run).as_posix(): sha256(file)})


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    file = write_toy_experiment(folder, Path(shutil.copytree(toy_model, folder / "base")))
    for name, method in (("lora", "lora"), ("full", "full")):
        run = folder / "runs" / name
        asked = (f"name={name}", f"method.kind={method}", "models=[tuned]", "train.max_steps=2")
        for step in (("prepare", file, *asked), ("train", run), ("predict", run)):
            done = call(*step)
            assert done.exit_code == 0, done.output
    done = call("export", folder / "runs" / "lora", "--to", "merged", "--out", folder / "export")
    assert done.exit_code == 0, done.output
    return file


@pytest.fixture
def copy(experiment: Path, tmp_path: Path) -> Path:
    """Base, runs and export in a folder of the test's own, the settings naming its base."""
    folder = Path(shutil.copytree(experiment.parent, tmp_path / "copy"))
    for file in [folder / "experiment.yaml", *folder.glob("runs/*/config.yaml")]:
        file.write_text(file.read_text().replace(str(experiment.parent), str(folder)))
    for run in folder.glob("runs/*"):
        rerecord(run, run / "config.yaml")
    for state in folder.glob("runs/*/checkpoints/*/state.json"):
        state.write_text(state.read_text().replace(str(experiment.parent), str(folder)))
        sign(state.parent)
    return folder


def check(done: Result, canary: Path) -> None:
    assert done.exit_code == 4, done.output
    assert "Do you wish to run" not in done.output and not canary.exists()
    assert done.stderr.count("error:") == 1 and ("code" in done.stderr), done.stderr


@pytest.mark.parametrize("file", ASKS)
def test_of_a_base_model(copy: Path, file: str) -> None:
    canary = copy / "canary"
    ask_for_code(copy / "base", file, canary)
    lora, table = copy / "runs" / "lora", copy / "table.csv"
    commands: list[tuple[str | Path, ...]] = [
        ("run", copy / "experiment.yaml", "name=new"),
        ("train", lora, "--resume"),
        ("predict", lora, table),
    ]
    if file == "config.json":
        commands += [
            ("predict", lora),
            ("predict", lora, table, "--zero-shot"),
            ("export", lora, "--to", "merged", "--out", copy / "new"),
            ("serve", lora, "--port", "0"),
            ("recalibrate", lora, table),
        ]
    for command in commands:
        check(typed(*command), canary)
    assert typed("doctor", copy / "experiment.yaml").exit_code == 0 and not canary.exists(), (
        "it says why it cannot tell"
    )
    with pytest.raises(ModelError, match="code"):
        RiskModel.load(lora)
    assert not canary.exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "adapter_config.json"])
@pytest.mark.parametrize("place", ["runs/lora/adapter", "runs/full/model", "export"])
def test_of_what_was_saved(copy: Path, place: str, file: str) -> None:
    canary, folder = copy / "canary", copy / place
    owner = folder if place == "export" else folder.parent
    ask_for_code(folder, file, canary)
    if place != "export":
        rerecord(owner, folder / HASHES)
    check(typed("predict", owner, copy / "table.csv"), canary)
    check(typed("predict", owner, copy / "table.csv", "--out", copy / "risks.csv"), canary)
    for use in (lambda: RiskModel.load(owner), lambda: RowScorer.load(owner)):
        with pytest.raises(ModelError, match="code"):
            use()
    assert not canary.exists()


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json"])
@pytest.mark.parametrize("name", ["lora", "full"])
def test_of_a_checkpoint(copy: Path, name: str, file: str) -> None:
    canary, run = copy / "canary", copy / "runs" / name
    (checkpoint,) = run.glob("checkpoints/step-*")
    ask_for_code(checkpoint / "weights", file, canary)
    check(typed("evaluate", run, "--checkpoint", f"checkpoints/{checkpoint.name}"), canary)
    config = load_resolved(run / "config.yaml")
    base = load_base(copy / "base", config, torch.float32, CPU)
    network = with_head(base, config, build_encoder(config, copy / "base"))
    with pytest.raises(ModelError, match="code"):
        load_weights(network, checkpoint / "weights")
    assert not canary.exists()


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json", "tokenizer_config.json"])
def test_of_an_adapter_from_elsewhere(copy: Path, file: str) -> None:
    canary = copy / "canary"
    adapter = Path(shutil.copytree(copy / "runs" / "lora" / "adapter", copy / "adapter"))
    for ours in (HASHES, "probe.json"):
        (adapter / ours).unlink()
    (copy / "base.yaml").write_text(yaml.safe_dump({"model": {"name": "toy", "path": str(copy / "base")}}))
    (copy / "dictionary.yaml").write_text(yaml.safe_dump({"data": {"path": "table.csv", "columns": TOY_COLUMNS}}))
    asked = (
        "evaluate",
        adapter,
        "--base",
        copy / "base.yaml",
        "--dataset",
        copy / "dictionary.yaml",
        "--out",
        copy / "o",
    )
    good = typed(*asked, f"data.path={copy / 'table.csv'}", "task.outcome=heart disease", "evaluation.bootstrap=100")
    assert good.exit_code == 0, good.output
    ask_for_code(adapter, file, canary)
    again = [*asked[:-1], copy / "p", f"data.path={copy / 'table.csv'}", "task.outcome=heart disease"]
    check(typed(*again), canary)


def test_a_real_process_asks_nobody(copy: Path) -> None:
    """With a terminal's answers on standard input: none is read."""
    canary = copy / "canary"
    ask_for_code(copy / "base", "tokenizer_config.json", canary)
    (copy / "base" / "own.py").unlink()  # the setting alone
    command = [sys.executable, "-m", "cardiotune", "prepare", str(copy / "experiment.yaml"), "name=new"]
    done = subprocess.run(command, input="y\ny\n", capture_output=True, text=True)
    assert done.returncode == 4 and "auto_map" in done.stderr and not canary.exists()


# --------------------------------------------------------------------------------------------------
# the check itself


@pytest.fixture
def folder(toy_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_model, tmp_path / "model"))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("file", ["config.json", "adapter_config.json"])
def test_settings_with_which_a_library_would_run_code(folder: Path, file: str, settings: dict[str, Any]) -> None:
    check_safe(folder)
    before = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    (folder / file).write_text(json.dumps({**before, **settings}))
    with pytest.raises(ModelError, match=f"its {file} asks to run code of its own"):
        check_safe(folder)


def test_no_loader_asks_whether_to_trust_code() -> None:
    """Without the word, transformers asks at the terminal."""
    root = Path(__file__).parents[1]
    calls = []
    for file in [*root.glob("src/**/*.py"), *root.glob("benchmarks/**/*.py"), *root.glob("examples/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                loads = node.func.attr == "from_pretrained" and not owner.startswith("Peft")
                if loads or (node.func.attr == "from_config" and (owner.startswith("Auto") or owner == "kind")):
                    calls.append((f"{file.name}:{node.lineno}", [ast.unparse(word) for word in node.keywords]))
    assert len(calls) > 8
    assert [place for place, words in calls if "trust_remote_code=False" not in words] == []


@pytest.mark.parametrize("name", ["own.py", "deep/own.PY", "custom_generate/generate.py", "fast.so"])
def test_code_is_refused_wherever_it_lies(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).touch()
    with pytest.raises(ModelError, match="holds code"):
        check_safe(folder)


def test_what_folders_of_a_hub_hold_beside_the_weights_is_let_be(folder: Path) -> None:
    for name in ("README.md", "LICENSE", "pytorch_model.bin", "training_args.bin", "original/consolidated.00.pth"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"never opened")
    settings = {"auto_mapping": None, "megatron_config": None, "_attn_implementation": "sdpa", "_name_or_path": "a/b"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "vocab.json").write_text('{"auto_map": 1}')
    check_safe(folder)
    check_safe(Path(folder.rename(folder.with_name("real"))))
    folder.symlink_to("real")
    check_safe(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "deep/notes.txt"])
def test_links_that_lead_out_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=f"{name} is a link that leads out of the folder"):
        check_safe(folder)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/model.safetensors", "gone.safetensors", 1, None])
def test_an_index_names_shards_beside_it_alone(folder: Path, shard: Any) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    check_safe(folder)
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ModelError, match="names weights that are not in this folder"):
        check_safe(folder)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_json_that_cannot_be_read(folder: Path, content: bytes) -> None:
    (folder / "generation_config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"generation_config.json: not valid JSON"):
        check_safe(folder)


def test_adapters_that_are_not_summed_into_the_weights_are_refused(copy: Path) -> None:
    adapter = copy / "runs" / "lora" / "adapter"
    settings = json.loads((adapter / "adapter_config.json").read_text())
    config = load_resolved(copy / "runs" / "lora" / "config.yaml")
    strange: list[dict[str, Any]] = [
        {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "base_model_name_or_path": "a/b"},
        {"peft_type": "XLORA", "task_type": "CAUSAL_LM", "hidden_size": 64, "adapters": {"0": "../elsewhere"}},
    ]
    for other in strange:
        (adapter / "adapter_config.json").write_text(json.dumps(other))
        with pytest.raises(ModelError, match=f"an adapter of kind {other['peft_type']}"):
            LanguageScorer(config, copy / "base", adapter, foreign=True)
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "../../nowhere"}))
    assert LanguageScorer(config, copy / "base", adapter, foreign=True).logits(["age 61 years"]).shape == (1,)
