"""How time grows when batch, width or number of classes doubles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .agreement import Disagreement, require_equal_losses
from .cases import Case, Shape, make_inputs
from .competitors import (
    COMPILE,
    EAGER,
    FLOOR,
    Loss,
    compile_failure,
    compiled_backends,
    dynamic_compiled_loss,
    loss_calls,
    losses,
)
from .results import Report, Row, number, table, timing_rows, with_spread
from .settings import Settings
from .timing import measure

SECTION = "growth"
#: What doubles, from where, how often, and what stays.
CURVES = {
    "batch": (Shape(64, 512, 80), 6),
    "classes": (Shape(64, 256, 20), 12),
    "width": (Shape(128, 128, 80), 6),
}
SYMBOL = {"batch": "B", "width": "n", "classes": "C"}
QUICK_DOUBLINGS = 3


def run(settings: Settings) -> Report:
    """Every curve, for l2 and anchor mining."""
    report = Report()
    compiled = _compiled(settings, report)
    for axis, (start, doublings) in CURVES.items():
        settings.say(f"  {axis}")
        for power in range((min(doublings, QUICK_DOUBLINGS) if settings.quick else doublings) + 1):
            shape = replace(start, **{axis: getattr(start, axis) << power})
            _point(settings, report, Case(shape, device=settings.device), axis, compiled)
    return report


def _compiled(settings: Settings, report: Report) -> Loss | None:
    if settings.quick or not settings.with_compile:
        return None
    compiled = dynamic_compiled_loss(Case.norm)
    reason = compile_failure(compiled, make_inputs(Case(CURVES["batch"][0], device=settings.device)))
    if not reason:
        return compiled
    report.notes.append(f"torch.compile for any shape does not work here and is left out: {reason}")
    return None


def _point(settings: Settings, report: Report, case: Case, axis: str, compiled: Loss | None) -> None:
    inputs = make_inputs(case)
    competing = losses(case, compiled)
    try:
        require_equal_losses(case, inputs, competing)
    except Disagreement as error:
        report.refusals.append(str(error))
        return
    calls = {key: call for key, call in loss_calls(case, inputs, competing).items() if key.pairs != "given"}
    report.rows += timing_rows(SECTION, case, measure(calls, settings.effort, settings.device), axis)


# ------------------------------------------------------------------------ rendering


def curve(rows: Sequence[Row], axis: str) -> list[Row]:
    """The rows of one axis."""
    return [row for row in rows if row.section == SECTION and row.note == axis]


def render(rows: Sequence[Row], device: str) -> str:
    """One table per axis; for each backend the factor by which time grew since the line before."""
    parts = [
        "## Growth\n",
        "Forward and backward with anchor mining and the l2 norm as one size doubles; *growth* is time over the time "
        "at half the size (target: at most 2, but for noise; mining alone is quadratic in the batch). *compile* is "
        "here one compilation for all shapes (`dynamic=True`).\n",
    ]
    for axis, (start, _) in CURVES.items():
        chosen = curve(rows, axis)
        if chosen:
            fixed = ", ".join(f"{SYMBOL[name]} = {getattr(start, name)}" for name in CURVES if name != axis)
            parts += [f"### {axis.capitalize()}, at {fixed}\n", _table(chosen, axis, device) + "\n"]
    return "\n".join(parts)


def _table(rows: Sequence[Row], axis: str, device: str) -> str:
    points: dict[int, dict[str, Row]] = {}
    for row in rows:
        points.setdefault(getattr(row.case.shape, axis), {})[row.key.name] = row
    backends = compiled_backends(device)
    names = [name for name in (EAGER, COMPILE, *backends, FLOOR) if any(name in found for found in points.values())]
    growing = [*backends, FLOOR]
    header = [SYMBOL[axis], *(f"{name} [ms]" for name in names), *(f"{name}: growth" for name in growing)]
    lines, before = [], {}
    for size, found in points.items():
        times = [with_spread(found[name].value if name in found else None) for name in names]
        growth = [
            f"{number(found[name].value.median / before[name].value.median)}x" if name in before else ""
            for name in growing
        ]
        lines.append([f"{size:,}", *times, *growth])
        before = found
    return table(header, lines)
