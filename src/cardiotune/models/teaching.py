"""What a language model learns from a model on columns, beside the outcomes: its risks of the
training rows (distillation: Hinton et al., arXiv 1503.02531, section 2).

An outcome is one draw; a risk says how likely it was. Where training texts leave out columns, or
word them in other ways, the risk is still that of all columns.
"""

import numpy as np
from numpy.typing import NDArray

from cardiotune.data.prepare import Prepared
from cardiotune.models.baselines import BASELINES
from cardiotune.models.labelled import LabelledRows
from cardiotune.settings import Config


def targets(config: Config, prepared: Prepared) -> NDArray[np.float64] | None:
    """(rows of the cohort,) the mean of outcome and the teacher's risk, by `train.teacher_weight`;
    None without a teacher. It is fitted on the training part alone."""
    if config.train.teacher is None:
        return None
    cohort, weight = prepared.cohort, config.train.teacher_weight
    rows = LabelledRows(cohort.frame, cohort.events, prepared.parts, config.data, config.seed)
    risks = BASELINES[config.train.teacher](rows)
    return np.asarray(weight * risks + (1 - weight) * cohort.events)
