"""Functions that kernels call."""

from collections.abc import Callable
from typing import Any

import triton

from .operators import is_interpreted


def device_function(function: Callable[..., Any]) -> Any:
    """``triton.jit`` for a function called by kernels only.

    The interpreter patches the whole language around every call of such a function, which takes most of its time. As
    the kernel runs patched already, a plain function does there.
    """
    return function if is_interpreted() else triton.jit(function)
