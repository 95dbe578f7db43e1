"""Conversions between element types, the same on a device and under the interpreter.

Triton's interpreter holds a bfloat16 as an integer: it truncates where a device rounds to nearest even, and converts
only from and to float32. So conversions take that way there.
"""

import triton.language as tl

from .device_function import device_function
from .operators import is_interpreted

INTERPRETED = tl.constexpr(is_interpreted())


@device_function
def widen(value, ACC: tl.constexpr):
    """A loaded value in the accumulation type."""
    if value.dtype == tl.bfloat16:
        value = value.to(tl.float32)
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
