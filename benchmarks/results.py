"""One row per measured number: what the tables, plots and the CSV are made from."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .cases import Case, dtype_name
from .competitors import COMPILE, EAGER, FLOOR, Key
from .timing import Spread

#: How many times faster than ..., and how many times the floor's time.
OVER_EAGER, OVER_COMPILE, OF_FLOOR = "speedup_over_eager", "speedup_over_compile", "ratio_to_floor"
RATIOS = (OVER_EAGER, OVER_COMPILE, OF_FLOOR)


@dataclass(frozen=True)
class Row:
    """A number of one competitor at one case."""

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
    """What a section hands over: its rows, and sentences about what could not be measured."""

    rows: list[Row] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def timing_rows(section: str, case: Case, seconds: Mapping[Key, np.ndarray], note: str = "") -> list[Row]:
    """Milliseconds of every competitor, with its ratios to the eager, compiled and floor times that are there."""
    return [
        Row(section, case, key, "time", "ms", Spread.of(samples * 1e3), _ratios(key, seconds), note)
        for key, samples in seconds.items()
    ]


def _ratios(key: Key, seconds: Mapping[Key, np.ndarray]) -> dict[str, Spread]:
    """Taken round by round."""
    own, ratios = seconds[key], {}
    for name, rival, ratio in (
        (OVER_EAGER, Key(EAGER, key.pairs), lambda rival: rival / own),
        (OVER_COMPILE, Key(COMPILE, key.pairs), lambda rival: rival / own),
        (OF_FLOOR, Key(FLOOR), lambda rival: own / rival),
    ):
        if rival in seconds and rival != key:
            ratios[name] = Spread.of(ratio(seconds[rival]))
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


# ------------------------------------------------------------------------------ CSV


def write_csv(path: Path, rows: Sequence[Row], environment: Mapping[str, str]) -> None:
    """Every row with the device and versions it was measured on, so that files can be joined."""
    columns: dict[str, Callable[[Row], object]] = {
        "section": lambda row: row.section,
        "competitor": lambda row: row.key.name,
        "pairs": lambda row: row.key.pairs,
        "batch": lambda row: row.case.shape.batch,
        "width": lambda row: row.case.shape.width,
        "classes": lambda row: row.case.shape.classes,
        "norm": lambda row: row.case.norm,
        "pairing": lambda row: row.case.pairing,
        "dtype": lambda row: dtype_name(row.case.dtype),
        "zeros": lambda row: row.case.zeros,
        "note": lambda row: row.note,
        "metric": lambda row: row.metric,
        "unit": lambda row: row.unit,
        "rounds": lambda row: row.value.rounds,
        **_spread_columns("", lambda row: row.value),
    }
    for name in RATIOS:
        columns |= _spread_columns(f"{name}_", lambda row, name=name: row.ratios.get(name))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, *environment])
        writer.writerows([*(read(row) for read in columns.values()), *environment.values()] for row in rows)


def _spread_columns(prefix: str, read: Callable[[Row], Spread | None]) -> dict[str, Callable[[Row], object]]:
    def part(name: str) -> Callable[[Row], object]:
        return lambda row: "" if read(row) is None else f"{getattr(read(row), name):.6g}"

    return {f"{prefix}median": part("median"), f"{prefix}q1": part("lower"), f"{prefix}q3": part("upper")}
