"""Seconds and peak memory from a UK Biobank export to a cohort with text, step by step, on a
synthetic export.

    python -m benchmarks.ukb_scale --rows 500000 --columns 3000 --json ukb_scale.json

The export is made in a process of its own, so that its memory is not counted.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.prepare import Steps
from benchmarks.worker import peak_memory_mib
from cardiotune.config import load_config
from cardiotune.data.cohort import read_cohort
from cardiotune.data.serialize import column_order, serialize_rows
from cardiotune.data.split import split_cohort
from cardiotune.files import write_json

LIMITS = {"seconds": 600, "peak_mib": 6144}
"""What 500,000 rows may take on two cores, all steps together."""


def measure(export: Path, *overrides: str) -> dict[str, Any]:
    """Steps of `read_prepared`, one by one."""
    config = load_config("ukb_cad_demo", [f"data.path={export}", "split.train_rows=null", *overrides])
    steps = Steps()
    with steps.step("export to cohort"):
        cohort = read_cohort(config.data, config.seed)
    with steps.step("split, relatives together"):
        split_cohort(cohort, config.data, config.split, config.seed)
    with steps.step("text"):
        order = column_order(cohort.frame, config.data, config.serialize)
        texts = serialize_rows(cohort.frame, order, config.data, config.serialize)
    seconds = sum(step["seconds"] for step in steps.measured.values())
    return {"rows": cohort.flow[0].left, "cohort": len(texts), "seconds": seconds, "peak_mib": round(peak_memory_mib()),
            "steps": steps.measured, "flow": [asdict(step) for step in cohort.flow]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--columns", type=int, help="pad the export with made-up fields to this many columns")
    parser.add_argument("--style", default="csv", choices=["csv", "tab", "rap", "rap_prefixed", "titles"])
    parser.add_argument("--export", type=Path, help="an export that is there already; nothing is made")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        export = asked.export or Path(folder) / "export"
        if not asked.export:
            made = ["--rows", str(asked.rows), "--style", asked.style, "--out", str(export)]
            made += ["--columns", str(asked.columns)] if asked.columns else []
            subprocess.run([sys.executable, "-m", "cardiotune", "synth", "ukb", *made], check=True)
        found = measure(export, *asked.set)
    print(
        f"{found['rows']} participants, {found['cohort']} in the cohort: {found['seconds']:.1f} s, {found['peak_mib']} MiB"
    )
    print(f"limits for 500,000 rows: {LIMITS['seconds']} s, {LIMITS['peak_mib']} MiB")
    if asked.json:
        write_json(asked.json, {**found, "limits": LIMITS})


if __name__ == "__main__":
    main()
