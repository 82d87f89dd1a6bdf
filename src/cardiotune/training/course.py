"""How a training went: its steps, its looks at the validation part, and where it stands."""

from dataclasses import asdict, dataclass, field
from typing import Any

from cardiotune.settings import TrainConfig


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step."""

    step: int
    """Counted from 1."""
    loss: float
    """Mean log-loss of its rows, weighted as they are trained on."""
    learning_rate: float
    grad_norm: float
    """Of all weights that train, before it is clipped."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the validation part, after a step."""

    step: int
    epoch: float
    log_loss: float
    brier: float
    auroc: float

    def key(self, metric: str) -> float:
        """The value that looks are compared by; smaller is better."""
        return -self.auroc if metric == "auroc" else float(getattr(self, metric))


@dataclass(slots=True)
class Course:
    """Where a training stands; what a checkpoint keeps of it in `state.json`."""

    step: int = 0
    best: Look | None = None
    """None before the first look, and where no step that was judged is whole any more."""
    looks_without_better: int = 0
    stopped_early: bool = False
    steps: list[Step] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    def add_look(self, look: Look, settings: TrainConfig) -> bool:
        """Record a look at the validation part; True when it is the best so far."""
        self.looks.append(look)
        metric = settings.select_on
        better = self.best is None or look.key(metric) < self.best.key(metric)
        self.best = look if better else self.best
        self.looks_without_better = 0 if better else self.looks_without_better + 1
        self.stopped_early = bool(settings.early_stopping) and self.looks_without_better >= (
            settings.early_stopping or 0
        )
        return better

    def lost(self, metric: str) -> list[int]:
        """Steps that were judged better than the one that is kept, and are gone."""
        best = self.best
        return [] if best is None else [look.step for look in self.looks if look.key(metric) < best.key(metric)]

    @property
    def history(self) -> dict[str, list[dict[str, float]]]:
        """Steps and looks, as `training.json` has them."""
        return {"steps": [asdict(step) for step in self.steps], "validation": [asdict(look) for look in self.looks]}

    def as_json(self) -> dict[str, Any]:
        """Content of `state.json`, but for the settings."""
        return {
            "step": self.step,
            "best": asdict(self.best) if self.best else {},
            "looks_without_better": self.looks_without_better,
            "stopped_early": self.stopped_early,
            "history": self.history,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Course":
        """Undo `as_json`."""
        return cls(
            content["step"],
            Look(**content["best"]) if content["best"] else None,
            content["looks_without_better"],
            content["stopped_early"],
            [Step(**step) for step in content["history"]["steps"]],
            [Look(**look) for look in content["history"]["validation"]],
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """What is told of a training that has come to its end."""

    steps: int
    steps_planned: int
    rows_a_step: int
    rows_per_second: float
    """Of steps alone, without looks and saves, in this process's part of the training."""
    selected_step: int
    selected_on: str
    better_steps_lost: list[int]
    """Steps that were judged better than the selected one, and were damaged or gone."""
    dtype: str
    processes: int
    odds_multiplier: float
    resumed_after_step: int = 0

    def as_json(self) -> dict[str, Any]:
        """For the manifest and `training.json`; what did not happen is left out."""
        rare = ("better_steps_lost", "resumed_after_step")
        return {name: value for name, value in asdict(self).items() if value or name not in rare}
