"""A section's settings and its results: one row per measured number, for the tables, the plots and the CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .baselines import COMPILE, EAGER, THREE_GEMMS, Key
from .cases import Case, Shape, dtype_name
from .timing import Effort, Spread

#: How many times faster than ..., and how many times as long as the three GEMMs.
OVER_EAGER, OVER_COMPILE, TO_THREE_GEMMS = "speedup_over_eager", "speedup_over_compile", "ratio_to_three_gemms"
RATIOS = (OVER_EAGER, OVER_COMPILE, TO_THREE_GEMMS)


@dataclass(frozen=True)
class Settings:
    """The options of ``python -m benchmarks.report`` that sections look at."""

    shapes: tuple[Shape, ...]
    effort: Effort
    device: str = "cpu"
    quick: bool = False
    with_compile: bool = True
    say: Callable[[str], None] = print


@dataclass(frozen=True)
class Row:
    """A number of one implementation at one case."""

    section: str
    case: Case
    key: Key
    metric: str
    unit: str
    value: Spread
    ratios: Mapping[str, Spread] = field(default_factory=dict)
    note: str = ""


@dataclass
class Report:
    """The rows of a section, wrong results, and sentences about what could not be measured."""

    rows: list[Row] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def timing_rows(section: str, case: Case, seconds: Mapping[Key, np.ndarray], note: str = "") -> list[Row]:
    """Milliseconds of every implementation, with its ratios to those of the baselines that are there."""
    return [
        Row(section, case, key, "time", "ms", Spread.of(samples * 1e3), _ratios(key, seconds), note)
        for key, samples in seconds.items()
    ]


def _ratios(key: Key, seconds: Mapping[Key, np.ndarray]) -> dict[str, Spread]:
    """Taken round by round."""
    ratios = {}
    for name, baseline in zip(RATIOS, (Key(EAGER, key.pairs), Key(COMPILE, key.pairs), Key(THREE_GEMMS)), strict=True):
        if baseline in seconds and baseline != key:
            speedup = seconds[baseline] / seconds[key]
            ratios[name] = Spread.of(1 / speedup if name == TO_THREE_GEMMS else speedup)
    return ratios


# ------------------------------------------------------------------------- Markdown


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right of the first column."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines))


def number(value: float) -> str:
    """Three significant digits without an exponent."""
    if value != value:
        return "—"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def with_spread(spread: Spread | None) -> str:
    """Median, then the quartiles."""
    if spread is None:
        return "—"
    return f"{number(spread.median)} [{number(spread.lower)}, {number(spread.upper)}]"


def cell(row: Row | None, ratio: str = "") -> str:
    """The value of a row, or one of its ratios."""
    return with_spread(row and (row.ratios.get(ratio) if ratio else row.value))


# ------------------------------------------------------------------------------ CSV


def write_csv(path: Path, rows: Sequence[Row], environment: Mapping[str, str]) -> None:
    """Every row with the device and versions it was measured on, so that files can be joined."""
    records = [{**_record(row), **environment} for row in rows]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, records[0] if records else ())
        writer.writeheader()
        writer.writerows(records)


def _record(row: Row) -> dict[str, object]:
    record = {
        "section": row.section,
        "implementation": row.key.name,
        "pairs": row.key.pairs,
        "batch": row.case.shape.batch,
        "width": row.case.shape.width,
        "classes": row.case.shape.classes,
        "norm": row.case.norm,
        "pairing": row.case.pairing,
        "dtype": dtype_name(row.case.dtype),
        "zeros": row.case.zeros,
        "note": row.note,
        "metric": row.metric,
        "unit": row.unit,
        "rounds": row.value.rounds,
    }
    for prefix, spread in (("", row.value), *((f"{name}_", row.ratios.get(name)) for name in RATIOS)):
        for column, attribute in (("median", "median"), ("q1", "lower"), ("q3", "upper")):
            record[prefix + column] = f"{getattr(spread, attribute):.6g}" if spread else ""
    return record
