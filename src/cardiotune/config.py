"""YAML to settings: shipped files, merging, errors. The only reader of YAML.

An experiment names one file of each group under `use:`. A group file is a piece of an experiment:
it holds the same keys. Later wins: group files in the order of `GROUPS`, then the experiment's own
keys, then `key.sub=value` from the command line. Every problem is reported at once, before any data
or model is touched.
"""

import difflib
import re
import typing
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    ValidationError,
)

from cardiotune.errors import ConfigError
from cardiotune.settings import Config, DataConfig, ModelConfig, Settings, suggest
from cardiotune.settings.tables import TableConfig, pooled_dictionary

GROUPS = {
    "model": "models",
    "dataset": "datasets",
    "task": "tasks",
    "method": "methods",
    "deepspeed": "deepspeed",
}
"""Group key under `use:` -> folder below `configs/`; also the order in which they are merged."""

MAX_YAML_BYTES = 16 << 20
"""Of a file that somebody wrote: a dictionary of 20,000 columns takes 1 MiB. A run folder's own may
have any size."""
MAX_YAML_DEPTH = 100


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # of libyaml where it is there
    """YAML 1.2 scalars. `no` and `off` are words (a code label may be "no"), `1e-4` is a number, a
    code `010` keeps its zero, and a date stays text."""


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read back as text."""


_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9]\d*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:\d+\.\d*|\.\d+|(?:0|[1-9]\d*)(?=[eE]))(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf)|\.(?:nan|NaN)",
        "-+0123456789.",
    ),
}
_YAML_1_1 = {f"tag:yaml.org,2002:{kind}" for kind in (*_SCALARS, "timestamp")}
for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {
        first: [(tag, rule) for tag, rule in rules if tag not in _YAML_1_1]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for _kind, (_rule, _first) in _SCALARS.items():
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_rule})$"), list(_first))


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = sorted(str(key) for key, times in Counter(keys).items() if times > 1)
    if twice:
        raise yaml.MarkedYAMLError(
            problem=f"key {', '.join(twice)} is given twice; keep one", problem_mark=node.start_mark
        )
    tree: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return tree


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Refuses tags, aliases (they can blow up), double keys, and files
    over 16 MiB."""
    if path.is_file() and path.stat().st_size > MAX_YAML_BYTES:
        raise ConfigError(f"{path}: larger than 16 MiB, which no configuration is; did you mean to pass a table?")
    return _mapping(_read_text(path), str(path))


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; expected a YAML file")
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; expected a YAML file") from None


def _mapping(text: str, source: str) -> dict[str, Any]:
    tree = _parse(text, source)
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: expected a mapping of settings (`key: value` lines)")
    return tree


def _parse(text: str, source: str) -> Any:
    try:
        _check_events(text, source)
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "nested too deep, or a number too long"
        raise ConfigError(f"{source}: not valid YAML{where} ({reason})") from None


def _check_events(text: str, source: str) -> None:
    """Refuse what could blow up, or run over the stack, when it is put together."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{source}: YAML aliases (*name) are not accepted; write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            raise RecursionError


def configs_folder() -> Path:
    """The shipped `configs/`: inside an installed package, or at the root of a checkout."""
    here = Path(__file__).resolve().parent
    installed = here / "configs"
    return installed if installed.is_dir() else here.parents[1] / "configs"


def shipped(group: str) -> dict[str, Path]:
    """Short name -> file, for every YAML shipped in `configs/<group>/`."""
    return {path.stem: path for path in sorted((configs_folder() / group).glob("*.yaml"))}


def find_file(name: str, group: str, beside: Path | None = None) -> Path:
    """A file given as a path (from the working folder or beside the experiment) or a shipped short
    name."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        candidates = [Path(name)] if beside is None else [beside / name, Path(name)]
        candidates.append(
            configs_folder() / Path(name).relative_to("configs") if name.startswith("configs/") else Path()
        )
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        raise ConfigError(f"{name}: no such file; give a YAML file or one of {', '.join(shipped(group))}")
    files = shipped(group)
    if name not in files:
        raise ConfigError(f"{name}: no such file in configs/{group}; {suggest(name, files)}")
    return files[name]


_PATH_KEYS = (
    ("data", "path"),
    ("data", "test_path"),
    ("data", "validation_path"),
    ("data", "ukb", "withdrawals"),
    ("data", "ukb", "kinship"),
    ("data", "ukb", "showcase"),
    ("data", "ukb", "endpoint"),
    ("model", "path"),
    ("serialize", "template_file"),
    ("train", "start_from"),
)


def _anchor(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Relative paths in a file are relative to that file."""
    for *sections, key in _PATH_KEYS:
        place: Any = tree
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        value = place.get(key) if isinstance(place, dict) else None
        short = key == "endpoint" and not str(value).endswith((".yaml", ".yml"))
        if isinstance(value, str) and not value.startswith("builtin:") and not short:
            place[key] = str((folder / Path(value).expanduser()).resolve())
    tables = tree.get("tables")
    for table in tables.values() if isinstance(tables, dict) else ():
        for data in (table, table.get("data")) if isinstance(table, dict) else ():  # `path` stands for `data.path`
            _anchor({"data": data}, folder)
    return tree


def _spelled_out(tree: dict[str, Any]) -> dict[str, Any]:
    """With the short forms of `tables` written out, so that what is said above meets what is said
    below: `NAME: DATASET` names its `dataset`, and `path` its `data.path`."""
    tables = tree.get("tables")
    if not isinstance(tables, dict):
        return tree

    def entry(given: Any) -> Any:
        if not isinstance(given, dict):
            return given if given is None else {"dataset": given}
        others, data = {key: value for key, value in given.items() if key != "path"}, given.get("data") or {}
        if given.get("path") and isinstance(data, dict):
            return {**others, "data": {**data, "path": given["path"]}}
        return others

    return {**tree, "tables": {name: entry(given) for name, given in tables.items()}}


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


SOURCES = ("path", "hub_id", "gguf", "packed")
"""Keys of `model` that say where weights are."""
OF_A_SOURCE = (*SOURCES, "revision", "name", "license", "license_url")
"""What is true of one model only."""


def _merge_model(below: dict[str, Any], above: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """`_merge` of settings that may name a model each: what is said of one model is never said of
    another's weights.

    Who names other weights names another model, and what was said of the first falls away: a name
    is then made of the new one's. A name or a revision alone would be written beside weights that
    have another.
    """
    first, other = below.get("model"), above.get("model")
    if not isinstance(first, dict) or not isinstance(other, dict) or not any(first.get(key) for key in SOURCES):
        return _merge(below, above)
    changed = [key for key in SOURCES if other.get(key) and other[key] != first.get(key)]
    if changed:
        copy = other.get("hub_id") == first.get("hub_id") and first.get("hub_id")  # a path, said to hold the same model
        kept = {key: value for key, value in first.items() if key not in (SOURCES if copy else OF_A_SOURCE)}
        named = {} if copy else {"name": Path(str(other.get("path") or other.get("hub_id") or "unnamed")).name}
        return _merge({**below, "model": {**named, **kept}}, above)
    before = first.get("revision", "main")
    pinned = other.get("revision", before) != before
    if pinned and other.get("hub_id"):  # this revision, and so no package or folder beside it
        first = {key: value for key, value in first.items() if key == "hub_id" or key not in SOURCES}
        return _merge({**below, "model": first}, above)
    packages = [key for key in ("path", "gguf", "packed") if first.get(key) and key not in other]
    if packages and pinned:
        problems.append(
            f"model.revision: is of the hub, but the weights come from model.{packages[0]}; give model.hub_id beside it"
        )
    if other.get("name", first.get("name")) != first.get("name"):
        problems.append(
            f"model.name: the weights are those of {first.get('name')}; name others by model.path or model.hub_id"
        )
    return _merge(below, above)


def _parse_overrides(overrides: list[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.[^.=\s]+)*", key):
            raise ConfigError(f"{item}: expected key.sub=value, for example train.learning_rate=2e-4")
        value: Any = _parse(text, item) if text else None
        for part in reversed(key.split(".")):
            value = {part: value}
        tree = _merge(tree, value)
    return _anchor(tree, Path.cwd())


def load_config(config: str | Path, overrides: list[str] | None = None) -> Config:
    """Compose and check an experiment.

    `config` is a YAML file or the short name of one in `configs/experiments`. Raises ConfigError
    naming every problem.
    """
    path = find_file(str(config), "experiments", None)
    return compose(_anchor(read_yaml(path), path.parent), overrides or [], str(path), path.parent)


def compose(experiment: dict[str, Any], overrides: list[str], source: str, folder: Path) -> Config:
    """An experiment's own keys, the group files that it uses (found from `folder`), and overrides,
    as one checked config.

    `source` is what an error names.
    """
    above = _parse_overrides(overrides)
    for origin, layer in ((source, experiment), ("command line", above)):
        if not isinstance(layer.get("use") or {}, dict):
            raise ConfigError(f"{origin}: use: expected `group: name` pairs, with group one of {', '.join(GROUPS)}")
    use = {**(experiment.get("use") or {}), **(above.get("use") or {})}
    tree: dict[str, Any] = {}
    problems = [f"use.{group}: unknown group; {suggest(str(group), GROUPS)}" for group in use if group not in GROUPS]
    for group, place in GROUPS.items():
        if group in use:
            try:
                file = find_file(str(use[group]), place, folder)
                tree = _merge(tree, _anchor(read_yaml(file), file.parent))
            except ConfigError as error:
                problems.append(f"use.{group}: {error}")
    own = experiment.get("model")
    if "model" in (above.get("use") or {}) and isinstance(own, dict):  # the command line has the last word
        experiment = {**experiment, "model": {key: value for key, value in own.items() if key not in OF_A_SOURCE}}
    tree, experiment, above = (_spelled_out(layer) for layer in (tree, experiment, above))
    tree = _merge_model(_merge_model(tree, experiment, problems), above, problems)
    if tree.get("tables"):
        tree = _with_tables(tree, folder, problems)
    tree["use"] = {group: name for group, name in use.items() if group in GROUPS}
    return _check(tree, source, problems)


def _with_tables(tree: dict[str, Any], folder: Path, problems: list[str]) -> dict[str, Any]:
    """With every table read as its dataset says, and the dictionary that they share as `data`."""
    if "data" in tree:
        problems.append("tables: takes the place of data and use.dataset; leave them out")
    if not isinstance(tree["tables"], dict):
        problems.append("tables: expected `name: {dataset: ..., path: ...}` pairs")
        return tree
    tables: dict[str, TableConfig] = {}
    for name, given in tree["tables"].items():
        entry = dict(given or {})
        said = entry.pop("data", None) or {}
        own: dict[str, Any] = {}
        try:
            file = find_file(str(entry.get("dataset", name)), GROUPS["dataset"], folder)
            own = _anchor(read_yaml(file), file.parent)
        except ConfigError as error:
            if "dataset" in entry or not (isinstance(said, dict) and "columns" in said):
                problems.append(f"tables.{name}: {error}")
        data = _merge({"data": own.get("data", {})}, {"data": said})["data"]
        words = own.get("task", {}).get("outcome")
        try:
            tables[name] = TableConfig.model_validate(
                {"dataset": str(name), **({"outcome": words} if words else {}), **entry, "data": data}
            )
        except ValidationError as error:
            found = ({**dict(item), "loc": ("tables", name, *item["loc"])} for item in error.errors())
            lines = [line for item in found for line in _explain(item).splitlines()]
            problems += [line if line.startswith("tables.") else f"tables.{name}: {line}" for line in lines]
    tree = {**tree, "tables": {name: table.model_dump(mode="json") for name, table in tables.items()}}
    if not tables or problems:
        return tree
    try:
        tree["data"] = pooled_dictionary(tables).model_dump(mode="json")
    except ValueError as error:
        problems += str(error).splitlines()
    tree["task"] = {"outcome": next(iter(tables.values())).outcome, **(tree.get("task") or {})}
    split = dict(tree.get("split") or {})
    if "by" not in split and (split.get("test_tables") or any(table.part == "test" for table in tables.values())):
        tree["split"] = {**split, "by": "table"}
    return tree


def run_name(text: str) -> str:
    """A text as an experiment's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[:100] or "experiment"


def load_resolved(path: Path) -> Config:
    """The resolved config of a run folder, exactly as it was saved."""
    return _resolved(_read_text(path), str(path))


@lru_cache(maxsize=4)
def _resolved(text: str, source: str) -> Config:
    """Every stage asks for it, and with thousands of columns it takes seconds to read."""
    return _check(_mapping(text, source), source, [])


def load_model(path: Path) -> ModelConfig:
    """The `model` section of a file in `configs/models`."""
    return ModelConfig.model_validate(read_yaml(path)["model"])


def load_dataset(name: str) -> DataConfig:
    """The data dictionary of a YAML file with a `data` section, or of a shipped dataset by its
    short name. It need not name a table. ConfigError with every problem."""
    file = find_file(name, GROUPS["dataset"], None)
    data = _anchor(read_yaml(file), file.parent).get("data")
    if not isinstance(data, dict) or not isinstance(data.get("columns"), dict):
        raise ConfigError(f"{file}: no data dictionary; expected `data: {{columns: {{NAME: ...}}}}`")
    try:
        return DataConfig.model_validate({"path": "none", **data})
    except ValidationError as error:
        found = ({**dict(item), "loc": ("data", *item["loc"])} for item in error.errors())
        problems = [line for item in found for line in _explain(item).splitlines()]
    raise ConfigError(f"{file}: {'; '.join(dict.fromkeys(problems))}")


def dump(config: Config) -> str:
    """The config as YAML text that `load_resolved` reads back unchanged."""
    return to_yaml(config.model_dump(mode="json"), width=110)


def to_yaml(value: Any, **options: Any) -> str:
    """YAML text that `read_yaml` reads back unchanged."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **options)
    return text


def _check(tree: dict[str, Any], source: str, problems: list[str]) -> Config:
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        # What is missing because its group file was not found is not a second problem.
        found = [e for e in error.errors() if not (problems and e["type"] == "missing" and len(e["loc"]) <= 2)]
        lines = [line for item in found for line in _explain(dict(item)).splitlines()]
        problems += dict.fromkeys(lines)
    if problems:
        head = f"{source}: " if len(problems) == 1 else f"{source}: {len(problems)} problems\n  "
        raise ConfigError(head + "\n  ".join(problems))
    return config


def _explain(item: dict[str, Any]) -> str:
    loc = [str(part) for part in item["loc"] if not re.fullmatch(r"(literal|list)\[.*\]", str(part))]
    where = ".".join(loc)
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key; {_suggest_key(loc)}"
    if item["type"] == "missing":
        return f"{where}: missing; it has no default"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    came = item["input"]
    shown = f" (came: {came!r})" if isinstance(came, str | int | float | bool) else ""
    near = f"; to choose one by name, use.{where}=NAME" if item["type"] == "model_type" and where in GROUPS else ""
    if item["type"] == "literal_error" and isinstance(came, str):
        near = "; " + suggest(came, re.findall(r"'([^']+)'", item["ctx"]["expected"]))
    return f"{where}: {item['msg'][0].lower() + item['msg'][1:]}{shown}{near}"


def _suggest_key(loc: list[str]) -> str:
    """The nearest key in this section, else the section that has a key of this name, else what may
    stand here."""
    here = _fields_at(loc[:-1])
    if not difflib.get_close_matches(loc[-1], here, n=1, cutoff=0.6):
        sections = {name: field.annotation for name, field in Config.model_fields.items()}
        elsewhere = [
            f"{s}.{loc[-1]}" for s, kind in sections.items() if _is_settings(kind) and loc[-1] in _fields_at([s])
        ]
        if elsewhere:
            return f"did you mean {' or '.join(elsewhere)}?"
    return suggest(loc[-1], here)


def _fields_at(loc: list[str]) -> list[str]:
    """Names of the settings that may stand at `loc`, found by walking the settings classes."""
    kind: Any = Config
    for part in loc:
        kind = kind.model_fields[part].annotation if _is_settings(kind) else typing.get_args(kind)[-1]
        kind = next((arg for arg in typing.get_args(kind) if _is_settings(arg)), kind) if _is_optional(kind) else kind
    return list(kind.model_fields) if _is_settings(kind) else []


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def _is_optional(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)
