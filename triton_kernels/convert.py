"""Conversions between element types, the same on a device and under the interpreter.

Triton's interpreter holds a bfloat16 as an integer: it truncates where a device rounds to nearest even, loses what is
subnormal, and converts only from and to float32. So conversions are made of integers there.
"""

import torch
import triton.language as tl

from .jit import device_function
from .operators import is_interpreted

INTERPRETED = tl.constexpr(is_interpreted())


def triton_dtype(dtype: torch.dtype) -> tl.dtype:
    """The accumulation type as kernels know it."""
    return tl.float64 if dtype == torch.float64 else tl.float32


@device_function
def widen(value, ACC: tl.constexpr):
    """A loaded value in the accumulation type."""
    if INTERPRETED and value.dtype == tl.bfloat16:
        value = (value.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return value.to(ACC)


@device_function
def round_to_bfloat16(value):
    """The nearest bfloat16 of a float32, which the interpreter must hold as a float32 to compute with it."""
    if INTERPRETED:
        bits = value.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        return tl.where(value == value, bits.to(tl.float32, bitcast=True), value)
    else:
        return value.to(tl.bfloat16)


@device_function
def narrow(value, DTYPE: tl.constexpr):
    """A result in the type it is stored in."""
    # The linter takes a name in capitals, as constants of kernels are, for the constant of the comparison.
    if INTERPRETED and DTYPE == tl.bfloat16:  # noqa: SIM300
        value = round_to_bfloat16(value.to(tl.float32))
    return value.to(DTYPE)
