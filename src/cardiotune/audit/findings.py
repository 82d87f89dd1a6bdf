"""What an audit says: findings, one plain sentence and its counts apiece, never a patient's value.

A "leak" says: do not believe the results before this is explained. A "warning" wants a look; a
"note" is for the record.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Literal, TypeVar

Severity = Literal["leak", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("leak", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of one check: its short name, how grave it is, a sentence, and the counts behind
    the sentence."""

    check: str
    severity: Severity
    text: str
    numbers: dict[str, Any] = field(default_factory=dict)


Looked = TypeVar("Looked")
"""What a check looks at: a table with its parts, or a run's results."""


class Checks(list[Callable[[Looked], list[Finding]]], Generic[Looked]):
    """The checks of one subject, in the order in which their findings stand."""

    def add(self, check: Callable[[Looked], list[Finding]]) -> Callable[[Looked], list[Finding]]:
        """Decorator: the audit runs this check too."""
        self.append(check)
        return check

    def run(self, looked: Looked) -> list[Finding]:
        """What all of them find."""
        return [finding for check in self for finding in check(looked)]


def gravest_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings by severity, those of one severity in the order that they came in."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def as_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """Content of `audit.json`."""
    return {"findings": [asdict(finding) for finding in findings]}


def from_json(content: Mapping[str, Any]) -> list[Finding]:
    """Findings of an `audit.json`; none of one that is not there."""
    return [Finding(**finding) for finding in content.get("findings", [])]


def listed(names: Iterable[str]) -> str:
    """Names in a sentence, the first eight."""
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
