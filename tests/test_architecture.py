"""A module imports only from the rooms before its own; the hall imports from none of them."""

import ast
from pathlib import Path

import pytest

import cardiotune

SOURCE = Path(cardiotune.__file__).parent
ROOMS = ("data", "synthetic_ukb", "training", "models", "evaluation", "audit", "report", "deployment")
HALL = ("config", "settings", "comparators", "compatibility", "runs", "files", "processes", "progress", "errors")
MODULES = sorted(SOURCE.rglob("*.py"))


def imported(file: Path) -> set[str]:
    """First part below `cardiotune` of every import, those inside functions too."""
    found = set()
    package = file.relative_to(SOURCE).parent.parts
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["cardiotune", *package][: len(package) + 2 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("cardiotune.")}
    return found


def test_the_walk_sees_imports_inside_functions(tmp_path: Path) -> None:
    assert {"stages", "config"} <= imported(SOURCE / "cli.py"), "cli imports stages inside its commands"
    assert "training" in imported(SOURCE / "stages.py")


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_go_one_way(file: Path) -> None:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    room = parts[0]
    if room in HALL:
        allowed = set(HALL)
    elif room in ROOMS:
        allowed = {*HALL, *ROOMS[: ROOMS.index(room) + 1]}
    else:
        return  # the commands call all rooms
    own = {"__version__"}
    assert imported(file) <= allowed | own, f"{file.name} reaches into a later room"


def test_no_room_reaches_back_to_the_commands() -> None:
    inside = [file for file in MODULES if file.relative_to(SOURCE).parts[0].removesuffix(".py") in (*ROOMS, *HALL)]
    assert len(inside) > 12
    assert not any({"cli", "stages", "studies", "reopen", "doctor", "risk_model"} & imported(file) for file in inside)


def test_yaml_is_read_in_one_place() -> None:
    readers = [file.name for file in MODULES if "import yaml" in file.read_text("utf-8")]
    assert readers == ["config.py"]


def test_no_file_is_called_utils() -> None:
    assert not {"utils", "common", "base", "helpers"} & {file.stem for file in MODULES}


def test_there_is_one_progress_bar() -> None:
    assert [file.name for file in MODULES if "rich.progress" in file.read_text("utf-8")] == ["progress.py"]
