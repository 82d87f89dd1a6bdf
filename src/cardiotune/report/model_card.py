"""The model card: `model_card.md` in the format of the Hugging Face hub, ready to lie beside the
weights.

Facts of the run only: counts and metrics, never a value of a patient. It says what the model is not
for.
"""

import re
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from cardiotune.comparators import ON_LANGUAGE, ON_TUNED
from cardiotune.evaluation.catalogue import METRICS
from cardiotune.evaluation.judgement import UNDEFINED
from cardiotune.report import checklists, coefficients
from cardiotune.report.record import Record
from cardiotune.report.wording import KEY_METRICS, capitalized, estimate, metric_words, model_words, plain
from cardiotune.settings import ModelConfig

HUB_LICENSES = {"Gemma Terms of Use": "gemma", "Apache-2.0": "apache-2.0", "MIT": "mit"}
"""Our name of a licence -> its id on the hub. Any other is `other`, with its name and link."""
TERMS = {
    "medgemma": "The base model is a MedGemma model. HAI-DEF is provided under and subject to the Health AI Developer "
    "Foundations Terms of Use found at https://developers.google.com/health-ai-developer-foundations/terms. The terms "
    "pass on to this model: whoever shares it, or offers it as a service, must pass them on too, and clinical use (in "
    "diagnosis or treatment, a research study included) is bound to them and to the law of the place.",
    "gemma": "The base model is a Gemma model. Gemma is provided under and subject to the Gemma Terms of Use found at "
    "https://ai.google.dev/gemma/terms. The terms, and its prohibited uses, pass on to this model: whoever shares it, or "
    "offers it as a service, must pass them on too.",
}
"""Part of a base model's name -> the notice that its terms ask for; the first that fits."""


def render(record: Record, exported_to: str | None = None) -> str:
    """YAML front matter that the hub accepts, and the card in Markdown; of the run, or of an export
    of it to this library."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        finalize=plain,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["capitalized"] = capitalized
    body = environment.get_template("model_card.md.j2").render(_content(record))
    return str(ModelCard(f"---\n{_front_matter(record, exported_to)}\n---\n\n{body}"))


def terms_notice(model: ModelConfig) -> str | None:
    """What the terms of a base model ask to be said with what was made from it; None when we know
    of nothing."""
    named = f"{model.name} {model.hub_id or ''}".lower()
    return next((notice for part, notice in TERMS.items() if part in named), None)


def _front_matter(record: Record, exported_to: str | None) -> str:
    config, judged = record.config, record.part.models[record.main]
    tuned = record.main == "tuned"
    results = [
        EvalResult(
            task_type="tabular-classification",
            dataset_type="private",
            dataset_name="test part of the run",
            metric_type=metric.hub,
            metric_name=metric.words,
            metric_value=round(value, 4),
        )
        for metric in METRICS
        if metric.hub and (value := judged.get(metric.name, UNDEFINED).value) is not None
    ]
    about_base: dict[str, Any] = {}
    if tuned:
        adapter = config.method.kind == "lora" and not exported_to
        about_base = {
            "base_model": config.model.hub_id,
            "base_model_relation": ("adapter" if adapter else "finetune") if config.model.hub_id else None,
            "library_name": exported_to or ("peft" if adapter else "transformers"),
            **_license(config.model),
        }
    data = ModelCardData(
        model_name=config.name,
        language="en",
        tags=["cardiotune", "clinical-prediction", "tabular-classification", "research-only"],
        eval_results=results or None,
        **{key: value for key, value in about_base.items() if value},
    )
    return data.to_yaml()


def _license(model: ModelConfig) -> dict[str, str | None]:
    known = HUB_LICENSES.get(model.license)
    if known:
        return {"license": known}
    name = re.sub(r"[^a-z0-9.]+", "-", model.license.lower()).strip("-") or "unknown"
    return {"license": "other", "license_name": name, "license_link": model.license_url}


def _content(record: Record) -> dict[str, Any]:
    config, part = record.config, record.part
    judged = part.models
    against = part.verdict.against if part.verdict else None
    metrics = [metric for metric in KEY_METRICS if metric in judged[record.main]]
    rivals = [model for model in record.models if model in (record.main, against)]
    return {
        "name": config.name,
        "model_facts": _model_facts(record.main),
        "tuned": record.main in ON_TUNED,
        "main": model_words(record.main),
        "outcome": config.task.outcome,
        "terms": terms_notice(config.model) if record.main in ON_LANGUAGE else None,
        "facts": checklists.facts(record),
        "coefficients": coefficients.tables(record, [record.main]),
        "n": part.n,
        "events": record.events,
        "columns": [model_words(model) for model in rivals],
        "rows": [
            [metric_words(metric)[0], *(estimate(judged[m].get(metric, UNDEFINED)) for m in rivals)]
            for metric in metrics
        ],
    }


def _model_facts(main: str) -> tuple[str, ...]:
    """Names of the facts that tell of a model of this kind."""
    language = ("base_model", "method", "training", "main_prompt", "main_scoring") if main in ON_LANGUAGE else ()
    trained = ("imbalance", "output") if main in ON_TUNED else ("output", "artefacts")
    return ("model", "main_handling", *language, "main_calibration", *trained)
