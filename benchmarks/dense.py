"""The loss on features none of which is zero, as average pooling makes them: nothing can be passed over there."""

from __future__ import annotations

from collections.abc import Sequence

from . import training
from .cases import cases
from .competitors import compiled_backends
from .results import Report, Row
from .settings import Settings

SECTION = "dense"


def run(settings: Settings) -> Report:
    """Every shape and norm with anchor pairs."""
    chosen = cases(settings.shapes, pairings=("anchor",), device=settings.device, zeros=False)
    return training.time_cases(SECTION, chosen, settings)


def render(rows: Sequence[Row], device: str) -> str:
    """Tables as those of the features with zeros."""
    parts = [
        "## Features without zeros\n",
        "Forward and backward as above, on features of which none is zero. Kernels that pass over zeros gain nothing "
        "here; the competitors do the same work on either.\n",
    ]
    for backend in compiled_backends(device):
        own = [row for row in rows if row.key.name == backend]
        if own:
            parts += [f"### Backend `{backend}` without zeros: geometric means\n", training.means(own, rows) + "\n"]
    parts += [training.case_table(rows, device) + "\n"]
    return "\n".join(parts)
