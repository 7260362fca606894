"""The text format of OpenMetrics 1.0. Pure. Source: the specification, "Text format"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Family(NamedTuple):
    """A metric, and its values by labels."""

    name: str
    """Without "_total"; with its base unit at the end, if it has one."""
    kind: Literal["counter", "gauge"]
    told: str
    """What it is, in a sentence."""
    samples: Sequence[tuple[Mapping[str, str], float]]
    unit: str = ""


def text(families: Iterable[Family]) -> str:
    """Return metrics as text. Those without values are left out."""
    lines = []
    for family in families:
        if not family.samples:
            continue
        lines.append(f"# TYPE {family.name} {family.kind}")
        if family.unit:
            lines.append(f"# UNIT {family.name} {family.unit}")
        lines.append(f"# HELP {family.name} {_escaped(family.told)}")
        ending = "_total" if family.kind == "counter" else ""
        for labels, value in family.samples:
            shown = ",".join(f'{key}="{_escaped(told)}"' for key, told in labels.items())
            lines.append(f"{family.name}{ending}{{{shown}}} {value:.17g}")
    return "\n".join([*lines, "# EOF"]) + "\n"


def _escaped(told: str) -> str:
    """Escape what ends a line, or a quoted text; what is no text is replaced."""
    printable = told.encode(errors="replace").decode()
    return printable.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
