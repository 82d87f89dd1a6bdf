"""What the documents say is there: commands, options, settings, links and files; and the main
commands do what they say, on the toy."""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from importlib import import_module
from inspect import signature
from io import StringIO
from pathlib import Path
from shutil import copytree
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import typer
import yaml

import cardiotune
from cardiotune.cli import app
from cardiotune.config import load_config, shipped
from cardiotune.errors import ConfigError
from cardiotune.settings import Config
from conftest import build_toy_table
from test_cli import call
from test_risk_scores import FOUR, dictionary

ROOT = Path(__file__).parents[1]
SOURCE = Path(cardiotune.__file__).parent
PAGES = ("guide", "serving", "ukb", "scale", "architecture")
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")]
DOCUMENTS += [ROOT / "docs" / f"{page}.md" for page in PAGES]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
CLI: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = dict(CLI.commands)
OF_OTHERS = {"--rdzv-endpoint", "--no_ssh_check", "--master_addr"}
"""Options of torchrun and of DeepSpeed's launcher."""
MAKE = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


# --------------------------------------------------------------------------------------------------
# what stands in a document


def blocks(file: Path) -> list[str]:
    """Lines of indented and fenced blocks; of a YAML file, its comments."""
    text = file.read_text("utf-8")
    if file.suffix == ".yaml":
        return [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    found, fenced = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            found.append(line.strip())
    return found


def spans(file: Path) -> list[str]:
    """Pieces in backticks, outside of blocks; a line may end within one."""
    text = re.sub(r"^```.*?^```|^    .*?$", "", file.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def commands(file: Path, program: str) -> list[str]:
    """Commands of a program that a file names, without paths and variables before it."""
    pieces = [*blocks(file), *(spans(file) if file.suffix == ".md" else [])]
    start = re.compile(rf"^(?:\w+=\S+ )*(?:\.venv/bin/)?(?={program}(?:\s|$))")
    found = [start.sub("", piece) for piece in pieces if start.match(piece)]
    if program == "cardiotune":  # `predict RUN TABLE` beside the command in full
        found += [
            f"cardiotune {span}" for span in spans(file) if re.match(r"[a-z][a-z-]+ (--resume )?[A-Z]{3,}\b", span)
        ]
    return found


def words_of(command: str) -> list[str]:
    """Arguments after `cardiotune`: optional ones are given, a number stands for a letter."""
    words = shlex.split(command, comments=True)[1:]
    words = [word if "=[" in word else word.strip("[]") for word in words]
    return ["2" if word in ("N", "S") else word for word in words]


DOCUMENTED = [
    pytest.param(command, id=f"{file.name}: {command}")
    for file in (*DOCUMENTS, *CONFIGS)
    for command in dict.fromkeys(commands(file, "cardiotune") if file.is_file() else [])
]
EXAMPLES = [
    pytest.param(example, id=example)
    for command in (*COMMANDS.values(), *COMMANDS["data"].commands.values(), *COMMANDS["synth"].commands.values())
    for example in re.findall(r"Example: ((?:.+\n?)+)", command.help or "")
]


# --------------------------------------------------------------------------------------------------
# it is there


def parsed(command: str) -> dict[str, Any]:
    """Parameters as the real command line reads them; what it refuses, fails."""
    group, words = CLI, words_of(command)
    while words and hasattr(group, "commands"):
        assert words[0] in group.commands, f"{command}: no such command as {words[0]}"
        group = group.commands[words.pop(0)]
    if not words:  # named, not called
        return {}
    parameters: dict[str, Any] = group.make_context("cardiotune", words).params
    return parameters


def test_commands_are_found() -> None:
    guide = commands(ROOT / "docs/guide.md", "cardiotune")
    assert {(words_of(command) or [""])[0] for command in guide} == set(COMMANDS), (
        "the guide shows every command, and no other"
    )
    assert "cardiotune init patients.csv --target died --out study" in commands(ROOT / "README.md", "cardiotune")
    assert len(DOCUMENTED) > 50 and len(EXAMPLES) > 20


@pytest.mark.parametrize("command", [*DOCUMENTED, *EXAMPLES])
def test_the_command_line_reads_it(command: str) -> None:
    parameters = parsed(command)
    overrides = [given for given in parameters.get("overrides") or [] if given not in ("key=value", "...")]
    if overrides:
        config = parameters.get("config")
        loads(overrides, [config] if config in shipped("experiments") else [])


def loads(overrides: list[str], experiments: list[str]) -> None:
    """One of the experiments, or else of the shipped ones, takes the settings."""
    refused = []
    for name in experiments or ("statlog_heart", "ukb_cad_demo", "cardio_published", "uci_hospitals"):
        try:
            load_config(name, overrides)
        except ConfigError as error:
            refused.append(f"{name}: {error}")
        else:
            return
    pytest.fail("\n".join(refused))


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_options_and_targets_exist(file: Path) -> None:
    options = {option for command in COMMANDS.values() for each in command.params for option in each.opts}
    options |= {option for _, text in BENCHMARKS.items() for option in re.findall(r"--[a-z-]+", text)}
    named = {word for span in spans(file) if span.startswith("--") for word in span.split() if word.startswith("--")}
    assert named <= options | OF_OTHERS
    assert {command.split()[1] for command in commands(file, "make") if command != "make"} <= MAKE


def help_of(module: str) -> str:
    """What `python -m benchmarks.MODULE --help` prints; the source, where it reads no options."""
    main, printed = import_module(f"benchmarks.{module}").main, StringIO()
    if (
        "argparse" not in (source := (ROOT / "benchmarks" / f"{module}.py").read_text())
        and "speed.parser" not in source
    ):
        return source
    with redirect_stdout(printed), suppress(SystemExit), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [module, "--help"])
        main(["--help"]) if signature(main).parameters else main()
    return printed.getvalue()


BENCHMARKS = {
    file.stem: help_of(file.stem)
    for file in sorted((ROOT / "benchmarks").glob("*.py"))
    if "\nif __name__" in file.read_text() and file.stem != "worker"  # which others start
}


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_measurements_exist(file: Path) -> None:
    for command in commands(file, "python -m benchmarks"):
        module, *words = shlex.split(command, comments=True)[2:]
        assert module.removeprefix("benchmarks.") in BENCHMARKS, command
        for option in (word for word in words if word.startswith("--")):
            assert option in BENCHMARKS[module.removeprefix("benchmarks.")], command


KEY = rf"(?:use|{'|'.join(Config.model_fields)})(?:\.\w+)+"
GOES_WITH = {"split.test_sites": ["split.by=site"]}


def settings_named(file: Path) -> Iterator[list[str]]:
    """`section.key`, `section.key=value ...`, and `section.key: one | another` value by value."""
    for span in spans(file):
        if re.fullmatch(rf"{KEY}(?<!\.parquet)", span):
            yield [span]
        elif (found := re.fullmatch(rf"({KEY})(?:=|: )([^=]+)", span)) and "..." not in span:
            yield from ([f"{found[1]}={value}", *GOES_WITH.get(found[1], [])] for value in found[2].split(" | "))
        elif all(re.fullmatch(rf"{KEY}=\S+", word) for word in span.split()):
            yield span.split()


SETTINGS = {" ".join(named): named for file in DOCUMENTS if file.is_file() for named in settings_named(file)}


@pytest.mark.parametrize("named", SETTINGS.values(), ids=SETTINGS)
def test_settings_exist(named: list[str]) -> None:
    if "=" in named[0]:
        loads(named, [])
    elif named[0].startswith("use."):
        assert shipped(f"{named[0].removeprefix('use.')}s") or shipped(named[0].removeprefix("use."))
    else:
        with pytest.raises(ConfigError) as refused:  # a mapping of this key is no value of any setting's
            load_config("statlog_heart", [f"{named[0]}={{no_such_key: 1}}"])
        assert f"{named[0]}: unknown key" not in str(refused.value)


def slugs(file: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]), ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", file.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        there = (file.parent / path) if path else file
        assert there.exists(), target
        assert not anchor or anchor in slugs(there), target


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_files_of_the_code_that_are_named_exist(file: Path) -> None:
    places = (ROOT, SOURCE, file.parent, ROOT / "tests")
    for name in re.findall(
        r"`((?:[\w-]+/)*[\w-]+\.py|(?:src|tests|configs|deploy|benchmarks)/[\w./-]+)`", file.read_text()
    ):
        assert any((place / name).exists() for place in places), name


# --------------------------------------------------------------------------------------------------
# it does what it says

TOY = ["use.model=./toy.yaml", "models=[prevalence,tuned]", "train.max_steps=4", "train.threads=1"]
ELSEWHERE = {
    "data get": "asks the internet; test_download.py",
    "serve": "runs until it is stopped; test_serve.py",
    "convert": "needs a pickle; test_convert.py",
    "learn-curve": "nine runs; test_learning_curve.py, test_cli_runs.py",
    "leave-out": "a run a table; test_leave_out.py",
    "export RUN --to onnx": "test_export.py",
    "export RUN --to gguf": "test_export.py",
    "predict RUN patients.parquet": "four processes; test_bulk.py",
    "run configs/experiments/ukb_cad_demo.yaml": "5,000 participants; test_ukb_run.py",
    "run uci_hospitals": "ten minutes; its settings compose in test_shipped_configs.py, its parts run in test_views.py",
    "run cardio_gemma_270m": "58 minutes; its settings are read above",
    "prepare CONFIG use.deepspeed": "needs a GPU; its settings are read above",
    "evaluate ADAPTER --base ...": "not a whole command",
}
"""Commands of the documents that do not run here: why, or which test runs them. Nor do those of
`make` (`make demo` takes minutes), of `benchmarks` (test_benchmarks.py) and of other programs."""

PLACES = {
    " --workers N": "",
    " --model MODEL": " --model prevalence",
    " --model lightgbm": " --model prevalence",
    "--rows N --seed S": "--rows 60 --seed 1",
    "--rows 5000": "--rows 60",
    "3f9a52c07be1d846": "ROW_ID",
    "step-000040": "step-000004",
    "runs/ukb_cad": "RUN",
    "ADAPTER --base MODEL --task TASK --dataset DATASET": (
        "RUN/adapter --base ./toy.yaml --task heart_disease --dataset study/dataset.yaml"
    ),
    "--table FILE": "--table patients.csv",
    "DATASET": "other.yaml",
    "--out FILE": "--out risks.csv",
    "COLUMN": "died",
    "TABLE": "patients.csv",
    "RUN RUN": "RUN runs/other",
    "train RUN": "train runs/prepared",
    "RUN": "runs/patients",
    "CONFIG": "study/experiment.yaml",
    "key=value": "seed=0",
}
"""What stands here for the words that a document leaves open."""
OPTIONAL = re.compile(r" \[(?:[^\[\]]|\[[^\[\]]*\])*\]")


def variants(command: str) -> list[str]:
    """A command without its optional parts and with all of them; its comment is left out."""
    command = command.partition("  #")[0].removeprefix("cardiotune ").strip()
    if any(command.startswith(start) for start in ELSEWHERE):
        return []
    given = OPTIONAL.sub(lambda part: " " + re.sub(r"[\[\]]", "", part[0]).strip(), command)
    return [variant.replace(" ...", "") for variant in (OPTIONAL.sub("", command), given)]


def filled(command: str) -> str:
    """A command with the toy's names."""
    for word, place in PLACES.items():
        command = command.replace(word, place)
    return command


RUNNING: dict[str, dict[str, None]] = {}
for _file in filter(Path.is_file, DOCUMENTS):
    for _command in commands(_file, "cardiotune"):
        for _variant in variants(_command):
            if " " in _variant or _variant == "doctor":
                RUNNING.setdefault(_variant.split()[0], {})[filled(_variant)] = None


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    """The README's two commands on the toy: a drafted study, and its run."""
    folder = tmp_path_factory.mktemp("docs")
    table = build_toy_table().rename({"disease": "died"})
    table.write_csv(folder / "patients.csv")
    table.drop("died")[:20].write_csv(folder / "new_patients.csv")
    table.select("age", "died", druck="sbp").write_csv(folder / "other.csv")
    other = {"age": {"unit": "years"}, "druck": {"unit": "mmHg"}, "died": {"role": "target"}}
    (folder / "other.yaml").write_text(yaml.safe_dump({"data": {"columns": other}}))
    texts = table.select(input=pl.format("age {}", "age"), output=pl.col("died").replace_strict({0: "No", 1: "Yes"}))
    texts[:180].unique().write_ndjson(folder / "train.jsonl")
    texts[180:].unique().write_ndjson(folder / "test.jsonl")
    model = {"name": "toy", "path": str(toy_model), "dtype": "float32"}
    (folder / "toy.yaml").write_text(yaml.safe_dump({"model": model}))
    (folder / "experiment.yaml").write_text(yaml.safe_dump({"name": "texts", "task": {"outcome": "heart disease"}}))
    readme = [block for block in blocks(ROOT / "README.md") if "bin/cardiotune" in block]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command, more in zip(readme, ([], TOY), strict=True):
            run(*shlex.split(command)[1:], *more)
        run("prepare", "study/experiment.yaml", *TOY, "name=prepared")
    for name in ("other", "my_study"):
        copytree(folder / "runs" / "patients", folder / "runs" / name)
    return folder


def run(*words: str) -> None:
    """By the real command line, in this process; of the audit and of the check before an export,
    findings are an answer too."""
    done = call(*words)
    assert done.exit_code in ((0, 3) if words[0] in ("audit", "export-check") else (0,)), done.output


@pytest.mark.parametrize("subcommand", RUNNING)
def test_it_runs(study: Path, subcommand: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    patient = json.loads((study / "runs/patients/predictions.jsonl").read_text().splitlines()[0])["row_id"]
    for number, command in enumerate(RUNNING[subcommand]):
        words = shlex.split(command.replace("ROW_ID", patient).replace("DIR", f"{subcommand}_{number}"))
        if "study/experiment.yaml" in words or "experiment.yaml" in words:
            words += [*TOY, f"name={subcommand}_{number}"]
        if "--base" in words:
            words += ["--out", f"{subcommand}_{number}"]
        if command not in ("init patients.csv --target died --out study", "run study/experiment.yaml"):  # have run
            run(*words)


def test_what_python_is_shown_runs(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    lines = blocks(ROOT / "docs/guide.md")
    start = lines.index("from cardiotune import RiskModel")
    names: dict[str, Any] = {"frame": pl.read_csv("new_patients.csv")}
    exec("\n".join(lines[start : start + 4]), names)
    assert names["model"].predict_proba(names["frame"]).shape == (20, 2)


def test_scores_from_python_are_read_as_the_guide_shows() -> None:
    lines = blocks(ROOT / "docs/guide.md")
    start = lines.index("from cardiotune.models.risk_scores import score_cohort")
    config = SimpleNamespace(data=SimpleNamespace(columns=dictionary()))
    names: dict[str, Any] = {"cohort": SimpleNamespace(frame=FOUR), "config": config}
    exec("\n".join(lines[start : start + 3]), names)
    assert len(names["scored"].risk) == len(FOUR) and names["scored"].left_out


def test_the_experiment_and_the_dictionary_of_the_guide_are_read(tmp_path: Path) -> None:
    text = (ROOT / "docs/guide.md").read_text()
    for heading, name in (("An experiment", "experiment.yaml"), ("The data dictionary", "dataset.yaml")):
        section = text.partition(f"## {heading}\n")[2]
        block = re.search(r"(?:^    .*\n)+", section, flags=re.MULTILINE)
        assert block
        (tmp_path / name).write_text(dedent(block[0]))
    config = load_config(tmp_path / "experiment.yaml")
    assert config.name == "my_study" and config.data.columns["died"].role == "target"
