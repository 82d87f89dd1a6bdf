"""All settings as a page: `docs/settings.md`, printed by `python -m cardiotune.settings`."""

import json
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cardiotune.settings.experiment import Config
from cardiotune.settings.strict import Settings

WIDTH = 100
HEAD = """\
# Settings

Generated from `cardiotune.settings` by `python -m cardiotune.settings`; a test fails when it is
stale. An experiment's YAML names only what differs from the defaults; `key.sub=value` behind a
command sets one for this command, `--dry-run` prints all of them. `NAME` stands for the name of a
column, `[]` for each entry of a list.
"""
BASIC = {str: "text", int: "whole number", float: "number", bool: "true or false"}
BOUNDS = (("ge", "{} or more"), ("gt", "above {}"), ("le", "at most {}"), ("lt", "below {}"))


class Setting(NamedTuple):
    """One setting."""

    path: str
    """Its key, from the top: `train.epochs`, `data.columns.NAME.role`."""
    field: FieldInfo

    @property
    def values(self) -> str:
        """What it may be, in words."""
        bounds = [words.format(getattr(m, key)) for key, words in BOUNDS for m in self._limits if hasattr(m, key)]
        pattern = [f"of the form `{m.pattern}`" for m in self._limits if getattr(m, "pattern", None)]
        return " ".join(filter(None, (_kind(self.field.annotation), " and ".join(bounds + pattern))))

    @property
    def _limits(self) -> list[Any]:
        return [*self.field.metadata, *_limits_in(self.field.annotation)]

    @property
    def default(self) -> str:
        """What it is where nobody sets it."""
        if self.field.default is PydanticUndefined:
            return "required"
        if self.field.default is None:
            return "" if "Default: " in self.meaning else "default: none"
        if isinstance(self.field.default, Settings):
            return ""
        return f"default: {_value(self.field.default)}"

    @property
    def meaning(self) -> str:
        """Its meaning and unit, in one line."""
        return " ".join((self.field.description or "").split())


class Section(NamedTuple):
    """A class of settings in its place."""

    path: str
    """Empty for the experiment itself."""
    kind: type[Settings]
    settings: list[Setting]


def sections(
    kind: type[Settings] = Config, path: str = "", told: dict[type[Settings], str] | None = None
) -> Iterator[Section]:
    """Every class of settings that a config may hold, in the order of their keys, and below each
    its own; one that stands in several places is told at the first.

    told: class -> its place, of those told so far; added to.
    """
    told = {} if told is None else told
    told[kind] = path
    places = {name: _place(f"{path}.{name}".lstrip("."), field.annotation) for name, field in kind.model_fields.items()}
    yield Section(path, kind, [Setting(place, kind.model_fields[name]) for name, place in places.items()])
    for name, place in places.items():
        for inner in _settings_in(kind.model_fields[name].annotation):
            if inner not in told:
                yield from sections(inner, place, told)


def page() -> str:
    """The whole page as Markdown, its prose wrapped at 100 columns."""
    lines = [HEAD]
    places = {section.kind: section.path for section in sections()}
    for section in sections():
        title = f"`{section.path}`" if section.path else "The experiment"
        lines += [f"{'#' * min(2 + section.path.count('.'), 4)} {title}", "", _wrapped(section.kind.__doc__ or ""), ""]
        lines += [_entry(setting, places) for setting in section.settings]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _entry(setting: Setting, places: dict[type[Settings], str]) -> str:
    inner = _settings_in(setting.field.annotation)
    told = "; ".join(filter(None, ("" if inner else setting.values, setting.default)))
    elsewhere = [places[kind] for kind in inner if places[kind] != setting.path]
    below = f" Its keys are those of `{elsewhere[0]}`." if elsewhere else " Its keys stand below." if inner else ""
    return _wrapped(f"- `{setting.path}`{f' ({told})' if told else ''}: {setting.meaning}{below}", "  ")


def _wrapped(text: str, indent: str = "") -> str:
    text = " ".join(text.split())
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _place(path: str, annotation: Any) -> str:
    """The path with what stands for the entries of a list, or of a mapping, of settings."""
    if not _settings_in(annotation):
        return path
    outer = {typing.get_origin(part) for part in (annotation, *typing.get_args(annotation))}
    return f"{path}.NAME" if dict in outer else f"{path}[]" if list in outer else path


def _settings_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [kind for part in typing.get_args(annotation) for kind in _settings_in(part)]


def _limits_in(annotation: Any) -> list[Any]:
    """What an optional number is bounded by, where that stands inside the annotation."""
    inner = [part for part in typing.get_args(annotation) if hasattr(part, "__metadata__")]
    return [limit for part in inner for field in part.__metadata__ for limit in field.metadata]


def _kind(annotation: Any) -> str:
    """`a, b or c`."""
    *others, last = _kinds(annotation)
    return " or ".join(filter(None, (", ".join(others), last)))


def _kinds(annotation: Any) -> list[str]:
    """Each that the annotation allows, beside nothing."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return [_value(part) for part in parts]
    if origin in (typing.Union, types.UnionType):
        return [kind for part in parts if part is not types.NoneType for kind in _kinds(part)]
    if origin is typing.Annotated:
        return _kinds(parts[0])
    if origin is list:
        return [f"list of {_kind(parts[0])}"]
    if origin is tuple:
        return [f"[{', '.join(map(_kind, parts))}]"]
    if origin is dict:
        return [f"mapping of {_kind(parts[0])} to {_kind(parts[1])}"]
    return [BASIC.get(annotation) or annotation.__name__]


def _value(value: Any) -> str:
    """As YAML takes it."""
    plain = TypeAdapter(Any).dump_python(value, mode="json", exclude_none=True)
    return f"`{plain if isinstance(plain, str) else json.dumps(plain)}`" if plain != "" else "empty"
