"""Pictures of the report: growth curves and distance from the floor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from . import growth, training
from .cases import Case, Shape
from .competitors import COMPILE, EAGER, FLOOR, Key
from .results import OF_FLOOR, Row, number
from .timing import geometric_mean

COLOURS = {
    EAGER: "#c44e52",
    COMPILE: "#dd8452",
    FLOOR: "#555555",
    "cpu": "#4c72b0",
    "cuda": "#55a868",
    "triton": "#8172b3",
}
MARKERS = {EAGER: "s", COMPILE: "D", FLOOR: "", "cpu": "o", "cuda": "o", "triton": "^"}
LEGEND = {
    EAGER: "eager PyTorch",
    COMPILE: "torch.compile",
    FLOOR: "floor: three bare matrix products",
}
#: Where bars of the logarithmic axis begin.
BAR_BASE = 0.5
AXIS_LABEL = {"batch": "batch size B", "classes": "number of classes C", "width": "feature width n"}


def _label(name: str) -> str:
    return LEGEND.get(name, f"indeed_ext, {name} backend")


def draw_all(rows: Sequence[Row], folder: Path, caption: str) -> list[Path]:
    """Every picture there are rows for, as PNG files in ``folder``."""
    made = []
    for axis in growth.CURVES:
        chosen = growth.curve(rows, axis)
        if chosen:
            made.append(_growth(chosen, axis, folder / f"time_vs_{axis}.png", caption))
    chosen = [row for row in rows if row.section == training.SECTION and row.case.pairing in training.MAIN_PAIRINGS]
    if chosen:
        made.append(_floor_bars(chosen, folder / "ratio_to_floor.png", caption))
    return made


def _growth(rows: Sequence[Row], axis: str, path: Path, caption: str) -> Path:
    figure, axes = plt.subplots(figsize=(7, 4.8), layout="constrained")
    for name in dict.fromkeys(row.key.name for row in rows):
        curve = sorted((row for row in rows if row.key.name == name), key=lambda row: getattr(row.case.shape, axis))
        sizes = [getattr(row.case.shape, axis) for row in curve]
        style = {
            "color": COLOURS.get(name),
            "marker": MARKERS.get(name, "o"),
            "linestyle": "--" if name == FLOOR else "-",
        }
        axes.plot(sizes, [row.value.median for row in curve], label=_label(name), markersize=5, **style)
        low, high = ([getattr(row.value, side) for row in curve] for side in ("lower", "upper"))
        axes.fill_between(sizes, low, high, color=COLOURS.get(name), alpha=0.2, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    sizes = sorted({getattr(row.case.shape, axis) for row in rows})
    axes.set_xticks(sizes, [_short(size) for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    _plain_log_axis(axes)
    axes.set_xlabel(AXIS_LABEL[axis])
    axes.set_ylabel("time of loss and gradients [ms]")
    shape: Shape = rows[0].case.shape
    fixed = ", ".join(f"{growth.SYMBOL[a]} = {getattr(shape, a)}" for a in growth.CURVES if a != axis)
    axes.set_title(f"INDeeD loss, forward and backward, mining included ({fixed}, l2)", fontsize=11)
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    return _save(figure, path, f"{caption}\nmedian, shaded: quartiles over rounds")


def _short(size: int) -> str:
    return f"{size / 1000:.1f}k" if size >= 10_000 else str(size)


def _plain_log_axis(axes: Axes) -> None:
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _floor_bars(rows: Sequence[Row], path: Path, caption: str) -> Path:
    """One group of bars per shape, each bar the geometric mean over norms and pairings, whiskers the extremes."""
    floors = {row.case: row.value.median for row in rows if row.key == Key(FLOOR)}
    shapes = list(dict.fromkeys(row.case.shape for row in rows))
    names = [name for name in dict.fromkeys(row.key.name for row in rows) if name != FLOOR]
    figure, axes = plt.subplots(figsize=(max(7, 1.5 * len(shapes)), 4.8), layout="constrained")
    places, width = np.arange(len(shapes)), 0.8 / len(names)
    for index, name in enumerate(names):
        found = [_to_floor(rows, shape, name) for shape in shapes]
        middle = np.array([geometric_mean(values) for values in found])
        extremes = np.array([(min(values, default=np.nan), max(values, default=np.nan)) for values in found]).T
        reach = np.abs(extremes - middle)
        x = places + (index - (len(names) - 1) / 2) * width
        axes.bar(
            x, middle, width, color=COLOURS.get(name), label=_label(name), yerr=reach, capsize=2, ecolor="#00000099"
        )
        for position, value in zip(x, middle, strict=True):
            style = {"ha": "center", "va": "bottom", "fontsize": 7, "color": "white", "weight": "bold"}
            axes.text(position, BAR_BASE * 1.04, number(value), **style)
    axes.axhline(1, color=COLOURS[FLOOR], linestyle="--", label=_label(FLOOR))
    axes.axhline(1.3, color=COLOURS[FLOOR], linestyle=":", label="1.3 times the floor: the target where it is ≥ 0.5 ms")
    axes.set_yscale("log")
    axes.set_ylim(bottom=BAR_BASE)
    _plain_log_axis(axes)
    axes.set_xticks(places, [_bar_label(shape, floors) for shape in shapes], fontsize=8)
    axes.set_xlabel("batch x feature width x classes (time of the floor)")
    axes.set_ylabel("time of loss and gradients, in times the floor")
    axes.set_title("INDeeD loss, forward and backward, mining included", fontsize=11)
    axes.grid(True, axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8)
    legend = "bar and number: geometric mean over l2 and min-max, anchor and matching; whiskers: extremes"
    return _save(figure, path, f"{caption}\n{legend}")


def _to_floor(rows: Sequence[Row], shape: Shape, name: str) -> list[float]:
    chosen = (row for row in rows if row.case.shape == shape and row.key == Key(name, "mined"))
    return [row.ratios[OF_FLOOR].median for row in chosen]


def _bar_label(shape: Shape, floors: dict[Case, float]) -> str:
    floor = np.median([time for case, time in floors.items() if case.shape == shape])
    return f"{shape}\n({floor:.2g} ms)"


def _save(figure: plt.Figure, path: Path, caption: str) -> Path:
    figure.supxlabel(caption, fontsize=7, color="#666666")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
