"""A run -> a folder that scores raw rows elsewhere and gives the same probabilities; or nothing,
and why.

The folder holds the weights in the asked format, tokenizer, settings with the data dictionary,
calibrator, thresholds and the model card, and no patient's row: every file in it is made by name
here. It is written beside its place, put through the parity gate, and only then renamed.
"""

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from cardiotune.config import dump, load_resolved
from cardiotune.data.prepare import Prepared
from cardiotune.data.reading import trained_quantities
from cardiotune.data.schema import synthetic_rows
from cardiotune.data.serialize import serialize_rows
from cardiotune.data.subsample import stratified_rows
from cardiotune.deployment import gguf, onnx, parity
from cardiotune.deployment.record import EXPORT, ExportRecord, Format, Parity, is_export
from cardiotune.deployment.scorer import RowScorer
from cardiotune.errors import ConfigError, DataError
from cardiotune.files import private, read_json, write_folder, write_json, write_text
from cardiotune.models.enough import FEWEST
from cardiotune.models.tuned import probe_texts, recorded_model
from cardiotune.report.model_card import render
from cardiotune.report.record import read_record
from cardiotune.runs import RunFolder, check_free
from cardiotune.settings import Config
from cardiotune.training.checkpoint import record_probe, verify, version_of
from cardiotune.training.heads import ClassifierNetwork
from cardiotune.training.model import HEAD_FILE, build_encoder, load_head, load_plain, with_head
from cardiotune.training.weights import same_weights

log = logging.getLogger(__name__)

Precision = Literal["f32", "f16", "q8_0", "q4_k_m"]
LIBRARY = {"merged": "transformers", "gguf": "llama.cpp", "onnx": "onnxruntime"}
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.jinja")
TEST_ROWS = 1000
"""Rows of the test part that the gate scores at most."""


@private()
def export(
    run: RunFolder,
    to: Format,
    out: Path,
    precision: Precision = "f16",
    prepared: Prepared | None = None,
    overwrite: bool = False,
) -> Parity:
    """Write the export and return what the parity gate found; `precision` is that
    of a GGUF.

    prepared: the run's cohort, if its table is at hand; its test part is then compared too. Raises
    ConfigError for what this model cannot be exported to, and where `out` is an export of another
    model or in another format, unless `overwrite`; ModelError when the gate refuses. `out` is then
    as it was before.
    """
    config = load_resolved(run.checked(run.config))
    if config.serialize.views > 1:
        raise ConfigError(
            f"{run.path}: scores each row as the mean of {config.serialize.views} texts (serialize.views), and an export "
            "writes one; predict or serve with the run itself, or make a run with serialize.views=1"
        )
    kind = precision if to == "gguf" else to
    if to != "merged":
        (gguf if to == "gguf" else onnx).check(config)
    if out.exists() and not is_export(out) and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"--out {out}: exists and is no export; choose another folder")
    versions = {"run": config.name, "model": version_of(recorded_model(run, config))}
    made_from = {"kind": kind, "versions": versions}
    check_free(out, out / EXPORT, made_from, overwrite, "choose another folder with --out")
    original = _original(run, config)
    gated: list[Parity] = []

    def fill(work: Path) -> None:
        log.info("writing the model as %s", kind)
        _write_model(run, config, to, precision, original.order, work)
        write_text(work / "config.yaml", dump(exported_config(config)))
        write_json(work / "calibration.json", _calibration(run))
        trained = trained_quantities(config) if config.tables else None
        record = ExportRecord(to, kind, original.order, original.odds_multiplier, versions, original.schema, trained)
        record.write(work)
        copy = RowScorer.open_export(work, verified=False)
        log.info("scoring the same rows with both")
        found = parity.gate(original, copy, kind, *_test_part(prepared, config))
        record_probe(work, copy.text_logits(probe_texts(config, original.order)), torch.float32)
        record.write(work, found)
        write_text(work / "README.md", f"{_card(run, to)}\n{parity.in_words(kind, found)}")
        gated.append(found)

    write_folder(out, fill)
    return gated[0]


def check_again(run: RunFolder, folder: Path, prepared: Prepared | None = None) -> Parity:
    """Put an export that was made before through the gate again; ModelError when it is damaged or
    no longer the same."""
    if not is_export(folder):
        raise ConfigError(f"{folder}: not an export; make one with `cardiotune export RUN --to FORMAT --out DIR`")
    copy, kind = RowScorer.load(folder), ExportRecord.read(folder).kind
    config = load_resolved(run.checked(run.config))
    return parity.gate(_original(run, config), copy, kind, *_test_part(prepared, config))


# --------------------------------------------------------------------------------------------------
# what is in it


def _write_model(run: RunFolder, config: Config, to: Format, precision: str, order: list[str], work: Path) -> None:
    """Weights in the asked format, their config and the tokenizer."""
    weights, saved = same_weights(run, config.model), recorded_model(run, config)
    verify(saved)
    for file in {file for pattern in TOKENIZER for file in weights.glob(pattern)}:
        shutil.copyfile(file, work / file.name)
    model = load_plain(weights, saved, config)
    if to == "merged":
        model.save_pretrained(work)
        if config.task.head == "classifier":
            shutil.copyfile(saved / HEAD_FILE, work / HEAD_FILE)
        return
    model.config.save_pretrained(work)
    if to == "gguf":
        with tempfile.TemporaryDirectory(dir=work.parent, prefix=f"{work.name}.") as plain:
            model.save_pretrained(plain)
            for file in work.iterdir():
                shutil.copyfile(file, Path(plain) / file.name)
            gguf.write(Path(plain), precision, work / gguf.FILE)
        return
    encoder = build_encoder(config, weights)
    network = with_head(model, config, encoder)
    if isinstance(network, ClassifierNetwork):
        load_head(network, saved)
    data = config.text_data
    sample = encoder.encode(serialize_rows(synthetic_rows(data, 3, parity.SEED), order, data, config.serialize))
    onnx.write(network, [sample[0], sample[1][:-1], sample[2]], encoder.pad_id, work / onnx.FILE)


def exported_config(config: Config) -> Config:
    """The settings that scoring needs, without this machine's paths; the model is whole, and its
    numbers are float32. Of several tables, the first that trains lends its dictionary."""
    tree = config.model_dump(mode="json")
    if config.tables:
        tree |= {"data": config.text_data.model_dump(mode="json"), "tables": {}, "split": {}}
    tree |= {"runs_dir": "runs", "models": ["tuned"], "use": {}, "trackers": [], "deepspeed": None}
    tree["launch"] = {"processes": 1}
    tree["method"] = {"name": "exported", "kind": "full"}
    tree["model"] |= {"path": None, "allow_download": False, "dtype": "float32", "score_dtype": "float32"}
    for key in ("path", "test_path", "validation_path"):
        if tree["data"][key]:
            tree["data"][key] = Path(tree["data"][key]).name
    tree["data"]["ukb"] |= {"withdrawals": None, "kinship": None, "showcase": None}
    tree["data"]["ukb"]["endpoint"] = Path(tree["data"]["ukb"]["endpoint"]).stem
    if file := tree["serialize"]["template_file"]:
        tree["serialize"] |= {"template_file": None, "template": Path(file).read_text("utf-8")}
    return Config.model_validate(tree)


def _calibration(run: RunFolder) -> dict[str, Any]:
    """Of the tuned model alone."""
    known = read_json(run.checked(run.calibration))
    own = {name: {"tuned": known[name]["tuned"]} for name in ("models", "thresholds") if "tuned" in known.get(name, {})}
    return own | ({FEWEST: known[FEWEST]} if FEWEST in known else {})


def _card(run: RunFolder, to: Format) -> str:
    try:
        return render(read_record(run), LIBRARY[to])
    except DataError:
        name = load_resolved(run.config).name
        return f"# {name}\n\nMade with CardioTune and not evaluated yet. **Research use only, not for clinical use.**\n"


def _test_part(prepared: Prepared | None, config: Config) -> tuple[pl.DataFrame | None, Any]:
    """Typed rows and outcomes of the test part, or of a stratified sample of it; of several tables,
    of the one by whose dictionary the export scores, if it has a test part."""
    if prepared is None:
        return None, None
    source = next(one for one in prepared.sources if one.data == config.text_data or not one.name)
    rows = np.intersect1d(prepared.rows("test"), source.rows)
    if not len(rows):
        return None, None
    events = prepared.cohort.events[rows]
    chosen = np.sort(stratified_rows(events, TEST_ROWS, config.seed))
    return source.frame[rows[chosen] - source.rows[0]], events[chosen]


def _original(run: RunFolder, config: Config) -> RowScorer:
    """The run's own scorer; of several tables, by the first that trains."""
    return RowScorer.load(run.path, dataset=config.text_data if config.tables else None)
