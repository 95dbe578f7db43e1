"""Sizes on either side of those at which work is cut: register tiles, panels, strips, groups of rows and depths."""

from __future__ import annotations

import kit
import pytest
import torch
from kit import Backend, Case

AROUND = (6, 8, 16, 24, 48, 64, 128, 256)
NEAR = sorted({size + step for size in AROUND for step in (-1, 0, 1)})


def _edges(backend: Backend) -> list[Case]:
    shapes = [
        *((7, width, 11) for width in NEAR),
        *((5, 33, classes) for classes in NEAR),
        *((batch, 19, 13) for batch in NEAR),
        *((size, 2 * size + 1, size) for size in (31, 65, 129, 257)),
    ]
    cases = []
    for turn, shape in enumerate(shapes):
        for dtype in (torch.float64, torch.float32):
            pairing = kit.PAIRINGS[turn % 4]
            reduction = kit.REDUCTIONS[turn // 2 % 3]
            cases.append(Case(*shape, kit.NORMS[turn // 4 % 2], pairing, reduction, dtype, unknown=turn % 3 == 0))
    return list(dict.fromkeys(backend.limit(case) for case in cases))


@pytest.mark.compiled
@pytest.mark.cases(maker=_edges)
def test_edges(backend: Backend, case: Case) -> None:
    kit.check_loss(backend, case.build())
