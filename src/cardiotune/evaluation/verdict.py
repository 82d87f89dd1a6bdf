"""Whether the tuned language model is worth it beside the classical models, in a word and in plain
sentences."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from cardiotune.comparators import COMPARATORS, MATCHED, having
from cardiotune.data.small_counts import FEW
from cardiotune.evaluation.intervals import NORMAL_QUANTILE, Interval
from cardiotune.evaluation.judgement import Decision, Estimate, Part, Verdict

RIVALS = having(lambda one: one.rival)
"""What a language model must beat."""
NEGLIGIBLE = 0.0005
"""A smaller difference in AUROC or log-loss would be written as 0.000, and is no reason for a
verdict."""
FEW_ROWS = 100
"""Fewer events, or fewer non-events, judge a model poorly. Collins et al., Stat Med 2016;35:214."""
MARGIN = 0.02
"""A difference in AUROC that matters, where an experiment does not say another."""
ERROR = 0.05
"""How often `worse` may come out, at most, where no rival is better."""


def verdict(part: Part, held_out: Sequence[str] = (), margin: float = MARGIN) -> Verdict:
    """Is the tuned language model worth it beside every classical model that was run?

    `decision`: `better` (than every one), `worse` (than at least one, by differences that count all
    of them: where none is better it comes out in at most 5 of 100 such parts), `too_small_to_judge`
    (the interval of the difference in AUROC is wider than `margin` to both sides, and reaches
    beyond a gain of that size), `no_difference_shown` or `no_comparison`; `against`: the classical
    model that decides it, the first of a fixed order where several do; `text`: the same in plain
    words, with the tables that were held out. Where some rivals match columns themselves, two cases
    are told: columns matched by hand, which `decision` is about, and, as `unharmonised`, columns
    that nobody has matched, where words are read too.
    """
    rivals = [name for name in RIVALS if name in part.models]
    if not rivals:
        return _no_comparison("No classical model was run beside the tuned model, so nothing is shown.")
    if part.models["tuned"]["auroc"].value is None:
        return _no_comparison("These rows hold one outcome only, so no comparison can be made.")
    given = [name for name in rivals if name not in MATCHED]
    if len(given) < len(rivals):
        alone = [name for name in rivals if name in MATCHED or COMPARATORS[name].terms]
        cases = [(how, _against(part, names, margin)) for how, names in (("can", given), ("cannot", alone)) if names]
        told = " ".join(f"If you {how} harmonise the columns: {case.text}" for how, case in cases)
        found = replace(cases[0][1], text=told, unharmonised=cases[1][1] if given else None)
    else:
        found = _against(part, rivals, margin)
    return replace(found, text=found.text + _warned(part, held_out))


def _against(part: Part, rivals: Sequence[str], margin: float) -> Verdict:
    """The verdict beside some of the rivals."""
    adjusted = _adjusted(part, rivals)
    decisions = {name: _decide(*_key_differences(part, name), adjusted[name], margin) for name in rivals}
    # Of those that decide alike the first of a fixed order: one chosen by its results would seem
    # better than it is.
    rival = min(rivals, key=lambda name: (_ORDER.index(decisions[name]), COMPARATORS[name].main))
    alike = [COMPARATORS[name].rival for name in rivals if name != rival and decisions[name] == decisions[rival]]
    decision, named = decisions[rival], COMPARATORS[rival].rival
    auroc, loss = _key_differences(part, rival)
    found = f"AUROC {_value(auroc):+.3f}{_span(auroc.ci)}, log-loss {_value(loss):+.3f}{_span(loss.ci)}"
    if _side(auroc) * _side(loss) > 0:
        unclear = f"its ranking and its probabilities point to different sides beside {named}"
    elif _side(loss) < 0:
        unclear = f"it does not rank clearly better than {named}"
        if "tuned" in part.raw:
            unclear += ", and of the two its probabilities alone were adjusted afterwards"
    else:
        unclear = f"it does not differ clearly from {named}"
    cheaper = f"{named} is far cheaper to fit, run and explain"
    text = {
        "better": f"The tuned language model beats {named}: {found}" + (f"; and {_and(alike)} too." if alike else "."),
        "worse": f"The tuned language model is not worth it here: {named} is better ({found} for the language model)"
        + (f", and so {'are' if len(alike) > 1 else 'is'} {_and(alike)}" if alike else "")
        + (f", {len(rivals)} classical models counted (Holm)." if len(rivals) > 1 else "."),
        "too_small_to_judge": (
            f"Too small to judge: the rows do not tell whether the tuned language model ranks better than {named} by "
            f"{margin:g} or more, which would matter, or worse ({found}), and {cheaper}."
        ),
        "no_difference_shown": (
            f"The tuned language model is not shown to be worth it here: {unclear} ({found}), and {cheaper}."
        ),
    }[decision]
    nearly = [name for name in rivals if _decide(*_key_differences(part, name)) == "worse"]
    if decision != "worse" and nearly:
        named = _and((COMPARATORS[name].rival for name in nearly), "or")
        text += f" By itself {named} would count as better; with all {len(rivals)} classical models counted (Holm) that may "
        text += "be chance."
    return Verdict(decision, text, rival)


_ORDER = ("worse", "no_difference_shown", "too_small_to_judge", "better")
"""Which of the decisions beside single rivals is the verdict: the first that there is."""


def _adjusted(part: Part, rivals: Sequence[str]) -> Mapping[str, tuple[bool, bool]]:
    """Rival -> whether AUROC and log-loss differ from it beyond chance, all comparisons counted
    (Holm, Scand J Stat 1979;6:65)."""
    tests = {(name, place): _p(entry) for name in rivals for place, entry in enumerate(_key_differences(part, name))}
    clear = dict.fromkeys(tests, False)
    for left, test in zip(range(len(tests), 0, -1), sorted(tests, key=lambda test: tests[test]), strict=True):
        if tests[test] * left > ERROR:
            break
        clear[test] = True
    return {name: (clear[name, 0], clear[name, 1]) for name in rivals}


def _p(difference: Estimate) -> float:
    """Two-sided, from the estimate and the width of its 95 % interval (Altman & Bland, BMJ
    2011;343:d2304); 1 where the interval does not leave out 0."""
    if not _side(difference):
        return 1.0
    assert difference.ci is not None
    error = (difference.ci[1] - difference.ci[0]) / (2 * NORMAL_QUANTILE)
    return math.erfc(abs(_value(difference)) / error / math.sqrt(2))


def _warned(part: Part, held_out: Sequence[str]) -> str:
    """What to keep in mind with every verdict on these rows, behind it."""
    text, happened = "", part.n_events
    if happened is None or min(happened, part.n - happened) < FEW_ROWS:
        told = f"fewer than {FEW} with one of the outcomes" if happened is None else f"{happened} of them events"
        text += f" With only {part.n} test rows, {told}, the intervals are wide: read this as a first look."
    if part.censoring is not None:
        text += " All figures are weighted by the inverse probability of censoring (IPCW)."
    if held_out:
        text += f" Held out: {_and(held_out)}."
    return text


def _and(names: Iterable[str], word: str = "and") -> str:
    """`a, b and c`."""
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last


def _no_comparison(text: str) -> Verdict:
    return Verdict("no_comparison", text)


def _key_differences(part: Part, rival: str) -> tuple[Estimate, Estimate]:
    """What decides: ranking (AUROC) and probabilities (log-loss)."""
    assert part.differences is not None
    return part.differences[rival]["auroc"], part.differences[rival]["log_loss"]


def _decide(
    auroc: Estimate, log_loss: Estimate, counted: tuple[bool, bool] = (True, True), margin: float = MARGIN
) -> Decision:
    """Better: clearly so in ranking, while the probabilities do not even point to worse.

    Better probabilities alone do not make it: the language model is calibrated on the validation
    part, its rivals are not. Worse: clearly so in one, as `counted` says with all comparisons, and
    not clearly better in the other. Doubt counts against the costlier model. To be better than all
    takes no count of them: each must be beaten (Berger, Technometrics 1982;24:295).
    """
    ranking, probabilities = _side(auroc), -_side(log_loss)
    points_to_worse = _value(auroc) <= -NEGLIGIBLE or _value(log_loss) >= NEGLIGIBLE
    if ranking > 0 and not points_to_worse:
        return "better"
    worse = any(side < 0 and clear for side, clear in zip((ranking, probabilities), counted, strict=True))
    if worse and max(ranking, probabilities) <= 0:
        return "worse"
    low, high = auroc.ci or (0.0, 0.0)
    return "too_small_to_judge" if high - low > 2 * margin and high > margin else "no_difference_shown"


def _value(entry: Estimate) -> float:
    """Of what is defined where both outcomes are there."""
    assert entry.value is not None
    return entry.value


def _side(difference: Estimate) -> int:
    """1 when the difference is clearly above 0, by its interval, -1 when clearly below, 0 when it
    does not tell."""
    ci = difference.ci
    if ci is None or abs(_value(difference)) < NEGLIGIBLE:
        return 0
    return int(ci[0] > 0) - int(ci[1] < 0)


def _span(ci: Interval | None) -> str:
    return "" if ci is None else f" (95 % CI {ci[0]:+.3f} to {ci[1]:+.3f})"
