"""What dcurves and fairlearn say of the same risks: JSON in, JSON out. Runs in an environment of
its own.

    make oracles
    cd tests/oracles && ../../.venv/oracles/bin/python judge.py < input.json > golden.json

In: `y_true`, `y_prob` and `group` of each row, `thresholds` of the decision curve, and the one
`threshold` at which groups are judged. Out: that again as `input`, `versions`, `net_benefit` (model
-> one a threshold) and `by_group` (group -> metric).
"""

import json
import sys
from importlib.metadata import version

import numpy as np
import pandas
from dcurves import dca
from fairlearn.metrics import MetricFrame, false_negative_rate, true_positive_rate

asked = json.load(sys.stdin)
y_true, y_prob = np.array(asked["y_true"]), np.array(asked["y_prob"])

frame = pandas.DataFrame({"outcome": y_true, "model": y_prob})
curves = dca(data=frame, outcome="outcome", modelnames=["model"], thresholds=asked["thresholds"])
net_benefit = {
    name: curves[curves.model == name].sort_values("threshold").net_benefit.tolist()
    for name in ("model", "all", "none")
}
groups = MetricFrame(
    metrics={"sensitivity": true_positive_rate, "fnr": false_negative_rate},
    y_true=y_true,
    y_pred=(y_prob >= asked["threshold"]).astype(int),
    sensitive_features=asked["group"],
)
json.dump(
    {
        "made_by": ".venv/oracles/bin/python tests/oracles/judge.py < tests/oracles/input.json",
        "versions": {name: version(name) for name in ("dcurves", "fairlearn", "pandas", "scikit-learn")},
        "net_benefit": net_benefit,
        "by_group": groups.by_group.to_dict("index"),
        "input": asked,
    },
    sys.stdout,
    indent=1,
)
print()
