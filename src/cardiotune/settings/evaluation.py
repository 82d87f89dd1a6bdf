"""How predictions are judged."""

from typing import Literal

from pydantic import Field, model_validator

from cardiotune.settings.strict import Settings, Share


class Threshold(Settings):
    """A decision threshold: a value, or a rule that finds one on the validation part."""

    name: str | None = None
    """What the report calls it. Default: the value, or the rule in words."""
    value: float | None = Field(None, gt=0, lt=1)
    """The risk at and above which a patient is flagged; or give `rule`."""
    rule: Literal["sensitivity", "youden", "net_benefit"] | None = None
    """`sensitivity`: flags at least the share `at` of the events. `youden`: highest sensitivity +
    specificity. `net_benefit`: highest net benefit when a false positive weighs at / (1 - at) of a
    true positive."""
    at: Share | None = None
    """For `sensitivity`, the share of events to flag at least; for `net_benefit`, the risk at which
    a treatment is worth it."""

    @model_validator(mode="after")
    def _one_of_them(self) -> "Threshold":
        if (self.value is None) == (self.rule is None):
            raise ValueError("evaluation.thresholds: each needs either value or rule")
        if (self.at is not None) != (self.rule in ("sensitivity", "net_benefit")):
            raise ValueError("evaluation.thresholds: rules sensitivity and net_benefit need `at`, others have none")
        return self

    @property
    def label(self) -> str:
        """The name, or the rule in words."""
        if self.name or self.rule is None:
            return self.name or f"{self.value:.3g}"
        return {"sensitivity": f"sensitivity >= {self.at}", "net_benefit": f"net benefit at {self.at}"}.get(
            self.rule, "Youden"
        )


OF_GUIDELINES = (Threshold(name="7.5 %", value=0.075), Threshold(name="10 %", value=0.1))
"""ACC/AHA 2019 and NICE NG238, for the 10-year risk of cardiovascular disease and nothing else."""
YOUDEN = Threshold(rule="youden")


class EvaluationConfig(Settings):
    """How predictions are judged."""

    calibration: Literal["none", "temperature", "platt", "isotonic", "beta"] = "platt"
    """How the tuned model's probabilities are calibrated, on the validation part."""
    thresholds: list[Threshold] | None = None
    """Beside `task.threshold`. Default: Youden's and, for the 10-year risk of a coronary endpoint
    of UK Biobank, those of the guidelines for it: 7.5 % (ACC/AHA 2019) and 10 % (NICE NG238)."""
    subgroups: list[str] | None = None
    """Columns, or pairs such as `sex x age`. Default: sex, age and site, where the dictionary has
    them."""
    age_bands: list[float] = [45, 55, 65, 75]
    """Years at which age is cut into bands."""
    known_ceiling: float | None = Field(None, gt=0.5, le=1)
    """The highest AUROC that is believable on this table; a result that is surely above it is
    reported as a leak. A data set's file gives it with its source. Default: that of the public
    table with these columns, else 0.99; of several tables with test rows the highest."""
    margin: float = Field(0.02, gt=0, lt=0.5)
    """A difference in AUROC that matters. Where the interval of a difference is wider than this to
    both sides, and a gain of this size may hide in it, the verdict is that the test part is too
    small to judge."""
    bootstrap_method: Literal["ordinary", "stratified"] = "ordinary"
    """`stratified` keeps the number of events fixed; intervals of calibration and precision are
    then too narrow."""
    bootstrap: int = Field(1000, ge=100)
    """Bootstrap replicates behind every interval."""
    parts: list[Literal["train", "validation", "test"]] = ["validation", "test"]
    """Parts that are scored and judged."""
    score2_region: Literal["low", "moderate", "high", "very_high"] = "low"
    """Risk region of SCORE2, for the comparator `score2`. The United Kingdom is `low`."""
    keep_row_ids: bool = False
    """Write the table's own ids into predictions instead of keyed hashes."""
    score_batch_tokens: int = Field(2048, ge=64)
    """Tokens in one scoring batch, after sharing or with padding. More is faster on a GPU, not on a
    CPU."""
