"""Decorators of kernels and of the functions they call."""

from collections.abc import Callable
from typing import Any

import triton

from .operators import is_interpreted

#: Arguments that follow the batch: of these Triton compiles no variants for 1 and for multiples of 16, so that an odd
#: last batch runs the kernels that are there. Widths and classes keep theirs, which make loads wide.
BATCH_SIZES = (
    "batch",
    "bias_count",
    "bias_tiles",
    "compatible_words",
    "count",
    "feature_count",
    "feature_programs",
    "feature_start",
    "parts",
    "reduce_programs",
    "row_programs",
    "sample_programs",
    "split_rows",
    "splits",
    "weight_count",
    "weight_programs",
    "weight_size",
    "weight_splits",
    "weight_start",
)


def kernel(function: Callable[..., Any]) -> Any:
    """``triton.jit`` for a function that is launched."""
    return triton.jit(function, do_not_specialize=BATCH_SIZES)


def device_function(function: Callable[..., Any]) -> Any:
    """``triton.jit`` for a function that kernels call.

    The interpreter patches the whole language around every call of such a function, which takes most of its time. As
    the kernel runs patched already, a plain function does there.
    """
    return function if is_interpreted() else triton.jit(function)
