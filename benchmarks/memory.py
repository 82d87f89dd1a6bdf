"""Estimated against measured peak memory of `cardiotune train`, each in a process of its own.

python -m benchmarks.memory [KEY=VALUE ...]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

COMMON = ["data.max_rows=60", "train.max_steps=2", "train.evaluate_every=2", "models=[tuned]"]
CASES = [
    ["use.model=smollm2-135m", "use.method=lora"],
    ["use.model=smollm2-135m", "use.method=lora", "train.batch_size=24"],
    ["use.model=smollm2-135m", "use.method=qlora"],
    ["use.model=smollm2-135m", "use.method=full"],
    ["use.model=gemma3-270m", "use.method=lora"],
    ["use.model=gemma3-270m", "use.method=full"],
    ["use.model=minilm-l6", "use.method=lora", "task.head=classifier"],
    ["use.model=minilm-l6", "use.method=full", "task.head=classifier"],
]


def estimated(case: list[str]) -> float:
    """MiB, as `cardiotune doctor` says."""
    command = [sys.executable, "-m", "cardiotune", "doctor", "statlog_heart", *case, *COMMON, "--json"]
    facts = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return float(facts["memory_mib"]["peak"])


def measured(case: list[str], folder: Path) -> float:
    """MiB, the highest resident size of the process."""
    command = [sys.executable, "-m", "cardiotune", "train", "statlog_heart", *case, *COMMON, f"runs_dir={folder}"]
    subprocess.run(command, check=True, capture_output=True)
    (manifest,) = folder.glob("*/manifest.json")
    return float(json.loads(manifest.read_text())["stages"]["train"]["peak_memory_mib"])


def main(more: list[str]) -> None:
    print("| config | estimated MiB | measured MiB | ratio |\n|---|---|---|---|")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            guess, peak = estimated([*case, *more]), measured([*case, *more], Path(folder))
        name = ", ".join(part.split("=", 1)[1] if part.startswith("use.") else part for part in case)
        print(f"| {name} | {guess:.0f} | {peak:.0f} | {guess / peak:.2f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
