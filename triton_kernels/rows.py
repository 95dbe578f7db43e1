"""The directed rows (source, partner) that a partner vector or a pair list stands for, and the labels of a class."""

import triton.language as tl

from .device_function import device_function


@device_function
def directed_row(pairs, row, count, batch, LIST: tl.constexpr):
    """(source, partner, valid) of rows. One with an index out of range is not valid and reads as (0, 0)."""
    row = row.to(tl.int64)
    inside = row < count
    if LIST:
        # All rows (a, b), then all rows (b, a).
        half = count // 2
        reverse = (row >= half).to(tl.int64)
        at = 2 * (row - reverse * half)
        source = tl.load(pairs + at + reverse, mask=inside, other=0)
        partner = tl.load(pairs + at + 1 - reverse, mask=inside, other=0)
    else:
        source = row
        partner = tl.load(pairs + row, mask=inside, other=0)
    valid = inside & (source >= 0) & (source < batch) & (partner >= 0) & (partner < batch)
    return tl.where(valid, source, 0), tl.where(valid, partner, 0), valid


@device_function
def label_bits(words, sample, column, mask, words_per_row):
    """Whether the bit of a class is set for samples [M], classes [N]: bool [M, N]."""
    at = sample[:, None] * words_per_row + (column // 32)[None, :]
    return ((tl.load(words + at, mask=mask, other=0) >> (column % 32).to(tl.int32)[None, :]) & 1) != 0
