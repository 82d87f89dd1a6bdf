"""Ask the libraries that cannot live in the project's environment, or read what they said when they
were asked."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
PYTHON = FOLDER.parents[1] / ".venv" / "oracles" / "bin" / "python"


def ask(**asked: Any) -> dict[str, Any]:
    """What `judge.py` answers; the test skips where its environment is not there."""
    if not PYTHON.is_file():
        pytest.skip("no environment for dcurves and fairlearn; make it with `make oracles`")
    lists = {name: value if isinstance(value, float | list) else value.tolist() for name, value in asked.items()}
    done = subprocess.run(
        [PYTHON, FOLDER / "judge.py"], input=json.dumps(lists), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def golden() -> dict[str, Any]:
    """The answer to `input.json`, which holds it too; `judge.py` says how it was made, and the file
    with which versions."""
    answer: dict[str, Any] = json.loads((FOLDER / "golden.json").read_text("utf-8"))
    return answer
