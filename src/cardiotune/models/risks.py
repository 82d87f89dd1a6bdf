"""Every comparator's risks for a run's cohort, each made once, in the order in which they need each
other."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.comparators import COMPARATORS, having
from cardiotune.data.cache import run_tokens
from cardiotune.data.matching import MATCHERS, Matching
from cardiotune.data.prepare import Prepared
from cardiotune.data.small_counts import told_events
from cardiotune.data.split import UNUSED
from cardiotune.data.tokens import TokenRows
from cardiotune.data.views import written
from cardiotune.errors import DataError
from cardiotune.models import calibrate, generation, thresholds
from cardiotune.models.baselines import BASELINES, FITS, ClassicalModel, fit_and_score
from cardiotune.models.costs import clock, scoring, starting
from cardiotune.models.enough import FEWEST, fewest_columns
from cardiotune.models.held_out import local, matched
from cardiotune.models.labelled import LabelledRows
from cardiotune.models.language import LanguageScorer, choose_examples, probabilities
from cardiotune.models.logistic import logit
from cardiotune.models.risk_scores import PUBLISHED, completed_risks
from cardiotune.models.text_baselines import embedding, stacked, tfidf
from cardiotune.models.thresholds import NamedThreshold
from cardiotune.models.tuned import TunedModel, fit_calibrator
from cardiotune.progress import progress
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from cardiotune.training.distributed import world
from cardiotune.training.weights import find_weights, same_weights

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
EMBEDDING_ROWS = 4000
"""Training rows that the model on frozen hidden states is fitted on at most; each costs as much as
scoring it."""
CALIBRATED_ON = "validation"
WARM_UP_ROWS = 4
"""Rows that the base model reads before its time is taken: a device's first batch may take seconds.
(The tuned model has scored its own check by then.)"""
CENSORED = "censored"
"""Part of those whose outcome is not known, whatever part they are judged in."""


@dataclass(frozen=True)
class Risks:
    """Probabilities of one model, (rows of the cohort and, behind them, the censored,); NaN where a
    row was not scored."""

    final: Array
    raw: Array
    """As the model gives them, before class imbalance is taken out and they are calibrated."""


Maker = Callable[["CohortRisks", str], Risks]
"""A cohort and the name of a comparator -> its risks."""
MAKERS: dict[str, Maker] = {}
"""Every comparator's: by `makes`, and for what reads the table alone by `baselines.BASELINES`."""


def makes(*names: str) -> Callable[[Maker], Maker]:
    """Registers a function as the one that makes the risks of these comparators."""

    def register(maker: Maker) -> Maker:
        MAKERS.update(dict.fromkeys(names, maker))
        return maker

    return register


class CohortRisks:
    """The risks of one run's comparators on its own cohort."""

    def __init__(self, run: RunFolder, config: Config, prepared: Prepared) -> None:
        self.run = run
        self.config = config
        self.prepared = prepared
        frame, events, parts = prepared.cohort.frame, prepared.cohort.events, prepared.parts
        if others := prepared.censored:  # behind the cohort, in a part that nothing is learned from
            frame = pl.concat([frame, others.frame])
            events = np.concatenate([events, np.zeros(others.frame.height, int)])
            asked = np.isin(others.parts, config.evaluation.parts)
            parts = np.concatenate([parts, np.where(asked, CENSORED, UNUSED)])
        self.rows = LabelledRows(frame, events, parts, config.data, config.seed)
        self.events, self.parts = events, parts
        # The validation part is always scored: calibration, thresholds and stacking learn on it.
        self.scored = np.flatnonzero(np.isin(self.parts, [*config.evaluation.parts, CALIBRATED_ON, CENSORED]))
        self.calibrators: dict[str, calibrate.Calibrator] = {}
        self.found: dict[str, Risks] = {}
        self.classical: dict[str, ClassicalModel] = {}
        """The models behind the risks of those that read the table alone."""
        self.matchings: dict[str, dict[str, Matching]] = {}
        """How columns were matched -> held-out table -> its columns."""
        self.encoded: TokenRows | None = None
        self.device = ""
        """Where the language models computed."""
        self.tuned_logits: Array = np.empty(0)
        """Of the tuned model before it is calibrated, (rows of the cohort,)."""
        self.tuned: TunedModel | None = None
        """Kept for who reads other texts with it."""
        self.fewest: int | None = None
        """Columns that a row must tell for the tuned model; None where its texts do not vary."""

    def all(self) -> dict[str, Risks]:
        """Model -> its risks, for every comparator of the experiment."""
        wanted = [name for name in COMPARATORS if name in self.config.comparators]
        for name in wanted:
            if COMPARATORS[name].language == "tuned":  # the base model would stand in memory beside it
                self.__dict__.pop("base", None)
            with clock() as running:
                self.found[name] = MAKERS[name](self, name)
            if world().rank == 0:  # two that write at once would lose what one of them has recorded
                self.run.update_manifest(scoring={name: {**running.entry(), **self._about(name)}})
        return self.found

    def _about(self, name: str) -> dict[str, Any]:
        """Beside a model's seconds: where a language model computed, in how many processes, and
        whose risks it stands on."""
        about = COMPARATORS[name]
        if about.needs:
            return {"needs": list(about.needs)}
        return {"device": self.device, "processes": world().size} if about.language else {}

    def calibration(self) -> dict[str, Any]:
        """The content of `calibration.json`: calibrators and thresholds, fixed on the validation
        part."""
        held = np.flatnonzero(self.parts == CALIBRATED_ON)
        y_true = self.events[held].astype(float)
        rules = self.config.thresholds
        decision = NamedThreshold("decision", self.config.task.flagged_at)

        def fixed(risks: Risks) -> list[NamedThreshold]:
            return [decision, *thresholds.fix(rules, y_true, risks.final[held], self._weights_of(held))]

        return {
            "method": self.config.evaluation.calibration,
            "fitted_on": CALIBRATED_ON,
            "n": len(held),
            "n_events": told_events(len(held), int(y_true.sum())),
            "models": {name: calibrator.as_json() for name, calibrator in self.calibrators.items()},
            "thresholds": {
                name: [threshold.as_json() for threshold in fixed(risks)] for name, risks in self.found.items()
            },
            **({} if self.fewest is None else {FEWEST: self.fewest}),
        }

    @cached_property
    def base(self) -> LanguageScorer:
        """The base model; zero-shot, few-shot and embedding share it."""
        with starting():
            scorer = LanguageScorer(self.config, same_weights(self.run, self.config.model), None)
            scorer.states(self._tokens(scorer).take(self.scored[:WARM_UP_ROWS]), what="starting")
        self.device = str(scorer.device)
        return scorer

    def _tokens(self, scorer: LanguageScorer) -> TokenRows:
        """All rows of the cohort, encoded once for every model and stage."""
        if self.encoded is None:
            with starting():
                weights = find_weights(self.config.model, download=False)
                self.encoded = run_tokens(self.run, self.prepared.all_texts, scorer.encoder, weights)
        return self.encoded

    def _spread(self, values: Array) -> Array:
        """Values of the scored rows, at their places among all."""
        out = np.full((len(self.parts), *values.shape[1:]), np.nan)
        out[self.scored] = values
        return out

    def _weights_of(self, rows: NDArray[Any]) -> Array | None:
        """How much each of these rows counts; None when all count the same."""
        return None if self.rows.weights is None else self.rows.weights[rows]

    @makes(*BASELINES)
    def _of_the_table(self, name: str) -> Risks:
        self.classical[name], risks = fit_and_score(FITS[name], self.rows)
        return _same(risks)

    @makes(*having(lambda one: one.like in BASELINES))
    def _of_a_held_out_table(self, name: str) -> Risks:
        """A model on columns, for tables that nobody has harmonised; what was matched goes into the
        manifest."""
        record, sources = COMPARATORS[name], self.prepared.sources
        model, held_out = BASELINES[record.like], self.config.test_tables
        if record.columns == "own":
            return _same(local(model, self.rows, sources, held_out))
        return _same(matched(model, self.rows, sources, self._matchings(record.columns)))

    def _matchings(self, way: str) -> dict[str, Matching]:
        """What the columns of each held-out table are, matched in this way."""
        if way not in self.matchings:
            sources, held_out = self.prepared.sources, self.config.test_tables
            training = [source for source in sources if source.name not in held_out]
            tables = [source for source in sources if source.name in held_out]
            found = {table.name: MATCHERS[way](training, table, self.config.data) for table in tables}
            self.matchings[way] = found
            told = {table.name: found[table.name].as_json(table.data) for table in tables}
            if world().rank == 0:
                self.run.update_manifest(matching={way: told})
        return self.matchings[way]

    @makes("tfidf")
    def _of_the_text(self, name: str) -> Risks:
        return _same(tfidf(self.prepared.all_texts, self.events, self.parts, self.rows.weights))

    @makes("stacked")
    def _stacked(self, name: str) -> Risks:
        return _same(stacked(self.rows, self.tuned_logits))

    @makes("zero_shot", "few_shot")
    def _prompted(self, name: str) -> Risks:
        """The base model, read at the two answers; with solved patients in the prompt or
        without."""
        rows: TokenRows | list[str] = self._tokens(self.base).take(self.scored)
        shown = None
        if COMPARATORS[name].examples:
            with starting():
                shown = self.base.encoder.with_examples(examples(self.config, self.prepared))
            if self.base.encoder.whole:  # a prompt without examples is no part of one with them
                rows = [self.prepared.all_texts[row] for row in self.scored]
        return _same(self._spread(probabilities(self.base.logits(rows, shown, what=f"scoring {name}"))))

    @makes("embedding")
    def _embedding(self, name: str) -> Risks:
        """Logistic regression on the base model's hidden states, of a sample of the training rows
        where they are many."""
        training = np.flatnonzero(self.parts == "train")
        if len(training) > EMBEDDING_ROWS:
            log.info("embedding: fitted on %d of %d training rows", EMBEDDING_ROWS, len(training))
            draw = np.random.default_rng(self.config.seed)
            training = np.sort(draw.choice(training, EMBEDDING_ROWS, replace=False))
        rows = np.union1d(training, self.scored)
        states = self.base.states(self._tokens(self.base).take(rows), what="embedding")
        risks = embedding(states, self.events[rows], self.parts[rows], self._weights_of(rows))
        out = np.full(len(self.parts), np.nan)
        out[rows] = risks
        return _same(out)

    @makes("free_generation")
    def _written(self, name: str) -> Risks:
        """Answers in words, parsed; how often that failed in the test part goes into the
        manifest."""
        task, base = self.config.task, self.base
        labels = (task.negative_label, task.positive_label)
        generator = generation.Generator(base.network.base, base.encoder.tokenizer, base.pad_id, task.max_new_tokens)
        rows = self._tokens(base).take(self.scored)
        prompts = base.encoder.prompts(rows, room=task.max_new_tokens)
        with starting():
            base.logits(
                rows.take(np.arange(min(16, len(rows)))), what="checking"
            )  # words do not tell that it is damaged
        with progress("free generation", len(prompts)) as bar, scoring(len(prompts)):
            parsed = generator.parsed(prompts, generation.choose_parser(task.options, labels), bar.advance)
        test = self.parts[self.scored] == "test"
        rows = self.scored[test]
        judged = generation.figures(parsed[test], self.events[rows], self._weights_of(rows))
        if world().rank == 0:
            self.run.update_manifest(free_generation=judged)
        share = self.rows.training.prevalence
        return _same(self._spread(generation.risks_of(parsed, share)))

    @makes(*PUBLISHED)
    def _published(self, name: str) -> Risks:
        """A published score, raw, and recalibrated on the validation part: it was made for other
        people and outcomes."""
        held, region = self.parts == CALIBRATED_ON, self.config.evaluation.score2_region
        with scoring(len(self.parts)):
            raw = completed_risks(self.rows.frame, self.config.data.columns, name, self.rows.train, region)
        logits = logit(raw)
        try:
            outcomes = self.events[held].astype(float)
            calibrator = calibrate.update(logits[held], outcomes, "logistic", self._weights_of(held))
        except DataError as error:
            log.warning("%s: %s; its risks stay as they are", name, error)
            return _same(raw)
        self.calibrators[name] = calibrator
        return Risks(calibrate.apply(calibrator, logits), raw)

    @makes("tuned")
    def _tuned(self, name: str) -> Risks:
        with starting():
            model = TunedModel(self.run, self.config, self.prepared.order)
        self.device = str(model.scorer.device)
        if self.config.serialize.views == 1:
            logits = model.logits(self._tokens(model.scorer).take(self.scored))
        else:
            logits = model.mean_logits(written(self.config, self.prepared, self.scored))
            self.tuned = model
        held = self.parts[self.scored] == CALIBRATED_ON
        shifted = model.corrected(logits)
        self.tuned_logits = self._spread(shifted)
        rows = self.scored[held]
        calibrator = fit_calibrator(self.config, shifted[held], self.events[rows], self._weights_of(rows))
        self.calibrators["tuned"] = calibrator
        final = self._spread(calibrate.apply(calibrator, shifted))
        if self.config.vary or self.config.tables:
            with starting():  # once, however many rows are scored
                self.fewest = fewest_columns(
                    lambda texts: calibrate.apply(calibrator, model.corrected(model.logits(texts))),
                    self.prepared,
                    self.config.serialize,
                    self.config.seed,
                )
        if calibrator.method == "none" and np.array_equal(shifted, logits):
            return _same(final)  # not even by the last digit: where they differ, something was done
        return Risks(final, self._spread(probabilities(logits)))

    @makes("tuned_matched")
    def _tuned_matched(self, name: str) -> Risks:
        """The tuned model, where nobody has harmonised a held-out table: its rows in the training
        tables' words, by columns that are matched automatically; other rows as they are."""
        before, held_out = self.found["tuned"], self.config.test_tables
        final, raw = before.final.copy(), before.raw.copy()
        those = np.concatenate([source.rows for source in self.prepared.sources if source.name in held_out])
        rows = np.intersect1d(those, self.scored)
        texts = written(self.config, self.prepared, rows, self._matchings(COMPARATORS[name].columns))
        assert self.tuned is not None
        logits = self.tuned.mean_logits(texts)
        final[rows] = calibrate.apply(self.calibrators["tuned"], self.tuned.corrected(logits))
        raw[rows] = final[rows] if before.raw is before.final else probabilities(logits)
        self.tuned = None
        return Risks(final, final if before.raw is before.final else raw)


def _same(risks: Array) -> Risks:
    return Risks(risks, risks)


def examples(config: Config, prepared: Prepared) -> list[tuple[str, str]]:
    """Solved training patients for few-shot prompts: text and answer."""
    rows = prepared.rows("train")
    return choose_examples(
        prepared.texts_of(rows),
        prepared.cohort.events[rows],
        config.task.few_shot_examples,
        (config.task.negative_label, config.task.positive_label),
        config.seed,
    )
