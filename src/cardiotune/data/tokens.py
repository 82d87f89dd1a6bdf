"""Text -> token ids. A prompt is shared prefix + patient's tokens + shared suffix, each encoded on its own."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cardiotune.data.serialize import Pieces
from cardiotune.errors import ConfigError, DataError, ModelError

log = logging.getLogger(__name__)

SLOT = "\u2063patient\u2063"
"""Stands for the patient's text while a chat template is rendered; invisible separators occur in no real template."""


@dataclass(frozen=True)
class LabelTokens:
    """Ids of the two answers' tokens."""

    positive: int
    negative: int


class PromptEncoder:
    """Turns patients' texts into lists of token ids for one model and one task.

    prefix: ids of everything before the patient's text, the same for all rows; suffix: ids after it.
    """

    def __init__(
        self,
        tokenizer: Any,
        pieces: Pieces,
        prompt: Literal["plain", "chat"],
        max_tokens: int,
        closed: bool = False,
    ) -> None:
        """`closed` adds the tokenizer's end tokens too, as an encoder wants them; a decoder's prompt stays open."""
        self.tokenizer = tokenizer
        self.pieces = pieces
        self.prompt = prompt
        self.max_tokens = max_tokens
        before, after = self._frame()
        self.after = after
        self.prefix = self._ids(before, start=prompt == "plain")
        self.closed = closed
        self.suffix = self._ids(after) + (self._specials()[1] if closed else [])
        # Some tokenizers keep runs of line ends or blanks as such tokens: those are no controls.
        tokens = [str(token) for token in tokenizer.get_added_vocab() if str(token).strip(" \t\n\r▁")]
        self._control = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))) if tokens else None

    def _frame(self, examples: str = "") -> tuple[str, str]:
        """Text before and after the patient's text."""
        content = (f"{self.pieces.instruction}\n\n{examples}Patient: ", f"\n{self.pieces.question}")
        if self.prompt == "plain":
            return content
        if not self.tokenizer.chat_template:
            raise ModelError("model.prompt: chat, but the tokenizer has no chat template; use model.prompt=plain")
        messages = [{"role": "user", "content": content[0] + SLOT + content[1]}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if text.count(SLOT) != 1:
            raise ModelError("model.prompt: the tokenizer's chat template does not keep the prompt whole; use plain")
        before, after = text.split(SLOT)
        return before, after

    def _ids(self, text: str, start: bool = False) -> list[int]:
        """Ids of a piece; with `start`, the model's beginning-of-text token comes first, if it has one."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._specials()[0] + ids if start else ids

    def _specials(self) -> tuple[list[int], list[int]]:
        """Ids that the tokenizer puts before and after a text on its own."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole: list[int] = self.tokenizer("a")["input_ids"]
        first = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return whole[:first], whole[first + len(bare) :]

    def clean(self, texts: Sequence[str]) -> list[str]:
        """Texts without the model's control tokens, so that a cell cannot end the turn or answer the question."""
        if self._control is None:
            return list(texts)
        cleaned = [
            re.sub(r" {2,}", " ", self._control.sub(" ", t)).strip() if self._control.search(t) else t for t in texts
        ]
        touched = sum(a != b for a, b in zip(texts, cleaned, strict=True))
        if touched:
            log.warning("%d rows held control tokens of the model in a text; they were removed", touched)
        return cleaned

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every prompt. DataError, with a count, when one is longer than the limit: nothing is ever cut."""
        texts = self.clean(texts)
        bodies = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        prompts = [self.prefix + body + self.suffix for body in bodies]
        too_long = [len(prompt) for prompt in prompts if len(prompt) > self.max_tokens]
        if too_long:
            raise DataError(
                f"{len(too_long)} of {len(prompts)} prompts are longer than serialize.max_tokens = {self.max_tokens} "
                f"(longest {max(too_long)}); raise it, or choose a shorter serialize.style or fewer columns"
            )
        return prompts

    def with_examples(self, examples: Sequence[tuple[str, str]]) -> "PromptEncoder":
        """An encoder whose prefix also shows solved patients: pairs of patient's text and answer."""
        solved = "".join(
            f"Patient: {text}\n{self.pieces.question} {answer}\n\n"
            for text, answer in zip(self.clean([text for text, _ in examples]), [a for _, a in examples], strict=True)
        )
        other = PromptEncoder(
            self.tokenizer, self.pieces, self.prompt, self.max_tokens * (len(examples) + 1), self.closed
        )
        other.prefix = other._ids(other._frame(solved)[0], start=self.prompt == "plain")
        return other

    def label_tokens(self, positive: str, negative: str) -> LabelTokens:
        """The single token that each answer adds after the question.

        Raises ConfigError, with the reason, when an answer is several tokens, both begin alike, or the answer changes
        how the question before it is split into tokens.
        """
        space = "" if self.after.endswith((" ", "\n")) else " "
        found = {label: self._label(space + label) for label in (positive, negative)}
        if found[positive] == found[negative]:
            raise ConfigError(
                f"task labels: {positive!r} and {negative!r} are the same token; choose words that differ"
            )
        return LabelTokens(found[positive], found[negative])

    def _label(self, answer: str) -> int:
        whole = self._ids(self.after + answer)
        added = whole[len(self.suffix) :]
        if whole[: len(self.suffix)] != self.suffix:
            raise ConfigError(
                f"task labels: {answer!r} changes how the end of the question is split into tokens, so no single "
                "position holds the answer; end task.question with `Answer:`"
            )
        if len(added) != 1:
            raise ConfigError(
                f"task labels: {answer!r} is {len(added)} tokens for this model, and its first token alone would not tell "
                "the answers apart for sure; choose single-token labels such as Yes and No"
            )
        return added[0]
