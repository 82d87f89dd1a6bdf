"""When did the disease first show? From codes with dates, dates alone, death causes, and what was
told at baseline."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl
from pydantic import Field

from cardiotune.config import find_file, read_yaml
from cardiotune.data.ukb.columns import Place
from cardiotune.data.ukb.fields import fields
from cardiotune.data.ukb.read import EID, Export, answers, canonical
from cardiotune.errors import ConfigError, DataError
from cardiotune.settings import Settings

log = logging.getLogger(__name__)

PLACEHOLDERS = ("1900-01-01", "1901-01-01", "1902-02-02", "1903-03-03", "1909-09-09", "2037-07-07")
"""Dates that say why there is no date: unknown, before birth, day of birth, year of birth,
(1909-09-09 unverified), in the future (data-coding 819 and 272)."""
CODED_SOURCES = {"icd10": (41270, 41280), "icd9": (41271, 41281), "opcs4": (41272, 41282), "opcs3": (41273, 41283)}
"""Source: the field with its codes, the field with the first date of each."""
MUST_HAVE = ("icd10",)
DEATH_DATE, UNDERLYING, CONTRIBUTORY = 40000, 40001, 40002
CERTIFICATES = (0, 1)
"""Instances of the death fields: the second is a later certificate."""


class Endpoint(Settings):
    """What counts as the disease: prefixes of codes, by source. See `configs/endpoints`."""

    title: str
    source: str = ""
    icd10: tuple[str, ...] = ()
    icd9: tuple[str, ...] = ()
    opcs4: tuple[str, ...] = ()
    opcs3: tuple[str, ...] = ()
    death: tuple[str, ...] = ()
    date_fields: tuple[int, ...] = ()
    """Fields that are a date of the disease: algorithmic outcomes and first occurrences."""
    self_report: dict[int, tuple[str, ...]] = Field(default_factory=dict)

    def pattern(self, source: str) -> str:
        """A regular expression for the codes of a source, which are stored without dots."""
        return "^(" + "|".join(re.escape(code.replace(".", "")) for code in getattr(self, source)) + ")"


def read_endpoint(name: str) -> Endpoint:
    """A file of `configs/endpoints`, or any by its path. ConfigError when it names no dated
    source."""
    file = find_file(name, "endpoints")
    try:
        endpoint = Endpoint.model_validate(read_yaml(file))
    except ValueError as error:
        raise ConfigError(
            f"{file}: {str(error).splitlines()[-1].strip()}; keys are {', '.join(Endpoint.model_fields)}"
        ) from None
    if not (endpoint.icd10 or endpoint.death or endpoint.date_fields or endpoint.opcs4):
        raise ConfigError(f"{file}: names no source with dates after baseline (icd10, opcs4, death, date_fields)")
    unknown = [field for field in (*endpoint.date_fields, *endpoint.self_report) if field not in fields()]
    if unknown:
        raise ConfigError(f"{file}: fields that are not in fields.yaml: {', '.join(map(str, unknown))}")
    return endpoint


def absent_sources(export: Export, endpoint: Endpoint) -> list[str]:
    """Sources of the endpoint that the export lacks. DataError for those without which no event can
    be found.

    Old codings may be missing where nobody asked for them: they only find prevalent cases that
    nothing else shows.
    """
    needed: dict[str, tuple[int, ...]] = {
        source: pair for source, pair in CODED_SOURCES.items() if getattr(endpoint, source)
    }
    needed |= {f"field {number}": (number,) for number in (*endpoint.date_fields, *endpoint.self_report)}
    lacking = {s: numbers for s, numbers in needed.items() if not all(export.places(n) for n in numbers)}
    vital = {s: n for s, n in lacking.items() if s in MUST_HAVE or set(n) & set(endpoint.date_fields)}
    death = [n for n in (DEATH_DATE, UNDERLYING) if not export.places(n, CERTIFICATES)]
    if death:
        vital["death"] = tuple(death)
    if vital:
        told = "; ".join(
            f"{s}: {', '.join(f'{n} ({fields()[n].title})' for n in numbers)}" for s, numbers in vital.items()
        )
        raise DataError(
            f"{export.path}: the endpoint reads fields that the export lacks: {told}; add them to the export"
        )
    return sorted(lacking)


@dataclass(frozen=True)
class _Source:
    """Records of the disease from some columns: when, as expressions over `Export.scan` of these
    places."""

    where: str
    """Begins an error about its cells."""
    places: list[Place]
    records: list[tuple[pl.Expr, pl.Expr]]
    """Whether a record is one of the disease, and its date as text."""
    filled: bool = False
    """A record is none where it has no date."""
    lists: dict[str, pl.Expr] = field(default_factory=dict)
    """Columns that the records read, made once."""


def first_records(export: Export, endpoint: Endpoint) -> pl.DataFrame:
    """A row a participant of the export: `eid`, `disease` (Date of the first dated record, whenever
    it was), `undated` (a record without a date, or with a placeholder), `told` (self-reported at
    baseline), `death` (Date).
    """
    *sources, deaths = [*_sources(export, endpoint), _deaths(export)]
    frame = pl.DataFrame({EID: export.eids})
    for found in _collect(export, [*sources, deaths]):
        frame = frame.join(found, on=EID, how="left", maintain_order="left")
    numbers = range(len(sources))
    return frame.select(
        EID,
        death=pl.col(f"date{len(sources)}"),
        disease=pl.min_horizontal(f"date{number}" for number in numbers),
        undated=pl.any_horizontal(pl.col(f"undated{number}").fill_null(False) for number in numbers),
        told=_told(export, endpoint),
    )


def _sources(export: Export, endpoint: Endpoint) -> Iterator[_Source]:
    """Every source that the endpoint names and the export has."""
    for source, (codes, dates) in CODED_SOURCES.items():
        if getattr(endpoint, source) and export.places(codes) and export.places(dates):
            yield _coded(export, codes, dates, endpoint.pattern(source))
    for number in endpoint.date_fields:
        place = export.places(number)[0]
        date = (pl.lit(True), pl.col(canonical(place)))
        yield _Source(f"{export.path}: field {number}", [place], [date], filled=True)
    if endpoint.death:
        yield _death_causes(export, endpoint.pattern("death"))


def _coded(export: Export, codes: int, dates: int, pattern: str) -> _Source:
    """Codes of a list of records; the i-th date belongs to the i-th code."""
    code_places, date_places = export.places(codes), {place.array: place for place in export.places(dates)}
    no_date = pl.lit(None, pl.String)
    records: list[tuple[pl.Expr, pl.Expr]] = []
    lists: dict[str, pl.Expr] = {}
    if len(code_places) == 1:  # the platform: all codes in one cell
        lists[f"codes{codes}"] = answers(pl.col(canonical(code_places[0])))
        listed = pl.col(f"codes{codes}").list
        for i, place in date_places.items():
            records.append((_matches(listed.get(i, null_on_oob=True), pattern), pl.col(canonical(place))))
        without = listed.slice(max(date_places) + 1).list.eval(_matches(pl.element(), pattern))
        records.append((without.list.any().fill_null(False), no_date))
    else:
        for place in code_places:
            date = pl.col(canonical(date_places[place.array])) if place.array in date_places else no_date
            records.append((_matches(pl.col(canonical(place)), pattern), date))
    return _Source(
        f"{export.path}: fields {codes}, {dates}", [*code_places, *date_places.values()], records, lists=lists
    )


def _matches(code: pl.Expr, pattern: str) -> pl.Expr:
    return code.str.strip_chars().str.replace(".", "", literal=True).str.contains(pattern).fill_null(False)


def _collect(export: Export, sources: list[_Source]) -> Iterator[pl.DataFrame]:
    """`eid`, and `date0` (the earliest record of the first source), `undated0` (one without a
    date), `date1`...

    Sources in the same files are read together while these stream by: to find hundreds of columns
    among thousands, every line has to be parsed. DataError for cells that are no dates.
    """
    together: dict[tuple[int, ...], list[int]] = {}
    for number, source in enumerate(sources):
        tables = {i for i, table in enumerate(export.tables) for place in source.places if place in table.columns}
        together.setdefault(tuple(sorted(tables)), []).append(number)
    for numbers in together.values():
        places = dict.fromkeys(place for number in numbers for place in sources[number].places)
        days = [expression for number in numbers for expression in _first_date(sources[number], number)]
        lists = {name: made for number in numbers for name, made in sources[number].lists.items()}
        found = export.scan(places).with_columns(**lists).select(EID, *days).collect(engine="streaming")
        for number in numbers:
            if strange := int(found[f"bad{number}"].sum()):
                raise DataError(
                    f"{sources[number].where}: {strange} participants have cells that are no dates; expected 2008-06-01 or "
                    "01/06/2008"
                )
        yield found.drop(f"bad{number}" for number in numbers)


def _first_date(source: _Source, number: int) -> list[pl.Expr]:
    cells = [pl.when(hit).then(date.str.strip_chars()) for hit, date in source.records]
    days = [parse_date(cell) for cell in cells]
    real = [pl.when(~day.is_in(_placeholders().implode())).then(day) for day in days]
    there = [cell.is_not_null() if source.filled else hit for (hit, _), cell in zip(source.records, cells, strict=True)]
    undated = (record & day.is_null() for record, day in zip(there, real, strict=True))
    bad = (cell.is_not_null() & day.is_null() for cell, day in zip(cells, days, strict=True))
    return [
        pl.min_horizontal(real).alias(f"date{number}"),
        pl.any_horizontal(undated).alias(f"undated{number}"),
        pl.any_horizontal(bad).alias(f"bad{number}"),
    ]


def _placeholders() -> pl.Series:
    return pl.Series(PLACEHOLDERS).str.to_date("%Y-%m-%d")


def parse_date(cell: pl.Expr) -> pl.Expr:
    """ISO or day/month/year."""
    return pl.coalesce(
        cell.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False), cell.str.to_date("%d/%m/%Y", strict=False)
    )


# --------------------------------------------------------------------------------------------------
# death, and what was told


def _deaths(export: Export) -> _Source:
    """The earliest date of the certificates."""
    places = export.places(DEATH_DATE, CERTIFICATES)
    dates = [(pl.lit(True), pl.col(canonical(place))) for place in places]
    return _Source(f"{export.path}: field {DEATH_DATE}", places, dates, filled=True)


def _death_causes(export: Export, pattern: str) -> _Source:
    """A death that the disease caused or contributed to."""
    dates = export.places(DEATH_DATE, CERTIFICATES)
    causes = [*export.places(UNDERLYING, CERTIFICATES)]
    if any(place.field == CONTRIBUTORY for table in export.tables for place in table.columns):
        causes += export.places(CONTRIBUTORY, CERTIFICATES)
    died = pl.coalesce(pl.col(canonical(place)) for place in dates)
    hit = pl.any_horizontal(
        answers(pl.col(canonical(place))).list.eval(_matches(pl.element(), pattern)).list.any().fill_null(False)
        for place in causes
    )
    return _Source(f"{export.path}: field {DEATH_DATE}", [*dates, *causes], [(hit, died)])


def _told(export: Export, endpoint: Endpoint) -> pl.Series:
    """(participants,) whether the disease was told at the baseline visit, with a year or
    without."""
    frame = export.baseline(endpoint.self_report)
    known = {str(number): codes for number, codes in endpoint.self_report.items() if str(number) in frame.columns}
    if not known:
        return pl.repeat(False, frame.height, eager=True).alias("told")
    hits = [
        pl.any_horizontal(pl.col(name).list.contains(code).fill_null(False) for code in codes)
        for name, codes in known.items()
    ]
    return frame.select(told=pl.any_horizontal(hits)).to_series()
