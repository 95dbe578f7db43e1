"""Pictures. Figures are made without pyplot, so nothing depends on a display or on global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

#: Up to this many classes the numbers stand in the cells.
NUMBERED_CLASSES = 20


def confidence_map(confidence: Tensor, class_names: Sequence[str], title: str, path: Path) -> None:
    """Draw the confidence map of Figures 3 and 4 to ``path``.

    Args:
        confidence: ``[C, C]`` mean predicted probability: row the true class, column the predicted one.
    """
    side = _map_side(class_names)
    figure = Figure(figsize=(side + 1.6, side + 1.2), dpi=100, layout="compressed")
    axes = figure.add_subplot()
    image = _draw_map(axes, confidence, class_names, title)
    figure.colorbar(image, ax=axes, label="mean predicted probability", fraction=0.046, pad=0.03)
    figure.savefig(path)


def confidence_maps(maps: Mapping[str, Tensor], class_names: Sequence[str], path: Path) -> None:
    """Draw confidence maps ``[C, C]`` by name in rows of two, on one scale, to ``path``."""
    side = _map_side(class_names) + 0.6
    rows = -(-len(maps) // 2)
    columns = min(len(maps), 2)
    figure = Figure(figsize=(columns * side + 1.0, rows * (side + 0.4)), dpi=100, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(maps) :]:
        axes.set_visible(False)
    for axes, (name, confidence) in zip(grid.flat, maps.items(), strict=False):
        image = _draw_map(axes, confidence, class_names, name)
    figure.colorbar(image, ax=grid, label="mean predicted probability", fraction=0.03)
    figure.savefig(path)


def measure_bars(series: Mapping[str, Mapping[str, tuple[float, float]]], title: str, path: Path) -> None:
    """Draw a panel for every measure, with a bar and a whisker for the (mean, sd) of every method, to ``path``."""
    columns = min(len(series), 3)
    rows = -(-len(series) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows + 0.6), dpi=100, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(series) :]:
        axes.set_visible(False)
    for axes, (heading, by_method) in zip(grid.flat, series.items(), strict=False):
        for position, (mean, sd) in enumerate(by_method.values()):
            axes.bar(position, mean, color=f"C{position % 10}")
            if not math.isnan(sd):  # a single seed has none
                axes.errorbar(position, mean, sd, color="black", capsize=4)
        axes.set_xticks(range(len(by_method)), by_method, rotation=20, ha="right", fontsize=8)
        axes.set_ylabel(heading, fontsize=8)
        means = [mean for mean, _ in by_method.values() if not math.isnan(mean)]
        spread = max(means) - min(means)
        if "%" in heading:  # differences are small beside the values: the axis need not begin at 0
            axes.set_ylim(max(0, min(means) - spread - 1), min(100, max(means) + 0.5 * spread + 1))
            axes.set_title("the axis does not begin at 0", fontsize=8)
    figure.suptitle(f"{title}\nbar: mean over the seeds, whisker: standard deviation", fontsize=11)
    figure.savefig(path)


def activation_map(image: Tensor, maps: Mapping[str, Tensor], title: str, path: Path) -> None:
    """Draw an image and beside it, for every class, where it shows evidence, as in Figure 5, to ``path``.

    Args:
        image: ``[3 or 1, H, W]`` in [0, 1].
        maps: by the heading of its panel, the map ``[H, W]`` in [0, 1] of a class.
    """
    figure = Figure(figsize=(3.4 * (len(maps) + 1) + 0.8, 4.4), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(maps) + 1, squeeze=False)[0]
    picture = image.permute(1, 2, 0).numpy()
    for axes in panels:
        axes.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1)
        axes.tick_params(labelsize=7)
        axes.set_xlabel("pixels", fontsize=8)
    panels[0].set_title("what the network sees", fontsize=10)
    scale = ScalarMappable(Normalize(0, 1), "inferno")
    for axes, (heading, values) in zip(panels[1:], maps.items(), strict=True):
        # The picture stays visible where there is no evidence.
        axes.imshow(values.numpy(), cmap=scale.cmap, norm=scale.norm, alpha=0.75 * values.numpy())
        axes.set_title(heading, fontsize=10)
    figure.colorbar(scale, ax=panels, label="evidence for the class, 1 where it is strongest", fraction=0.02)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)


def _map_side(class_names: Sequence[str]) -> float:
    return min(max(0.5 * len(class_names), 5.0), 20.0)  # inches


def _draw_map(axes: Axes, confidence: Tensor, class_names: Sequence[str], title: str) -> AxesImage:
    values = confidence.detach().cpu().numpy()
    count = len(class_names)
    image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis")
    font = 9 if count <= NUMBERED_CLASSES else 6
    axes.set_xticks(np.arange(count), class_names, fontsize=font, rotation=0 if max(map(len, class_names)) < 3 else 90)
    axes.set_yticks(np.arange(count), class_names, fontsize=font)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class of the image")
    axes.set_title(title, fontsize=11)
    if count <= NUMBERED_CLASSES:
        for (row, column), value in np.ndenumerate(values):
            colour = "black" if value > 0.6 else "white"
            # Inside the axes whatever the layout, which need not measure hundreds of numbers.
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour, in_layout=False)
    return image
