"""How many people it takes to develop a regression, and to validate a model, for a yes/no outcome.

Developing: Riley et al., BMJ 2020;368:m441. Validating: Riley et al., Stat Med 2021;40:4230 and BMJ
2024;384:e074821. Formulas are in closed form; where an AUROC stands for the unknown risks, these
are taken as those of two normal log-odds of equal spread (Riley et al., Stat Med 2021;40:859), and
integrated, not simulated. Rows are independent people, prevalence and AUROC those expected of them,
both between 0 and 1, the AUROC above 0.5. Numbers are rounded up.

No count of parameters says how many rows a fine-tuned language model takes (`NOT_OF_LLMS`).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from cardiotune.models.logistic import sigmoid

Array = NDArray[np.float64]

SHRINKAGE = 0.9
"""Calibration slope that new patients are expected to show, at least."""
OPTIMISM = 0.05
"""By how much the R2 after Nagelkerke may be too high, at most."""
MARGIN = 0.05
"""By how much the estimated prevalence may be off, 95 %."""
QUANTILE = 1.96
"""Of the normal distribution, as the sources write it."""
WIDTH, AREA_WIDTH = 0.2, 0.1
"""Width of the 95 % interval of O:E, slope and standardised net benefit, and of the AUROC."""
NOT_OF_LLMS = (
    "Riley's criteria count the parameters of a regression and do not apply to a fine-tuned language model, whose millions "
    "of weights hold what was learned elsewhere; how it gains by further rows is what its learning curve shows"
)
CRITERIA = {
    "shrinkage": "coefficients shrink by 10 % at most",
    "optimism": "R² is too high by 0.05 at most",
    "intercept": "the prevalence is known within 0.05",
    "observed_expected": "O:E with an interval 0.2 wide",
    "calibration_slope": "calibration slope with an interval 0.2 wide",
    "auroc": "AUROC with an interval 0.1 wide",
    "net_benefit": "net benefit at the threshold, as a share of the prevalence, with an interval 0.2 wide",
}
"""In words."""
POINTS, FAR = 20_001, 9.0
"""Of the grid on which is integrated, and how many standard deviations it goes beyond the means."""


def risks_of(auroc: float, prevalence: float) -> tuple[Array, Array]:
    """Log-odds (points,) on a grid and the share of people at each (points,), of a calibrated model
    with this AUROC."""
    apart = math.sqrt(2) * float(norm.ppf(auroc))  # means of others and events, in standard deviations
    at = np.linspace(-FAR, apart + FAR, POINTS)
    density = prevalence * norm.pdf(at - apart) + (1 - prevalence) * norm.pdf(at)
    return math.log(prevalence / (1 - prevalence)) + apart * at - apart**2 / 2, density / density.sum()


def cox_snell(auroc: float, prevalence: float) -> float:
    """R2 after Cox and Snell that an AUROC stands for."""
    log_odds, share = risks_of(auroc, prevalence)
    risk = sigmoid(log_odds)
    fitted = float(share @ (risk * log_odds - np.logaddexp(0, log_odds)))
    return 1 - math.exp(2 * (_null(prevalence) - fitted))


def _null(prevalence: float) -> float:
    """Log-likelihood of a row under the prevalence alone."""
    return prevalence * math.log(prevalence) + (1 - prevalence) * math.log1p(-prevalence)


def to_develop(parameters: int, prevalence: float, r2: float) -> dict[str, int]:
    """Rows for a regression of so many candidate parameters, by criterion; `r2`: Cox and Snell's.

    `shrinkage`: of its coefficients no more than 10 %. `optimism`: at most 0.05 in Nagelkerke's R2.
    `intercept`: the prevalence within 0.05. The highest of them is what it takes.
    """
    most = 1 - math.exp(2 * _null(prevalence))

    def shrunk_to(slope: float) -> int:
        return math.ceil(parameters / ((slope - 1) * math.log1p(-r2 / slope)))

    return {
        "shrinkage": shrunk_to(SHRINKAGE),
        "optimism": shrunk_to(r2 / (r2 + OPTIMISM * most)),
        "intercept": math.ceil((QUANTILE / MARGIN) ** 2 * prevalence * (1 - prevalence)),
    }


@dataclass(frozen=True, slots=True)
class Flagging:
    """What a model is expected to do at a threshold: shares from 0 to 1."""

    threshold: float
    sensitivity: float
    specificity: float


def to_validate(auroc: float, prevalence: float, flagging: Flagging | None = None) -> dict[str, int]:
    """Rows for narrow intervals of `observed_expected`, `calibration_slope` and `auroc`, and of
    `net_benefit` where it is said what the model does at a threshold."""
    error = WIDTH / 2 / QUANTILE
    rows = {
        "observed_expected": for_observed_expected(prevalence, math.asinh(WIDTH / 2) / QUANTILE),
        "calibration_slope": for_slope(*risks_of(auroc, prevalence), error),
        "auroc": for_auroc(auroc, prevalence, AREA_WIDTH / 2 / QUANTILE),
    }
    return rows if flagging is None else {**rows, "net_benefit": for_net_benefit(flagging, prevalence, error)}


def for_observed_expected(prevalence: float, error: float) -> int:
    """Rows for a standard error of ln O:E (equation 3)."""
    return math.ceil((1 - prevalence) / (prevalence * error**2))


def for_slope(log_odds: Array, share: Array, error: float) -> int:
    """Rows for a standard error of the slope of a calibrated model, log-odds (points,) of which are
    those of a share (points,) of people each (equation 9)."""
    risk = sigmoid(log_odds)
    held = share * risk * (1 - risk)
    intercept, both, slope = (float(held @ log_odds**power) for power in (0, 1, 2))
    return math.ceil(intercept / (error**2 * (intercept * slope - both**2)))


def for_auroc(auroc: float, prevalence: float, error: float) -> int:
    """Rows for a standard error of the AUROC (equation 11: Newcombe's, method 4), solved for
    them."""
    spread = (1 - auroc) / (2 - auroc) + auroc / (1 + auroc)
    square, linear = prevalence * (1 - prevalence) * error**2, auroc * (1 - auroc) * spread / 2
    constant = auroc * (1 - auroc) * (1 - spread)
    return math.ceil((linear + math.sqrt(linear**2 + 4 * square * constant)) / (2 * square))


def for_net_benefit(at: Flagging, prevalence: float, error: float) -> int:
    """Rows for a standard error of the net benefit as a share of the prevalence (equation 13)."""
    odds = (1 - prevalence) / prevalence * at.threshold / (1 - at.threshold)
    found = at.sensitivity * (1 - at.sensitivity) / prevalence
    alarms = at.specificity * (1 - at.specificity) / (1 - prevalence)
    flagged = (1 - at.specificity) ** 2 / (prevalence * (1 - prevalence))
    return max(1, math.ceil((found + odds**2 * (alarms + flagged)) / error**2))


# --------------------------------------------------------------------------------------------------
# of a run


@dataclass(frozen=True, slots=True)
class Developed:
    """What the classical models of a run learn from."""

    rows: int
    """Of the training part."""
    events: int | None
    """None for a small count."""
    parameters: int
    """That a logistic regression of the columns fits, without the intercept."""


@dataclass(frozen=True, slots=True)
class Needed:
    """Rows that it takes, and those that there are."""

    model: str
    """Whose AUROC is planned with."""
    auroc: float
    prevalence: float
    here: int
    """Rows, or how many independent rows of equal weight they are worth."""
    rows: Mapping[str, int]
    """Criterion -> rows that it takes."""
    parameters: int | None = None
    """Of a regression that is developed."""

    @property
    def most(self) -> int:
        """What all criteria together take."""
        return max(self.rows.values())

    @property
    def enough(self) -> bool:
        """Whether there are so many."""
        return self.here >= self.most


@dataclass(frozen=True, slots=True)
class SampleSize:
    """What it takes to develop and to validate; None where this is not known, or not told."""

    develop: Needed | None = None
    validate: Needed | None = None

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """`sample_size` of a part."""
        return cls(**{name: None if found is None else Needed(**found) for name, found in entry.items()})

    def as_json(self) -> dict[str, Any]:
        """`{"develop", "validate"}`."""
        return asdict(self)
