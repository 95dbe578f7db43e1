"""Cross-entropies and effective gradients of a class block, eqs. (6) to (11), from the partial sums of its logits."""

import triton
import triton.language as tl

from .bce import bce_term
from .convert import widen
from .device_function import device_function
from .identical_map import store_corrections
from .rows import directed_row, label_bits


@triton.jit
def cross_entropies_kernel(
    partials,
    bias,
    present,
    known,
    pairs,
    lam,
    pos_weight,
    row_weight,
    statistics,
    bias_partials,
    sums,
    splits,
    classes,
    first_class,
    words,
    count,
    batch,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    LIST: tl.constexpr,
    MINMAX: tl.constexpr,
    IDENTICAL: tl.constexpr,
    DISPARATE: tl.constexpr,
    AVERAGE: tl.constexpr,
    GRADIENTS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """A tile of rows and all classes of the block.

    ``partials`` [splits, 2, R, classes] are sums of original and of identical logits over parts of the features, added
    in their order; the first part is overwritten with G_O and G_I where GRADIENTS. ``first_class`` is the block's
    first class of all.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = row < count
    source, partner, valid = directed_row(pairs, row, count, batch, LIST)
    share = tl.full([BLOCK_M], 1.0, ACC)
    if row_weight is not None:
        share = widen(tl.load(row_weight + row, mask=valid, other=0.0), ACC)
    elif AVERAGE:
        share = share / tl.maximum(count, 1)
    share = share[:, None]
    array = tl.cast(count, tl.int64) * classes
    original = tl.zeros([BLOCK_M], tl.float64)
    identical = tl.zeros([BLOCK_M], tl.float64)
    disparate = tl.zeros([BLOCK_M], tl.float64)
    dot_identical = tl.zeros([BLOCK_M], tl.float64)
    dot_disparate = tl.zeros([BLOCK_M], tl.float64)
    for start in range(0, classes, BLOCK_N):
        local = start + tl.arange(0, BLOCK_N)
        active = local < classes
        written = inside[:, None] & active[None, :]
        at = partials + row[:, None] * classes + local[None, :]
        o = tl.load(at, mask=written, other=0.0)
        q = tl.zeros([BLOCK_M, BLOCK_N], ACC)
        if IDENTICAL or DISPARATE:
            q = tl.load(at + array, mask=written, other=0.0)
        for split in range(1, splits):
            part = at + split * 2 * array
            o += tl.load(part, mask=written, other=0.0)
            if IDENTICAL or DISPARATE:
                q += tl.load(part + array, mask=written, other=0.0)
        # The classifier is linear and D = f - I, so that its logits are o - q, without a product.
        d = o - q

        c = first_class + local
        mask = valid[:, None] & active[None, :]
        mine = label_bits(present, source, c, mask, words)
        single, both = mask, mask
        if known is not None:
            single = mask & label_bits(known, source, c, mask, words)
            both = single & label_bits(known, partner, c, mask, words)
        pos = tl.full([1, BLOCK_N], 1.0, ACC)
        if pos_weight is not None:
            pos = widen(tl.load(pos_weight + c, mask=active, other=1.0), ACC)[None, :]
        shift = tl.zeros([1, BLOCK_N], ACC)
        if bias is not None:
            shift = widen(tl.load(bias + c, mask=active, other=0.0), ACC)[None, :]

        value, slope = bce_term(o + shift, mine, single, pos)
        original += tl.sum(value, axis=1).to(tl.float64)
        grad_o = share * slope
        grad_b = grad_o
        grad_q = tl.zeros([BLOCK_M, BLOCK_N], ACC)
        theirs = mine
        if IDENTICAL or DISPARATE:
            theirs = label_bits(present, partner, c, mask, words)
        if IDENTICAL:
            value, slope = bce_term(q + shift, mine & theirs, both, pos)
            identical += tl.sum(value, axis=1).to(tl.float64)
            gradient = share * widen(tl.load(lam), ACC) * slope
            grad_q += gradient
            grad_b += gradient
        if DISPARATE:
            value, slope = bce_term(d + shift, mine & (~theirs), both, pos)
            disparate += tl.sum(value, axis=1).to(tl.float64)
            gradient = share * widen(tl.load(lam + 1), ACC) * slope
            grad_q -= gradient
            grad_o += gradient
            grad_b += gradient
        if GRADIENTS:
            # <T, I> = sum over classes of G_I W I: the map's backward needs no pass of its own for it.
            dot_identical += tl.sum(grad_q * q, axis=1).to(tl.float64)
            dot_disparate += tl.sum(grad_q * d, axis=1).to(tl.float64)
            tl.store(at, grad_o, mask=written)
            tl.store(at + array, grad_q, mask=written)
        if bias_partials is not None:
            tile = bias_partials + tl.program_id(0).to(tl.int64) * classes
            tl.store(tile + local, tl.sum(grad_b, axis=0), mask=active)
    # A row that does not exist makes the loss not a number.
    at = sums + row
    _add_sum(at, tl.where(valid, original, float("nan")), inside, FIRST)
    _add_sum(at + count, identical, inside, FIRST)
    _add_sum(at + 2 * count, disparate, inside, FIRST)
    if GRADIENTS:
        dot_identical = _add_sum(at + 3 * count, dot_identical, inside, FIRST)
        dot_disparate = _add_sum(at + 4 * count, dot_disparate, inside, FIRST)
        if LAST:
            store_corrections(statistics, row, count, inside, dot_identical, dot_disparate, MINMAX)


@device_function
def _add_sum(at, value, mask, FIRST: tl.constexpr):
    """Sets a sum in the first block of classes, adds to it in the others; always the same program's."""
    if not FIRST:
        value += tl.load(at, mask=mask, other=0.0)
    tl.store(at, value, mask=mask)
    return value
