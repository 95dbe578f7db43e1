"""The matrix products of the fused loss, their operands formed in registers.

Rows (i, j) are classified one by one: a program reads f_i, f_j and W once and forms m * f_i beside f_i. ``grad_logits``
are two arrays [R, classes of the chunk], G_O of original and G_I of identical logits, of :func:`.multiply.grad_dtype`.
"""

import triton.language as tl

from .convert import narrow, widen
from .jit import device_function, kernel
from .map_statistics import identical_features, load_map, load_raw
from .multiply import multiply
from .reduce_loss import reduce_loss_and_bias
from .rows import directed_row


@kernel
def logits_kernel(
    features,
    weight,
    pairs,
    statistics,
    partials,
    width,
    split_width,
    classes,
    count,
    batch,
    LIST: tl.constexpr,
    ACC: tl.constexpr,
    MAPS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Original and identical logits of a tile of rows and classes, summed over ``split_width`` of the features.

    ``weight`` begins at the first of the chunk's ``classes`` classes. ``partials`` [splits, 2, R, classes]: a batch
    alone has too few tiles to fill a GPU, the parts of its features have enough.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    local = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    EXACT: tl.constexpr = features.dtype.element_ty == tl.bfloat16
    source, partner, valid = directed_row(pairs, row, count, batch, LIST)
    scale, rescale, low = load_map(statistics, row, count, row < count)
    o = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    q = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    first = tl.program_id(2) * split_width
    for start in range(first, tl.minimum(first + split_width, width), BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        f = load_raw(features, source, valid, column, width)
        at = local[None, :].to(tl.int64) * width + column[:, None]
        w = tl.load(weight + at, mask=(local < classes)[None, :] & (column < width)[:, None], other=0.0)
        o = multiply(f, w, o, PRECISION, EXACT, EXACT)
        if MAPS:
            p = load_raw(features, partner, valid, column, width)
            formed = identical_features(widen(f, ACC), widen(p, ACC), scale, rescale, low)
            q = multiply(formed, w, q, PRECISION, False, EXACT)
    array = tl.cast(count, tl.int64) * classes
    at = partials + tl.program_id(2) * 2 * array + row[:, None] * classes + local[None, :]
    written = (row < count)[:, None] & (local < classes)[None, :]
    tl.store(at, o, mask=written)
    if MAPS:
        tl.store(at + array, q, mask=written)


@kernel
def grad_products_kernel(
    features,
    weight,
    pairs,
    statistics,
    grad_logits,
    grad_source,
    map_gradient,
    weight_partials,
    grad_weight,
    sums,
    lam,
    lam_identical: tl.float64,
    lam_disparate: tl.float64,
    loss,
    components,
    bias_partials,
    grad_bias,
    width,
    classes,
    first_class,
    count,
    batch,
    bias_tiles,
    reduce_programs,
    feature_start,
    feature_programs,
    weight_start,
    weight_programs,
    weight_splits,
    split_rows,
    column_tiles,
    LIST: tl.constexpr,
    ACC: tl.constexpr,
    MAPS: tl.constexpr,
    PRECISION: tl.constexpr,
    FEATURES_M: tl.constexpr,
    FEATURES_K: tl.constexpr,
    WEIGHT_M: tl.constexpr,
    WEIGHT_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PER_ROW: tl.constexpr,
    AVERAGE: tl.constexpr,
    LOSS_N: tl.constexpr,
    BIAS_M: tl.constexpr,
    BIAS_N: tl.constexpr,
):
    """Both products with the gradients of the logits, and what else follows from the cross-entropies, in one launch:
    none waits for another, and each alone would leave a GPU half empty at a training batch.

    The first programs make the loss and the bias gradient, as they wait for memory most. ``feature_start`` and
    ``weight_start`` are the first that make V and T and those that make the weight's gradient: programs that take
    longer begin earlier. The weight's gradient is a sum over ``weight_splits`` parts of the rows; if they are more
    than one, what is made of it are ``weight_partials`` [splits, classes, n].
    """
    program = tl.program_id(0).to(tl.int64)
    array = tl.cast(count, tl.int64) * classes
    # Nested, here and below, as the outer condition is known to the compiler and the inner one is not.
    if grad_source is not None:  # noqa: SIM102
        if (program >= feature_start) & (program < feature_start + feature_programs):
            tile = program - feature_start
            _feature_tile(
                weight,
                grad_logits,
                grad_logits + array,
                grad_source,
                map_gradient,
                tile // column_tiles * FEATURES_M + tl.arange(0, FEATURES_M),
                tile % column_tiles * BLOCK_N + tl.arange(0, BLOCK_N),
                width,
                classes,
                first_class,
                count,
                MAPS,
                ACC,
                PRECISION,
                FEATURES_M,
                BLOCK_N,
                FEATURES_K,
            )
    if grad_weight is not None:  # noqa: SIM102
        if (program >= weight_start) & (program < weight_start + weight_programs):
            tiles = weight_programs // weight_splits
            split = (program - weight_start) // tiles
            tile = (program - weight_start) % tiles
            _weight_tile(
                features,
                pairs,
                statistics,
                grad_logits,
                grad_logits + array,
                weight_partials,
                grad_weight,
                split,
                weight_splits,
                split_rows,
                tile // column_tiles * WEIGHT_M + tl.arange(0, WEIGHT_M),
                tile % column_tiles * BLOCK_N + tl.arange(0, BLOCK_N),
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
    if program < reduce_programs:
        reduce_loss_and_bias(
            program,
            sums,
            lam,
            lam_identical,
            lam_disparate,
            loss,
            components,
            bias_partials,
            grad_bias,
            count,
            bias_tiles,
            classes,
            PER_ROW,
            AVERAGE,
            LOSS_N,
            BIAS_M,
            BIAS_N,
        )


@device_function
def _feature_tile(
    weight,
    grad_original,
    grad_identical,
    grad_source,
    map_gradient,
    row,
    column,
    width,
    classes,
    first_class,
    count,
    MAPS: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """V = G_O W and T = G_I W of a tile of rows and features, added to those of earlier class chunks."""
    EXACT: tl.constexpr = weight.dtype.element_ty == tl.bfloat16
    EXACT_GRAD: tl.constexpr = grad_original.dtype.element_ty == tl.bfloat16
    written = (row < count)[:, None] & (column < width)[None, :]
    at = row[:, None] * width + column[None, :]
    v = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    t = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    for start in range(0, classes, BLOCK_K):
        c = start + tl.arange(0, BLOCK_K)
        w_at = c[:, None].to(tl.int64) * width + column[None, :]
        w = tl.load(weight + w_at, mask=(c < classes)[:, None] & (column < width)[None, :], other=0.0)
        g_at = row[:, None] * classes + c[None, :]
        mask = (row < count)[:, None] & (c < classes)[None, :]
        v = multiply(tl.load(grad_original + g_at, mask=mask, other=0.0), w, v, PRECISION, EXACT_GRAD, EXACT)
        if MAPS:
            t = multiply(tl.load(grad_identical + g_at, mask=mask, other=0.0), w, t, PRECISION, EXACT_GRAD, EXACT)
    if first_class > 0:
        v += tl.load(grad_source + at, mask=written, other=0.0)
        t += tl.load(map_gradient + at, mask=written, other=0.0)
    tl.store(grad_source + at, v, mask=written)
    tl.store(map_gradient + at, t, mask=written)


@device_function
def _weight_tile(
    features,
    pairs,
    statistics,
    grad_original,
    grad_identical,
    weight_partials,
    grad_weight,
    split,
    weight_splits,
    split_rows,
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
    """A tile of classes and features of the weight's gradient: G_O^T f + G_I^T (m * f), over a part of the rows."""
    EXACT: tl.constexpr = features.dtype.element_ty == tl.bfloat16
    EXACT_GRAD: tl.constexpr = grad_original.dtype.element_ty == tl.bfloat16
    total = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    first = split * split_rows
    for start in range(first, tl.minimum(first + split_rows, count), BLOCK_K):
        row = start + tl.arange(0, BLOCK_K)
        source, partner, valid = directed_row(pairs, row, count, batch, LIST)
        scale, rescale, low = load_map(statistics, row, count, row < count)
        mask = (c < classes)[:, None] & (row < count)[None, :]
        at = row[None, :].to(tl.int64) * classes + c[:, None]
        f = load_raw(features, source, valid, column, width)
        g = tl.load(grad_original + at, mask=mask, other=0.0)
        total = multiply(g, f, total, PRECISION, EXACT_GRAD, EXACT)
        if MAPS:
            g = tl.load(grad_identical + at, mask=mask, other=0.0)
            p = load_raw(features, partner, valid, column, width)
            formed = identical_features(widen(f, ACC), widen(p, ACC), scale, rescale, low)
            # Beside gradients of 8 bits identical features may have as many; the loss itself needs more of them.
            total = multiply(g, formed, total, PRECISION, EXACT_GRAD, EXACT_GRAD)
    written = (c < classes)[:, None] & (column < width)[None, :]
    at = c[:, None] * width + column[None, :]
    if weight_splits == 1:
        tl.store(grad_weight + at, narrow(total, grad_weight.dtype.element_ty), mask=written)
    else:
        tl.store(weight_partials + split * classes * width + at, total, mask=written)
