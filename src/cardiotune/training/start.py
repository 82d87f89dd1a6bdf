"""From a run folder to the recipe: its weights, rows and network."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from cardiotune.data.cache import run_tokens
from cardiotune.data.prepare import Prepared
from cardiotune.data.tokens import PromptEncoder
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from cardiotune.training import model as building
from cardiotune.training.distributed import join, world
from cardiotune.training.loss import balance
from cardiotune.training.machine import own_device
from cardiotune.training.packing import Prompts, Rows
from cardiotune.training.train import Material
from cardiotune.training.train import train as follow_recipe
from cardiotune.training.trunk import over_frozen_trunk
from cardiotune.training.weights import same_weights

log = logging.getLogger(__name__)


def fine_tune(
    folder: RunFolder,
    config: Config,
    prepared: Prepared,
    resume: bool,
    targets: NDArray[np.float64] | None = None,
) -> None:
    """Fine-tune in this process, one of several or the only one; the run folder then has the tuned
    model. `targets`: (rows of the cohort,) what the loss compares with in place of the events."""
    weights = same_weights(folder, config.model)
    device = own_device()
    join(config)
    dtype = building.train_dtype(config.model, device)
    encoder = building.build_encoder(config, weights)
    rows = {part: prepared.rows(part) for part in ("train", "validation")}
    tokens, weigh = run_tokens(folder, prepared.all_texts, encoder, weights), prepared.cohort.weights
    shares = prepared.shares
    encoded = {
        part: Rows(tokens.take(r), prepared.cohort.events[r], weights=None if weigh is None else weigh[r])
        for part, r in rows.items()
    }
    if shares is not None:  # in the loss alone: validation chooses the step by patients as they are
        encoded["train"] = replace(encoded["train"], weights=shares[rows["train"]])
    if targets is not None:
        encoded["train"] = replace(encoded["train"], targets=targets[rows["train"]])
    if prepared.varied:
        encoded["train"] = replace(encoded["train"], drawn=_drawn(prepared, rows["train"], encoder))
    balanced = balance(encoded["train"].events, config.imbalance, config.seed)
    if balanced.odds_multiplier != 1:
        both = config.imbalance.oversample and config.imbalance.class_weights != "none"
        tell = log.warning if both else log.info
        tell("class weights and oversampling multiply the odds by %.3g; predictions undo it", balanced.odds_multiplier)
    torch.manual_seed(config.seed)
    # Weights that train are float32 and compute in `dtype` under autocast; frozen ones are kept in
    # `dtype`.
    kept = torch.float32 if config.method.kind == "full" else dtype
    network = building.build(building.load_base(weights, config, kept, device), config, encoder)
    log.info("training on %s in %s", device, str(dtype).removeprefix("torch."))
    pad_id = encoder.pad_id
    with over_frozen_trunk(network, encoded, config, folder, pad_id, dtype) as known:
        material = Material(known["train"], known["validation"], balanced, pad_id)
        summary = follow_recipe(network, material, config, folder, dtype, resume)
    if world().rank == 0:
        folder.update_manifest(training=summary.as_json(), device=str(device))


def _drawn(
    prepared: Prepared, rows: np.ndarray, encoder: PromptEncoder
) -> Callable[[Sequence[int], Sequence[int]], Prompts]:
    """What writes training rows, by their place in the training part, in the way that numbers
    draw."""
    varied = prepared.varied
    assert varied is not None

    def drawn(places: Sequence[int], numbers: Sequence[int]) -> Prompts:
        return encoder.prompts(varied.texts(rows[list(places)], np.random.default_rng(numbers)))

    return drawn
