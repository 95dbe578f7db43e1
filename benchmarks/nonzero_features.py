"""The loss on features without zeros, as average pooling makes them: there are none to skip."""

from __future__ import annotations

from collections.abc import Sequence

from . import training
from .cases import cases
from .results import Report, Row, Settings

SECTION = "nonzero_features"


def run(settings: Settings, report: Report) -> None:
    """Every shape and norm with anchor pairs."""
    chosen = cases(settings.shapes, pairings=("anchor",), device=settings.device, zeros=False)
    training.time_cases(report, SECTION, chosen, settings)


def render(rows: Sequence[Row], device: str) -> str:
    """Tables as those of the features with zeros."""
    return "\n".join(
        (
            "## Features without zeros\n",
            "Forward and backward as above, on features of which none is zero. Kernels that skip zeros gain nothing "
            "here; the baselines do the same work on either.\n",
            *training.mean_tables(rows, device, " without zeros"),
            training.case_table(rows, device) + "\n",
        )
    )
