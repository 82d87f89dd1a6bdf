"""Every prompt of a run, made before anything is trained, so that one too long is refused at
once."""

from pathlib import Path

import numpy as np

from cardiotune.comparators import COMPARATORS
from cardiotune.data.prepare import Prepared
from cardiotune.data.tokens import PromptEncoder, TokenRows
from cardiotune.errors import PromptsTooLongError
from cardiotune.models.risks import examples
from cardiotune.models.tuned import probe_texts
from cardiotune.settings import Config
from cardiotune.training.machine import own_device
from cardiotune.training.model import build_encoder, score_dtype


def encode_prompts(config: Config, prepared: Prepared, weights: Path) -> tuple[dict[str, int], TokenRows]:
    """How long the prompts are, and they; raises when one is over the limit or the labels do not
    fit the tokenizer."""
    score_dtype(config.model, own_device())  # refuses what this machine cannot score in
    encoder = build_encoder(config, weights)
    wanted = [COMPARATORS[name] for name in config.comparators]
    if config.model.family == "decoder" and any(one.language == "base" for one in wanted):
        encoder.label_tokens(config.task.positive_label, config.task.negative_label)
    rows = encoder.prompts(prepared.all_texts)
    if any(one.examples for one in wanted):
        shown = encoder.with_examples(examples(config, prepared))
        shown.prompts(prepared.all_texts if encoder.whole else rows)
    if any(one.answer == "words" for one in wanted):
        encoder.prompts(rows, room=config.task.max_new_tokens)
    if "tuned" in config.comparators:
        if varied := prepared.varied:
            _check_varied_fit(varied.longest(prepared.rows("train")), encoder)
        _check_probe_fits(config, prepared.order, encoder)
    facts = {
        "shortest": int(rows.lengths.min()),
        "median": int(np.median(rows.lengths)),
        "longest": int(rows.lengths.max()),
        "instruction_and_question": len(encoder.prefix) + len(encoder.suffix),
        "limit": config.serialize.max_tokens,
    }
    return facts, rows


def _check_varied_fit(texts: list[str], encoder: PromptEncoder) -> None:
    """PromptsTooLongError when training texts, in the longest way that a draw may write them, are
    too long: before hours of training, and not in them."""
    try:
        encoder.prompts(texts)
    except PromptsTooLongError as error:
        raise PromptsTooLongError(
            f"training texts as serialize.vary may write them (all columns, in the longest words and units): {error}"
        ) from None


def _check_probe_fits(config: Config, order: list[str], encoder: PromptEncoder) -> None:
    """PromptsTooLongError when the synthetic sample, by which a saved model is known again, is too
    long for the model."""
    try:
        encoder.prompts(probe_texts(config, order))
    except PromptsTooLongError as error:
        raise PromptsTooLongError(f"the synthetic sample that a run is checked by: {error}") from None
