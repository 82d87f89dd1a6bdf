"""Text -> token ids. A prompt is shared prefix + patient's tokens + shared suffix, each encoded on
its own."""

import logging
import re
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from cardiotune.data.serialize import Pieces
from cardiotune.errors import ConfigError, ModelError, PromptsTooLongError

log = logging.getLogger(__name__)

SLOT = "\u2063patient\u2063"
"""Stands for the patient's text while a chat template is rendered; invisible separators occur in no
real template."""
CHUNK = 4096
"""Texts that the tokenizer gets at once: its own records of all rows of a large table would take
gigabytes."""


@dataclass(frozen=True)
class LabelTokens:
    """Ids of the two answers' tokens."""

    positive: int
    negative: int


@dataclass(frozen=True, eq=False)
class TokenRows(Sequence[list[int]]):
    """Prompts of many rows: to look at, a sequence of lists of token ids, each made when its row is
    asked for.

    tokens: (tokens of all rows,) int32, what the rows have of their own, end to end; row i is
    `tokens[first[i] : last[i]]` and stands between prefix and suffix, which all rows share. Lists
    of all rows would take ten times the memory.
    """

    tokens: NDArray[np.int32]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    prefix: Sequence[int] = ()
    suffix: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.first)

    @overload
    def __getitem__(self, row: int) -> list[int]: ...
    @overload
    def __getitem__(self, row: slice) -> "TokenRows": ...
    def __getitem__(self, row: int | slice) -> "list[int] | TokenRows":
        if isinstance(row, slice):
            return replace(self, first=self.first[row], last=self.last[row])
        return [*self.prefix, *self.tokens[self.first[row] : self.last[row]].tolist(), *self.suffix]

    def take(self, rows: Sequence[int] | NDArray[Any]) -> "TokenRows":
        """The prompts of the given row numbers; no token is copied."""
        chosen = np.asarray(rows, dtype=np.int64)
        return replace(self, first=self.first[chosen], last=self.last[chosen])

    def sort_key(self, row: int) -> bytes:
        """Sorts rows as their token ids do, in a tenth of a list's memory. What all rows begin with
        decides nothing."""
        return np.array([*self.tokens[self.first[row] : self.last[row]], *self.suffix], dtype=">i4").tobytes()

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows,) tokens of each prompt."""
        return self.last - self.first + len(self.prefix) + len(self.suffix)


@dataclass(frozen=True)
class Capacity:
    """What a model takes. None is no limit."""

    positions: int | None = None
    """Tokens of the longest prompt that it has places for."""
    vocabulary: int | None = None
    """How many tokens it knows."""


NO_LIMIT = Capacity()


class PromptEncoder:
    """Turns patients' texts into lists of token ids for one model and one task.

    prefix: ids of everything before the patient's text, the same for all rows; suffix: ids after
    it.
    """

    def __init__(
        self,
        tokenizer: Any,
        pieces: Pieces,
        prompt: Literal["plain", "chat"],
        max_tokens: int,
        closed: bool = False,
        capacity: Capacity = NO_LIMIT,
    ) -> None:
        """`closed` adds the tokenizer's end tokens too, as an encoder wants them; a decoder's
        prompt stays open."""
        self.tokenizer = tokenizer
        self.pieces = pieces
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.closed = closed
        self.positions, self.vocabulary = capacity.positions, capacity.vocabulary
        # Elsewhere a chat prompt is rendered and split into tokens as a whole; with a text of ours
        # around it, it never was.
        self.whole = pieces.alone and prompt == "chat"
        before, self.after = self._frame()
        self.prefix = [] if self.whole else self._ids(before, start=prompt == "plain")
        self.suffix = [] if self.whole else self._ids(self.after) + (self._specials()[1] if closed else [])
        # Some tokenizers keep runs of line ends or blanks as such tokens: those are no controls.
        tokens = [str(token) for token in tokenizer.get_added_vocab() if str(token).strip(" \t\n\r▁")]
        self._control = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))) if tokens else None

    @property
    def pad_id(self) -> int:
        """The id that fills padded places. What stands there is never read, so any id that the
        model knows will do."""
        for known in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if known is not None and 0 <= known < (self.vocabulary or known + 1):
                return int(known)
        return 0

    def _frame(self, solved: str = "") -> tuple[str, str]:
        """Text before and after the patient's text, in the chat template if there is one."""
        content = self.pieces.around(solved)
        if self.prompt == "plain":
            return content
        if not self.tokenizer.chat_template:
            raise ModelError("model.prompt: chat, but the tokenizer has no chat template; use model.prompt=plain")
        text = self._rendered(content[0] + SLOT + content[1])
        if text.count(SLOT) != 1:
            raise ModelError("model.prompt: the tokenizer's chat template does not keep the prompt whole; use plain")
        before, after = text.split(SLOT)
        return before, after

    def _rendered(self, content: str) -> str:
        messages = [{"role": "user", "content": content}]
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def _ids(self, text: str, start: bool = False) -> list[int]:
        """Ids of a piece; with `start`, the model's beginning-of-text token comes first, if it has
        one."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._specials()[0] + ids if start else ids

    def _specials(self) -> tuple[list[int], list[int]]:
        """Ids that the tokenizer puts before and after a text on its own."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole: list[int] = self.tokenizer("a")["input_ids"]
        first = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return whole[:first], whole[first + len(bare) :]

    def clean(self, texts: Sequence[str]) -> list[str]:
        """Texts without the model's control tokens, so that a cell cannot end the turn or answer
        the question.

        A ready text that is the whole prompt has nothing around it that it could end, and stays as
        it is.
        """
        if self.pieces.ready and self.pieces.alone and self.prompt == "plain":
            return list(texts)
        if self.pieces.ready and not self.pieces.alone:  # something of ours stands around it
            texts = [text.strip() for text in texts]
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
        """Ids of every prompt, as lists; for few rows. PromptsTooLongError as `prompts` raises
        it."""
        return list(self.prompts(texts))

    def prompts(self, rows: Sequence[str] | TokenRows, room: int = 0) -> TokenRows:
        """Prompts of texts, or of rows that were encoded before: those get the prefix and suffix of
        this encoder.

        Raises PromptsTooLongError when one is longer than a limit: nothing is ever cut. room:
        tokens that the model is to write behind each prompt. ModelError when the tokenizer gives
        tokens that the model does not know.
        """
        bodies = rows if isinstance(rows, TokenRows) else self._bodies(rows)
        framed = replace(bodies, prefix=self.prefix, suffix=self.suffix)
        if len(framed):
            self._check(framed, room)
        return framed

    def _check(self, framed: TokenRows, room: int) -> None:
        longest = framed.lengths.max()
        too_long = np.flatnonzero(framed.lengths > self.max_tokens)
        if len(too_long):
            raise PromptsTooLongError(
                f"{len(too_long)} of {len(framed)} prompts are longer than serialize.max_tokens = {self.max_tokens} "
                f"(longest {longest}); raise it, or choose a shorter serialize.style or fewer columns",
                too_long.tolist(),
            )
        too_long = np.flatnonzero(framed.lengths + room > self.positions) if self.positions is not None else too_long
        if len(too_long):
            verb, answer = "is" if len(too_long) == 1 else "are", f" and an answer of {room}" if room else ""
            raise PromptsTooLongError(
                f"{len(too_long)} of {len(framed)} prompts {verb} longer than the model's {self.positions} positions "
                f"(longest {longest}{answer}); choose a model with more, a shorter text, serialize.style or task, or fewer "
                "columns",
                too_long.tolist(),
            )
        known = self.vocabulary
        if known is not None and max([*framed.prefix, *framed.suffix, framed.tokens.max(initial=0)]) >= known:
            raise ModelError(f"the tokenizer gives tokens beyond the model's {known}; it belongs to another model")

    def _bodies(self, texts: Sequence[str]) -> TokenRows:
        """The texts' own tokens; of a prompt that is tokenized as a whole, all of it."""
        texts = self.clean(texts)
        lengths: list[int] = []
        tokens = [np.empty(0, np.int32)]
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            if self.whole:
                chunk = [self._rendered(text) for text in chunk]
            # Not verbose: it would warn of a length that is looked at here, and never quotes the
            # model's own.
            ids = self.tokenizer(chunk, add_special_tokens=False, return_attention_mask=False, verbose=False)[
                "input_ids"
            ]
            lengths += map(len, ids)
            tokens.append(np.fromiter(chain.from_iterable(ids), np.int32))
        ends = np.cumsum(lengths, dtype=np.int64)
        return TokenRows(np.concatenate(tokens), ends - np.asarray(lengths, np.int64), ends)

    def with_examples(self, examples: Sequence[tuple[str, str]]) -> "PromptEncoder":
        """An encoder whose prefix also shows solved patients: pairs of patient's text and
        answer."""
        texts = self.clean([text for text, _ in examples])
        solved = self.pieces.solved(zip(texts, (answer for _, answer in examples), strict=True))
        other = copy(self)
        other.max_tokens *= len(examples) + 1
        before, after = other._frame(solved)
        other.prefix = other._ids(before, start=self.prompt == "plain")
        if other.whole:  # the examples are ours, so the text is split from them as ever
            other.whole, other.suffix = False, other._ids(after)
        return other

    def label_tokens(self, positive: str, negative: str) -> LabelTokens:
        """The single token that each answer adds after the question.

        Raises ConfigError, with the reason, when an answer is several tokens, both begin alike, or
        the answer changes how the question before it is split into tokens.
        """
        # Behind a text that nothing follows, labels stand as they are written.
        space = "" if not self.after or self.after.endswith((" ", "\n")) else " "
        found = {label: self._label(space + label) for label in (positive, negative)}
        if found[positive] == found[negative]:
            raise ConfigError(
                f"task labels: {positive!r} and {negative!r} are the same token; choose words that differ"
            )
        return LabelTokens(found[positive], found[negative])

    def _label(self, answer: str) -> int:
        after, whole = self._ids(self.after), self._ids(self.after + answer)
        added = whole[len(after) :]
        if whole[: len(after)] != after:
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
