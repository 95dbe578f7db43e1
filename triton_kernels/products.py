"""The matrix products of the fused loss, their operands formed and their results used in registers.

Rows (i, j) are classified one by one: a program reads f_i, f_j and W once, forms m * f_i beside f_i, and has both
logits of a row when its cross-entropies are due, so that only their gradients are ever written. Gradients by logits
are two arrays [R, classes of the block], of original and of identical logits, in the accumulation type.
"""

import triton
import triton.language as tl

from .bce import bce_term
from .convert import narrow, widen
from .device_function import device_function
from .identical_map import identical_features, load_map, load_rows
from .rows import directed_row, label_bits


@device_function
def _multiply(a, b, accumulator, PRECISION: tl.constexpr):
    """accumulator + a b. float64 has tensor instructions on few devices: there it is a sum of products."""
    if accumulator.dtype == tl.float64:
        return accumulator + tl.sum(a[:, :, None] * b[None, :, :], axis=1)
    else:
        return tl.dot(a, b, accumulator, input_precision=PRECISION)


@triton.jit
def logits_kernel(
    features,
    weight,
    bias,
    present,
    known,
    pairs,
    lam,
    pos_weight,
    row_weight,
    statistics,
    grad_original,
    grad_identical,
    bias_partials,
    sums,
    width,
    classes,
    first_class,
    words,
    count,
    batch,
    FIRST: tl.constexpr,
    LIST: tl.constexpr,
    IDENTICAL: tl.constexpr,
    DISPARATE: tl.constexpr,
    AVERAGE: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Logits of a tile of rows and classes, their cross-entropies, and the effective gradients where asked for.

    ``weight`` begins at the first of the block's ``classes`` classes; everything else by class counts from the first
    class of all.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    local = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    active = local < classes
    source, partner, valid = directed_row(pairs, row, count, batch, LIST)
    scale, low = load_map(statistics, row, count, valid)
    o = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    q = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    for start in range(0, width, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        f = load_rows(features, source, valid, column, width, ACC)
        at = local[None, :].to(tl.int64) * width + column[:, None]
        w = tl.load(weight + at, mask=active[None, :] & (column < width)[:, None], other=0.0)
        w = widen(w, ACC)
        o = _multiply(f, w, o, PRECISION)
        if IDENTICAL or DISPARATE:
            p = load_rows(features, partner, valid, column, width, ACC)
            q = _multiply(identical_features(f, p, scale, low), w, q, PRECISION)

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
    share = tl.full([BLOCK_M], 1.0, ACC)
    if row_weight is not None:
        share = widen(tl.load(row_weight + row, mask=valid, other=0.0), ACC)
    elif AVERAGE:
        share = share / tl.maximum(count, 1)
    share = share[:, None]

    value, slope = bce_term(o + shift, mine, single, pos)
    grad_o = share * slope
    grad_b = grad_o
    grad_q = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    inside = row < count
    missing = float("nan")
    tile_sums = sums + tl.program_id(1).to(tl.int64) * 5 * count + row
    _add_sum(tile_sums, tl.where(valid, tl.sum(value, axis=1).to(tl.float64), missing), inside, FIRST)
    theirs = mine
    if IDENTICAL or DISPARATE:
        theirs = label_bits(present, partner, c, mask, words)
    if IDENTICAL:
        value, slope = bce_term(q + shift, mine & theirs, both, pos)
        _add_sum(tile_sums + count, tl.sum(value, axis=1).to(tl.float64), inside, FIRST)
        gradient = share * widen(tl.load(lam), ACC) * slope
        grad_q += gradient
        grad_b += gradient
    else:
        _add_sum(tile_sums + count, tl.zeros([BLOCK_M], tl.float64), inside, FIRST)
    if DISPARATE:
        value, slope = bce_term(d + shift, mine & (~theirs), both, pos)
        _add_sum(tile_sums + 2 * count, tl.sum(value, axis=1).to(tl.float64), inside, FIRST)
        gradient = share * widen(tl.load(lam + 1), ACC) * slope
        grad_q -= gradient
        grad_o += gradient
        grad_b += gradient
    else:
        _add_sum(tile_sums + 2 * count, tl.zeros([BLOCK_M], tl.float64), inside, FIRST)

    if grad_original is not None:
        # <T, I> = sum over classes of G_I W I: the map's backward needs no pass of its own for it.
        _add_sum(tile_sums + 3 * count, tl.sum(grad_q * q, axis=1).to(tl.float64), inside, FIRST)
        _add_sum(tile_sums + 4 * count, tl.sum(grad_q * d, axis=1).to(tl.float64), inside, FIRST)
        at = row[:, None] * classes + local[None, :]
        written = inside[:, None] & active[None, :]
        tl.store(grad_original + at, grad_o, mask=written)
        tl.store(grad_identical + at, grad_q, mask=written)
    if bias_partials is not None:
        tl.store(bias_partials + tl.program_id(0).to(tl.int64) * classes + local, tl.sum(grad_b, axis=0), mask=active)


@device_function
def _add_sum(at, value, mask, FIRST: tl.constexpr):
    """Sets a sum in the first block of classes, adds to it in the others; always the same program's."""
    if not FIRST:
        value += tl.load(at, mask=mask, other=0.0)
    tl.store(at, value, mask=mask)


@triton.jit
def gradients_kernel(
    features,
    weight,
    pairs,
    statistics,
    grad_original,
    grad_identical,
    direct,
    map_gradient,
    grad_weight,
    width,
    classes,
    count,
    batch,
    row_tiles,
    FIRST: tl.constexpr,
    LIST: tl.constexpr,
    MAPS: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    FEATURES_M: tl.constexpr,
    FEATURES_K: tl.constexpr,
    WEIGHT_M: tl.constexpr,
    WEIGHT_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Both products with the gradients by logits, side by side in one launch: neither waits for the other, and each
    alone would leave a GPU half empty at a training batch. The first ``row_tiles`` tiles are of V and T."""
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    tile = tl.program_id(0).to(tl.int64)
    # Nested, as the outer condition is known to the compiler and the inner one is not.
    if direct is not None:  # noqa: SIM102
        if tile < row_tiles:
            _feature_tile(
                weight,
                grad_original,
                grad_identical,
                direct,
                map_gradient,
                tile * FEATURES_M + tl.arange(0, FEATURES_M),
                column,
                width,
                classes,
                count,
                FIRST,
                MAPS,
                ACC,
                PRECISION,
                FEATURES_M,
                BLOCK_N,
                FEATURES_K,
            )
    if grad_weight is not None:  # noqa: SIM102
        if tile >= row_tiles:
            _weight_tile(
                features,
                pairs,
                statistics,
                grad_original,
                grad_identical,
                grad_weight,
                (tile - row_tiles) * WEIGHT_M + tl.arange(0, WEIGHT_M),
                column,
                width,
                classes,
                count,
                batch,
                LIST,
                MAPS,
                ACC,
                PRECISION,
                WEIGHT_M,
                BLOCK_N,
                WEIGHT_K,
            )


@device_function
def _feature_tile(
    weight,
    grad_original,
    grad_identical,
    direct,
    map_gradient,
    row,
    column,
    width,
    classes,
    count,
    FIRST: tl.constexpr,
    MAPS: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """V = G_O W and T = G_I W of a tile of rows and features, added to those of earlier blocks of classes."""
    written = (row < count)[:, None] & (column < width)[None, :]
    at = row[:, None] * width + column[None, :]
    v = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    t = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    if not FIRST:
        v = tl.load(direct + at, mask=written, other=0.0)
        t = tl.load(map_gradient + at, mask=written, other=0.0)
    for start in range(0, classes, BLOCK_K):
        c = start + tl.arange(0, BLOCK_K)
        w_at = c[:, None].to(tl.int64) * width + column[None, :]
        w = widen(tl.load(weight + w_at, mask=(c < classes)[:, None] & (column < width)[None, :], other=0.0), ACC)
        g_at = row[:, None] * classes + c[None, :]
        mask = (row < count)[:, None] & (c < classes)[None, :]
        v = _multiply(tl.load(grad_original + g_at, mask=mask, other=0.0), w, v, PRECISION)
        if MAPS:
            t = _multiply(tl.load(grad_identical + g_at, mask=mask, other=0.0), w, t, PRECISION)
    tl.store(direct + at, v, mask=written)
    tl.store(map_gradient + at, t, mask=written)


@device_function
def _weight_tile(
    features,
    pairs,
    statistics,
    grad_original,
    grad_identical,
    grad_weight,
    c,
    column,
    width,
    classes,
    count,
    batch,
    LIST: tl.constexpr,
    MAPS: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A tile of classes and features of the weight's gradient: G_O^T f + G_I^T (m * f), over all rows in order."""
    total = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    for start in range(0, count, BLOCK_K):
        row = start + tl.arange(0, BLOCK_K)
        source, partner, valid = directed_row(pairs, row, count, batch, LIST)
        mask = (c < classes)[:, None] & (row < count)[None, :]
        at = row[None, :].to(tl.int64) * classes + c[:, None]
        f = load_rows(features, source, valid, column, width, ACC)
        total = _multiply(tl.load(grad_original + at, mask=mask, other=0.0), f, total, PRECISION)
        if MAPS:
            scale, low = load_map(statistics, row, count, valid)
            p = load_rows(features, partner, valid, column, width, ACC)
            formed = identical_features(f, p, scale, low)
            total = _multiply(tl.load(grad_identical + at, mask=mask, other=0.0), formed, total, PRECISION)
    written = (c < classes)[:, None] & (column < width)[None, :]
    tl.store(
        grad_weight + c[:, None] * width + column[None, :], narrow(total, grad_weight.dtype.element_ty), mask=written
    )
