"""Which method, head, DeepSpeed stage, number type and model family go together, and why the others
do not.

The one table behind the check of every config and behind `docs/compatibility.md` (`python -m
cardiotune.compatibility` prints it).
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from cardiotune.families import LINES, OTHER, Family, record_of

METHODS = ("full", "lora", "lora_top", "qlora", "lora_8bit")
HEADS = ("label_tokens", "classifier")
STAGES = ("none", "zero2", "zero2_offload", "zero3", "zero3_offload")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Choice:
    """One cell of the table."""

    method: str
    head: str
    stage: str
    dtype: str
    family: str
    """A line of model types, or `other`."""

    @property
    def record(self) -> Family:
        """What is known of the family."""
        return record_of(self.family)


@dataclass(frozen=True)
class Rule:
    """Cells that are refused, and the reason in words."""

    applies: Callable[[Choice], bool]
    reason: str


@dataclass(frozen=True)
class Scoring:
    """One cell of the table for scoring."""

    dtype: str
    device: str = "cuda"
    family: str = OTHER

    @property
    def record(self) -> Family:
        """What is known of the family."""
        return record_of(self.family)


OVERFLOWS = "its activations overflow float16 (Gemma: transformers #39972); use bfloat16 or float32"
SCORE_RULES: tuple[tuple[Callable[[Scoring], bool], str], ...] = (
    (lambda c: c.dtype == "float16" and not c.record.float16, OVERFLOWS),
    (lambda c: c.dtype == "float16" and c.device == "cpu", "float16 is for a GPU; on a CPU use float32 or bfloat16"),
)
RULES = (
    Rule(
        lambda c: c.record.kind == "encoder" and c.head == "label_tokens",
        "an encoder has no next-token logits to read labels from; use task.head=classifier",
    ),
    Rule(
        lambda c: c.record.kind == "encoder" and c.method == "lora_top",
        "an encoder's layers all see the whole row, and so share nothing between rows; use lora",
    ),
    Rule(
        lambda c: c.method == "lora_top" and c.stage != "none",
        "DeepSpeed spreads weights of which lora_top trains few; use plain data parallelism",
    ),
    Rule(lambda c: c.dtype == "float16" and not c.record.float16, OVERFLOWS),
    Rule(
        lambda c: c.dtype == "float16",
        "training in float16 needs loss scaling, which this recipe does not have; use bfloat16 or float32",
    ),
    Rule(
        lambda c: c.method in ("qlora", "lora_8bit") and c.stage.startswith("zero3"),
        "ZeRO-3 cuts weights up by their number type and cannot cut quantized ones (DeepSpeed #3620, #7096); use "
        "zero2, or lora with zero3",
    ),
    Rule(
        lambda c: c.method == "lora_top" and c.family != OTHER and c.record.kind == "decoder" and not c.record.tree,
        "what stands for its lower layers is not known here; use lora",
    ),
)


def refusals(choice: Choice) -> list[str]:
    """Reasons why this combination is refused; empty when it works."""
    return [rule.reason for rule in RULES if rule.applies(choice)]


def score_refusals(scoring: Scoring) -> list[str]:
    """Reasons why scoring so is refused; empty when it works."""
    return [reason for applies, reason in SCORE_RULES if applies(scoring)]


def table() -> str:
    """The whole table as Markdown."""
    lines = [
        "# What goes with what",
        "",
        "Generated from `cardiotune.compatibility` by `python -m cardiotune.compatibility`; a test fails",
        "when it is stale. A number stands for the reason below; a config with such a combination is refused",
        "before any data is read. `auto` is bfloat16 where the hardware computes in it, else float32.",
        "DeepSpeed `none` is one process, or plain data parallelism.",
        "",
    ]
    cells = [Choice(*cell) for cell in product(METHODS, HEADS, STAGES, DTYPES, LINES)]
    for number, rule in enumerate(RULES, start=1):
        if any(map(rule.applies, cells)):
            lines.append(textwrap.fill(f"{number}. {rule.reason}", 100, subsequent_indent="   "))
    for family, line in LINES.items():
        lines += ["", f"## {line.title}", "", "| method | head | dtype | " + " | ".join(STAGES) + " |"]
        lines.append("|---|---|---|" + "---|" * len(STAGES))
        for method, head, dtype in product(METHODS, HEADS, DTYPES):
            told = [_cell(Choice(method, head, stage, dtype, family)) for stage in STAGES]
            lines.append(f"| {method} | {head} | {dtype} | " + " | ".join(told) + " |")
    lines += ["", "## Scoring", "", "By `model.score_dtype`; `auto` is float32 on a CPU, else as for training.", ""]
    lines += ["| family | dtype | CPU | GPU |", "|---|---|---|---|"]
    for (family, line), dtype in product(LINES.items(), DTYPES):
        reasons = [score_refusals(Scoring(dtype, device, family)) for device in ("cpu", "cuda")]
        told = ["refused: " + "; ".join(found) if found else "works" for found in reasons]
        lines.append(f"| {line.title} | {dtype} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def _cell(choice: Choice) -> str:
    refused = [str(number) for number, rule in enumerate(RULES, start=1) if rule.applies(choice)]
    return f"refused ({', '.join(refused)})" if refused else "works"


if __name__ == "__main__":
    print(table(), end="")
