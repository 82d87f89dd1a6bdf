"""The command line: parse, call, exit code. What is done is in `stages`."""

import json
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from cardiotune import processes
from cardiotune.config import compose, dump, load_config, shipped
from cardiotune.errors import CardioTuneError, ConfigError, DataError
from cardiotune.files import private
from cardiotune.settings import Config

if TYPE_CHECKING:
    from cardiotune.deployment.record import Parity

# Before any library that reads them: nothing leaves the machine unless it is asked for.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")  # progress is shown by rich

out = Console()
err = Console(stderr=True)
log = logging.getLogger("cardiotune")

SHARED = ("train", "predict")
"""Commands that many processes can do together."""


class _Commands(typer.core.TyperGroup):
    """Turns an expected failure into one line and its exit code, and hides tracebacks, which may
    quote a row."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CardioTuneError as error:
            _fail(f"error: {error}", error.exit_code, ctx)
        except KeyboardInterrupt:
            _fail("stopped by the user", 130, ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if type(error).__module__.startswith(("click", "typer")):
                raise
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            _fail(
                f"internal error: {type(error).__name__} at {where}; run with `cardiotune --debug ...` and report it",
                5,
                ctx,
            )


def _fail(message: str, code: int, ctx: Any) -> None:
    if ctx.params.get("debug"):
        traceback.print_exc()
    if not _tell_launcher(message.removeprefix("error: "), code):
        err.print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(code)


def _tell_launcher(message: str, code: int) -> bool:
    """Of many processes, none prints its failure: the one that started them says it, once."""
    if os.environ.get(processes.MEETING) is None:
        return False
    try:
        processes.current()
    except ConfigError:  # nobody waits there, and that is what has gone wrong
        return False
    from cardiotune.training.distributed import tell_failure

    return tell_failure(message, code)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="Experiment YAML, or the name of a shipped one.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that override it.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
AllowUnknown = Annotated[
    bool,
    typer.Option(
        "--allow-unknown",
        help="Go on where most values of a column are unknown codes or out of range; they count as missing.",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="DATASET",
        help="Read the table by this dictionary: of configs/datasets, a file, or one of the run's own tables.",
    ),
]
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="tuned, zero_shot, or a classical model that the run has saved, such as lightgbm.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing run folder of this name.")]


@app.callback()
def _start(
    ctx: typer.Context, debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False
) -> None:
    """Fine-tune language models on patients' table rows, and learn honestly whether it was worth
    it."""
    configure_logging(debug)
    if ctx.invoked_subcommand not in SHARED:
        processes.only_one(f"cardiotune {ctx.invoked_subcommand}")
    ctx.with_resource(private())
    if strays := ctx.with_resource(processes.without_strays()):
        log.warning("ignored, for this process is not one of many: %s", ", ".join(strays))


def configure_logging(debug: bool) -> None:
    """Messages to standard error; of many processes, the first one's."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain())
    logger = logging.getLogger("cardiotune")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug:
        warnings.simplefilter("ignore")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # announces itself whenever it is installed
    process = processes.current()
    out.quiet = process.is_worker  # the one that started them does the talking
    if process.is_worker:
        logger.setLevel(logging.INFO if process.rank == 0 else logging.ERROR)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        return prefix + record.getMessage()


def _load(config: str, overrides: list[str] | None) -> Config:
    """Settings, heard by the hub's library."""
    if _is_folder(config):
        own = Path(config) / "config.yaml"
        raise ConfigError(
            f"{config}: is a folder; expected an experiment YAML{f', such as {own}' if own.is_file() else ''}"
        )
    return _heard(load_config(config, overrides))


def _heard(config: Config) -> Config:
    """The settings; before anything that imports the hub's library, which reads once whether it may
    ask."""
    if config.model.allow_download:
        os.environ["HF_HUB_OFFLINE"] = "0"
    return config


def _is_folder(config: str) -> bool:
    return Path(config).is_dir() and config not in shipped("experiments")


KEEPS_SETTINGS = "a run folder keeps the settings it was made with; give a config to change them"


@app.command()
def run(
    config: ConfigArgument,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and stop.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Do everything: cohort, split, text, fine-tuning, predictions, metrics, report.

    Example: cardiotune run statlog_heart train.epochs=2 name=first_try
    """
    loaded = _load(config, overrides)
    if dry_run:
        sys.stdout.write(dump(loaded))
        return
    from cardiotune import stages

    folder = stages.run(loaded, overwrite)
    _show_metrics(json.loads(folder.metrics.read_text()), as_json)
    _say(f"report: {folder.report}", as_json)


@app.command()
def prepare(
    config: ConfigArgument,
    overrides: Overrides = None,
    show: Annotated[int, typer.Option(min=0, help="Print this many prompts and stop; nothing is written.")] = 0,
    real_rows: Annotated[
        bool, typer.Option("--real-rows", help="Show real patients instead of synthetic rows.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Check the table, split it, and write the run folder; or show what prompts look like.

    Example: cardiotune prepare statlog_heart --show 3
    """
    loaded = _load(config, overrides)
    from cardiotune import stages
    from cardiotune.data.prepare import show_prompts

    if show:
        for number, prompt in enumerate(show_prompts(loaded, show, real_rows), start=1):
            kind = "real" if real_rows else "synthetic"
            out.rule(f"{kind} row {number}")
            out.print(prompt, markup=False, highlight=False, soft_wrap=True)
        return
    folder, _ = stages.prepare(loaded, overwrite)
    folder.update_manifest(status="prepared")
    _say(f"prepared: {folder.path}")


@app.command()
def train(
    config: ConfigArgument,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from a run folder's newest good checkpoint.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Fine-tune: from a config, or in a run folder that `prepare` made or that was interrupted.

    Example: cardiotune train --resume runs/statlog_heart
    """
    there = resume or (Path(config) / "manifest.json").is_file()
    if there and overrides:
        raise ConfigError(KEEPS_SETTINGS)
    if not there:
        processes.only_one("preparing (`cardiotune prepare CONFIG`, before `cardiotune train RUN`)")
    loaded = None if there else _load(config, overrides)
    from cardiotune import reopen, stages

    folder, prepared = stages.prepare(loaded, overwrite) if loaded else (reopen.open_run(config), None)
    stages.train(folder, prepared, resume)
    if processes.current().rank == 0:
        folder.update_manifest(status="trained")
    _say(f"trained: {folder.path}")


@app.command()
def predict(
    run: RunArgument,
    table: Annotated[
        str | None, typer.Argument(help="A new table. Without it, the run's own parts are scored.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--out", help="CSV or Parquet file. Default: CSV to standard output.")
    ] = None,
    keep_ids: Annotated[bool, typer.Option("--keep-ids", help="Write the table's own ids, not hashed ones.")] = False,
    model: ModelName = "tuned",
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="The same as --model zero_shot.")] = False,
    site: Annotated[str | None, typer.Option(help="Use the recalibration of this name; see `recalibrate`.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="With --out: processes that share the table.")] = 1,
    chunk_rows: Annotated[int, typer.Option(min=1, help="Rows in memory at a time, in each process.")] = 16_384,
    allow_unknown: AllowUnknown = False,
    dataset: Dataset = None,
) -> None:
    """Score a table with a run's model; every row gets a probability, in the table's order.

    A table of any size, in flat memory. With --out an interrupted command, given again, goes on
    where it was. With --dataset the table may have any columns that this dictionary describes.

    Example: cardiotune predict runs/statlog_heart new_patients.csv --out risks.csv

    Example: cardiotune predict runs/statlog_heart new_patients.csv --model logistic_regression

    Example: cardiotune predict runs/hospitals other.csv --dataset other.yaml --out risks.csv
    """
    from cardiotune import reopen, stages
    from cardiotune.deployment.bulk import Job, abstained, score_to_file, write_to_stdout

    if table is None:
        if dataset or model != "tuned":
            named = "--dataset" if dataset else "--model"
            raise ConfigError(
                f"{named} goes with a new TABLE; the run's own parts are scored as they were, by every model"
            )
        folder = reopen.open_run(run)
        stages.predict(folder)
        _say(f"predictions: {folder.predictions}")
        return
    if output and output.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"--out {output}: expected a name ending in .csv or .parquet")
    if zero_shot and model != "tuned":
        raise ConfigError(f"--zero-shot and --model {model}: name one model")
    model = "zero_shot" if zero_shot else model
    if site and model != "tuned":
        raise ConfigError(f"--site is of the tuned model; it does not go with --model {model}")
    if workers > 1 and output is None:
        raise ConfigError("--workers needs --out: several processes cannot write to standard output")
    if output is None:
        processes.only_one("predict TABLE without --out")
    reopen.check_scorable(run, model)
    job = Job(run, table, keep_ids, model, site, chunk_rows, allow_unknown, dataset)
    if output is None:
        write_to_stdout(job)
        return
    rows = score_to_file(job, output, workers)
    few = abstained(output) if dataset and output.is_file() else 0
    _say(f"{rows} rows scored{f', {few} of them abstain for they tell too little' if few else ''}: {output}")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; with --base, a PEFT adapter's folder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="With --base: settings, such as serialize.style."),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Judge this checkpoint of the run instead.")] = None,
    table: Annotated[
        str | None, typer.Option(help="On this table, which has the outcome; all its rows are the test part.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Base model of an adapter from elsewhere, from configs/models.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="With --base: the question, from configs/tasks or a file.")] = None,
    dataset: Dataset = None,
    out_folder: Annotated[
        Path, typer.Option("--out", help="With --base: where predictions.jsonl and metrics.json go.")
    ] = Path("evaluation"),
    allow_unknown: AllowUnknown = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an evaluation of another table or model that has this name.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Judge a run's predictions again and write metrics.json; or judge it on another table, one of
    its checkpoints, or any adapter.

    Example: cardiotune evaluate runs/statlog_heart --checkpoint checkpoints/step-000040

    Example: cardiotune evaluate runs/hospitals --table other.csv --dataset other.yaml

    Example: cardiotune evaluate my_adapter --base gemma3-270m --task heart_disease --dataset
    statlog_heart
    """
    config = _adapter_config(run, base, task, dataset, table, overrides or []) if base else None
    from cardiotune import reopen, stages, studies

    if config:
        judged = studies.evaluate_adapter(run, config, out_folder, allow_unknown, overwrite)
        _show_metrics(judged, as_json)
        _say(f"written: {out_folder}", as_json)
        return
    if overrides or task:
        raise ConfigError("KEY=VALUE and --task go with --base; a run folder keeps the settings it was made with")
    if dataset and not table:
        raise ConfigError("--dataset goes with --table, which it says how to read, or with --base")
    folder = reopen.open_run(run)
    asked = studies.NewTable(table, dataset, allow_unknown) if table else None
    if checkpoint:
        target, result = studies.evaluate_checkpoint(folder, checkpoint, asked, overwrite)
    elif asked:
        target, result = studies.evaluate_table(folder, asked, overwrite)
    else:
        _show_metrics(stages.evaluate(folder), as_json)
        return
    _show_metrics(result, as_json)
    _say(f"written: {target}", as_json)


def _adapter_config(
    adapter: Path, base: str, task: str | None, dataset: str | None, table: str | None, overrides: list[str]
) -> Config:
    if not (adapter / "adapter_config.json").is_file():
        raise ConfigError(f"{adapter}: no adapter_config.json; expected the folder of a PEFT adapter")
    if not dataset:
        raise ConfigError("--base needs --dataset: a data dictionary, from configs/datasets or a file")
    use = {"model": base, "dataset": dataset, **({"task": task} if task else {})}
    above = [*([f"data.path={table}"] if table else []), "models=[tuned]", *overrides]
    return _heard(compose({"name": "evaluation", "use": use}, above, "evaluate --base", Path()))


@app.command()
def audit(config: ConfigArgument, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Look for leaks and bad data, in an experiment's table or a run; exit code 3 when there is a
    leak.

    Example: cardiotune audit statlog_heart
    """
    from cardiotune import reopen, stages
    from cardiotune.audit import findings as auditing
    from cardiotune.audit.audit import audit_prepared
    from cardiotune.data.prepare import read_prepared

    if (Path(config) / "manifest.json").is_file() or _is_folder(config):
        if overrides:
            raise ConfigError(KEEPS_SETTINGS)
        folder = reopen.open_run(config)
        findings = stages.audit(folder)
        if folder.metrics.is_file():
            findings = stages.audit_results(folder)
    else:
        loaded = _load(config, overrides)
        findings = audit_prepared(loaded, read_prepared(loaded))
    if as_json:
        sys.stdout.write(json.dumps(auditing.as_json(findings), indent=2) + "\n")
    else:
        table = Table("severity", "check", "finding")
        for finding in findings:
            table.add_row(finding.severity, finding.check.replace("_", " "), finding.text)
        out.print(table)
    leaks = sum(finding.severity == "leak" for finding in findings)
    if leaks:
        raise DataError(f"leaks found: {leaks}; results are not to be believed before they are explained")


@app.command()
def export(
    run: RunArgument,
    to: Annotated[
        Literal["merged", "gguf", "onnx", "hub"],
        typer.Option(help="merged: safetensors; gguf: llama.cpp; onnx: onnxruntime; hub: upload a merged export."),
    ],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the export.")],
    precision: Annotated[
        Literal["f32", "f16", "q8_0", "q4_k_m"], typer.Option(help="Of the numbers in a GGUF.")
    ] = "f16",
    check: Annotated[
        bool, typer.Option("--check", help="Only put an export that is there through the parity gate again.")
    ] = False,
    repository: Annotated[str | None, typer.Option(help="With --to hub: OWNER/NAME.")] = None,
    upload: Annotated[bool, typer.Option("--upload", help="With --to hub: yes, let it leave this machine.")] = False,
    public: Annotated[bool, typer.Option("--public", help="With --to hub: for everybody to see.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an export of another model, or in another format.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's model in another format, and prove that it predicts the same; exit code 4 when
    it does not.

    The folder scores raw rows (`predict DIR TABLE`, `RiskModel.load(DIR)`) and holds no patient's
    row.

    Example: cardiotune export runs/statlog_heart --to merged --out exported
    """
    if to == "hub" and upload:  # before any library reads it
        os.environ["HF_HUB_OFFLINE"] = "0"
    from cardiotune import studies
    from cardiotune.deployment import hub
    from cardiotune.deployment.record import is_export

    if check or not (to == "hub" and is_export(out_folder)):
        found = studies.export(run, "merged" if to == "hub" else to, out_folder, precision, check, overwrite)
        if as_json:
            sys.stdout.write(json.dumps(found.as_json(), indent=2) + "\n")
        else:
            _show_parity(found)
        _say(f"{'the same' if check else 'exported'}: {out_folder}", as_json)
    if to == "hub":
        wanted = hub.check_asked(repository, upload, out_folder)
        _say(f"uploaded: {hub.upload(out_folder, wanted, public)}", as_json)


def _show_parity(found: "Parity") -> None:
    from cardiotune.deployment.parity import as_text

    table = Table("", "run", "export")
    if found.test:
        for name, values in (("AUROC", found.test.auroc), ("Brier score", found.test.brier)):
            table.add_row(name, *map(as_text, values))
        out.print(table)
    _say(
        f"difference in probability: at most {found.max_difference:.2g}, mean {found.mean_difference:.2g} "
        f"(allowed {found.tolerance:g})"
    )


@app.command()
def convert(
    folder: Annotated[Path, typer.Argument(help="A model folder whose weights are pickled: pytorch_model.bin.")],
    out_folder: Annotated[Path, typer.Option("--out", help="New folder, for model.path.")],
    model_type: Annotated[
        str | None, typer.Option(help="Where its config.json names none, as old ones do: bert, for example.")
    ] = None,
) -> None:
    """Write a model folder with pickled weights anew as safetensors, the only weights that are
    loaded.

    The pickle is read as tensors and nothing else; one that asks for more is refused.

    Example: cardiotune convert biobert-v1.1 --out weights/biobert --model-type bert
    """
    from cardiotune.training.convert import convert as convert_folder

    record = convert_folder(folder, out_folder, model_type)
    names = ", ".join(record.converted_from)
    out.print(f"{out_folder}: made of {names}; use it with model.path={out_folder}", markup=False, soft_wrap=True)


@app.command("export-check")
def export_check(run: RunArgument, as_json: AsJson = False) -> None:
    """List what of a run folder may leave the safe environment; exit code 3 when a file must stay.

    Looks into every file for rows, ids and texts of patients and for counts under 10; prints none
    of them.

    Example: cardiotune export-check runs/statlog_heart
    """
    from cardiotune import reopen
    from cardiotune.audit.export_check import STAY, check_export

    judged = check_export(reopen.open_run(run))
    if as_json:
        sys.stdout.write(json.dumps({"files": [entry._asdict() for entry in judged]}, indent=2) + "\n")
    else:
        table = Table("verdict", Column("file", overflow="fold"), "why")
        for path, verdict, reasons in judged:
            table.add_row(verdict, escape(path), "; ".join(reasons))
        out.print(table)
    stay = sum(entry.verdict == STAY for entry in judged)
    if stay:
        raise DataError(f"{stay} of {len(judged)} files must stay; copy the others alone, after a look at each of them")


@app.command()
def probe(
    run: RunArgument,
    rows: Annotated[int, typer.Option(min=1, help="Test patients to probe with.")] = 50,
) -> None:
    """Try how far risks depend on how a patient is written, and whether they fall where a finding
    gets worse.

    Example: cardiotune probe runs/statlog_heart --rows 20
    """
    from cardiotune import reopen, studies

    folder = reopen.open_run(run)
    found = studies.probe(folder, rows)
    table = Table("probe", "patients", "mean change", "95 % below", "largest")
    for item in found["probes"]:
        changes = (item[name] for name in ("mean_change", "p95_change", "max_change"))
        table.add_row(item["name"], str(item["n"]), *(f"{change:.3f}" for change in changes))
    out.print(table)
    for item in found["monotonicity"]:
        _say(f"{item['text']}: {item['share_wrong']:.0%} of {item['n']} patients the wrong way")
    _say(found.get("note", f"written: {folder.probes}"))
    _redraw(folder)


@app.command()
def explain(
    run: RunArgument,
    rows: Annotated[int, typer.Option(min=1, help="Test patients to explain on.")] = 100,
    row: Annotated[
        str | None,
        typer.Option(
            help="Explain one patient: a row_id of predictions.jsonl, the table's own id, or a row of --table."
        ),
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="With --row: a new table, whose row of this number is meant.")
    ] = None,
    dataset: Dataset = None,
    allow_unknown: AllowUnknown = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --row: print JSON to standard output.")] = False,
) -> None:
    """Find out which columns the tuned model and LightGBM rest on, or which fields one patient's
    risk rests on.

    Example: cardiotune explain runs/statlog_heart --rows 50

    Example: cardiotune explain runs/statlog_heart --table new_patients.csv --row 1
    """
    from cardiotune import reopen, studies

    folder = reopen.open_run(run)
    if dataset and not table:
        raise ConfigError("--dataset goes with --table, which it says how to read")
    if row is not None:
        asked = studies.NewTable(table, dataset, allow_unknown) if table else None
        _show_row(studies.explain_row(folder, row, asked), as_json)
        return
    if table or as_json:
        raise ConfigError("--table and --json go with --row, which says the patient to explain")
    found = studies.explain(folder, rows)
    shown = Table("model", "column", "AUROC lost when permuted")
    for item in found["importance"]:
        shown.add_row(item["model"], item["column"], "-" if item["value"] is None else f"{item['value']:.3f}")
    out.print(shown)
    _say(found.get("note", f"written: {folder.explanations}"))
    _redraw(folder)


def _show_row(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    _say(f"risk of this patient: {found['risk']:.3f}")
    table = Table("left out alone", "risk without it", "change")
    for field in found["fields"]:
        table.add_row(field["column"], f"{field['risk']:.3f}", f"{field['change']:+.3f}")
    out.print(table)
    if found["not_recorded"]:
        _say(f"not recorded: {', '.join(found['not_recorded'])}")
    _say("below 0: the field raises this patient's risk. It shows what the model rests on, not what causes disease.")


def _redraw(folder: Any) -> None:
    """The report again, if there is one, with what is new."""
    from cardiotune import stages

    if folder.report.is_file():
        _say(f"report: {stages.report(folder)}")


@app.command("learn-curve")
def learn_curve(
    config: ConfigArgument,
    overrides: Overrides = None,
    sizes: Annotated[str, typer.Option(help="Training rows, and `all`.")] = "32,128,512,2048,all",
    seeds: Annotated[int, typer.Option(min=1, help="Runs at each size.")] = 3,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for these runs and the curve. Default: runs/NAME_learning_curve."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the curve of another experiment there; its runs stay.")
    ] = False,
) -> None:
    """Run an experiment at growing training sizes; interrupted, it goes on where it stopped.

    The report of runs/NAME, if there is this run, shows the curve.

    Example: cardiotune learn-curve statlog_heart --sizes 32,64,all --seeds 3
    """
    loaded = _load(config, overrides)
    from cardiotune import studies
    from cardiotune.report.learning_curve import parse_sizes, to_markdown
    from cardiotune.runs import RunFolder

    wanted = parse_sizes(sizes)
    found, folder = studies.learn_curve(loaded, wanted, seeds, out_folder, overwrite)
    _say(to_markdown(found))
    _say(f"written: {folder / 'learning_curve.png'}")
    _redraw(RunFolder(folder.parent))  # has a report when the curve was left in a run folder


@app.command()
def tune(
    config: ConfigArgument,
    overrides: Overrides = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of an earlier call included.")] = 20,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a search of other settings there.")] = False,
) -> None:
    """Search settings of the fine-tuning that do best on the validation part; interrupted, it goes
    on.

    The test part is never scored. Trials that do badly are pruned. Needs `pip install
    cardiotune[tune]`.

    Example: cardiotune tune statlog_heart --trials 20
    """
    loaded = _load(config, overrides)
    from cardiotune.tuning import tune as search

    found = search(loaded, trials, overwrite)
    states = ", ".join(f"{count} {state}" for state, count in found.trials.items())
    own = "failed" if found.own is None else f"{found.own:.4f}"
    _say(f"validation log-loss {found.best:.4f} (as the experiment has it {own}); trials: {states}")
    _say(" ".join(["cardiotune run", config, *(overrides or []), *found.overrides]))


@app.command("leave-out")
def leave_out(
    config: ConfigArgument,
    overrides: Overrides = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace runs there that have other settings or tables.")
    ] = False,
) -> None:
    """Run an experiment of several tables with each in turn as the test; interrupted, it goes on.

    The runs lie in runs/NAME_leave_out/, with one table and figure of all: each model at each
    table, and where a further table is expected to lie.

    Example: cardiotune leave-out hospitals.yaml models=[logistic_regression,lightgbm]
    """
    loaded = _load(config, overrides)
    from cardiotune import studies
    from cardiotune.report.leave_out import to_markdown

    found, folder = studies.leave_out(loaded, overwrite)
    _say(to_markdown(found))
    _say(f"written: {folder / 'leave_out.png'}")


@app.command()
def recalibrate(
    run: RunArgument,
    table: Annotated[str, typer.Argument(help="A table of the new site, with the outcome.")],
    method: Annotated[
        Literal["intercept", "logistic"], typer.Option(help="Shift all risks, or shift and stretch them.")
    ] = "intercept",
    allow_unknown: AllowUnknown = False,
    dataset: Dataset = None,
    site: Annotated[str | None, typer.Option(help="Name of the recalibration. Default: the table's.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a recalibration of this name by another table or method.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Adapt a run's probabilities to a new site, and show them before and after.

    Example: cardiotune recalibrate runs/statlog_heart other_hospital.csv --method logistic
    """
    from cardiotune import reopen, studies
    from cardiotune.evaluation.catalogue import named

    asked = studies.NewTable(table, dataset, allow_unknown)
    file, judged = studies.recalibrate(reopen.open_run(run), asked, method, site, overwrite)
    if as_json:
        sys.stdout.write(json.dumps(judged, indent=2) + "\n")
    else:
        shown = Table("", *(named(name).brief for name in judged["before"]))
        for when, values in judged.items():
            shown.add_row(when, *("-" if value is None else f"{value:.3f}" for value in values.values()))
        out.print(shown)
    _say(f"written: {file}; use it with `cardiotune predict {run} TABLE --site {file.stem}`", as_json)


@app.command()
def compare(
    run_folders: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Two run folders or more.")],
    all_models: Annotated[
        bool, typer.Option("--all-models", help="Every model of each run, not its main one.")
    ] = False,
    common: Annotated[bool, typer.Option("--common", help="Use only the test rows that all of them have.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put runs side by side on the same test rows, with intervals of their differences to the
    first.

    Example: cardiotune compare runs/lora runs/full
    """
    from cardiotune import reopen
    from cardiotune.report.compare import as_text
    from cardiotune.report.compare import compare as side_by_side

    found = side_by_side([reopen.open_run(folder) for folder in run_folders], all_models, common)
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if as_json else as_text(found) + "\n")


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(metavar="RUN|EXPORT", help="A run folder, or an export of one.")],
    host: Annotated[str, typer.Option(help="Address to listen on; off loopback a key is needed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File of API keys, one a line. Or set CARDIOTUNE_API_KEYS.")
    ] = None,
    model: ModelName = "tuned",
    site: Annotated[str | None, typer.Option(help="A recalibration of the run, as `recalibrate` named it.")] = None,
    dataset: Dataset = None,
    max_body_kib: Annotated[int, typer.Option(min=1, help="Largest body of a request, KiB.")] = 1024,
    max_rows: Annotated[int, typer.Option(min=1, help="Most rows of a request.")] = 1000,
    max_queue_rows: Annotated[int, typer.Option(min=1, help="Most rows that wait.")] = 4096,
    max_requests: Annotated[int, typer.Option(min=1, help="Most requests at once.")] = 1000,
    rate: Annotated[int, typer.Option(min=1, help="Requests a minute of one key or address.")] = 6000,
    body_seconds: Annotated[float, typer.Option(min=0.1, help="Time for a body to arrive.")] = 10,
    answer_seconds: Annotated[float, typer.Option(min=0.1, help="Time for rows to wait and be scored.")] = 60,
    batch_rows: Annotated[int, typer.Option(min=1, help="Rows that are scored together.")] = 256,
    batch_wait_ms: Annotated[float, typer.Option(min=0, help="How long a row waits for others.")] = 3,
    backend: Annotated[
        Literal["local", "vllm"], typer.Option(help="Who computes: this process, or a vLLM server.")
    ] = "local",
    backend_url: Annotated[str, typer.Option(help="vLLM's OpenAI-compatible API.")] = "http://127.0.0.1:8001/v1",
    backend_model: Annotated[str | None, typer.Option(help="Name of the model at vLLM, if it serves several.")] = None,
) -> None:
    """Serve a model: an API for patients' rows, and a page for the browser. Needs `pip install
    cardiotune[serve]`.

    SIGTERM finishes what was accepted; SIGHUP loads the model anew. vLLM's key is read from
    VLLM_API_KEY. docs/serving.md tells more.

    Example: cardiotune serve runs/statlog_heart --port 8000
    """
    try:
        from cardiotune.deployment.batching import BatchSettings
        from cardiotune.deployment.limits import Limits, read_keys
        from cardiotune.deployment.serve import ServeSettings, bind
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"serve: the package {error.name} is not installed; use `pip install cardiotune[serve]`"
        ) from None

    limits = Limits(
        body_bytes=max_body_kib << 10,
        rows=max_rows,
        body_seconds=body_seconds,
        answer_seconds=answer_seconds,
        requests_a_minute=rate,
        requests_at_once=max_requests,
    )
    keys = read_keys(api_key_file, os.environ.get("CARDIOTUNE_API_KEYS"))
    batches = BatchSettings(batch_rows, batch_wait_ms / 1000, max_queue_rows)

    def load() -> Any:
        if backend == "vllm":
            if model != "tuned":
                raise ConfigError(f"--model {model}: a vLLM server holds the tuned model alone; leave --backend out")
            from cardiotune.deployment.vllm import load_vllm

            return load_vllm(folder, backend_url, backend_model, os.environ.get("VLLM_API_KEY"), site, dataset)
        from cardiotune.deployment.scorer import RowScorer, settings_of
        from cardiotune.training.machine import set_up

        set_up(settings_of(folder).train.threads)
        return RowScorer.load(folder, site, dataset, model)

    bind(ServeSettings(folder, host, port, keys, limits, batches), load).run()


@app.command()
def report(run: RunArgument) -> None:
    """Draw report.html and report.md again.

    Example: cardiotune report runs/statlog_heart
    """
    from cardiotune import reopen, stages

    _say(f"report: {stages.report(reopen.open_run(run))}")


@app.command()
def init(
    table: Annotated[str, typer.Argument(help="CSV or TSV, also gzipped, or Parquet.")],
    target: Annotated[str, typer.Option(help="The column that holds the outcome.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for dataset.yaml and experiment.yaml.")],
    positive: Annotated[str | None, typer.Option(help="Values of the target that count as an event: A,B.")] = None,
    outcome: Annotated[str | None, typer.Option(help="The outcome in words, for the question.")] = None,
) -> None:
    """Draft a data dictionary and an experiment for any table, ready to run.

    Example: cardiotune init patients.csv --target died --out study
    """
    from cardiotune.data.draft import draft

    written = draft(table, target, out_folder, positive.split(",") if positive else None, outcome)
    for note in written.notes:
        _say(note)
    _say(f"written: {written.dataset} (check every line of it)")
    _say(f"next: cardiotune run {written.experiment}")


data_commands = typer.Typer(help="Public tables that cannot be shipped.", no_args_is_help=True)
app.add_typer(data_commands, name="data")


@data_commands.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="The table's short name: cardio.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder to put it into.")] = Path(),
) -> None:
    """Fetch a public table where there is internet; say where to get it and where to put it where
    there is none.

    Example: cardiotune data get cardio
    """
    from cardiotune.data.download import get

    _say(f"table: {get(name, folder)}")


synth = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(synth, name="synth", help="Write made-up data, marked as such.")


@synth.callback()
def _synth() -> None:
    """Write made-up data, marked as such."""


@synth.command("ukb")
def synth_ukb(
    rows: Annotated[int, typer.Option(help="Participants.")],
    out_folder: Annotated[Path, typer.Option("--out", help="A new folder for the export.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same participants in every style.")] = 0,
    style: Annotated[
        Literal["csv", "tab", "rap", "rap_prefixed", "titles"], typer.Option(help="How columns are named.")
    ] = "csv",
    columns: Annotated[
        int | None, typer.Option(help="Pad with made-up fields to so many columns, for load tests.")
    ] = None,
) -> None:
    """Write a UK Biobank export of made-up participants, with coronary artery disease of known
    risk.

    Example: cardiotune synth ukb --rows 5000 --seed 1 --style rap --out synthetic_ukb
    """
    from cardiotune.synthetic_ukb.export import write_export

    made = write_export(out_folder, rows, seed, style, columns)
    _say(f"synthetic: {made.rows} made-up participants, {made.columns} columns, {made.prevalent} with earlier disease")
    _say(f"{made.events} events within ten years; AUROC of the true risk {made.ceiling:.3f}")
    _say(f"written: {made.folder}; use it with data.path={made.folder}")


@app.command()
def doctor(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="Also: does this experiment work here, and does it fit?")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine can run; with a config, whether its parts go together and what memory
    training takes.

    Example: cardiotune doctor statlog_heart use.method=qlora
    """
    from cardiotune.doctor import examine, examine_experiment

    facts = examine_experiment(_load(config, overrides)) if config else examine()
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, value in facts.items():
        items = value.items() if isinstance(value, dict) else [("", value)]
        for line, (key, item) in enumerate(items):
            table.add_row("" if line else name.replace("_", " "), key, _in_words(item))
    out.print(table)


def _in_words(fact: Any) -> str:
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if isinstance(fact, list):
        return ", ".join(" ".join(str(v) for v in item.values()) for item in fact) or "none"
    return "not here" if fact is None else str(fact)


def _say(message: str, as_json: bool = False) -> None:
    (err if as_json else out).print(message, markup=False, highlight=False, soft_wrap=True)


SHOWN = ("auroc", "auprc", "accuracy", "brier", "log_loss", "calibration_slope")


def _show_metrics(metrics: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(metrics, indent=2) + "\n")
        return
    test = metrics["parts"].get("test") or next(iter(metrics["parts"].values()))
    weighted = "IPCW-weighted; " if "censoring" in test else ""
    happened = "few" if test["n_events"] is None else test["n_events"]
    table = Table(title=f"test part: {test['n']} rows, {happened} events ({weighted}95 % intervals in the report)")
    table.add_column("model")
    from cardiotune.evaluation.catalogue import named
    from cardiotune.report.wording import model_words

    for name in SHOWN:
        table.add_column(named(name).brief, justify="right")

    for model, values in test["models"].items():
        cells = [values[name]["value"] for name in SHOWN]
        table.add_row(model_words(model), *("-" if cell is None else f"{cell:.3f}" for cell in cells))
    out.print(table)
    if "verdict" in test:
        _say(test["verdict"]["text"])


def main() -> None:
    """Entry point of the `cardiotune` command."""
    app()
