"""A toy model of two layers with its own tokenizer, and a toy table whose outcome depends on age
and pressure."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from cardiotune.families import FAMILIES
from cardiotune.settings import Config

WORDS = (
    "Judge from the patient's findings whether the patient has heart disease. Patient: age 61 years, sex woman, sex man, "
    "systolic pressure 145 mmHg, smoker yes, smoker no, chest pain typical, chest pain none, note not recorded. "
    "Does this patient have heart disease? Answer Yes or No.\nAnswer: Yes\nAnswer: No\n0 1 2 3 4 5 6 7 8 9 - . , : ?"
)


def pytest_collection_finish() -> None:
    """Whatever is imported and collected stays to the end, so the collector need not look through
    it again: half of the time of a toy run, which collects whenever it lets a model go."""
    gc.collect()
    gc.freeze()


def build_toy_model(folder: Path, family: str = "llama", layers: int = 2) -> Path:
    """A two-layer (or deeper) causal language model with random weights, and a byte-level BPE
    tokenizer, saved to `folder`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<bos>", "<eos>", "<start_of_turn>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([WORDS] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>"]})
    tokenizer.save_pretrained(folder)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,  # the block of four-bit quantization
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    small = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}
    text = sizes | known_settings(FAMILIES[family].text or family, small)
    if FAMILIES[family].text:  # the class of the MedGemma checkpoints: text beside a vision tower
        vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision |= {"image_size": 28, "patch_size": 14}
        config = AutoConfig.for_model(family, text_config=text, vision_config=vision, mm_tokens_per_image=4)
    else:
        config = AutoConfig.for_model(family, **text)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def known_settings(model_type: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that a config of this model type holds."""
    from transformers import AutoConfig

    known = vars(AutoConfig.for_model(model_type))
    return {name: value for name, value in settings.items() if name in known}


def build_toy_table(rows: int = 240, seed: int = 0) -> pl.DataFrame:
    """Rows with id, age, sex, pressure, smoker, pain (some missing) and the outcome `disease`."""
    draw = np.random.default_rng(seed)
    age, pressure = draw.integers(30, 85, rows), draw.integers(95, 185, rows)
    risk = 1 / (1 + np.exp(-(0.09 * (age - 58) + 0.04 * (pressure - 140))))
    return pl.DataFrame(
        {
            "patient_id": [f"P{number:05d}" for number in range(rows)],
            "age": age,
            "sex": draw.integers(0, 2, rows),
            "sbp": pressure,
            "smoker": draw.integers(0, 2, rows),
            "pain": [None if draw.random() < 0.1 else str(draw.choice(["typical", "none"])) for _ in range(rows)],
            "disease": (draw.random(rows) < risk).astype(int),
        }
    )


TOY_COLUMNS = {
    "patient_id": {"role": "id", "type": "text"},
    "age": {"type": "integer", "unit": "years", "range": [18, 110]},
    "sex": {"type": "binary", "codes": {"0": "woman", "1": "man"}},
    "sbp": {"type": "integer", "unit": "mmHg", "range": [60, 260], "phrase": "systolic pressure"},
    "smoker": {"type": "binary"},
    "pain": {"type": "categorical", "codes": {"typical": "typical", "none": "none"}, "phrase": "chest pain"},
    "disease": {"role": "target", "type": "binary"},
}


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_toy_model(tmp_path_factory.mktemp("toy_model"))


def write_toy_experiment(folder: Path, model: Path) -> Path:
    """An experiment YAML beside its table; runs in seconds on a CPU."""
    build_toy_table().write_csv(folder / "table.csv")
    experiment = {
        "name": "toy",
        "runs_dir": str(folder / "runs"),
        "data": {"path": "table.csv", "columns": TOY_COLUMNS},
        "task": {"outcome": "heart disease"},
        "model": {"name": "toy", "path": str(model), "dtype": "float32"},
        "train": {"epochs": 2, "batch_size": 16, "learning_rate": 0.01, "threads": 1},
        "evaluation": {"bootstrap": 100},
    }
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment))
    return file


@pytest.fixture
def toy_experiment(tmp_path: Path, toy_model: Path) -> Path:
    """The toy experiment in a folder of the test's own."""
    return write_toy_experiment(tmp_path, toy_model)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real tables that are not part of the repository; tests that need it skip where
    it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CARDIOTUNE_SHARED_DATA", default))
    if not (folder / "cardio_train.csv").is_file():
        pytest.skip(f"no real tables in {folder}; set CARDIOTUNE_SHARED_DATA to their folder")
    return folder


def toy_config(folder: Path, **sections: Any) -> Config:
    """A checked config on the toy model; sections are merged into it."""
    tree: dict[str, Any] = {
        "name": "toy",
        "data": {"path": "table.csv", "columns": TOY_COLUMNS},
        "task": {"outcome": "heart disease"},
        "model": {"name": "toy", "path": str(folder), "dtype": "float32"},
        "method": {"r": 4, "alpha": 8},
        "train": {"epochs": 4, "batch_size": 8, "learning_rate": 0.01, "threads": 1},
        "evaluation": {"bootstrap": 100},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section} if isinstance(section, dict) else section
    return Config.model_validate(tree)


def build_toy_encoder(folder: Path) -> Path:
    """A two-layer BERT with random weights and a tokenizer that adds [CLS] and [SEP], saved to
    `folder`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces.train_from_iterator(
        [WORDS], trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    )
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), specials, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, **names)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
    )
    BertModel(config).save_pretrained(folder)
    return folder
