"""Cohort -> train, validation and test. Disjoint by row and by patient, and shown to be so."""

import logging
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, train_test_split

from cardiotune.data.cohort import EVENT, PART, ROW_ID, Cohort
from cardiotune.data.pool import InTwo
from cardiotune.errors import DataError
from cardiotune.settings import DataConfig, SplitConfig
from cardiotune.settings.tables import TABLE

log = logging.getLogger(__name__)

PARTS = ("train", "validation", "test")
Parts = np.ndarray
"""(rows,) array of the names in PARTS, or `UNUSED`."""
UNUSED = "unused"
"""Part of a row that is neither fitted nor scored."""
CENSORED = 2
"""Beside 0 and 1, an outcome to stratify by."""
FEW_GROUPS = 20
"""A part whose rows are worth fewer patients (or groups) of equal size says little: its intervals
rest on their chance."""
MOST_FOLDS = 10
"""Of groups, a share is drawn as so many of at most so many folds."""
FEWEST_CENSORED = 20
"""Fewer cannot be spread over the parts by their share, and go with those without the event."""


def split_cohort(cohort: Cohort, data: DataConfig, split: SplitConfig, seed: int) -> Parts:
    """The part of every row, shape (rows,); behind them those of `cohort.censored`, who fall in
    parts as the others do.

    Raises DataError when a part would lack events or non-events, or when the rule cannot be
    followed.
    """
    group = data.name_of("group")
    frame, outcomes = _everyone(cohort)
    if split.by == "column":
        parts = _by_column(frame[_named(data, "split")])
    elif split.by == "time":
        parts = _by_time(frame[_named(data, "time")], split)
    elif split.by == "site":
        parts = _by_site(frame[_named(data, "site")], split, seed)
    else:
        groups = _several_rows(frame, data)
        if split.by == "files":
            parts = _by_file(frame[PART].to_numpy(), outcomes, groups, split, seed)
        elif split.by == "cross_validation":
            together = _sites(frame[_named(data, "site")], "whole_sites: true") if split.whole_sites else groups
            parts = _by_fold(outcomes, together, split, seed)
        else:
            parts = _random(outcomes, groups, split, seed)
    if split.shared_groups == "unused" and group:
        parts = _without_shared(parts, frame[group])
    _check_outcomes(parts[: cohort.frame.height], cohort.events)
    _check_disjoint(parts, frame, data)
    _check_groups(parts, data, frame, say_few=split.by != "cross_validation")  # whose folds are judged together
    return parts


def split_pool(
    cohort: Cohort, data: DataConfig, split: SplitConfig, held: Sequence[str], never_held: Sequence[str], seed: int
) -> Parts:
    """The part of every row of several tables under the dictionary that they share, `data`: shape
    (rows,), stratified by table and outcome, a group's rows together.

    All rows of the tables `held` are for the test. With `by: random` a share of the rows of all
    others but `never_held` is too; else none is. Validation rows are drawn at random from the
    tables that train, so that no single table chooses the step. DataError as `split_cohort`.
    """
    groups = _several_rows(cohort.frame, data)
    tables = cohort.frame[TABLE].to_numpy()
    parts = np.full(len(tables), "train", dtype="<U10")
    parts[np.isin(tables, held)] = "test"
    strata = np.unique(tables, return_inverse=True)[1] * 2 + cohort.events
    if split.by == "random":
        mixed = np.flatnonzero((parts == "train") & ~np.isin(tables, never_held))
        if len(mixed):
            parts[_draw_strata(mixed, strata, groups, split.test, seed)] = "test"
    share = split.validation / (1 - (split.test if split.by == "random" else 0)) - 1e-9
    parts[_draw_strata(np.flatnonzero(parts == "train"), strata, groups, share, seed)] = "validation"
    _check_outcomes(parts, cohort.events)
    _check_disjoint(parts, cohort.frame, data)
    _check_groups(parts, data, cohort.frame)
    return parts


def part_patients(parts: Parts, in_two: Sequence[InTwo], cohort: Cohort, data: DataConfig, split: SplitConfig) -> Parts:
    """Parts where nobody who stands in two tables is both learned from and held out: by
    `split.shared_patients` they are refused (DataError), unused where they would be learned from,
    with all rows of their group, or left as they are."""
    torn = [found for found in in_two if leaks(parts, found.pairs)]
    if not torn or split.shared_patients == "allow":
        return parts
    if split.shared_patients == "error":
        raise DataError(
            f"tables: {'; '.join(found.text for found in torn)}; so patients are learned from and held out: take them out of "
            "training and validation with split.shared_patients: unused, or keep them with allow"
        )
    kept = parts.copy()
    patients = np.array(cluster_numbers(cohort.frame, data) or range(len(parts)))
    for part, later in (("validation", ("test",)), ("train", ("validation", "test"))):
        for found in in_two:
            for own, other in (found.pairs.T, found.pairs.T[::-1]):
                known = patients[own[np.isin(parts[other], later)]]
                kept[(kept == part) & np.isin(patients, known)] = UNUSED
    log.info("%d rows are not used: their patients stand in another table, in a later part", (kept != parts).sum())
    _check_outcomes(kept, cohort.events)
    return kept


def leaks(parts: Parts, pairs: NDArray[np.int64]) -> bool:
    """Whether a row of these pairs (pairs, 2) is in the test, and the other is learned from."""
    one, other = parts[pairs].T
    learned = ("train", "validation")
    return bool(((one == "test") & np.isin(other, learned) | (other == "test") & np.isin(one, learned)).any())


def _draw_strata(
    rows: np.ndarray, strata: np.ndarray, groups: np.ndarray | None, share: float, seed: int
) -> np.ndarray:
    """A share of the rows, (drawn,), a group's rows together. Strata: twice the table's number and
    the outcome. One of a single row goes with the largest; with groups, one of fewer rows than
    folds with the largest of its outcome."""
    counts = np.bincount(strata[rows], minlength=strata.max() + 1)
    if groups is None:
        merged = np.where(counts[strata] < 2, counts.argmax(), strata)
    else:
        largest = np.array([2 * counts[outcome::2].argmax() + outcome for outcome in (0, 1)])
        merged = np.where(counts[strata] < MOST_FOLDS, largest[strata % 2], strata)
    merged[rows] = np.unique(merged[rows], return_inverse=True)[1]  # numbered without a gap
    try:
        return _drawn(rows, merged, groups, share, seed)[1]
    except ValueError as error:
        raise DataError(f"split: {len(rows)} rows cannot be parted into the asked shares ({error})") from None


def _several_rows(frame: pl.DataFrame, data: DataConfig) -> np.ndarray | None:
    """(rows,) numbers of the groups (patients); None where each has one row."""
    name = data.name_of("group")
    return frame[name].rank("dense").to_numpy() if name and frame[name].is_duplicated().any() else None


def _everyone(cohort: Cohort) -> tuple[pl.DataFrame, np.ndarray]:
    """Rows, and behind them the censored; outcomes to stratify by: 0, 1, and 2 of the censored if
    they are not very few."""
    if cohort.censored is None:
        return cohort.frame, cohort.events
    outcome = CENSORED if cohort.censored.height >= FEWEST_CENSORED else 0
    outcomes = np.concatenate([cohort.events, np.full(cohort.censored.height, outcome)])
    return pl.concat([cohort.frame, cohort.censored]), outcomes


def _without_shared(parts: Parts, groups: pl.Series) -> Parts:
    """Rows of a group that is also in a later part are unused: what is held out must not be known
    from before."""
    kept = parts.copy()
    for part, later in (("validation", ("test",)), ("train", ("validation", "test"))):
        held = groups.filter(pl.Series(np.isin(kept, later)))
        kept[(kept == part) & groups.is_in(held.implode()).to_numpy()] = UNUSED
    if left := int((kept != parts).sum()):
        log.info("%d rows are not used: others of their %s are in a later part", left, groups.name)
    return kept


def _named(data: DataConfig, role: str) -> str:
    name = data.name_of(role)
    assert name is not None  # the config checks that the role is given
    return name


def _random(events: np.ndarray, groups: np.ndarray | None, split: SplitConfig, seed: int) -> Parts:
    """Stratified by the outcome. The test part is drawn first, from all rows, as `train_test_split`
    alone would."""
    parts = np.full(len(events), "train", dtype="<U10")
    rest, test = _draw(np.arange(len(events)), events, groups, split.test, seed)
    # A hair less: 0.2 / 0.7 of 210 rows computes to just over 60, and the draw rounds up.
    share_of_rest = split.validation / (1 - split.test) - 1e-9
    _, validation = _draw(rest, events, groups, share_of_rest, seed)
    parts[test], parts[validation] = "test", "validation"
    return parts


def _draw(
    rows: np.ndarray, events: np.ndarray, groups: np.ndarray | None, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    try:
        return _drawn(rows, events, groups, share, seed)
    except ValueError as error:
        raise DataError(
            f"split: {len(rows)} rows with {int((events[rows] == 1).sum())} events cannot be parted into the asked shares "
            f"({error})"
        ) from None


def _drawn(
    rows: np.ndarray, strata: np.ndarray, groups: np.ndarray | None, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Those of the rows that stay and the share that is drawn, both ascending; strata are numbered
    from 0, as few as there are. ValueError where they cannot be drawn."""
    if groups is None:
        kept, drawn = train_test_split(rows, test_size=share, stratify=strata[rows], random_state=seed)
        return np.sort(kept), np.sort(drawn)
    # The share as so many of so many folds, for groups cannot be drawn one row at a time.
    most = int(min(MOST_FOLDS, len(np.unique(groups[rows])), np.bincount(strata[rows], minlength=2).min()))
    fraction = Fraction(share).limit_denominator(max(most, 2)) or Fraction(1, min(round(1 / share), max(most, 2)))
    fraction = min(fraction, Fraction(max(most, 2) - 1, max(most, 2)))
    folds = group_folds(strata[rows], groups[rows], fraction.denominator, seed)
    drawn = np.flatnonzero(folds < fraction.numerator)
    return np.delete(rows, drawn), rows[drawn]


def group_folds(events: NDArray[Any], groups: NDArray[Any], count: int, seed: int) -> NDArray[np.int_]:
    """(rows,) the fold, of `count`, that each row's group falls in; outcomes and rows are spread as
    evenly as they can be.

    The same folds as scikit-learn's `StratifiedGroupKFold(count, shuffle=True, random_state=seed)`
    makes. That asks one fold after the other whether a group fits it, and takes minutes where
    groups are many.
    """
    outcome = np.unique(events, return_inverse=True)[1]
    group = np.unique(groups, return_inverse=True)[1]
    size = (int(group.max()) + 1, int(outcome.max()) + 1)
    if count > size[0]:
        raise ValueError(f"{size[0]} groups are too few")
    rows_of = np.bincount(group * size[1] + outcome, minlength=size[0] * size[1]).reshape(size).astype(float)
    shuffled = np.arange(size[0])
    np.random.RandomState(seed).shuffle(shuffled)
    unequal_first = shuffled[np.argsort(-np.std(rows_of[shuffled], axis=1), kind="stable")]

    fold_of_group = np.empty(size[0], dtype=np.int_)
    held = np.zeros((count, size[1]))  # rows of each fold and outcome
    totals = rows_of.sum(axis=0)
    tried = np.empty((count, count, size[1]))  # share of an outcome's rows in each fold, if the group went to that fold
    every = np.arange(count)
    for number in unequal_first:
        tried[:] = (held / totals)[:, None]
        tried[every, every] = (held + rows_of[number]) / totals
        spread = np.std(tried, axis=0).mean(axis=1).tolist()
        rows_held = held.sum(axis=1).tolist()
        best = 0
        for fold in range(1, count):
            alike = abs(spread[fold] - spread[best]) <= 1e-8 + 1e-5 * spread[best]  # as `np.isclose`
            if spread[fold] < spread[best] or (alike and rows_held[fold] < rows_held[best]):
                best = fold
        held[best] += rows_of[number]
        fold_of_group[number] = best
    return fold_of_group[group]


def _by_fold(outcomes: np.ndarray, together: np.ndarray | None, split: SplitConfig, seed: int) -> Parts:
    """One fold is the test part, and validation is drawn from the others; of every repeat by a seed
    of its own. The first fold of the first repeat where the settings name none."""
    drawn = (seed + (split.repeat or 1) - 1) % 2**32
    if together is None:
        fewest = int(min((outcomes == 0).sum(), (outcomes == 1).sum()))
        if fewest < split.folds:
            raise DataError(
                f"split.folds: {split.folds}, but the rarer outcome has {fewest} rows; each fold needs one: ask for fewer"
            )
        tests = StratifiedKFold(split.folds, shuffle=True, random_state=drawn).split(outcomes, outcomes)
        folds = np.empty(len(outcomes), dtype=np.int_)
        for number, (_, test) in enumerate(tests):
            folds[test] = number
    else:
        try:
            folds = group_folds(outcomes, together, split.folds, drawn)
        except ValueError as error:
            raise DataError(f"split.folds: {split.folds}, but {error}; ask for fewer") from None
    parts = np.full(len(outcomes), "train", dtype="<U10")
    parts[folds == (split.fold or 1) - 1] = "test"
    # A hair less, as in `_random`.
    share_of_rest = split.validation / (1 - 1 / split.folds) - 1e-9
    _, validation = _draw(np.flatnonzero(parts == "train"), outcomes, together, share_of_rest, drawn)
    parts[validation] = "validation"
    return parts


def _by_file(files: np.ndarray, events: np.ndarray, groups: np.ndarray | None, split: SplitConfig, seed: int) -> Parts:
    """The part that each row's file is; without a validation file, a stratified share of the
    training rows."""
    parts = files.astype("<U10")
    if "validation" not in parts:
        _, validation = _draw(np.flatnonzero(parts == "train"), events, groups, split.validation, seed)
        parts[validation] = "validation"
    return parts


def _by_time(times: pl.Series, split: SplitConfig) -> Parts:
    """The latest rows are the test part, those before them validation. Rows of one time stay
    together."""
    if times.null_count():
        raise DataError(f"split.by: time, but {times.null_count()} rows have no {times.name}; fill it or exclude them")
    per_time = times.alias("time").value_counts().sort("time", descending=True)
    held = per_time["count"].cum_sum().to_numpy() / len(times)  # share of the rows at this time or later
    test = _nearest(held, split.test, 0)
    validation = _nearest(held, split.test + split.validation, test + 1)
    parts = np.full(len(times), "train", dtype="<U10")
    parts[(times >= per_time["time"][validation]).to_numpy()] = "validation"
    parts[(times >= per_time["time"][test]).to_numpy()] = "test"
    return parts


def _nearest(shares: np.ndarray, share: float, first: int) -> int:
    """Place, not before `first`, of the share that is nearest."""
    first = min(first, len(shares) - 1)
    return first + int(np.abs(shares[first:] - share).argmin())


def _sites(sites: pl.Series, asked: str) -> np.ndarray:
    """(rows,) the name of each row's site."""
    if sites.null_count():
        raise DataError(f"split.{asked}, but {sites.null_count()} rows have no {sites.name}; fill it or exclude them")
    return sites.cast(pl.String).to_numpy()


def _by_site(sites: pl.Series, split: SplitConfig, seed: int) -> Parts:
    """Whole sites are held out for test, and others for validation."""
    names = _sites(sites, "by: site")
    order = list(np.random.default_rng(seed).permutation(np.unique(names)))
    unknown = [site for site in split.test_sites or [] if site not in order]
    if unknown:
        raise DataError(f"split.test_sites: {len(unknown)} of them are not in column {sites.name}")
    test = list(split.test_sites or _fill(order, names, split.test))
    validation = _fill([site for site in order if site not in test], names, split.validation)
    parts = np.full(len(names), "train", dtype="<U10")
    parts[np.isin(names, test)] = "test"
    parts[np.isin(names, validation)] = "validation"
    return parts


def _fill(sites: Sequence[str], names: np.ndarray, share: float) -> list[str]:
    """Sites in order until they hold the share of the rows; at least one."""
    chosen: list[str] = []
    for site in sites:
        if chosen and np.isin(names, chosen).mean() >= share:
            break
        chosen.append(site)
    return chosen


def _by_column(column: pl.Series) -> Parts:
    parts = column.cast(pl.String).str.to_lowercase().replace({"val": "validation", "dev": "validation"})
    strange = int((~parts.is_in(PARTS)).fill_null(True).sum())
    if strange:
        raise DataError(f"column {column.name} (role split): {strange} rows are none of train, validation, test")
    return parts.to_numpy().astype("<U10")


def _check_outcomes(parts: Parts, events: np.ndarray) -> None:
    for part in PARTS:
        rows = int((parts == part).sum())
        happened = int(events[parts == part].sum())
        if happened in (0, rows):
            raise DataError(
                f"split: the {part} part has {rows} rows with {happened} events; both outcomes are needed in every part. "
                "Use more rows, or other shares or another split.by"
            )


def _check_disjoint(parts: Parts, frame: pl.DataFrame, data: DataConfig) -> None:
    """No row, patient or group may stand in two parts."""
    if frame[ROW_ID].n_unique() != frame.height:
        raise DataError("split: row ids are not unique")
    for role in ("id", "group"):
        name = data.name_of(role)
        if name:
            found = {key: count for key, count in shared_between(frame[name], parts).items() if count}
            if found:
                raise DataError(
                    f"split: column {name} (role {role}) has values in more than one part (rows: {found}); "
                    f"choose another split.by, or give {name} role ignore if rows of one {name} may be parted"
                )


def cluster_numbers(frame: pl.DataFrame, data: DataConfig) -> list[int] | None:
    """(rows,) a number that the rows of one group (a patient) share; None when no two rows belong
    together.

    Numbers are given in the order of the rows, so they tell nothing but who belongs together. A row
    without a group has a number of its own.
    """
    group = data.name_of("group")
    if group is None or not frame[group].drop_nulls().is_duplicated().any():
        return None
    numbers: dict[Any, int] = {}
    own = ((place, None) if key is None else (None, key) for place, key in enumerate(frame[group].to_list()))
    return [numbers.setdefault(key, len(numbers)) for key in own]


def few_groups(parts: Parts, groups: pl.Series) -> dict[str, float]:
    """Part -> how many groups of equal size its rows are worth (Kish 1965), where these are fewer
    than FEW_GROUPS."""
    found = {}
    for part in PARTS:
        sizes = groups.filter(pl.Series(parts == part)).drop_nulls().value_counts()["count"].cast(pl.Float64)
        alone = int(((parts == part) & groups.is_null().to_numpy()).sum())
        total, square = float(sizes.sum()) + alone, float((sizes**2).sum()) + alone
        if square and total**2 / square < FEW_GROUPS:
            found[part] = total**2 / square
    return found


def _check_groups(parts: Parts, data: DataConfig, frame: pl.DataFrame, say_few: bool = True) -> None:
    """A part that is one patient is refused; one that is worth few is said."""
    name = data.name_of("group")
    if name is None or not frame[name].is_duplicated().any():
        return
    for part, many in few_groups(parts, frame[name]).items():
        rows = int((parts == part).sum())
        if many == 1:
            raise DataError(
                f"split: all {rows} rows of the {part} part are of one {name} (role group), so nothing could be said about "
                "others; leave out the one that has so many rows, or keep some of its rows only; where the groups are places, "
                "name the column's role site and take split.by: site"
            )
        if say_few:
            log.warning(
                "%s: %d rows that are worth fewer than %d of column %s (role group), for few have most of the rows: do not rely "
                "on intervals",
                part,
                rows,
                FEW_GROUPS,
                name,
            )


def overlap(cohort: Cohort, parts: Parts, texts: Sequence[str], data: DataConfig) -> dict[str, dict[str, int]]:
    """What the parts share, counted. That they share no id and no group, `split_cohort` has
    checked.

    Keys: `rows` (identical in every feature and ready text), `texts` (identical serialized text);
    each counts the test rows, and the validation rows, that have a twin in training.
    """
    rows = cohort.frame.select(data.inputs).hash_rows(seed=0)
    return {"rows": shared_between(rows, parts), "texts": shared_between(texts, parts)}


def shared_between(keys: Sequence[Any] | np.ndarray | pl.Series, parts: Parts) -> dict[str, int]:
    """How many validation and test rows have a key that also stands in an earlier part."""
    train, validation, test = (pl.Series(keys).filter(pl.Series(parts == part)) for part in PARTS)
    return {
        "validation_in_train": int(validation.is_in(train.implode(), nulls_equal=True).sum()),
        "test_in_train": int(test.is_in(train.implode(), nulls_equal=True).sum()),
        "test_in_validation": int(test.is_in(validation.implode(), nulls_equal=True).sum()),
    }


def counts(parts: Parts, events: np.ndarray) -> dict[str, dict[str, int]]:
    """Rows and events a part, and of the unused if there are any: together they are all rows."""
    names = [*PARTS, *([UNUSED] if (parts == UNUSED).any() else [])]
    return {p: {"n": int((parts == p).sum()), "n_events": int(events[parts == p].sum())} for p in names}


__all__ = ["EVENT", "PARTS", "Parts", "counts", "overlap", "shared_between", "split_cohort"]
