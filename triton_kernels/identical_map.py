"""The identical map of a row, eqs. (3) and (4), and its backward, as in ``csrc/common/identical_map.h``.

    u = f_src * f_par,   m = (u - low) * scale
    dm = T * f_src       du = scale * dm - (l2: at_low u; min-max: [u == low] at_low + [u == high] at_high)

A degenerate row (norm or range <= eps) has scale 0: its map and the gradient through it vanish.
Statistics of the rows are five arrays [R]: scale, low, high, and 1 / ties at low, 1 / ties at high, which become at_low
and at_high when the sums they take are known. Sums over the classes or features of a row are float64 [5, R]:
cross-entropies of originals, identicals, disparates, then sum dm m and sum dm (1 - m).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arguments import require
from .config import Configuration
from .convert import widen
from .device_function import device_function
from .launch import blocks, launch
from .links import store_links
from .rows import directed_row

STATISTICS = 5
SUMS = 5


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
def load_map(statistics, row, count, valid):
    """(scale, low) of rows."""
    scale = tl.load(statistics + row, mask=valid, other=0.0)
    return scale, tl.load(statistics + count + row, mask=valid, other=0.0)


@device_function
def identical_features(source, partner, scale, low):
    """m * f_src of rows [M, N]."""
    return (source * partner - low[:, None]) * scale[:, None] * source


@device_function
def store_corrections(statistics, row, count, mask, dot_identical, dot_disparate, MINMAX: tl.constexpr):
    """at_low and at_high in place of the shares of ties, given sum dm m and sum dm (1 - m) of rows."""
    at = statistics + row
    scale = tl.load(at, mask=mask, other=0.0)
    identical = dot_identical.to(scale.dtype)
    if MINMAX:
        low_share = tl.load(at + 3 * count, mask=mask, other=0.0)
        high_share = tl.load(at + 4 * count, mask=mask, other=0.0)
        tl.store(at + 3 * count, scale * dot_disparate.to(scale.dtype) * low_share, mask=mask)
        tl.store(at + 4 * count, scale * identical * high_share, mask=mask)
    else:
        tl.store(at + 3 * count, identical * scale * scale, mask=mask)


@device_function
def product_gradient(u, dm, scale, low, high, at_low, at_high, MINMAX: tl.constexpr):
    """du of rows [M, N] from its elements and, [M, 1], statistics of the rows."""
    if MINMAX:
        return scale * dm - tl.where(u == low, at_low, 0.0) - tl.where(u == high, at_high, 0.0)
    else:
        return scale * dm - at_low * u


@triton.jit
def row_statistics_kernel(
    features,
    pairs,
    statistics,
    links,
    width,
    count,
    batch,
    row_programs,
    EPS: tl.constexpr,
    LIST: tl.constexpr,
    MINMAX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    LINKS_M: tl.constexpr,
    LINKS_N: tl.constexpr,
):
    """The first ``row_programs`` programs: statistics of their rows; the others, if any: their part of the links."""
    program = tl.program_id(0).to(tl.int64)
    if program < row_programs:
        row = program * BLOCK_M + tl.arange(0, BLOCK_M)
        _store_statistics(
            features, pairs, statistics, row, width, count, batch, EPS, LIST, MINMAX, ACC, BLOCK_M, BLOCK_N
        )
    elif links is not None:
        item = (tl.program_id(0) - row_programs) * LINKS_M + tl.arange(0, LINKS_M)
        store_links(pairs, links, item, count, batch, LIST, LINKS_N)


@device_function
def _store_statistics(
    features,
    pairs,
    statistics,
    row,
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


def row_statistics(
    features: Tensor,
    pairs: Tensor,
    count: int,
    minmax: bool,
    eps: float,
    accumulation: torch.dtype,
    tiles: Configuration,
    *,
    linked: bool,
) -> tuple[Tensor, Tensor | None]:
    """Statistics [5, R] of the maps and, where they are to be ``linked``, the :mod:`.links` of the samples."""
    batch, width = features.shape
    statistics = torch.empty((STATISTICS, count), dtype=accumulation, device=features.device)
    require(batch + 2 * count < 1 << 31, "pairs: expected fewer than 2**30")
    links = torch.empty((batch + 2 * count,), dtype=torch.int32, device=features.device) if linked else None
    tile, link_tile = tiles.statistics, tiles.links
    row_programs = blocks(count, tile.rows)
    launch(
        row_statistics_kernel,
        (row_programs + (blocks(links.numel(), link_tile.rows) if links is not None else 0),),
        tile,
        features,
        pairs,
        statistics,
        links,
        width,
        count,
        batch,
        row_programs,
        EPS=eps,
        LIST=pairs.dim() == 2,
        MINMAX=minmax,
        ACC=triton_dtype(accumulation),
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        LINKS_M=link_tile.rows,
        LINKS_N=link_tile.columns,
    )
    return statistics, links


def triton_dtype(dtype: torch.dtype) -> tl.dtype:
    """The accumulation type as kernels know it."""
    return tl.float64 if dtype == torch.float64 else tl.float32
