"""Free text as numbers: TF-IDF of its words and pairs of words, the vocabulary learned on the
training part alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from cardiotune.models.costs import scoring

TOKEN = r"(?<!\w)[-+]?\d+(?:[.,]\d+)*|\w+"
"""A number, with its sign and its decimals, or a word of one letter or more."""
MAX_TERMS = 100_000
"""Bounds the memory that long notes take; a table's text has a few thousand."""


def tfidf_terms(texts: Sequence[str], train: NDArray[np.bool_]) -> Any:
    """(rows, terms) sparse, rows of length 1; None when no term stands in two training texts.
    `train` (rows,) bool.

    Terms of two training texts or more, the most frequent `MAX_TERMS` of them; term counts on a log
    scale. A word that training has not is passed over. Manning et al., Introduction to Information
    Retrieval 2008, sections 6.2 and 6.4.1.
    """
    terms = TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=TOKEN, min_df=2, max_features=MAX_TERMS, sublinear_tf=True
    )
    try:
        terms.fit([text for text, known in zip(texts, train, strict=True) if known])
    except ValueError:  # all it can say about texts: no term is left
        return None
    with scoring(len(texts)):
        return terms.transform(texts)
