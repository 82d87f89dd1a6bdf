"""Which columns say who a patient is: by what they are called, by the form of their values, by how
their values behave.

Such a column goes into no prompt. One table of names and one of forms; a form with a check digit
needs nearly all values to pass, for one random number in ten or so does. No value is ever quoted.
"""

import re
from collections.abc import Callable, Iterable
from datetime import date
from typing import Literal, NamedTuple

import polars as pl

from cardiotune.data import schema, writing
from cardiotune.data.roles import meanings_of, name_words
from cardiotune.data.writing import EXPONENT, LIKE_NUMBER, SPACE, SURELY_DATE, TWO_NUMBERS
from cardiotune.settings import Column

Kind = Literal["patient", "weak", "family", "record", "contact"]
"""`patient`: the key of a person; `weak`: one, if its values repeat like one (`id`, `record_id`);
`family`: of relatives; `record`: of a visit, a sample, a row, a hospital; `contact`: a name, an
address, a date of birth, which is no key either."""


class Identifier(NamedTuple):
    """What a column identifies, and how that is known: `an NHS number`, `by its check digit`."""

    kind: Kind
    what: str
    why: Literal["by its name", "by its check digit", "by its form", "by how its values behave"]

    def __str__(self) -> str:
        return f"{self.what}, {self.why}"


NEARLY_ALL = 0.95
FEWEST_VALUES = 5
"""Fewer different values have no form."""
SEVERAL = 20
"""Codes of a category are seldom more."""
LOOKED_AT = 2000
"""Different values, at most, of which the form is judged."""
MANY_DIGITS = 7
MAX_ROWS_A_PATIENT = 50
"""With more rows of each value, or fewer than FEWEST_VALUES values, `id` or `study_id` stands for
studies, not for patients."""
FLAGS = frozenset(["0", "1", "2", "yes", "no", "y", "n", "true", "false", "t", "f", "ja", "nein", "j", "unknown"])
"""`email: yes` is no address; but a column that is called an id is one, with whatever values."""


def is_called_like_one(name: str) -> bool:
    """Whether a name alone says so, whatever the values are."""
    called = _called(name)
    return not meanings_of(name) and any(names.fullmatch(called) for _, _, names in _PATTERNS)


def is_of_patients(key: Identifier, values: pl.Series, columns: Iterable[str]) -> bool:
    """Whether values repeat as keys of patients do: not one for a large part of the table, as those
    of a study would.

    values: as `texts` gives them, without missing ones; columns: all of the table, by which
    REDCap's `record_id` is known.
    """
    distinct = values.n_unique()
    if key.kind not in ("patient", "weak", "family") or "many figures" in key.what or not 1 < distinct < len(values):
        return False
    redcap = any(name.lower().startswith("redcap_") for name in columns)
    return (
        key.kind == "patient" or redcap or (distinct >= FEWEST_VALUES and len(values) <= MAX_ROWS_A_PATIENT * distinct)
    )


def _called(name: str) -> str:
    """Its words, in small letters and without figures."""
    return " ".join(word.rstrip("0123456789") for word in name_words(name) if not word.isdigit())


def identify(name: str, cells: pl.Series, people: pl.DataFrame | None = None) -> Identifier | None:
    """What a column identifies; None for a finding, a count, a category.

    cells: (rows,) as text or typed; people: (rows, columns) of what does not change in a person,
    such as the sex, by which a repeated key of patients is known whatever it is called.
    """
    if meanings_of(name):
        return None
    values = texts(cells)
    present = values.drop_nulls()
    known = present.unique()
    called = _called(name)
    flags = not re.search(r"(^| )(ids?|key)$", called) and set(known.str.to_lowercase()) <= FLAGS
    if not len(known) or flags:
        return None
    return (
        _by_name(called, present, known)
        or _by_form(present, known)
        or _by_behaviour(name, values, present, known, people)
    )


def in_texts(notes: pl.Series) -> Identifier | None:
    """What free or ready texts hold in a twentieth of the rows or more: a number with a check
    digit, an address, a label."""
    notes = notes.drop_nulls().head(LOOKED_AT)
    for what, _, pattern, check in FORMS:
        if what in WITHOUT_LABEL:
            found = notes.str.extract(rf"(?i)(?:^|[^\w.+-])({pattern})(?:$|[^\w@-])").drop_nulls()
            passed = [value for value in found if check(compact(value))]
            if len(passed) >= max(FEWEST_VALUES, len(notes) / 20) and len(passed) >= NEARLY_ALL * len(found):
                return Identifier("patient", what, "by its check digit" if check is not _any else "by its form")
    labelled = notes.str.contains(rf"(?i)\b({_LABELS})\b\s*(?:[:#=]|is\b|no\b)")
    if labelled.sum() >= max(FEWEST_VALUES, len(notes) / 20):
        return Identifier("patient", "a number, a name or a date of birth of the patient", "by its name")
    return None


def texts(cells: pl.Series) -> pl.Series:
    """Values as text, whole numbers without decimals, null where missing."""
    if cells.dtype.is_float():
        whole = bool((cells == cells.round()).all()) and (cells.abs().max() or 0) < 2**62  # type: ignore[operator]
        cells = cells.cast(pl.Int64) if whole else cells
    return schema.recorded(cells, Column(type="text")).str.replace(r"^([+-]?\d+)\.0+$", "$1")


# --------------------------------------------------------------------------------------------------
# names

_PARTS = {
    "KEY": "ids?|no|nr|num|number|key|code|identifier|ident|nummer|uid|guid|ref|hash|pseudonym|sk",
    "WHO": (
        "patients?|patienten|pat|pts?|subjects?|subj|participants?|person|individual|beneficiary|probanden?|"
        "respondent|enrollee"
    ),
    "OTHERS": "client|member|volunteer|mother|child|infant|baby|donor|recipient|case patient|twin",
    "MIDDLE": (
        "unique|study|trial|master|external|internal|global|identification|record|medical record|research|pseudo"
    ),
    "WHAT": (
        "visits?|encounters?|encntr|enc|csn|admissions?|adm|hadm|hospitali[sz]ation|stay|icustay|episode|spell|fall|"
        "case|aufnahme|samples?|specimens?|accession|orders?|exams?|examination|scans?|image|sequence|row|line|"
        "entry|event|claim|transaction|lab|biobank|barcode|tube|form|documents?|doc|reports?|requests?|appointment|"
        "referral|test|series|instance|occurrence|detail|note"
    ),
}
"""What the names below are put together from."""
_NUMBERS = {
    "an NHS number": "nhs( no| nr| num| number| id)?|nhsno|nhsnumber|chi|chi (no|number)|chino|hcn|h c (no|number)",
    "a medical record number": (
        "mrn|mr no|medical record( no| num| number| id)?|(hospital|hosp|chart|unit|file|record) (no|nr|num|number)|"
        "hospno|(emr|ehr|epic|cerner) id|pat mrn id|uhid|urn|umrn|(ur|ip|op|ipd|opd|cr|reg|registration|pas) (no|"
        "number|id)"
    ),
    "a social security number": (
        "ssn|social security( no| num| number)?|socsec|nino|national insurance( no| number)?|ni (no|number)|"
        "(social insurance|sin) (no|number)|numero (de )?(securite sociale|secu)|nir|insee|nss|sin"
    ),
    "a national identity number": (
        "bsn|burgerservicenummer|personnummer|personal (identity )?(no|number|code|id)|cpr|cpr (no|nr|number|"
        "nummer)|cprnr|fodselsnummer|fnr|hetu|henkilotunnus|kennitala|codice fiscale|cf|dni|nie|nif|curp|rut|cpf|"
        "pesel|rodne cislo|egn|oib|jmbg|emso|amka|aadhaar|nric|(national|government) id( no| number)?|id card( no|"
        " number)?|identity (no|number|card)|passport( no| nr| number)?|(driving|drivers?) licen[cs]e( no| number)?|"
        "tax id|tin|steuer id|rijksregisternummer|dni nie"
    ),
    "an insurance number": (
        "(kranken)?versicherten ?(id|nr|nummer)|(kranken)?versicherungs ?(nr|nummer)|krankenversichertennummer|"
        "versichertennummer|kvnr|kv nr|vers nr|versnr|insurance (no|nr|num|number|id)|policy (no|number)|(medicare|medicaid)( no|"
        " num| number| id)?|mbi|hicn?|health ?card( no| number)?|health (insurance )?(no|number)|ohip( no| number)?|"
        "ramq|phn|ahv( nr| nummer)?|avs( no)?|tessera sanitaria|subscriber (id|no|number)"
    ),
}
_CONTACTS = {
    "a name": (
        "((first|last|given|family|middle|full|maiden|birth|preferred|patients?|pat|pt|sur|fore|mother|father|gp|"
        "doctor|physician|next of kin|contact|emergency|legal) ?)+names?( first| last)?|names?|surname|forename|"
        "initials|fname|lname|vorname|nachname|familienname|nom|prenom|nom (de )?famille|apellidos?|nombres?|"
        "cognome|nome|achternaam|voornaam|efternamn|fornamn|patientenname"
    ),
    "an address": (
        "((home|street|postal|mailing|mail|residential|patient|permanent) )?address( line)?|street( name)?|strasse|"
        "adresse|direccion|domicilio|indirizzo|house (no|number)|hausnummer|wohnort"
    ),
    "an e-mail address": "((patient|contact|work|home) )?e ?mail( address| adresse)?|mail",
    "a telephone number": (
        "((home|mobile|cell|work|contact|patient|emergency) )?(tele)?phone( no| num| number)?|tel( no| nr)?|"
        "telefon( nr| nummer)?|(mobile|cell|handy) (no|nr|number)|cellphone|mobilnummer|fax( no| number)?"
    ),
    "a postcode": (
        "(patient )?((post|postal|zip) ?code|zip|plz|postleitzahl|code postal|codigo postal|eircode|cap residenza)"
    ),
    "a date of birth": (
        "dob|d o b|(patient )?((date|day) of birth|birth ?(date|day|dt))( of patient)?|date birth|brthdtc|"
        "geburts ?(datum|tag)|geb ?dat(um)?|date (de )?naissance|fecha (de )?nacimiento|data (di )?nascita|"
        "geboorte ?datum|fodsels ?dato?|fodelsedatum"
    ),
    "an internet address": "ip|ip address|mac address|url|device serial|imei",
}
_KEYS: dict[tuple[Kind, str], str] = {
    ("patient", "the key of a patient"): (
        "usubjid|unique subject (id|identifier)|eid|iid|pid|ptid|patid|uniquepid|randid|(WHO)|"
        "(.* )?(WHO)( s)?( (MIDDLE))*( (KEY))+|(.* )?(OTHERS) (id|key|identifier|hash|pseudonym)|(id|key|hash|"
        "pseudonym) (of )?(the )?(WHO)|subjid|subjectkey|subjectid|patientid|patientno|patientnr|patno|patnr|"
        "patientnummer|personid|participantid|idpat|patientkey|pseudonym|pseudo ?id|mpi|empi( id)?|(screening|"
        "randomi[sz]ation|enrolment|enrollment) (no|nr|number|num)"
    ),
    ("weak", "the key of a patient"): (
        "ids?|record ?id|study ?id|uid|guid|uuid|key|identifier|kennung|record|redcap (record )?id|respid|case ?id|"
        "idno|id (no|nr|num|number|code)|seqn|(study|trial) (no|nr|num|number)|lfd (nr|nummer)|nummer"
    ),
    ("family", "the key of a family"): (
        "(family|fam|household|hh|pedigree|litter|twin pair) ?(id|no|nr|number|key)|fid|famid"
    ),
    ("record", "the key of a visit, a sample or a row"): (
        "(.* )?(WHAT)( (KEY))+|hadmid|icustayid|fallnummer|fallnr|accession|barcode|encounterid|visitid|sampleid|"
        "specimenid|stayid|encounter|specimen|sample|patientunitstayid|patienthealthsystemstayid"
    ),
    ("record", "the key of something"): "(?!.*concept ).+ (ids?|uid|guid|identifier)",
}


def _pattern(names: str) -> re.Pattern[str]:
    return re.compile(re.sub("[A-Z]+", lambda part: f"({_PARTS[part[0]]})", names))


_PATTERNS: list[tuple[Kind, str, re.Pattern[str]]] = [
    *(("patient", what, _pattern(names)) for what, names in _NUMBERS.items()),
    *(("contact", what, _pattern(names)) for what, names in _CONTACTS.items()),
    *((kind, what, _pattern(names)) for (kind, what), names in _KEYS.items()),
]
"""The first that fits a whole name, in small letters without figures, tells what the column is."""
_UNSURE = _pattern(
    "chi|hcn|urn|nir|nss|sin|insee|cpr|fnr|hetu|cf|dni|nie|nif|curp|rut|cpf|egn|oib|emso|amka|tin|passport|medicare|"
    "medicaid|mbi|hicn?|ohip|ramq|phn|ahv|avs|mail|ip|names?|nom|nome|nombres?|initials|street|mpi|key|record|pts?|"
    "pat|subj|encounter|specimen|sample|barcode|accession|url|nummer|(.* )?(WHAT)( (no|nr|num|number|nummer|ident))+"
)
"""Names that may be something else (CPR is a treatment too, `visit_number` counts): many different
keys must stand there."""
_LISTED = _pattern("(.* )?(WHAT)( (code|key|ref|hash|sk))+")
"""Names that may be a category (`test_code`): the keys must be nearly all different."""
_LABELS = (
    "nhs (number|no)|mrn|medical record (number|no)|hospital (number|no)|patient (id|number|no|name)|surname|"
    r"first name|last name|ssn|social security (number|no)|date of birth|d\.?o\.?b\.?|geburtsdatum|"
    "versichertennummer|subject id|usubjid|passport (number|no)"
)
"""What stands before a number, a name or a date of birth in a text."""


def _by_name(name: str, present: pl.Series, known: pl.Series) -> Identifier | None:
    kind, what = next(((kind, what) for kind, what, names in _PATTERNS if names.fullmatch(name)), (None, ""))
    if kind is None:
        return None
    numeric = present.cast(pl.Float64, strict=False).is_not_null().all()
    if numeric and what in ("a name", "an address", "an e-mail address"):
        return None
    if numeric and not _whole(present):
        return None
    keyed = kind == "contact" or bool(known.str.contains(r"\d").all())
    unique = len(known) > NEARLY_ALL * len(present) and len(known) > FEWEST_VALUES
    if _UNSURE.fullmatch(name) and not (keyed and (unique or len(known) > SEVERAL)):
        return None
    if _LISTED.fullmatch(name) and not (keyed and unique):
        return None
    return Identifier(kind, what, "by its name")


def _whole(texts: pl.Series) -> bool:
    return bool(texts.str.contains(r"^[+-]?\d+$").all())


# --------------------------------------------------------------------------------------------------
# forms


def compact(value: str) -> str:
    """Without blanks, dots and dashes, in capitals."""
    return re.sub(r"[\s.\-/]", "", value).upper()


def _any(_: str) -> bool:
    return True


def _weighted(digits: str, weights: tuple[int, ...]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True))


def _luhn(digits: str) -> bool:
    """Every second figure from the right doubled, the sum a multiple of ten."""
    doubled = [int(d) * (2 if place % 2 else 1) for place, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0 and int(digits) > 0


def _nhs(digits: str) -> bool:
    """NHS (England, Wales), CHI (Scotland), H&C (Northern Ireland): modulus 11."""
    digits = digits.zfill(10)
    return (11 - _weighted(digits[:9], (10, 9, 8, 7, 6, 5, 4, 3, 2))) % 11 == int(digits[9]) and int(digits) > 0


def _bsn(digits: str) -> bool:
    digits = digits.zfill(9)
    return int(digits) > 0 and _weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def _day(day: str, month: str, year: str = "2000") -> bool:
    try:
        date(int(year), int(month), int(day))
    except ValueError:
        return False
    return True


def _personnummer(digits: str) -> bool:
    digits = digits.replace("+", "")[-10:].zfill(10)
    day = int(digits[4:6]) % 60  # coordination numbers add 60
    return _day(str(day), digits[2:4]) and _luhn(digits)


def _cpr(digits: str) -> bool:
    digits = digits.zfill(10)
    return _day(digits[:2], digits[2:4])


def _fodselsnummer(digits: str) -> bool:
    digits = digits.zfill(11)
    first = -_weighted(digits[:9], (3, 7, 6, 1, 8, 9, 4, 5, 2)) % 11
    second = -_weighted(digits[:10], (5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return (first, second) == (int(digits[9]), int(digits[10]))


def _hetu(value: str) -> bool:
    value = value if len(value) == 11 else f"{value[:6]}-{value[6:]}"
    return value[-1] == "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(value[:6] + value[7:10]) % 31]


def _kvnr(value: str) -> bool:
    digits = f"{ord(value[0]) - 64:02d}{value[1:9]}"
    doubled = [int(d) * (1 + place % 2) for place, d in enumerate(digits)]
    return sum(d // 10 + d % 10 for d in doubled) % 10 == int(value[9])


def _nir(value: str) -> bool:
    number = value.replace("2A", "19").replace("2B", "18")
    return number.isdigit() and 97 - int(number[:13]) % 97 == int(number[13:])


def _dni(value: str) -> bool:
    digits = {"X": "0", "Y": "1", "Z": "2"}.get(value[0], value[0]) + value[1:-1]
    return value[-1] == "TRWAGMYFPDXBNJZSQVHLCKE"[int(digits) % 23]


def _ahv(digits: str) -> bool:
    return -_weighted(digits[:12], (1, 3) * 6) % 10 == int(digits[12])


def _belgian(digits: str) -> bool:
    digits = digits.zfill(11)
    return int(digits[9:]) in (97 - int(digits[:9]) % 97, 97 - int(f"2{digits[:9]}") % 97)


def _pesel(digits: str) -> bool:
    digits = digits.zfill(11)
    return -_weighted(digits[:10], (1, 3, 7, 9) * 2 + (1, 3)) % 10 == int(digits[10])


def _cpf(digits: str) -> bool:
    digits = digits.zfill(11)
    checks = [_weighted(digits[:n], tuple(range(n + 1, 1, -1))) * 10 % 11 % 10 for n in (9, 10)]
    return checks == [int(digits[9]), int(digits[10])]


def _medicare(digits: str) -> bool:
    return _weighted(digits[:8], (1, 3, 7, 9) * 2) % 10 == int(digits[8])


def _rut(value: str) -> bool:
    body, total = value[:-1], 0
    total = sum(int(d) * (2 + place % 6) for place, d in enumerate(reversed(body)))
    return "0123456789K0"[(11 - total % 11) % 12 if total % 11 else 0] == value[-1]


def _phone(value: str) -> bool:
    return len(value) > 8  # a date has eight figures


FORMS: tuple[tuple[str, Kind, str, Callable[[str], bool]], ...] = (
    ("an e-mail address", "contact", r"[\w.+'-]+@[\w-]+(?:\.[\w-]+)+", _any),
    ("a UUID", "weak", r"\{?[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\}?", _any),
    ("a hash", "weak", r"(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{128})", _any),
    ("a social security number", "patient", r"\d{3}-\d{2}-\d{4}", _any),
    ("a national insurance number", "patient", r"[A-CEGHJ-PR-TW-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D]", _any),
    ("an Italian codice fiscale", "patient", r"[A-Z]{6}\d{2}[A-EHLMPR-T]\d{2}[A-Z]\d{3}[A-Z]", _any),
    ("a Mexican CURP", "patient", r"[A-Z]{4}\d{6}[HMX][A-Z]{5}[0-9A-Z]\d", _any),
    ("a Medicare number", "patient", r"[1-9][A-Z][0-9A-Z]\d-?[A-Z][0-9A-Z]\d-?[A-Z]{2}\d{2}", _any),
    ("an NHS or CHI number", "patient", r"\d{3}[ -]?\d{3}[ -]?\d{3,4}", _nhs),
    ("a German insurance number", "patient", r"[A-Z] ?\d{3} ?\d{3} ?\d{3}", _kvnr),
    ("a French social security number", "patient", r"[12] ?\d{2} ?\d{2} ?\d[0-9AB] ?\d{3} ?\d{3} ?\d{2}", _nir),
    ("a Spanish DNI or NIE", "patient", r"[XYZ\d]-?\d{7}-?[A-Z]", _dni),
    ("a Swiss AHV number", "patient", r"756[. ]?\d{4}[. ]?\d{4}[. ]?\d{2}", _ahv),
    ("a Swedish personnummer", "patient", r"(?:19|20)?\d{5,6}[-+]?\d{4}", _personnummer),
    ("a Danish CPR number", "patient", r"\d{5,6}-?\d{4}", _cpr),
    ("a Norwegian national identity number", "patient", r"\d{5,6} ?\d{5}", _fodselsnummer),
    ("a Finnish personal identity code", "patient", r"\d{6}[-+A-FU-Y]?\d{3}[0-9A-Y]", _hetu),
    ("a Dutch BSN", "patient", r"\d{8,9}|\d{4}\.\d{2}\.\d{3}", _bsn),
    ("a Canadian SIN", "patient", r"\d{3}[ -]?\d{3}[ -]?\d{3}", _luhn),
    ("an Ontario health card number", "patient", r"\d{4}[ -]?\d{3}[ -]?\d{3}(?:[ -]?[A-Z]{2})?", lambda v: _luhn(v[:10])),
    ("an Australian Medicare number", "patient", r"[2-6]\d{3}[ -]?\d{5}[ -]?\d(?:[ /-]?\d)?", _medicare),
    ("a Belgian national number", "patient", r"\d{2}\.?\d{2}\.?\d{2}-?\d{3}[.-]?\d{2}", _belgian),
    ("a Polish PESEL", "patient", r"\d{9,11}", _pesel),
    ("a Brazilian CPF", "patient", r"\d{1,3}\.?\d{3}\.?\d{3}-?\d{2}", _cpf),
    ("a Chilean RUT", "patient", r"\d{1,2}\.?\d{3}\.?\d{3}-?[\dK]", _rut),
    ("a telephone number", "contact", r"(?:\+|\(?0[1-9])[\d ()./-]{7,18}|(?:\(\d{3}\) ?|\d{3}-)\d{3}-\d{4}", _phone),
    ("a name", "contact", r"[A-Z][^\W\d]*['’-]?[^\W\d]+,? ?(?:[A-Z]\.? )?[A-Z][^\W\d]*['’-]?[^\W\d]+(?: [A-Z]\w*)?", _any),
    ("an internet address", "contact", r"(?:\d{1,3}\.){3}\d{1,3}|https?://\S+", _any),
)  # fmt: skip
"""What, of which kind, its form (in a column, capitals or not), and the test of its check digit, of
the value made compact."""
WITHOUT_LABEL = (
    *("an e-mail address", "a social security number", "a national insurance number", "a UUID", "an NHS or CHI number"),
    *("a German insurance number", "an Italian codice fiscale", "a French social security number"),
)
"""Forms that are looked for within a text."""


def _by_form(present: pl.Series, known: pl.Series) -> Identifier | None:
    if len(known) < FEWEST_VALUES:
        return None
    looked_at = known.sort().gather_every(max(1, len(known) // LOOKED_AT))
    if looked_at.str.contains(r"^[+-]?\d{0,7}(?:[.,]\d*)?$").sum() > (1 - NEARLY_ALL) * len(looked_at):
        return None  # measurements: no form is so short a number
    some = looked_at.gather_every(max(1, len(looked_at) // 50))
    for what, kind, pattern, check in FORMS:
        if what == "a name" and len(known) < len(present) / 2:  # a diagnosis is written so too, but often
            continue
        form = rf"{'' if what == 'a name' else '(?i)'}^(?:{pattern})$"
        if some.str.contains(form).sum() < len(some) / 2:
            continue
        fitting = looked_at.filter(looked_at.str.contains(form))
        if len(fitting) < NEARLY_ALL * len(looked_at):
            continue
        if sum(check(compact(value)) for value in fitting) >= NEARLY_ALL * len(looked_at):
            return Identifier(kind, what, "by its form" if check is _any else "by its check digit")
    return None


# --------------------------------------------------------------------------------------------------
# behaviour

_MEASURED = re.compile(
    "counts?|reads|load|copies|costs?|charges?|income|salary|price|volume|area|sum|total|score|time|seconds|ms|ns|dose|cells|"
    "intensity|signal|pixels|size|bytes|length|weight|activity|units|level|concentration|distance|steps|duration|timestamp|"
    "epoch|rate|platelets|plt|wbc|rbc"
)
"""Words of numbers that may be large and all different without being a key."""
_AMOUNT = rf"(?:[0-9]*[.,][0-9]+{EXPONENT}|[0-9]{{1,3}}(?:(?:[.,]|{SPACE})[0-9]{{3}})+(?:[.,][0-9]+)?)"
_UNIT = r"(?:%|[a-zA-Z\u00b5\u03bc][a-zA-Z0-9\u00b5\u03bc/^*.%]*)"
_FINDING = "|".join(
    (
        rf"^[<>\u2264\u2265~=]{{0,2}} ?[-+\u2212(]?[$\u20ac\u00a3]? ?{_AMOUNT} ?(?:{_UNIT}|\u20ac)?\)?$",
        rf"^[<>\u2264\u2265~=]{{0,2}} ?[0-9]{{1,4}}(?: {_UNIT}|%)$",
        TWO_NUMBERS,
        r"^[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?: ?[AaPp][Mm])?$",
        SURELY_DATE,
    )
)
"""A number with a decimal mark or thousands, in whatever country's writing, or with a unit; two
numbers, a time, a date."""
MOSTLY = 0.8
"""Findings in a column of findings; the others are words for those that could not be measured."""
HALF = 0.5
"""In a column of other cells than plain numbers, where findings that may not be read count too."""


def _by_behaviour(
    name: str, values: pl.Series, present: pl.Series, known: pl.Series, people: pl.DataFrame | None
) -> Identifier | None:
    if _findings(present) >= MOSTLY:
        return None
    if _same_person(values, known, people):
        return Identifier("patient", "the key of a patient (what does not change in a person is the same)", BEHAVES)
    numbers = present.cast(pl.Float64, strict=False)
    unique = len(known) >= 0.98 * len(present)
    if numbers.null_count() == 0:
        if not _whole(present) or any(map(_MEASURED.fullmatch, name_words(name))) or _days(present):
            return None
        if len(known) == len(present) > SEVERAL and _counts(numbers):
            return Identifier("record", "the number of a row", BEHAVES)
        digits = present.str.strip_chars("+-").str.len_chars()
        usual = int(digits.mode()[0])
        alike = int((digits == usual).sum()) >= NEARLY_ALL * len(present)
        different = len(known) > (FEWEST_VALUES if unique else SEVERAL)
        if usual >= MANY_DIGITS and alike and different:
            return Identifier("weak", "a key of many figures", BEHAVES)
        return None
    if len(known) <= SEVERAL or _findings(present, in_any_writing=True) >= HALF:
        return None
    shapes = present.str.replace_all(r"[A-Za-z]+", "A").str.replace_all(r"\d", "9")
    most = shapes.value_counts(sort=True)["count"][0] / len(present)
    if not unique:
        many = int(shapes.mode().sort()[0].count("9")) >= MANY_DIGITS and not present.str.contains(" ").any()
        return Identifier("weak", "a key of many figures", BEHAVES) if many and most >= NEARLY_ALL else None
    long_text = (present.str.len_chars().quantile(0.5) or 0) > 40 or shapes.str.count_matches("9").mean() < 3  # type: ignore[operator]
    if not present.str.contains(" ").any() or (most >= 0.9 and not long_text):
        return Identifier("weak", "a key that differs in every row", BEHAVES)
    return None


BEHAVES: Literal["by how its values behave"] = "by how its values behave"


def _same_person(values: pl.Series, known: pl.Series, people: pl.DataFrame | None) -> bool:
    """Whether rows that share a value also share what does not change in a person, far more often
    than by chance.

    Rows of one number must also follow each other: men and women share few values of a hormone
    either.
    """
    if people is None or not SEVERAL < len(known) < 0.9 * len(values) or known.str.contains(" ").any():
        return False
    numeric = known.cast(pl.Float64, strict=False).null_count() == 0
    if numeric and (not _whole(known) or int(values.ne_missing(values.shift()).sum()) > 1.05 * len(known) + 1):
        return False
    for name in people.columns:
        pairs = pl.DataFrame({"key": values, "fixed": people[name]}).drop_nulls()
        alike = float((pairs["fixed"].value_counts()["count"] / max(1, pairs.height)).pow(2).sum())
        groups = pairs.group_by("key").agg(pl.len().alias("rows"), pl.col("fixed").n_unique().alias("fixed"))
        groups = groups.filter(pl.col("rows") > 1)
        unlikely = groups.height >= SEVERAL and alike**groups.height < 1e-6
        if unlikely and int((groups["fixed"] == 1).sum()) >= 0.98 * groups.height:
            return True
    return False


def _counts(numbers: pl.Series) -> bool:
    """Whether these different whole numbers count the rows: all of 1 to n, or rising with few
    gaps."""
    spread = numbers.max() - numbers.min() + 1  # type: ignore[operator]
    return bool(spread == len(numbers) or (spread < 2 * len(numbers) and (numbers.diff().drop_nulls() > 0).all()))


def _findings(texts: pl.Series, in_any_writing: bool = False) -> float:
    """Share of texts that are findings (`_FINDING`); with `in_any_writing` also of numbers, of
    fewer figures than a key has, in a way that may not be read: `1,234`, `12 mg`."""
    found = texts.str.contains(_FINDING)
    if in_any_writing:
        numbers = texts.str.contains(LIKE_NUMBER) | writing.with_unit(texts)
        found |= numbers & (texts.str.count_matches("[0-9]") < MANY_DIGITS)
    return int(found.sum()) / len(texts)


def _days(texts: pl.Series) -> bool:
    """Whether numbers are dates such as 20240131."""
    days = texts.str.to_date("%Y%m%d", strict=False)
    return bool((texts.str.len_chars() == 8).all() and days.is_not_null().mean() >= NEARLY_ALL)  # type: ignore[operator]
