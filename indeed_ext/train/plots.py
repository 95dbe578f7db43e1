"""Pictures. Figures are made without pyplot, so nothing depends on a display or on global state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

#: Up to this many classes the numbers stand in the cells.
NUMBERED_CLASSES = 20


def confidence_map(confidence: Tensor, class_names: Sequence[str], title: str, path: Path) -> None:
    """Draw the confidence map of Figures 3 and 4 to ``path``.

    Args:
        confidence: ``[C, C]`` mean predicted probability: row the true class, column the predicted one.
    """
    values = confidence.detach().cpu().numpy()
    count = len(class_names)
    side = min(max(0.5 * count, 5.0), 20.0)  # inches
    figure = Figure(figsize=(side + 1.6, side + 1.2), dpi=150)
    axes = figure.add_subplot()
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
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=axes, label="mean predicted probability", fraction=0.046, pad=0.03)
    figure.savefig(path, bbox_inches="tight")
