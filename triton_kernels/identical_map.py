"""The identical map of a row, eqs. (3) and (4), and its backward, as in ``csrc/common/identical_map.h``.

    u = f_src * f_par,   m = (u - low) * scale
    dm = T * f_src       du = scale * dm + product * u - [u == low] at_low - [u == high] at_high

A degenerate row (norm or range <= eps) has scale 0: its map and the gradient through it vanish.
Statistics of the rows are five arrays [R] (scale, low, high, 1 / ties at low, 1 / ties at high); sums over the
classes or features of a row are float64 [tiles, 5, R], a program writing its own tile: cross-entropies of originals,
identicals, disparates, then sum dm m and sum dm (1 - m).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .config import Tile
from .convert import narrow, widen
from .device_function import device_function
from .launch import blocks, launch
from .rows import directed_row

STATISTICS = 5
SUMS = 5


@device_function
def load_rows(features, sample, valid, column, width, ACC: tl.constexpr):
    """Features [M, N] of samples at columns, zero beyond the edges."""
    mask = valid[:, None] & (column < width)[None, :]
    return widen(tl.load(features + sample[:, None] * width + column[None, :], mask=mask, other=0.0), ACC)


@device_function
def load_map(statistics, row, count, valid):
    """(scale, low) of rows."""
    scale = tl.load(statistics + row, mask=valid, other=0.0)
    return scale, tl.load(statistics + count + row, mask=valid, other=0.0)


@device_function
def identical_features(source, partner, scale, low):
    """m * f_src of rows [M, N]."""
    return (source * partner - low[:, None]) * scale[:, None] * source


@device_function
def product_gradient(
    u, dm, scale, low, high, low_share, high_share, dot_identical, dot_disparate, MINMAX: tl.constexpr
):
    """du of one row from its elements and its two sums."""
    if MINMAX:
        at_low = scale * dot_disparate * low_share
        at_high = scale * dot_identical * high_share
        return scale * dm - tl.where(u == low, at_low, 0.0) - tl.where(u == high, at_high, 0.0)
    else:
        return scale * dm - dot_identical * scale * scale * u


@triton.jit
def row_statistics_kernel(
    features,
    pairs,
    statistics,
    width,
    count,
    batch,
    EPS: tl.constexpr,
    LIST: tl.constexpr,
    MINMAX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    source, partner, valid = directed_row(pairs, row, count, batch, LIST)
    eps = tl.full([1], EPS, tl.float64)
    zero = tl.zeros([BLOCK_M], ACC)
    if MINMAX:
        infinity = tl.full([1, 1], float("inf"), ACC)
        low = zero + float("inf")
        high = zero - float("inf")
        low_count = zero
        high_count = zero
        for start in range(0, width, BLOCK_N):
            column = start + tl.arange(0, BLOCK_N)
            inside = valid[:, None] & (column < width)[None, :]
            u = load_rows(features, source, valid, column, width, ACC)
            u = u * load_rows(features, partner, valid, column, width, ACC)
            lower = tl.minimum(low, tl.min(tl.where(inside, u, infinity), axis=1))
            higher = tl.maximum(high, tl.max(tl.where(inside, u, -infinity), axis=1))
            at_low = tl.sum(tl.where(inside & (u == lower[:, None]), 1.0, 0.0), axis=1).to(ACC)
            at_high = tl.sum(tl.where(inside & (u == higher[:, None]), 1.0, 0.0), axis=1).to(ACC)
            low_count = at_low + tl.where(lower == low, low_count, 0.0)
            high_count = at_high + tl.where(higher == high, high_count, 0.0)
            low, high = lower, higher
        extent = high - low
        degenerate = extent.to(tl.float64) <= eps
        scale = tl.where(degenerate, 0.0, 1.0 / tl.where(degenerate, 1.0, extent))
        # A row without features has infinities here, which must not meet a zero.
        empty = width == 0
        low, high = tl.where(empty, 0.0, low), tl.where(empty, 0.0, high)
        low_share = tl.where(degenerate, 0.0, 1.0 / tl.where(degenerate, 1.0, low_count))
        high_share = tl.where(degenerate, 0.0, 1.0 / tl.where(degenerate, 1.0, high_count))
    else:
        square = tl.zeros([BLOCK_M, BLOCK_N], ACC)
        for start in range(0, width, BLOCK_N):
            column = start + tl.arange(0, BLOCK_N)
            u = load_rows(features, source, valid, column, width, ACC)
            u = u * load_rows(features, partner, valid, column, width, ACC)
            square += u * u
        norm = tl.sqrt(tl.sum(square, axis=1))
        degenerate = norm.to(tl.float64) <= eps
        scale = tl.where(degenerate, 0.0, 1.0 / tl.where(degenerate, 1.0, norm))
        low, high, low_share, high_share = zero, zero, zero, zero
    inside_rows = row < count
    tl.store(statistics + row, scale.to(ACC), mask=inside_rows)
    tl.store(statistics + count + row, low.to(ACC), mask=inside_rows)
    tl.store(statistics + 2 * count + row, high.to(ACC), mask=inside_rows)
    tl.store(statistics + 3 * count + row, low_share.to(ACC), mask=inside_rows)
    tl.store(statistics + 4 * count + row, high_share.to(ACC), mask=inside_rows)


@triton.jit
def map_backward_kernel(
    features,
    pairs,
    statistics,
    sums,
    map_gradient,
    direct,
    result,
    width,
    count,
    batch,
    tiles,
    DIFFERENCE: tl.constexpr,
    LIST: tl.constexpr,
    MINMAX: tl.constexpr,
    ACC: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """Gradient of the features of one sample: of the rows it is the source of, what is sent to it directly and through
    the map; of those it is the partner of, what is sent through the map. In the order of the rows, without atomics.

    ``map_gradient`` [R, n] is T, or T + direct where DIFFERENCE.
    """
    sample = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = column < width
    tile = tl.arange(0, TILES)
    total = tl.zeros([BLOCK_N], ACC)
    for start in range(0, count, BLOCK_ROWS):
        rows = start + tl.arange(0, BLOCK_ROWS)
        sources, partners, valid = directed_row(pairs, rows, count, batch, LIST)
        touching = valid & ((sources == sample) | (partners == sample))
        remaining = tl.sum(touching.to(tl.int32))
        last = start - 1
        while remaining > 0:
            # The next row of this sample: there are few, so that looking for each is cheap.
            last = tl.min(tl.where(touching & (rows > last), rows, start + BLOCK_ROWS))
            remaining -= 1
            row = last.to(tl.int64)
            i = tl.sum(tl.where(rows == last, sources, 0))
            j = tl.sum(tl.where(rows == last, partners, 0))
            source = widen(tl.load(features + i * width + column, mask=inside, other=0.0), ACC)
            partner = widen(tl.load(features + j * width + column, mask=inside, other=0.0), ACC)
            t = widen(tl.load(map_gradient + row * width + column, mask=inside, other=0.0), ACC)
            sent = widen(tl.load(direct + row * width + column, mask=inside, other=0.0), ACC)
            if DIFFERENCE:
                t = t - sent
            scale = tl.load(statistics + row)
            low = tl.load(statistics + count + row)
            high = tl.load(statistics + 2 * count + row)
            low_share = tl.load(statistics + 3 * count + row)
            high_share = tl.load(statistics + 4 * count + row)
            at = sums + tile.to(tl.int64) * 5 * count + row
            dot_identical = tl.sum(tl.load(at + 3 * count, mask=tile < tiles, other=0.0)).to(ACC)
            dot_disparate = tl.sum(tl.load(at + 4 * count, mask=tile < tiles, other=0.0)).to(ACC)
            u = source * partner
            du = product_gradient(
                u, t * source, scale, low, high, low_share, high_share, dot_identical, dot_disparate, MINMAX
            )
            own = sent + (u - low) * scale * t + du * partner
            total += tl.where(i == sample, own, 0.0) + tl.where(j == sample, du * source, 0.0)
    tl.store(result + sample * width + column, narrow(total, result.dtype.element_ty), mask=inside)


def row_statistics(
    features: Tensor, pairs: Tensor, count: int, minmax: bool, eps: float, accumulation: torch.dtype, tile: Tile
) -> Tensor:
    """Statistics [5, R] of the maps."""
    batch, width = features.shape
    statistics = torch.empty((STATISTICS, count), dtype=accumulation, device=features.device)
    launch(
        row_statistics_kernel,
        (blocks(count, tile.rows),),
        tile,
        features,
        pairs,
        statistics,
        width,
        count,
        batch,
        EPS=eps,
        LIST=pairs.dim() == 2,
        MINMAX=minmax,
        ACC=triton_dtype(accumulation),
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
    )
    return statistics


def map_backward(
    features: Tensor,
    pairs: Tensor,
    statistics: Tensor,
    sums: Tensor,
    map_gradient: Tensor,
    direct: Tensor,
    result: Tensor,
    tile: Tile,
    *,
    minmax: bool,
    difference: bool,
) -> None:
    """Fills ``result`` [B, n], see :func:`map_backward_kernel`."""
    batch, width = features.shape
    launch(
        map_backward_kernel,
        (batch, blocks(width, tile.columns)),
        tile,
        features,
        pairs,
        statistics,
        sums,
        map_gradient,
        direct,
        result,
        width,
        statistics.shape[1],
        batch,
        sums.shape[0],
        DIFFERENCE=difference,
        LIST=pairs.dim() == 2,
        MINMAX=minmax,
        ACC=triton_dtype(statistics.dtype),
        TILES=triton.next_power_of_2(sums.shape[0]),
        BLOCK_N=tile.columns,
        BLOCK_ROWS=tile.step,
    )


def triton_dtype(dtype: torch.dtype) -> tl.dtype:
    """The accumulation type as kernels know it."""
    return tl.float64 if dtype == torch.float64 else tl.float32
