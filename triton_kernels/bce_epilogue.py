"""Cross-entropies of a class chunk and the gradients of its logits, eqs. (6) to (11), from partial logits."""

import triton.language as tl

from .bce import bce_term
from .convert import narrow, widen
from .jit import device_function, kernel
from .map_statistics import store_corrections
from .partial_sums import add_parts, add_parts_of_two
from .rows import class_values, directed_row, load_labels, row_validity, term_weights


@kernel
def bce_epilogue_kernel(
    partials,
    grad_logits,
    bias,
    positive_bits,
    valid_bits,
    pairs,
    lam,
    lam_identical: tl.float64,
    lam_disparate: tl.float64,
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
    LIST: tl.constexpr,
    ACC: tl.constexpr,
    MINMAX: tl.constexpr,
    IDENTICAL: tl.constexpr,
    DISPARATE: tl.constexpr,
    AVERAGE: tl.constexpr,
    GRADIENTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """A tile of rows and all ``classes`` of the chunk, of which the first is ``first_class`` of all.

    ``partials`` [splits, 2, R, classes] are sums of original and of identical logits over parts of the features, added
    in their order. ``grad_logits`` [2, R, classes], which may be the first part, become G_O and G_I where GRADIENTS.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = row < count
    source, partner, valid = directed_row(pairs, row, count, batch, LIST)
    lam_identical, lam_disparate = term_weights(lam, lam_identical, lam_disparate)
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
        element = row[:, None] * classes + local[None, :]
        at = partials + element
        if IDENTICAL or DISPARATE:
            o, q = add_parts_of_two(at, at + array, splits, 2 * array, written)
        else:
            o = add_parts(at, splits, 2 * array, written)
            q = tl.zeros([BLOCK_M, BLOCK_N], ACC)
        # The classifier is linear and D = f - I, so that its logits are o - q, without a product.
        d = o - q

        c = first_class + local
        mask = valid[:, None] & active[None, :]
        validity = tl.where(active[None, :], row_validity(row, count, valid)[:, None], 0.0)
        mine, validity = load_labels(positive_bits, valid_bits, source, c, mask, words, validity)
        pos = class_values(pos_weight, c, active, 1.0, ACC)
        shift = class_values(bias, c, active, 0.0, ACC)

        value, derivative = bce_term(o + shift, mine, validity, pos)
        original += tl.sum(value, axis=1).to(tl.float64)
        grad_o = share * derivative
        grad_b = grad_o
        grad_q = tl.zeros([BLOCK_M, BLOCK_N], ACC)
        if IDENTICAL or DISPARATE:
            theirs, validity = load_labels(positive_bits, valid_bits, partner, c, mask, words, validity)
        if IDENTICAL:
            value, derivative = bce_term(q + shift, mine & theirs, validity, pos)
            identical += tl.sum(value, axis=1).to(tl.float64)
            gradient = share * lam_identical.to(ACC) * derivative
            grad_q += gradient
            grad_b += gradient
        if DISPARATE:
            value, derivative = bce_term(d + shift, mine & (~theirs), validity, pos)
            disparate += tl.sum(value, axis=1).to(tl.float64)
            gradient = share * lam_disparate.to(ACC) * derivative
            grad_q -= gradient
            grad_o += gradient
            grad_b += gradient
        if GRADIENTS:
            # <T, I> = sum over classes of G_I W I: the map's backward needs no pass of its own for it.
            # The logit of a class that does not count may have overflowed.
            dot_identical += tl.sum(tl.where(grad_q != 0, grad_q * q, 0.0), axis=1).to(tl.float64)
            dot_disparate += tl.sum(tl.where(grad_q != 0, grad_q * d, 0.0), axis=1).to(tl.float64)
            kind: tl.constexpr = grad_logits.dtype.element_ty
            tl.store(grad_logits + element, narrow(grad_o, kind), mask=written)
            tl.store(grad_logits + array + element, narrow(grad_q, kind), mask=written)
        if bias_partials is not None:
            tile = bias_partials + tl.program_id(0).to(tl.int64) * classes
            tl.store(tile + local, tl.sum(grad_b, axis=0), mask=active)
    # Of a row that is not valid a term that is left out is NaN as well.
    if not IDENTICAL:
        identical += 0.0 * row_validity(row, count, valid)
    if not DISPARATE:
        disparate += 0.0 * row_validity(row, count, valid)
    at = sums + row
    # Of a row that is not valid NaN, also in terms that are left out.
    _add_sum(at, original, inside, first_class)
    _add_sum(at + count, identical, inside, first_class)
    _add_sum(at + 2 * count, disparate, inside, first_class)
    if GRADIENTS:
        dot_identical = _add_sum(at + 3 * count, dot_identical, inside, first_class)
        dot_disparate = _add_sum(at + 4 * count, dot_disparate, inside, first_class)
        store_corrections(statistics, row, count, dot_identical, dot_disparate, MINMAX)


@device_function
def _add_sum(at, value, mask, first_class):
    """Sets a sum in the first class chunk, adds to it in the others; always the same program's."""
    value += tl.load(at, mask=mask & (first_class > 0), other=0.0)
    tl.store(at, value, mask=mask)
    return value
