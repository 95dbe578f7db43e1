"""Sums that several programs have a part of each, added in the order of the parts: the same bits in every run."""

import triton.language as tl
from torch import Tensor

from indeed_ext.constants import cdiv

from .config import Tile
from .convert import narrow
from .jit import device_function, kernel
from .launch import launch

#: Parts whose loads are under way together: one at a time the sum would wait for memory once per part.
_AT_ONCE = tl.constexpr(4)


@device_function
def add_parts(first, parts, stride, mask):
    """The sum of ``parts`` tiles, the first at ``first`` and each other ``stride`` behind the one before it."""
    total = tl.zeros(mask.shape, first.dtype.element_ty)
    rest = parts // _AT_ONCE * _AT_ONCE
    for part in range(0, rest, _AT_ONCE):
        for ahead in tl.static_range(_AT_ONCE):
            total += tl.load(first + (part + ahead) * stride, mask=mask, other=0.0)
    for part in range(rest, parts):
        total += tl.load(first + part * stride, mask=mask, other=0.0)
    return total


@device_function
def add_parts_of_two(first, second, parts, stride, mask):
    """The same of two sums, whose loads are under way together."""
    total = tl.zeros(mask.shape, first.dtype.element_ty)
    total_second = total
    rest = parts // _AT_ONCE * _AT_ONCE
    for part in range(0, rest, _AT_ONCE):
        for ahead in tl.static_range(_AT_ONCE):
            total += tl.load(first + (part + ahead) * stride, mask=mask, other=0.0)
            total_second += tl.load(second + (part + ahead) * stride, mask=mask, other=0.0)
    for part in range(rest, parts):
        total += tl.load(first + part * stride, mask=mask, other=0.0)
        total_second += tl.load(second + part * stride, mask=mask, other=0.0)
    return total, total_second


@device_function
def store_sum(partials, result, program, parts, BLOCK: tl.constexpr, size):
    """BLOCK elements of ``result`` [size] from ``partials`` [parts, size]."""
    at = program * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    total = add_parts(partials + at, parts, tl.cast(size, tl.int64), mask)
    tl.store(result + at, narrow(total, result.dtype.element_ty), mask=mask)


@kernel
def partial_sums_kernel(partials, result, parts, size, BLOCK: tl.constexpr):
    store_sum(partials, result, tl.program_id(0).to(tl.int64), parts, BLOCK, size)


def partial_sums(partials: Tensor, result: Tensor, tile: Tile) -> None:
    """Fills ``result`` [C, n] from ``partials`` [parts, C, n]."""
    size, block = result.numel(), tile.block_n
    launch(partial_sums_kernel, (cdiv(size, block),), tile, partials, result, len(partials), size, BLOCK=block)
