"""How time grows when batch, width or number of classes doubles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from . import training
from .baselines import COMPILE, EAGER, THREE_GEMMS, compiled_backends
from .cases import Case, Shape
from .results import Report, Row, Settings, cell, number, table

SECTION = "growth"
#: The size that doubles, from where, how often; the other two stay.
CURVES = {
    "batch": (Shape(64, 512, 80), 6),
    "classes": (Shape(64, 256, 20), 12),
    "width": (Shape(128, 128, 80), 6),
}
SYMBOL = {"batch": "B", "width": "n", "classes": "C"}
QUICK_DOUBLINGS = 3


def run(settings: Settings, report: Report) -> None:
    """Every curve, for l2 and anchor mining."""
    settings = replace(settings, with_compile=settings.with_compile and not settings.quick)
    for axis, (start, doublings) in CURVES.items():
        sizes = [getattr(start, axis) << power for power in range(doublings + 1)]
        shapes = [replace(start, **{axis: size}) for size in sizes[: QUICK_DOUBLINGS + 1 if settings.quick else None]]
        training.time_cases(report, SECTION, [Case(shape, device=settings.device) for shape in shapes], settings, axis)


# ------------------------------------------------------------------------ rendering


def curve(rows: Sequence[Row], axis: str) -> list[Row]:
    """The rows of one axis."""
    return [row for row in rows if row.section == SECTION and row.note == axis]


def fixed_sizes(axis: str) -> str:
    """The two sizes that stay along an axis."""
    return ", ".join(f"{SYMBOL[name]} = {getattr(CURVES[axis][0], name)}" for name in CURVES if name != axis)


def render(rows: Sequence[Row], device: str) -> str:
    """One table per axis; for each backend the factor by which time grew since the line before."""
    parts = [
        "## Growth\n",
        "Forward and backward with anchor mining and the l2 norm as one size doubles; *growth* is time over the time "
        "at half the size (target: at most 2, but for noise; mining alone is quadratic in the batch). *compile* is "
        "here one compilation for all shapes (`dynamic=True`).\n",
    ]
    for axis in CURVES:
        chosen = curve(rows, axis)
        if chosen:
            parts += [f"### {axis.capitalize()}, at {fixed_sizes(axis)}\n", _table(chosen, axis, device) + "\n"]
    return "\n".join(parts)


def _table(rows: Sequence[Row], axis: str, device: str) -> str:
    points: dict[int, dict[str, Row]] = {}
    for row in rows:
        points.setdefault(getattr(row.case.shape, axis), {})[row.key.name] = row
    growing = [*compiled_backends(device), THREE_GEMMS]
    names = [name for name in (EAGER, COMPILE, *growing) if any(name in found for found in points.values())]
    header = [SYMBOL[axis], *(f"{name} [ms]" for name in names), *(f"{name}: growth" for name in growing)]
    lines, before = [], {}
    for size, found in points.items():
        growth = [
            f"{number(found[name].value.median / before[name].value.median)}x" if name in before else ""
            for name in growing
        ]
        lines.append([f"{size:,}", *(cell(found.get(name)) for name in names), *growth])
        before = found
    return table(header, lines)
