"""A module imports only from the rooms before its own, the hall from none of them; there are no
circles, and no room is above its share."""

import ast
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import cardiotune

SOURCE = Path(cardiotune.__file__).parent
ROOT = Path(__file__).parents[1]
ROOMS = ("data", "synthetic_ukb", "training", "models", "evaluation", "audit", "report", "deployment")
HALL = (
    "config",
    "settings",
    "comparators",
    "families",
    "compatibility",
    "runs",
    "files",
    "processes",
    "progress",
    "errors",
)
MODULES = sorted(SOURCE.rglob("*.py"))


def name_of(file: Path) -> str:
    """`cardiotune.data.table`; a package's is its folder's."""
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def names_in(node: ast.AST) -> set[str]:
    """Names in full of what a statement imports; none of another statement."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert not node.level, "imports name the package"
        return {f"{node.module}.{alias.name}" for alias in node.names}
    return set()


def imports(file: Path) -> set[str]:
    """Names in full of what a file imports of this package, inside functions too."""
    found = {name for node in ast.walk(ast.parse(file.read_text("utf-8"))) for name in names_in(node)}
    return {name for name in found if name.startswith("cardiotune.")}


def imported(file: Path) -> set[str]:
    """First part below `cardiotune` of every import."""
    return {name.split(".")[1] for name in imports(file)}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules of one circle of imports, in order; none where there is none."""
    done: set[str] = set()

    def walk(way: list[str]) -> list[str]:
        for following in sorted(graph[way[-1]] - done):
            if following in way:
                return [*way[way.index(following) :], following]
            if found := walk([*way, following]):
                return found
        done.add(way[-1])
        return []

    return next((found for module in graph if (found := walk([module]))), [])


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
    assert not any(
        {"cli", "stages", "studies", "reopen", "lineage", "doctor", "risk_model"} & imported(file) for file in inside
    )


def test_no_import_leads_back_to_where_it_came_from() -> None:
    """Of all modules but the package's own, which loads `RiskModel` when it is asked for."""
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    names = {name_of(file): file for file in MODULES if file.parent != SOURCE or file.stem != "__init__"}
    graph = {
        name: {found if found in names else found.rpartition(".")[0] for found in imports(file)} & names.keys() - {name}
        for name, file in names.items()
    }
    assert {"cardiotune.stages", "cardiotune.training.start"} <= graph.keys()
    assert "cardiotune.training.train" in graph["cardiotune.training.start"]
    assert circle(graph) == []


LARGEST_SHARE = 0.25


def test_no_room_holds_more_than_a_quarter_of_the_lines() -> None:
    files = [file for ending in ("py", "j2", "js", "html", "css") for file in SOURCE.rglob(f"*.{ending}")]
    lines: Counter[str] = Counter()
    for file in files:
        lines[file.relative_to(SOURCE).parts[0]] += len(file.read_text("utf-8").splitlines())
    shares = {room: round(lines[room] / lines.total(), 3) for room in ROOMS}
    assert set(shares) | {"settings"} == {
        folder.name for folder in SOURCE.iterdir() if (folder / "__init__.py").is_file()
    }
    assert max(shares.values()) <= LARGEST_SHARE, shares


def test_yaml_is_read_in_one_place() -> None:
    readers = [file.name for file in MODULES if "import yaml" in file.read_text("utf-8")]
    assert readers == ["config.py"]


def test_no_file_is_called_utils() -> None:
    assert not {"utils", "common", "base", "helpers"} & {file.stem for file in MODULES}


def test_there_is_one_progress_bar() -> None:
    assert [file.name for file in MODULES if "rich.progress" in file.read_text("utf-8")] == ["progress.py"]


# --------------------------------------------------------------------------------------------------
# README's tree


def tree() -> dict[Path, str]:
    """Paths in README's tree and what it says of each; a folder's files stand below it, further to
    the right."""
    section = (ROOT / "README.md").read_text("utf-8").partition("## The tree\n")[2].partition("\n## ")[0]
    found: dict[Path, str] = {}
    above: list[tuple[int, Path]] = [(0, ROOT)]
    for line in filter(None, section.splitlines()):
        entry = re.fullmatch(r"( {4,})(\S+)(?: {2,}(\S.*))?", line)
        assert entry and len(line) <= 100, line
        indent, name, phrase = entry.groups()
        while above[-1][0] >= len(indent):
            above.pop()
        path = above[-1][1] / name
        assert path not in found, f"{name} stands twice"
        found[path] = phrase or ""
        if name.endswith("/"):
            above.append((len(indent), path))
    return found


def test_the_readme_shows_the_tree_as_it_is() -> None:
    """Every module has a line, or stands in a folder of which the line tells as a whole."""
    shown = tree()
    gone = [path for path in shown if not path.exists()]
    assert not gone, "README's tree names what is not there"
    assert [path for path, phrase in shown.items() if not phrase] == [SOURCE], "a line says what it is for"
    whole = {path for path in shown if path.is_dir() and not any(path in other.parents for other in shown)}
    modules = {file for file in MODULES if not file.stem.startswith("__")}
    missing = {file for file in modules - shown.keys() if not whole & set(file.parents)}
    assert not missing, "README's tree lacks modules: a line each, with what it is for"


def test_the_readme_shows_rooms_in_the_order_of_the_way() -> None:
    rooms = [path.name for path in tree() if path.parent == SOURCE and path.name in ROOMS]
    assert rooms == list(ROOMS)


# --------------------------------------------------------------------------------------------------
# imports inside functions

OPTIONAL = {
    "accelerate.utils.DeepSpeedPlugin",
    "bitsandbytes",
    "cyllama",
    "deepspeed",
    "httpx",
    "kagglehub",
    "lifelines",
    "mlflow",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "optuna",
    "wandb",
}
"""What a function may import: packages that a user may lack (extras of pyproject.toml)."""
BRINGS_ONE = {"peft"}
"""Imports bitsandbytes, which is optional, and says so on standard error; 0.8 s of CPU."""
LATE = {"cli.py", "__init__.py"}
"""For start-up time: commands; and the package, which loads `RiskModel` when it is asked for."""


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_stand_at_the_top(file: Path) -> None:
    if str(file.relative_to(SOURCE)) in LATE:
        return
    inside = {
        name
        for function in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        for name in names_in(node)
    }
    allowed = tuple(f"{name}." for name in OPTIONAL | BRINGS_ONE)
    assert [name for name in sorted(inside) if not f"{name}.".startswith(allowed)] == []


def test_what_may_be_lacking_is_no_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[>=<~\[ ]", each)[0].lower() for each in project["dependencies"]}
    assert not OPTIONAL & needed


MOST_ARGUMENTS = 6


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_function_of_many_arguments_says_why(file: Path) -> None:
    """A comment behind its bracket; the options of a command are what its users type."""
    if file.name == "cli.py":
        return
    lines = file.read_text("utf-8").splitlines()
    many = [
        node
        for node in ast.walk(ast.parse("\n".join(lines)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and len(given(node.args) - {"self", "cls"}) > MOST_ARGUMENTS
    ]
    assert [node.name for node in many if not re.search(r"\(  # \w", lines[node.lineno - 1])] == []


def given(arguments: ast.arguments) -> set[str]:
    """Names of a function's arguments, without those that gather what is left."""
    return {one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
