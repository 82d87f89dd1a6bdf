"""Who judges it: metrics with intervals, subgroups, calibration, explanations, Table 1."""
