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
_SETTINGS: dict[str, Any] = {"ngram_range": (1, 2), "token_pattern": TOKEN, "sublinear_tf": True}


def learn_terms(texts: Sequence[str]) -> TfidfVectorizer | None:
    """What turns texts into (texts, terms) sparse, rows of length 1; None when no term stands in
    two of these texts.

    Terms of two texts or more, the most frequent `MAX_TERMS` of them; term counts on a log scale.
    Other words are passed over. Manning et al., Introduction to Information Retrieval 2008,
    sections 6.2 and 6.4.1.
    """
    terms = TfidfVectorizer(min_df=2, max_features=MAX_TERMS, **_SETTINGS)
    try:
        return terms.fit(texts)
    except ValueError:  # all it can say about texts: no term is left
        return None


def known_terms(terms: Sequence[str], idf: Sequence[float]) -> TfidfVectorizer:
    """What `learn_terms` gave, from its terms in order and their inverse document frequencies."""
    known = TfidfVectorizer(vocabulary={term: place for place, term in enumerate(terms)}, **_SETTINGS)
    known.idf_ = np.asarray(idf, float)
    return known


def tfidf_terms(texts: Sequence[str], train: NDArray[np.bool_]) -> Any:
    """(rows, terms) sparse, as `learn_terms` of the training texts has them; None where there are
    none. `train` (rows,) bool."""
    terms = learn_terms([text for text, known in zip(texts, train, strict=True) if known])
    if terms is None:
        return None
    with scoring(len(texts)):
        return terms.transform(texts)
