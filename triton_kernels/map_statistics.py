"""The identical map of a row, eqs. (3) and (4), and its backward, as in ``csrc/common/identical_map.h``.

    u = f_src * f_par    m = (u - low) / extent     extent: the norm of u, or its range
    dm = T * f_src       du = inner / extent
    inner                l2: dm - m at_low; min-max: dm - [u == low] at_low - [u == high] at_high

1 / extent is the product of ``scale`` and ``rescale``. The second is 1, but for an extent so small that its reciprocal
overflows: then the first is a power of two, and what may be of the order of the extent is multiplied with in between.
A degenerate row (extent <= eps) has scale 0: its map and the gradient through it vanish. A row with an index out of
range has scale NaN, and so NaN is all that is made of it.

Statistics are eight arrays [R]: scale, rescale, low, high, 1 / ties at low, 1 / ties at high, at_low, at_high; the last
two follow from sum dm m and sum dm (1 - m), and for l2 at_low is the former.
"""

import torch
import triton.language as tl
from torch import Tensor

from indeed_ext.constants import cdiv

from .arguments import require
from .config import Configuration
from .convert import triton_dtype, widen
from .jit import device_function, kernel
from .launch import launch
from .row_index import store_row_index
from .rows import directed_row

STATISTICS = 8


@device_function
def load_raw(features, sample, valid, column, width):
    """Features [M, N] of samples at columns as they are stored, zero beyond the edges."""
    mask = valid[:, None] & (column < width)[None, :]
    return tl.load(features + sample[:, None] * width + column[None, :], mask=mask, other=0.0)


@device_function
def load_rows(features, sample, valid, column, width, ACC: tl.constexpr):
    """Features [M, N] of samples at columns in the accumulation type, zero beyond the edges."""
    return widen(load_raw(features, sample, valid, column, width), ACC)


@device_function
def load_statistic(statistics, INDEX: tl.constexpr, row, count, mask):
    """One of the arrays, [M, 1]."""
    return tl.load(statistics + INDEX * count + row, mask=mask, other=0.0)[:, None]


@device_function
def load_map(statistics, row, count, mask):
    """(scale, rescale, low) of rows, each [M, 1]."""
    return (
        load_statistic(statistics, 0, row, count, mask),
        load_statistic(statistics, 1, row, count, mask),
        load_statistic(statistics, 2, row, count, mask),
    )


@device_function
def identical_features(source, partner, scale, rescale, low):
    """m * f_src of rows [M, N]: the map first, lest its product overflow."""
    return (source * partner - low) * scale * rescale * source


@device_function
def store_corrections(statistics, row, count, dot_identical, dot_disparate, MINMAX: tl.constexpr):
    """at_low and at_high, given sum dm m and sum dm (1 - m) of rows."""
    mask = row < count
    at = statistics + row
    kind: tl.constexpr = statistics.dtype.element_ty
    at_low = dot_identical.to(kind)
    if MINMAX:
        at_high = at_low * tl.load(at + 5 * count, mask=mask, other=0.0)
        tl.store(at + 7 * count, at_high, mask=mask)
        at_low = dot_disparate.to(kind) * tl.load(at + 4 * count, mask=mask, other=0.0)
    tl.store(at + 6 * count, at_low, mask=mask)


@kernel
def map_statistics_kernel(
    features,
    pairs,
    statistics,
    row_index,
    width,
    count,
    batch,
    row_programs,
    eps: tl.float64,
    LIST: tl.constexpr,
    MINMAX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    INDEX_M: tl.constexpr,
    INDEX_N: tl.constexpr,
):
    """The first ``row_programs`` programs: statistics of their rows; the others, if any: their part of the index."""
    program = tl.program_id(0).to(tl.int64)
    if program < row_programs:
        row = program * BLOCK_M + tl.arange(0, BLOCK_M)
        _store_statistics(
            features, pairs, statistics, row, width, count, batch, eps, LIST, MINMAX, ACC, BLOCK_M, BLOCK_N
        )
    elif row_index is not None:
        item = (tl.program_id(0) - row_programs) * INDEX_M + tl.arange(0, INDEX_M)
        store_row_index(pairs, row_index, item, count, batch, LIST, INDEX_N)


@device_function
def _store_statistics(
    features,
    pairs,
    statistics,
    row,
    width,
    count,
    batch,
    eps,
    LIST: tl.constexpr,
    MINMAX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # A sum of squares below 1 / LARGE is not accurate, the reciprocal of an extent below it may overflow.
    LARGE: tl.constexpr = 2.0**100 if ACC == tl.float32 else 2.0**1000  # noqa: SIM300
    source, partner, valid = directed_row(pairs, row, count, batch, LIST)
    inside = row < count
    at = statistics + row
    if MINMAX:
        low = tl.full([BLOCK_M], float("inf"), ACC)
        high = -low
        low_count = tl.zeros([BLOCK_M], ACC)
        high_count = low_count
        nan_count = low_count
        for start in range(0, width, BLOCK_N):
            column = start + tl.arange(0, BLOCK_N)
            u = load_rows(features, source, valid, column, width, ACC)
            u = u * load_rows(features, partner, valid, column, width, ACC)
            active = (column < width)[None, :]
            lower = tl.minimum(low, tl.min(tl.where(active, u, float("inf")), axis=1))
            higher = tl.maximum(high, tl.max(tl.where(active, u, float("-inf")), axis=1))
            at_low = tl.sum(tl.where(active & (u == lower[:, None]), 1.0, 0.0), axis=1)
            at_high = tl.sum(tl.where(active & (u == higher[:, None]), 1.0, 0.0), axis=1)
            low_count = at_low + tl.where(lower == low, low_count, 0.0)
            high_count = at_high + tl.where(higher == high, high_count, 0.0)
            nan_count += tl.sum(tl.where(u == u, 0.0, 1.0), axis=1)
            low, high = lower, higher
        tl.store(at + 2 * count, low, mask=inside)
        tl.store(at + 3 * count, high, mask=inside)
        tl.store(at + 4 * count, 1.0 / tl.maximum(low_count, 1.0), mask=inside)
        tl.store(at + 5 * count, 1.0 / tl.maximum(high_count, 1.0), mask=inside)
        # Minima and maxima pass over NaN.
        extent = tl.where(nan_count > 0, float("nan"), high - low)
    else:
        square = tl.zeros([BLOCK_M, BLOCK_N], ACC)
        top = tl.zeros([BLOCK_M, BLOCK_N], ACC)
        for start in range(0, width, BLOCK_N):
            column = start + tl.arange(0, BLOCK_N)
            u = load_rows(features, source, valid, column, width, ACC)
            u = u * load_rows(features, partner, valid, column, width, ACC)
            square += u * u
            top = tl.maximum(top, tl.abs(u))
        total = tl.sum(square, axis=1)
        largest = tl.max(top, axis=1)
        extent = tl.sqrt(total)
        inexact = ((total < 1.0 / LARGE) | (total == float("inf"))) & (largest > 0) & (largest < float("inf"))
        if tl.sum(inexact.to(tl.int32)) > 0:
            largest = tl.where(inexact, largest, 1.0)
            square = tl.zeros([BLOCK_M, BLOCK_N], ACC)
            for start in range(0, width, BLOCK_N):
                column = start + tl.arange(0, BLOCK_N)
                u = load_rows(features, source, valid, column, width, ACC)
                u = u * load_rows(features, partner, valid, column, width, ACC) / largest[:, None]
                square += u * u
            extent = tl.where(inexact, largest * tl.sqrt(tl.sum(square, axis=1)), extent)
        tl.store(at + 2 * count, tl.zeros([BLOCK_M], ACC), mask=inside)
    # The reciprocal of infinity is the scale 0 of a degenerate row.
    extent = tl.where(extent.to(tl.float64) <= tl.full([1], eps, tl.float64), float("inf"), extent)
    small = extent < 1.0 / LARGE
    reciprocal = 1.0 / tl.where(small, extent * LARGE, extent)
    scale = tl.where(small, LARGE, reciprocal)
    tl.store(at, tl.where(valid, scale, float("nan")), mask=inside)
    tl.store(at + count, tl.where(small, reciprocal, 1.0), mask=inside)


def map_statistics(
    features: Tensor,
    pairs: Tensor,
    minmax: bool,
    eps: float,
    accumulation: torch.dtype,
    tiles: Configuration,
    *,
    indexed: bool,
) -> tuple[Tensor, Tensor | None]:
    """Statistics [8, R] of the maps and, where it is to be ``indexed``, the :mod:`.row_index` of the samples."""
    (batch, width), count = features.shape, pairs.numel()
    statistics = features.new_empty((STATISTICS, count), dtype=accumulation)
    require(batch + STATISTICS * count < 1 << 31, "pairs: expected fewer than 2**27")
    row_index = features.new_empty((batch + 2 * count,), dtype=torch.int32) if indexed else None
    tile, index_tile = tiles.map_statistics, tiles.row_index
    row_programs = cdiv(count, tile.block_m)
    launch(
        map_statistics_kernel,
        (row_programs + (cdiv(row_index.numel(), index_tile.block_m) if row_index is not None else 0),),
        tile,
        features,
        pairs,
        statistics,
        row_index,
        width,
        count,
        batch,
        row_programs,
        eps,
        LIST=pairs.dim() == 2,
        MINMAX=minmax,
        ACC=triton_dtype(accumulation),
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        INDEX_M=index_tile.block_m,
        INDEX_N=index_tile.block_n,
    )
    return statistics, row_index
