"""A matrix product of tiles, in the arithmetic its element types call for."""

import torch
import triton.language as tl

from . import config
from .convert import round_to_bfloat16, widen
from .jit import device_function


@device_function
def multiply(a, b, accumulator, PRECISION: tl.constexpr, A_EXACT: tl.constexpr, B_EXACT: tl.constexpr):
    """accumulator + a b.

    With PRECISION "bf16" an operand is the sum of two bfloat16, of which the second is left out where the operand is
    EXACT, or may be taken for that; so is the product of both second terms, below what float32 sums resolve of half
    types. Every product of two bfloat16 is exact in float32, so that the interpreter multiplies as tensor cores do.
    float64 has tensor instructions on few devices: there it is a sum of products.
    """
    if accumulator.dtype == tl.float64:
        a, b = widen(a, tl.float64), widen(b, tl.float64)
        return accumulator + tl.sum(a[:, :, None] * b[None, :, :], axis=1)
    elif PRECISION == "bf16":
        a, b = widen(a, tl.float32), widen(b, tl.float32)
        a_high = round_to_bfloat16(a)
        b_high = round_to_bfloat16(b)
        if not A_EXACT:
            a_low = round_to_bfloat16(a - widen(a_high, tl.float32))
            accumulator = tl.dot(a_low, b_high, accumulator)
        if not B_EXACT:
            b_low = round_to_bfloat16(b - widen(b_high, tl.float32))
            accumulator = tl.dot(a_high, b_low, accumulator)
        return tl.dot(a_high, b_high, accumulator)
    else:
        return tl.dot(widen(a, tl.float32), widen(b, tl.float32), accumulator, input_precision=PRECISION)


def product_precision(dtype: torch.dtype, device: torch.device) -> str:
    """How matrix instructions treat operands of features of ``dtype``, see :func:`multiply`.

    Half types are exact as a sum of two bfloat16, whose range holds the smallest gradient; formed features then keep
    16 bits. Rounding them to 8, or to float16's range, would make the loss less accurate than plain PyTorch's.
    """
    if dtype in (torch.bfloat16, torch.float16):
        return "bf16"
    # AMD's matrix instructions know no TF32.
    has_tf32 = config.device_kind(device) in ("ampere", "hopper", "blackwell")
    return "tf32" if has_tf32 and torch.backends.cuda.matmul.allow_tf32 else "ieee"


def grad_dtype(dtype: torch.dtype, accumulation: torch.dtype) -> torch.dtype:
    """The type of gradients by logits, of features of ``dtype``: that of the sums, but for bfloat16.

    Rounded to bfloat16, as plain PyTorch rounds them, gradients have an error below that of plain PyTorch, which adds
    three rounded ones for every weight. float16 has not the range.
    """
    return dtype if dtype == torch.bfloat16 and accumulation == torch.float32 else accumulation
