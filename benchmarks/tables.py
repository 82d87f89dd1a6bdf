"""Rows and instructions to measure with: a generated table like the Kaggle cardio one, and
guideline text of any length."""

import itertools
from pathlib import Path

import numpy as np
import polars as pl

from cardiotune.data.serialize import shared_pieces
from cardiotune.data.tokens import PromptEncoder
from cardiotune.settings import Config
from cardiotune.training.model import load_tokenizer

GUIDELINE = """
Cardiovascular disease here means coronary artery disease, heart failure, stroke or peripheral arterial disease that a
physician has diagnosed. Age is the strongest single predictor: risk about doubles with every decade after forty-five, and
men reach a given risk some ten years before women. Blood pressure acts without a threshold from 115/75 mmHg upwards, and
each rise of 20 mmHg systolic or 10 mmHg diastolic doubles the risk of dying of heart disease or stroke. A pressure of 130
to 139 over 80 to 89 mmHg is hypertension of stage 1; from 140 systolic or 90 diastolic it is of stage 2, and the higher of
the two decides. High cholesterol adds to every other risk, most of all when it is well above normal. A raised glucose
points to diabetes or to its early form and weighs about as much as ten years of age. Smoking doubles the risk and the
excess halves within a few years after the last cigarette. Excess weight acts mainly through pressure, lipids and glucose;
a body-mass index above 30 kg/m2 is obesity, and below 18.5 kg/m2 it may be a sign of illness. Regular physical activity
lowers the risk by about a third. Moderate alcohol does not protect, and heavy drinking raises pressure. No finding decides
alone: weigh all of them together, give most weight to age and blood pressure, let the others shift the judgement, and do
not take the absence of one risk factor for the absence of disease. A value that is not recorded is no evidence either way.
"""
"""In our own words; for measuring a long shared instruction, not for care."""


def cardio_table(rows: int, seed: int = 0) -> pl.DataFrame:
    """Generated rows in the columns of the cardio dictionary (configs/datasets/cardio.yaml), every
    value in its range.

    Marginals are like those of the real table, pressures mostly rounded to tens as people do. The
    outcome is drawn from logit p = 0.07 (age - 53 years) + 0.06 (ap_hi - 127) + 0.5 (cholesterol -
    1.4) + 0.02 (weight - 74) - 0.2 (active - 0.8).
    """
    draw = np.random.default_rng(seed)
    age_days = np.clip(draw.normal(53.4 * 365.25, 6.8 * 365.25, rows), 29 * 365, 65 * 365).round()
    gender = draw.choice([1, 2], rows, p=[0.65, 0.35])
    weight = np.clip(draw.normal(74, 14, rows), 35, 180).round()
    cholesterol = draw.choice([1, 2, 3], rows, p=[0.75, 0.135, 0.115])
    active = draw.binomial(1, 0.8, rows)
    systolic = np.clip(_mostly_tens(draw.normal(127, 16, rows), draw), 90, 180)
    diastolic = np.clip(_mostly_tens(0.42 * systolic + draw.normal(28, 7, rows), draw), 60, 120)
    logit = (
        0.07 * (age_days / 365.25 - 53)
        + 0.06 * (systolic - 127)
        + 0.5 * (cholesterol - 1.4)
        + 0.02 * (weight - 74)
        - 0.2 * (active - 0.8)
    )
    columns = {
        "id": np.arange(rows),
        "age": age_days,
        "gender": gender,
        "height": np.clip(draw.normal(np.where(gender == 2, 170, 161), 7), 130, 205).round(),
        "weight": weight,
        "ap_hi": systolic,
        "ap_lo": diastolic,
        "cholesterol": cholesterol,
        "gluc": draw.choice([1, 2, 3], rows, p=[0.85, 0.074, 0.076]),
        "smoke": draw.binomial(1, 0.09, rows),
        "alco": draw.binomial(1, 0.054, rows),
        "active": active,
        "cardio": draw.binomial(1, 1 / (1 + np.exp(-logit))),
    }
    return pl.DataFrame({name: values.astype(np.int64) for name, values in columns.items()})


def _mostly_tens(values: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Four of five rounded to tens, the others to whole numbers."""
    return np.where(draw.random(len(values)) < 0.8, (values / 10).round() * 10, values.round())


def long_instruction(config: Config, weights: Path, tokens: int) -> str:
    """The task's instruction behind so many words of guideline text that all prompts share `tokens`
    leading tokens.

    It may be a few more, where the last word is several tokens. The instruction as it is, when it
    is long enough.
    """
    tokenizer = load_tokenizer(weights)
    own, words = config.task.instruction, itertools.cycle(GUIDELINE.split())
    guideline: list[str] = []
    while True:
        text = " ".join([*guideline, own])
        task = config.task.model_copy(update={"instruction": text})
        if len(PromptEncoder(tokenizer, shared_pieces(task), config.model.prompt, tokens).prefix) >= tokens:
            return text
        guideline.append(next(words))
