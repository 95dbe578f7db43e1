"""Names users write and the integers kernels know them by; one table for every backend."""

from __future__ import annotations

STRATEGIES = {"anchor": 0, "matching": 1, "balanced": 2}
NORMS = {"l2": 0, "minmax": 1}
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}

#: Bits of the ``blocks`` operator argument: which of the two blocks take part in the loss.
IDENTICAL_BLOCK, DISPARATE_BLOCK = 1, 2

#: Bits of the ``gradients`` operator argument: which gradients to produce.
GRAD_FEATURES, GRAD_WEIGHT, GRAD_BIAS = 1, 2, 4

#: The balanced strategy's 64-bit edge costs are exact up to this batch.
BALANCED_MAX_BATCH = 1 << 20
