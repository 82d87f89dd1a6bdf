"""Free generation: the model writes its answer in words, and the answer is parsed. A comparison
only.

Published zero-shot figures are often made so, and an answer that cannot be parsed counts as wrong
in them; the share of such answers is therefore part of the result here. What a model writes may
quote the patient: it is parsed and dropped.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support
from transformers import GenerationConfig

from cardiotune.training.distributed import merge, own_batches

UNPARSABLE = -1
"""Stands for an answer that is neither."""
Parse = Callable[[str], int]
"""What was written -> 1 (event), 0 or UNPARSABLE."""
Parsed = NDArray[np.int_]


# --------------------------------------------------------------------------------------------------
# parsing


def word_parser(negative: str, positive: str) -> Parse:
    """Reads a word such as Yes or No in the first line that is not empty, in any case; with both or
    none it fails.

    Later lines are not read: a base model goes on and answers for patients of its own invention.
    """
    words = [re.compile(rf"(?<!\w){re.escape(word.strip())}(?!\w)", re.I) for word in (negative, positive)]

    def parse(text: str) -> int:
        line = (text.strip().splitlines() or [""])[0]
        found = [outcome for outcome, word in enumerate(words) if word.search(line)]
        return found[0] if len(found) == 1 else UNPARSABLE

    return parse


def option_parser(negative: str, positive: str) -> Parse:
    """The rule of the published MedGemma experiment, for options that the prompt lists, such as `0:
    No risk`.

    An option must occur as it is listed, upper and lower case told apart, or with its number in
    brackets, `(0) No risk`. It may stand anywhere, and where both do, the one without the event
    counts.
    """
    options = [(option, f"({option.replace(': ', ') ', 1)}") for option in (negative, positive)]

    def parse(text: str) -> int:
        return next((k for k, forms in enumerate(options) if any(form in text for form in forms)), UNPARSABLE)

    return parse


def choose_parser(options: tuple[str, str] | None, labels: tuple[str, str]) -> Parse:
    """For options that the prompt lists, else for the task's labels; each pair without the event
    first."""
    return option_parser(*options) if options else word_parser(*labels)


# --------------------------------------------------------------------------------------------------
# generating


class Generator:
    """Greedy answers of a causal language model; each row's is the same alone and in a batch, up to
    rounding."""

    def __init__(self, model: Any, tokenizer: Any, pad_id: int, max_new_tokens: int = 40, batch_rows: int = 16) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.pad_id = pad_id
        self.max_new_tokens = max_new_tokens
        self.batch_rows = batch_rows

    def parsed(
        self, prompts: Sequence[list[int]], parse: Parse, on_rows: Callable[[int], None] | None = None
    ) -> Parsed:
        """(rows,) 1, 0 or UNPARSABLE for prompts given as token ids. In many processes each takes a
        share of them."""
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))  # little padding
        found = np.full(len(prompts), np.nan)
        for rows in own_batches([order[i : i + self.batch_rows] for i in range(0, len(order), self.batch_rows)]):
            found[rows] = [parse(text) for text in self.write([prompts[row] for row in rows])]
            if on_rows:
                on_rows(len(rows))
        return merge(found).astype(int)

    @torch.inference_mode()
    def write(self, prompts: Sequence[list[int]]) -> list[str]:
        """What the model writes after each prompt of one batch."""
        width = max(map(len, prompts))
        # Padded on the left: the answer begins right after the last token of the prompt.
        ids = torch.tensor([[self.pad_id] * (width - len(prompt)) + prompt for prompt in prompts])
        real = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        written = self.model.generate(
            input_ids=ids.to(self.model.device),  # (rows, tokens)
            attention_mask=real.to(self.model.device),
            generation_config=GenerationConfig(
                do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens, pad_token_id=self.pad_id
            ),
        )
        texts: list[str] = self.tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
        return texts


# --------------------------------------------------------------------------------------------------
# judging


def risks_of(parsed: Parsed, prevalence: float) -> NDArray[np.float64]:
    """(rows,) 1 and 0 as answered, for a word carries no probability; `prevalence` where there is
    no answer.

    Where rows are judged, a risk that is neither 1 nor 0 is such a row's, and the row wrong:
    `comparators.IN_WORDS`.
    """
    return np.where(parsed == UNPARSABLE, prevalence, parsed).astype(float)


def figures(parsed: Parsed, y_true: NDArray[Any], weight: NDArray[Any] | None = None) -> dict[str, int | float | None]:
    """How often parsing failed, and what that does to the figures.

    `accuracy`, `precision_weighted` and `f1_weighted` are as published: an answer that cannot be
    parsed is wrong, and figures of the two outcomes are weighted by their rows (Pedregosa et al.,
    JMLR 2011;12:2825). `accuracy_parsed` is that of the parsed answers, None where there is none.
    The figures, not the counts, are of rows that count by `weight` (rows,), by default all the
    same.
    """
    answered = parsed != UNPARSABLE
    right = parsed == y_true
    precision, _, f1, _ = precision_recall_fscore_support(
        y_true, parsed, labels=[0, 1], average="weighted", zero_division=0, sample_weight=weight
    )
    counted = np.ones(len(parsed)) if weight is None else weight
    return {
        "n": len(parsed),
        "n_unparsable": int((~answered).sum()),
        "share_unparsable": float((~answered).mean()),
        "accuracy": float(np.average(right, weights=counted)),
        "accuracy_parsed": float(np.average(right[answered], weights=counted[answered])) if answered.any() else None,
        "precision_weighted": float(precision),
        "f1_weighted": float(f1),
    }
