"""Every file of a run folder judged: may it leave the safe environment, must it stay, or must a
person look at it?

A file is judged by what it is known to be and by what is found in it; the stricter counts. The
check reads what a program can read. It does not know what a model's weights have learned by heart,
what is drawn in a picture, or what somebody has disguised (in base64, or encrypted).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from cardiotune.audit.export_check.contents import LARGEST, Content, Records, contents
from cardiotune.audit.export_check.traces import EID, Known, learn, traces
from cardiotune.config import load_resolved
from cardiotune.data.small_counts import FEW
from cardiotune.errors import DataError
from cardiotune.runs import RunFolder

LEAVE, ASK, STAY = "may leave", "look at it", "must stay"
ORDER = (LEAVE, ASK, STAY)
FEW_EIDS = 3
"""So many different numbers of seven digits in a file are taken for ids, fewer are shown to a
person."""
OWN_KEYS = frozenset({"y_true", "y_prob", "y_prob_raw"})
"""Keys of a prediction; whoever has them has a row."""
COUNTED_COLUMNS = ("missing", "values_out_of_range")
"""Keys of our JSON below which a column's name stands with a count, not with a patient's value."""
COUNT_KEYS = re.compile(r'"(?:n|n_events|n_nonevents|events|excluded|left|rows|patients)":\s*[1-9]\b(?!\.)')
COUNT_WORDS = re.compile(
    r"(?<![\w.,])[1-9] (?:patients?|participants?|people|events?|non-events?|rows?)\b|(?<![\w.,])[1-9] \(\d"
)

WEIGHTS = "weights may have learned patients by heart: ask the data holder, and show the audit and a privacy test"
BY_NAME: tuple[tuple[str, str, str], ...] = (
    (r"folds/.*\.json", STAY, "counts of one fold, which may give small ones away beside those of the others"),
    (r"predictions\.jsonl", STAY, "one row a patient and model"),
    (r"split\.parquet", STAY, "one row a patient"),
    (r"exact_counts\.json", STAY, "counts of patients, small ones included; cohort.json is what may be shown"),
    (r"tokens/.*", STAY, "token ids, which can be turned back into the patients' texts"),
    (r"checkpoints/[^/]+/weights/.*\.(safetensors|bin|pt)", ASK, WEIGHTS),
    (r"checkpoints/[^/]+/weights/.*", LEAVE, "settings of an adapter"),
    (r"checkpoints/.*", STAY, "optimizer and order of training, derived from each patient's row"),
    (r"(adapter|model)/.*\.(safetensors|bin|pt)", ASK, WEIGHTS),
    (r"(adapter|model)/.*", LEAVE, "settings and tokenizer of the model, logits of synthetic rows"),
    (
        r"classical/.*\.(json|txt)",
        ASK,
        "a fitted model: codes that few rows have, and words of notes, may tell of a patient; read it before it leaves",
    ),
    (r".*\.png", ASK, "a picture, which a program cannot judge"),
    (r"logs/(events\.out\.tfevents\..*|training\.json)", LEAVE, "numbers of the training, none of a row"),
    (
        r"(config\.yaml|(manifest|cohort|metrics|calibration|audit|table1|probes|explanations)\.json)"
        r"|report\.(html|md)|(checklists|model_card)\.md|learning_curve/learning_curve\.(json|md)|sites/[^/]+\.json"
        r"|evaluations/[^/]+/evaluation\.json",
        LEAVE,
        "aggregates and settings",
    ),
)
"""Files of a run by their path in it: pattern, verdict, reason. What is not here is unknown, so a
person looks at it."""


OF_A_FOLD = re.compile(r"folds/repeat-\d+-fold-\d+/(?!(cohort|calibration)\.json)")
"""The run of a fold is a run. Its counts are not for leaving: beside those of the other folds they
may give small ones away."""


class Judged(NamedTuple):
    """A file's verdict and the reasons for it; ids in the path itself are masked."""

    path: str
    verdict: str
    reasons: list[str]


def check_export(run: RunFolder) -> list[Judged]:
    """Every file of the run folder, those that must stay first. DataError when a file cannot be
    read."""
    split = _split(run)
    sizes = frozenset([split.height, *split["part"].value_counts()["count"]])
    known = learn(load_resolved(run.config), split["row_id"].cast(pl.String).to_list(), sizes)
    files = sorted(path for path in run.path.rglob("*") if path.is_file() or path.is_symlink())
    judged = [_judge(path, str(path.relative_to(run.path)), known) for path in files]
    return sorted(judged, key=lambda entry: (-ORDER.index(entry.verdict), entry.path))


def _split(run: RunFolder) -> pl.DataFrame:
    """The run's own ids of its rows, and their parts; empty where it has none that can be read."""
    try:
        return pl.read_parquet(run.split, columns=["row_id", "part"])
    except (pl.exceptions.PolarsError, OSError):
        return pl.DataFrame(schema={"row_id": pl.String, "part": pl.String})


def _judge(path: Path, name: str, known: Known) -> Judged:
    verdict, reason = _by_name(name)
    masked = _masked(name, known)
    found = [(verdict, reason)] if verdict != LEAVE else []
    if masked != name:
        found.append((STAY, "its name holds an id"))
    # What must stay anyhow need not be read: a long file of predictions takes minutes.
    if verdict != STAY:
        found += _in_content(path, name, known)
    worst = max((verdict for verdict, _ in found), key=ORDER.index, default=LEAVE)
    reasons = [reason for verdict, reason in found if verdict == worst]
    return Judged(masked, worst, list(dict.fromkeys(reasons)) or [reason])


def _by_name(name: str) -> tuple[str, str]:
    name = OF_A_FOLD.sub("", name)
    for pattern, verdict, reason in BY_NAME:
        if re.fullmatch(pattern, name):
            return verdict, reason
    return ASK, "not a file that a run writes"


def _masked(name: str, known: Known) -> str:
    """The path with every part that holds an id, or what looks like one, starred."""
    parts = [(part, re.sub(r"[_-]", " ", part)) for part in name.split("/")]
    return "/".join("***" if EID.search(said) or any(traces(said, known)) else part for part, said in parts)


def _in_content(path: Path, name: str, known: Known) -> list[tuple[str, str]]:
    if path.is_symlink():
        return [(STAY, "a link to another place; copy what is meant, or remove it")]
    whole = path.stat().st_size <= LARGEST
    if not whole and path.suffix != ".safetensors":
        return [(STAY, f"larger than {LARGEST >> 20} MiB, so not looked into")]
    try:
        with path.open("rb") as file:
            # Of weights too large to be looked into, the names of the tensors alone.
            data = file.read() if whole else file.read(min(LARGEST, int.from_bytes(file.read(8), "little")))
    except OSError as error:
        raise DataError(f"{path.parent}: a file cannot be read ({error.strerror}); check its permissions") from None
    return [finding for content in contents(data) for finding in _judge_content(content, name, known)]


def _judge_content(content: Content, name: str, known: Known) -> Iterator[tuple[str, str]]:
    """Verdicts and reasons."""
    for reason in traces(content.text, known, content.binary):
        yield STAY, reason
    for records in content.records:
        yield from _judge_records(records, known)
    eids = set(EID.findall(content.text)) if not content.binary else set()
    if len(eids) >= FEW_EIDS:
        yield STAY, f"whole numbers of seven digits, as ids of UK Biobank are ({len(eids)} different)"
    elif eids:
        yield ASK, f"whole numbers of seven digits, as ids of UK Biobank are ({len(eids)} different)"
    if content.closed:
        yield (ASK if "picture" in content.closed else STAY), content.closed
    if not content.binary:
        small = len(COUNT_KEYS.findall(content.text)) + len(COUNT_WORDS.findall(content.text))
        if small:
            yield ASK, f"counts under {FEW} ({small} places)"
    if name == "metrics.json" and re.search(r'"n": \d+,\s+"n_events": null,\s+"models": \{\s+"', content.text):
        yield STAY, f"a part with fewer than {FEW} events, or others: its figures give the count away"
    if name == "calibration.json" and '"isotonic"' in content.text:
        yield ASK, "steps of an isotonic calibrator are single patients' logits"


def _judge_records(records: Records, known: Known) -> Iterator[tuple[str, str]]:
    """Rows by their keys: ids, predictions, or columns of the data dictionary."""
    keys = {key.casefold() for key in records.keys}
    many = f"{records.rows} rows" if records.rows >= FEW else "a row or some"
    if keys & known.id_names:
        yield STAY, f"row level: a column of ids ({many})"
    elif keys & OWN_KEYS:
        yield STAY, f"row level: outcomes or risks ({many})"
    elif len(keys & {name.casefold() for name in known.features}) >= 2 and records.under not in COUNTED_COLUMNS:
        yield STAY, f"row level: columns of the data dictionary ({many})"
    elif records.rows in known.sizes:
        yield ASK, f"a list as long as a part of the cohort ({many})"
