"""The directed rows (source, partner) that a partner vector or a pair list stands for, and their labels."""

import triton.language as tl

from .convert import widen
from .jit import device_function


@device_function
def directed_row(pairs, row, count, batch, LIST: tl.constexpr):
    """(source, partner, valid) of rows, -1 beyond the last. One with an index out of range is not valid: what is read
    of its samples must be masked."""
    row = row.to(tl.int64)
    inside = row < count
    if LIST:
        # All rows (a, b), then all rows (b, a).
        half = count // 2
        reverse = (row >= half).to(tl.int64)
        at = 2 * (row - reverse * half)
        source = tl.load(pairs + at + reverse, mask=inside, other=-1)
        partner = tl.load(pairs + at + 1 - reverse, mask=inside, other=-1)
    else:
        source = tl.where(inside, row, -1)
        partner = tl.load(pairs + row, mask=inside, other=-1)
    return source, partner, (source >= 0) & (source < batch) & (partner >= 0) & (partner < batch)


@device_function
def label_bits(bits, sample, c, mask, words):
    """Whether the bit of a class is set for samples [M], classes [N]: bool [M, N]."""
    at = sample[:, None] * words + (c // 32)[None, :]
    return ((tl.load(bits + at, mask=mask, other=0) >> (c % 32).to(tl.int32)[None, :]) & 1) != 0


@device_function
def row_validity(row, count, valid):
    """By what the cross-entropies of rows count: 1, 0 beyond the last, NaN where the row is not valid."""
    return tl.where(valid, 1.0, tl.where(row < count, float("nan"), 0.0))


@device_function
def load_labels(positive_bits, valid_bits, sample, c, mask, words, validity):
    """(positive, ``validity``) of samples [M], classes [N]: the latter becomes 0 where a class is unknown, and NaN
    where it holds no label (:mod:`.pack_labels`)."""
    positive = label_bits(positive_bits, sample, c, mask, words)
    if valid_bits is not None:
        valid = label_bits(valid_bits, sample, c, mask, words)
        validity = validity * tl.where(valid, 1.0, tl.where(positive, float("nan"), 0.0))
    return positive, validity


@device_function
def class_values(values, c, mask, other, ACC: tl.constexpr):
    """Values [1, N] of classes, ``other`` where there are none."""
    if values is None:
        return tl.full([1, c.shape[0]], other, ACC)
    else:
        return widen(tl.load(values + c, mask=mask, other=other), ACC)[None, :]


@device_function
def term_weights(lam, lam_identical, lam_disparate):
    """Of the identical and the disparate term, float64: from memory where a tensor is given.

    Kernels annotate the numbers: else Triton would round them to float32.
    """
    if lam is None:
        return tl.full([], lam_identical, tl.float64), tl.full([], lam_disparate, tl.float64)
    else:
        return tl.load(lam), tl.load(lam + 1)
