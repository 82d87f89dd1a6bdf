"""What an export says of itself: `export.json`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cardiotune.files import read_json, recover, write_json

EXPORT = "export.json"
Format = Literal["merged", "gguf", "onnx"]


@dataclass(frozen=True, slots=True)
class BothJudged:
    """Metrics of the run and of its export on the same test rows; None where they do not define
    one."""

    n: int
    auroc: tuple[float | None, float | None]
    brier: tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an export's probabilities are from its run's."""

    tolerance: float
    """Largest difference that the format may make."""
    n_synthetic: int
    """Rows drawn from the dictionary."""
    max_difference: float
    mean_difference: float
    test: BothJudged | None = None
    """Of the test part, where the run had it at hand."""

    def as_json(self) -> dict[str, Any]:
        """As it stands in `export.json`; without a test part, without that key."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """What scoring needs to know of an export, beside its settings and its calibration."""

    format: Format
    kind: str
    """The format or, of a GGUF, its precision."""
    order: list[str]
    """Feature columns in the order of the text."""
    odds_multiplier: float
    """What class weights and oversampling multiplied the odds by in training."""
    versions: dict[str, str]
    """`run`: its name; `model`: the first digits of the sha256 of its weights' hashes."""
    dictionary: list[dict[str, Any]]
    """The columns of a row, for whoever reads the file; as `RowScorer.schema`."""
    trained: list[str] | None = None
    """Of a run of several tables: the quantities that their training texts told."""

    def write(self, folder: Path, parity: Parity | None = None) -> None:
        """Into an export's folder; with the gate's numbers, once there are some."""
        told = {} if parity is None else {"parity": parity.as_json()}
        own = {name: value for name, value in asdict(self).items() if name != "trained" or value is not None}
        write_json(folder / EXPORT, {"schema_version": 1, **own, **told})

    @classmethod
    def read(cls, folder: Path) -> "ExportRecord":
        """Of an export's folder."""
        content = read_json(folder / EXPORT)
        needed = (name for name in cls.__dataclass_fields__ if name != "trained")
        return cls(**{name: content[name] for name in needed}, trained=content.get("trained"))


def is_export(folder: Path) -> bool:
    """Whether a folder was written by `cardiotune export`."""
    recover(folder)
    return (folder / EXPORT).is_file()
