"""How much the models gain from more training patients: the same run on growing parts of the
training rows.

Every size and seed is a run folder of its own, so a curve that was interrupted goes on where it
stopped. For one seed, validation and test rows are the same at all sizes, and the rows of a smaller
size are among those of a larger one.
"""

import hashlib
import json
import logging
import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from cardiotune.comparators import IN_WORDS, having
from cardiotune.config import read_yaml
from cardiotune.data.prepare import read_prepared
from cardiotune.errors import ConfigError, DataError
from cardiotune.evaluation.catalogue import named
from cardiotune.files import atomic, write_json, write_text
from cardiotune.report.curves import by_training_rows, rows_of_sizes
from cardiotune.report.drawing import STYLE, look
from cardiotune.report.wording import model_words
from cardiotune.runs import RunFolder, check_free
from cardiotune.settings import LEARNED, Config

log = logging.getLogger(__name__)

Size = int | Literal["all"]
"""Training rows; `all` leaves the training part as it is."""
FROM_BASE = "tuned_from_base"
"""The tuned model without `train.start_from`, in the curve of an experiment that has one."""
MIN_ROWS = 4
"""Two events and two non-events."""
PLOTTED = ("auroc", "log_loss")
COMPARED = having(lambda one: one.in_curves)
"""The models of a curve whose experiment does not choose its models: all others would be made at
every size too."""
VARIED = ("name", "runs_dir", "seed", "split.train_rows", "models", "task.threshold")
"""Settings in which the runs of a curve may differ from the run whose report shows it."""
FILE = "learning_curve.json"
MADE_FROM = "made_from.json"
"""Beside the curve's own runs: the experiment that the curve is of."""
FOLDER = "learning_curve"
"""Where a run folder keeps the curve of its experiment."""


def parse_sizes(text: str) -> list[Size]:
    """Sizes as they are written on the command line: `32,128,all`."""
    words = [word.strip() for word in text.split(",")]
    strange = [repr(word) for word in words if word != "all" and not (word.isascii() and word.isdigit())]
    if strange:
        raise ConfigError(f"--sizes: {', '.join(strange)}; expected whole numbers and all, such as 32,128,all")
    return ["all" if word == "all" else int(word) for word in words]


def learning_curve(
    config: Config,
    sizes: Sequence[Size],
    seeds: Sequence[int],
    run_one: Callable[[Config], RunFolder],
    out: Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """`{"points": [{model, size, train_rows, seed, auroc, log_loss}]}` on the test part; also
    `out/learning_curve.json`.

    `run_one` makes a whole run and replaces an unfinished one; finished runs below `out` are read
    and not repeated. The seed is that of split, model and order, unless `split.seed` fixes the
    split. Sizes go from small to large, and the file is written after every run. Undefined metrics
    are null. Raises ConfigError, before any run, for sizes or seeds that make no sense, when a run
    below `out` had other settings, and when the curve there is of another experiment, which is
    replaced with `overwrite` alone; DataError when the table changed between runs.
    """
    check(sizes, seeds)
    starts = (False, True) if config.train.start_from and "tuned" in config.comparators else (False,)
    wanted = [(size, seed, base) for size in sorted(sizes, key=_place) for seed in seeds for base in starts]
    variants = {one: variant(config, one[0], one[1], out, from_base=one[2]) for one in wanted}
    for one in variants.values():
        _check_settings(one)
    made_from = {"experiment": config.name, "settings": _settings(config, out)}
    check_free(out / FILE, out / MADE_FROM, made_from, overwrite, "choose another folder with --out")
    write_json(out / MADE_FROM, made_from)
    points: list[dict[str, Any]] = []
    table: Any = None
    for (size, seed, base), one in variants.items():
        run = RunFolder(one.run_path)
        if finished(run):
            log.info("%s: finished before, so it is read", run.path)
        else:
            log.info("training rows: %s, seed %d", size, seed)
            run = run_one(one)
        data = run.read_manifest().get("data")
        if points and data != table:
            raise DataError(
                f"{run.path}: made from another table than the runs beside it; restore it, or use another folder"
            )
        table = data
        points += _points(run, size, seed, FROM_BASE if base else "tuned")
        write_json(out / FILE, _curve(points))
    return _curve(points)


def _curve(points: list[dict[str, Any]]) -> dict[str, Any]:
    """With what a start was worth, where the experiment has one."""
    found = [one.as_json() for one in worth(points)]
    return {"points": points, **({"worth": found} if found else {})}


def variant(config: Config, size: Size, seed: int, out: Path, from_base: bool = False) -> Config:
    """The experiment with another training size and seed, and a run folder of its own in `out`.

    `from_base`: the tuned model alone, without what `train.start_from` names.
    """
    # What is written in words does not change with the training size, and costs most.
    named = [name for name in config.models or [] if name not in IN_WORDS]
    chosen = named or [name for name in COMPARED if name in config.comparators]
    tree = config.model_dump(mode="json")
    tree |= {
        "name": f"{config.name[:70]}-rows-{size}-seed-{seed}",
        "runs_dir": str(out),
        "seed": seed,
        "models": chosen,
    }
    tree["split"]["train_rows"] = None if size == "all" else size
    if from_base:
        tree |= {"name": f"{tree['name']}-base", "models": ["tuned"]}
        tree["train"]["start_from"] = None
    return type(config).model_validate(tree)


def _settings(config: Config, out: Path) -> str:
    """A digest of the settings that all runs of a curve share."""
    shared = {
        key: value
        for key, value in _flat(variant(config, "all", 0, out).model_dump(mode="json")).items()
        if key not in ("runs_dir", "name")
    }
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()


def check(sizes: Sequence[Size], seeds: Sequence[int]) -> None:
    """ConfigError for sizes or seeds that make no sense."""
    if not sizes or not seeds or len(set(sizes)) < len(sizes) or len(set(seeds)) < len(seeds):
        raise ConfigError("learning curve: give at least one size and one seed, each of them once")
    small = [size for size in sizes if size != "all" and size < MIN_ROWS]
    if small:
        raise ConfigError(
            f"learning curve: size {small[0]} is too small; expected {MIN_ROWS} training rows or more, or all"
        )


def sizes_that_fit(config: Config, sizes: Sequence[Size]) -> list[Size]:
    """Without sizes above the training part, if `all` stands for them; else DataError, before hours
    of smaller ones."""
    whole = config.model_copy(update={"split": config.split.model_copy(update={"train_rows": None})})
    rows = len(read_prepared(whole).rows("train"))
    large = [size for size in sizes if size != "all" and size > rows]
    if large and "all" not in sizes:
        raise DataError(f"--sizes: {large[0]}, but the training part has {rows} rows; ask for fewer, or for all")
    if large:
        log.info("sizes left out: %s, for all training rows are %d", ", ".join(map(str, large)), rows)
    return [size for size in sizes if size not in large]


def _place(size: Size) -> float:
    return float("inf") if size == "all" else size


def _check_settings(config: Config) -> None:
    """ConfigError naming what changed when the run's folder was made with other settings."""
    saved = RunFolder(config.run_path).config
    if not saved.is_file():
        return
    changed = changed_settings(read_yaml(saved), config.model_dump(mode="json"))
    if changed:
        raise ConfigError(
            f"{config.run_path}: made with other settings ({', '.join(changed)}); set them back, or use another folder"
        )


def differences(run: RunFolder, one: RunFolder) -> list[str]:
    """What keeps a curve, of which `one` is a run, out of the report of `run`: other settings,
    another table."""
    settings = [key for key in changed_settings(read_yaml(run.config), read_yaml(one.config)) if key not in VARIED]
    same_table = run.read_manifest().get("data") == one.read_manifest().get("data")
    return settings + ([] if same_table else ["table"])


OF_A_COLUMN = re.compile(r"(?:tables\.[^.]+\.)?data\.columns\.")


def changed_settings(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of the settings that differ, but for what a run learns: about its columns, and where to
    flag."""
    flat, other = _flat(before), _flat(now)
    changed = {key for key in flat.keys() | other.keys() if flat.get(key) != other.get(key)}
    learned = {key for key in changed if OF_A_COLUMN.match(key) and key.rsplit(".", 1)[1] in LEARNED}
    learned = {key for key in learned if None in (flat.get(key), other.get(key))}
    return sorted(changed - learned - ({"task.threshold"} if other.get("task.threshold") is None else set()))


def _flat(tree: Any, above: str = "") -> dict[str, Any]:
    """`{"split.test": 0.25, ...}`. An empty mapping is a value."""
    if not isinstance(tree, dict) or not tree:
        return {above: tree}
    return {
        name: leaf
        for key, value in tree.items()
        for name, leaf in _flat(value, f"{above}.{key}" if above else str(key)).items()
    }


def finished(run: RunFolder) -> bool:
    """Whether a run came to its end and its results are there."""
    whole = all(file.is_file() for file in (run.manifest, run.cohort, run.metrics))
    return whole and run.read_manifest().get("status") == "finished"


def _points(run: RunFolder, size: Size, seed: int, tuned: str) -> list[dict[str, Any]]:
    """Of every model; `tuned`: what the tuned one is called."""
    try:
        test = json.loads(run.checked(run.metrics).read_text("utf-8"))["parts"]["test"]
        rows = json.loads(run.checked(run.cohort).read_text("utf-8"))["parts"]["train"]["n"]
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{run.path}: its metrics or cohort are damaged; delete this folder, and it is made anew"
        ) from None
    return [
        {
            "model": tuned if model == "tuned" else model,
            "size": size,
            "train_rows": rows,
            "seed": seed,
            **{metric: judged[metric]["value"] for metric in PLOTTED},
        }
        for model, judged in test["models"].items()
    ]


# --------------------------------------------------------------------------------------------------
# what a start is worth


@dataclass(frozen=True, slots=True)
class Worth:
    """So many training rows from the base model do as well as these from the start, by AUROC."""

    train_rows: int
    """From the start."""
    rows: float
    """From the base model: the median over seeds, of an even number the lower of the two in the
    middle. Infinite where none of its sizes does as well."""
    low: float
    high: float
    """The lowest and the highest of the seeds."""
    seeds: int
    smallest: int
    largest: int
    """Of the sizes from the base model; `rows` is not below the smallest."""

    def as_json(self) -> dict[str, Any]:
        """With null for what is beyond the largest size."""
        return {name: value if value < math.inf else None for name, value in asdict(self).items()}

    @property
    def words(self) -> str:
        """In a sentence."""
        low, high = self._said(self.low), self._said(self.high)
        of_seeds = f"; {low} to {high} over {self.seeds} seeds" if low != high else f"; all {self.seeds} seeds alike"
        spread = of_seeds if self.seeds > 1 else ""
        return (
            f"{self.train_rows} training rows from the start do as well as {self._said(self.rows)} from the base model "
            f"(by AUROC{spread})"
        )

    def _said(self, rows: float) -> str:
        if rows == math.inf:
            return f"more than {self.largest}"
        return f"{self.smallest} or fewer" if rows <= self.smallest else f"{rows:.0f}"


def worth(points: Sequence[dict[str, Any]]) -> list[Worth]:
    """What the start was worth at each size, from small to large; empty where the curve has none.

    Of each seed, the size at which the line from the base model, straight between its sizes on a
    logarithmic axis, first reaches the AUROC from the start.
    """
    x = {size: round(rows) for size, rows in rows_of_sizes(points).items()}
    lines: dict[int, list[tuple[int, float]]] = {}
    for point in points:
        if point["model"] == FROM_BASE and point["auroc"] is not None:
            lines.setdefault(point["seed"], []).append((x[point["size"]], point["auroc"]))
    found: dict[int, list[float]] = {}
    for point in points:
        if point["model"] == "tuned" and point["auroc"] is not None and point["seed"] in lines:
            reached = _reaches(sorted(lines[point["seed"]]), point["auroc"])
            found.setdefault(x[point["size"]], []).append(reached)
    sizes = sorted({rows for line in lines.values() for rows, _ in line})
    return [
        Worth(rows, statistics.median_low(of_seeds), min(of_seeds), max(of_seeds), len(of_seeds), sizes[0], sizes[-1])
        for rows, of_seeds in sorted(found.items())
    ]


def _reaches(line: Sequence[tuple[int, float]], value: float) -> float:
    """Where a line of (rows, AUROC) first reaches a value; infinite where it does not."""
    if line[0][1] >= value:
        return line[0][0]
    for (rows, before), (further, after) in pairwise(line):
        if after >= value:
            share = (value - before) / (after - before)
            return math.exp(math.log(rows) + share * (math.log(further) - math.log(rows)))
    return math.inf


# --------------------------------------------------------------------------------------------------
# what is shown


def write(curve: dict[str, Any], folder: Path) -> None:
    """`learning_curve.json`, and it as a figure and as a table beside it."""
    write_json(folder / FILE, curve)
    draw(curve, folder / "learning_curve.png")
    write_text(folder / "learning_curve.md", to_markdown(curve))


def give(curve: dict[str, Any], own: RunFolder, one: RunFolder) -> bool:
    """Leave the curve in the run of its experiment, whose report then shows it.

    False, said aloud, when there is no such run, or when it has other settings or another table
    than `one`, a run of the curve.
    """
    if not own.manifest.is_file():
        log.info("%s: no such run; once it is there, the same command puts the curve into its report", own.path)
        return False
    if differ := differences(own, one):
        log.warning("%s: not given the curve, which is of another %s", own.path, ", ".join(differ))
        return False
    write(curve, own.path / FOLDER)
    own.record(own.path / FOLDER / FILE)
    return True


def to_markdown(curve: dict[str, Any]) -> str:
    """A table a metric: a line a model, a column a size; the median over seeds, and the lowest to
    the highest."""
    tables = []
    for metric in PLOTTED:
        name, lines = named(metric).words, by_training_rows(curve["points"], metric)
        sizes = sorted({rows for line in lines.values() for rows in line})
        head = ["| " + " | ".join([f"{name}, by training rows", *(f"{rows:.0f}" for rows in sizes)]) + " |"]
        rule = ["|---|" + "---|" * len(sizes)]
        body = [
            "| " + " | ".join([model_words(model), *(_cell(line.get(rows, [])) for rows in sizes)]) + " |"
            for model, line in lines.items()
        ]
        tables.append("\n".join([*head, *rule, *body]))
    tables += ["\n".join(f"- {one.words}" for one in worth(curve["points"]))] if worth(curve["points"]) else []
    return "\n\n".join(tables) + "\n"


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    middle = f"{statistics.median(values):.3f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3f} to {max(values):.3f})"


def draw(curve: dict[str, Any], file: Path) -> Path:
    """AUROC and log-loss over training rows (logarithmic), as PNG or SVG by the ending of `file`,
    which is returned.

    Lines are medians over seeds, bars reach from the lowest to the highest; models differ in
    colour, dashes and marker.
    """
    kind = file.suffix.removeprefix(".").lower()
    if kind not in ("png", "svg"):
        raise ConfigError(f"{file}: a figure is written as .png or .svg")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user's must not change the figure
        matplotlib.rcParams.update({**STYLE, "svg.hashsalt": "learning_curve"})
        figure = Figure(figsize=(8.4, 4.2), layout="constrained")
        for panel, metric in enumerate(PLOTTED):
            _panel(figure, panel, named(metric).words, by_training_rows(curve["points"], metric))
        with atomic(file) as temporary:
            when = {"Date": None} if kind == "svg" else {}  # the same curve gives the same bytes
            figure.savefig(temporary, format=kind, dpi=160, metadata=when)
    return file


def _panel(figure: Figure, panel: int, name: str, lines: dict[str, dict[float, list[float]]]) -> None:
    axes = figure.add_subplot(1, 2, panel + 1, xlabel="Training rows", ylabel=f"{name} on the test part", xscale="log")
    for model, line in lines.items():
        seen = {rows: values for rows, values in line.items() if values}
        middle = [statistics.median(values) for values in seen.values()]
        below = [m - min(values) for m, values in zip(middle, seen.values(), strict=True)]
        above = [max(values) - m for m, values in zip(middle, seen.values(), strict=True)]
        axes.errorbar(
            list(seen), middle, yerr=[below, above], capsize=3, elinewidth=1, label=model_words(model), **look(model)
        )
    sizes = sorted({rows for line in lines.values() for rows in line})
    axes.set_xticks(sizes, [f"{rows:.0f}" for rows in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    if panel == 0:
        figure.legend(loc="outside lower center", ncols=3, frameon=False, handlelength=3.5, fontsize=9)
