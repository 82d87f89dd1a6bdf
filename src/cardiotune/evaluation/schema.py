"""`metrics.schema.json`, the published JSON schema of `metrics.json`.

What it says of metrics follows from `catalogue`, and what it says of classical models from those
that a language model must beat; its other parts are written by hand in the file itself. Renew it
with `python -m cardiotune.evaluation.schema`; a test fails when it is stale.
"""

import json
from collections.abc import Iterable
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

from cardiotune.evaluation.catalogue import (
    ANY,
    AT_LEAST_0,
    AT_MOST_1,
    DIFFERENCES,
    NAMES,
    RAW,
    SHARE,
    SUBGROUPS,
    THRESHOLDS,
    Range,
    named,
)
from cardiotune.evaluation.verdict import RIVALS

FILE = Path(str(files("cardiotune.evaluation") / "metrics.schema.json"))
RANGES = {ANY: "estimate", SHARE: "share", AT_LEAST_0: "at_least_0", AT_MOST_1: "at_most_1"}
"""Range -> its definition in the schema; any other is written where it is needed."""


def read() -> dict[str, Any]:
    """The schema as it is published."""
    schema: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    return schema


def renewed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with all that follows from the records written anew."""
    schema = deepcopy(schema)
    defs = schema["$defs"]
    defs |= {name: _bounded(bounds) for bounds, name in RANGES.items() if bounds != ANY}
    defs["model"] |= _metrics(NAMES)
    defs["model"]["properties"]["auroc"]["$ref"] = "#/$defs/auroc"  # which has DeLong's interval too
    plain = {name: defs["threshold"]["properties"][name] for name in ("name", "value")}
    at = _metrics(THRESHOLDS)
    defs["threshold"] |= {"required": [*plain, *at["required"]], "properties": plain | at["properties"]}
    defs["subgroup"]["properties"]["models"]["additionalProperties"] |= _metrics(SUBGROUPS)
    for section, names in (("raw", RAW), ("differences", DIFFERENCES)):
        defs["part"]["properties"][section]["additionalProperties"]["required"] = list(names)
    defs["verdict"]["properties"]["against"]["enum"] = list(RIVALS)
    return schema


def _metrics(names: Iterable[str]) -> dict[str, Any]:
    properties = {name: _property(name) for name in names}
    return {"required": list(properties), "properties": properties}


def _property(name: str) -> dict[str, Any]:
    metric = named(name)
    bounds = RANGES.get(metric.range)
    return {"description": metric.description, **({"$ref": f"#/$defs/{bounds}"} if bounds else _bounded(metric.range))}


def _bounded(bounds: Range) -> dict[str, Any]:
    ends = {word: end for word, end in (("minimum", bounds.low), ("maximum", bounds.high)) if end is not None}
    return {"$ref": "#/$defs/estimate", "properties": {"value": dict(ends), "ci": {"items": dict(ends)}}}


def as_text(schema: dict[str, Any]) -> str:
    """The content of the file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(as_text(renewed(read())), "utf-8")
