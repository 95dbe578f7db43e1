"""Names users write, the integers kernels know them by, and sizes that all backends agree on.

C++ states the same in ``csrc/common/options.h``; ``tests/test_constants.py`` asserts that they are equal.
"""

from __future__ import annotations

import torch

STRATEGIES = {"anchor": 0, "matching": 1, "balanced": 2}
NORMS = {"l2": 0, "minmax": 1}
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}

#: Bits of the operator argument ``term_mask``: which of the two terms beside the original take part in the loss.
IDENTICAL_TERM, DISPARATE_TERM = 1, 2

#: Bits of the operator argument ``output_mask``: which gradients to produce.
GRAD_FEATURES, GRAD_WEIGHT, GRAD_BIAS = 1, 2, 4

FLOAT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
LABEL_DTYPES = (*FLOAT_DTYPES, torch.bool, *INTEGER_DTYPES)

#: Classes in a word of label bits.
WORD_BITS = 32

#: The balanced strategy's 64-bit edge costs are exact up to this batch.
MAX_BALANCED_BATCH = 1 << 20

#: Rows narrower than this are computed in float64: the gradient through their map cancels almost wholly.
NARROW_WIDTH = 16

#: Elements that the buffers of a class chunk may have.
CHUNK_ELEMENTS = 1 << 23


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for half types, the type itself otherwise."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def saved_grad_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which gradients made in the forward are saved for the backward.

    float16 gradients are saved in float32: the loss scale that keeps them in range is part of
    the upstream gradient, which comes later.
    """
    return torch.float32 if dtype == torch.float16 else dtype


def cdiv(size: int, block: int) -> int:
    """How many blocks cover ``size``."""
    return -(-size // block)
