"""Pictures of the report: growth curves and ratios to the three GEMMs."""

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
from .baselines import COMPILE, EAGER, THREE_GEMMS, Key
from .cases import Case, Shape
from .results import TO_THREE_GEMMS, Row, number
from .timing import geometric_mean

COLOURS = {
    EAGER: "#c44e52",
    COMPILE: "#dd8452",
    THREE_GEMMS: "#555555",
    "cpu": "#4c72b0",
    "cuda": "#55a868",
    "triton": "#8172b3",
}
MARKERS = {EAGER: "s", COMPILE: "D", THREE_GEMMS: "", "cpu": "o", "cuda": "o", "triton": "^"}
LEGEND = {
    EAGER: "eager PyTorch",
    COMPILE: "torch.compile",
    THREE_GEMMS: "three_gemms: bare matrix products on all features",
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
        made.append(_ratio_bars(chosen, folder / f"{TO_THREE_GEMMS}.png", caption))
    return made


def _growth(rows: Sequence[Row], axis: str, path: Path, caption: str) -> Path:
    figure, axes = plt.subplots(figsize=(7, 4.8), layout="constrained")
    for name in dict.fromkeys(row.key.name for row in rows):
        curve = sorted((row for row in rows if row.key.name == name), key=lambda row: getattr(row.case.shape, axis))
        sizes = [getattr(row.case.shape, axis) for row in curve]
        style = {"marker": MARKERS.get(name, "o"), "linestyle": "--" if name == THREE_GEMMS else "-", "markersize": 5}
        axes.plot(sizes, [row.value.median for row in curve], color=COLOURS.get(name), label=_label(name), **style)
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
    axes.set_title(f"INDeeD loss, forward and backward, mining included ({growth.fixed_sizes(axis)}, l2)", fontsize=11)
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    return _save(figure, path, f"{caption}\nmedian, shaded: quartiles over rounds")


def _short(size: int) -> str:
    return f"{size / 1000:.1f}k" if size >= 10_000 else str(size)


def _plain_log_axis(axes: Axes) -> None:
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _ratio_bars(rows: Sequence[Row], path: Path, caption: str) -> Path:
    """One group of bars per shape, each bar the geometric mean over norms and pairings, whiskers the extremes."""
    products = {row.case: row.value.median for row in rows if row.key == Key(THREE_GEMMS)}
    shapes = list(dict.fromkeys(row.case.shape for row in rows))
    names = [name for name in dict.fromkeys(row.key.name for row in rows) if name != THREE_GEMMS]
    figure, axes = plt.subplots(figsize=(max(7, 1.5 * len(shapes)), 4.8), layout="constrained")
    places, width = np.arange(len(shapes)), 0.8 / len(names)
    for index, name in enumerate(names):
        found = [_ratios(rows, shape, name) for shape in shapes]
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
    axes.axhline(1, color=COLOURS[THREE_GEMMS], linestyle="--", label=_label(THREE_GEMMS))
    target = f"1.3 times that: the target where it is ≥ {training.MIN_MILLISECONDS} ms"
    axes.axhline(1.3, color=COLOURS[THREE_GEMMS], linestyle=":", label=target)
    axes.set_yscale("log")
    axes.set_ylim(bottom=BAR_BASE)
    _plain_log_axis(axes)
    axes.set_xticks(places, [_bar_label(shape, products) for shape in shapes], fontsize=8)
    axes.set_xlabel("batch x feature width x classes (time of three_gemms)")
    axes.set_ylabel("time of loss and gradients, over that of three_gemms")
    axes.set_title("INDeeD loss, forward and backward, mining included", fontsize=11)
    axes.grid(True, axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8)
    legend = "bar and number: geometric mean over l2 and min-max, anchor and matching; whiskers: extremes"
    return _save(figure, path, f"{caption}\n{legend}")


def _ratios(rows: Sequence[Row], shape: Shape, name: str) -> list[float]:
    chosen = (row for row in rows if row.case.shape == shape and row.key == Key(name, "mined"))
    return [row.ratios[TO_THREE_GEMMS].median for row in chosen]


def _bar_label(shape: Shape, products: dict[Case, float]) -> str:
    return f"{shape}\n({np.median([time for case, time in products.items() if case.shape == shape]):.2g} ms)"


def _save(figure: plt.Figure, path: Path, caption: str) -> Path:
    figure.supxlabel(caption, fontsize=7, color="#666666")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
