"""The gradient of the features from the gradients of the rows: through the maps, and of the source by itself."""

import triton.language as tl
from torch import Tensor

from indeed_ext.constants import cdiv

from .config import Tile
from .convert import narrow, triton_dtype
from .jit import device_function, kernel
from .launch import launch
from .map_statistics import load_map, load_rows, load_statistic
from .partial_sums import store_sum
from .rows import directed_row


@kernel
def map_backward_kernel(
    features,
    pairs,
    row_index,
    statistics,
    map_gradient,
    grad_source,
    result,
    weight_partials,
    grad_weight,
    width,
    count,
    batch,
    sample_programs,
    column_tiles,
    weight_splits,
    weight_size,
    DIFFERENCE: tl.constexpr,
    LIST: tl.constexpr,
    MINMAX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The first ``sample_programs`` programs: the gradient of samples; the others, if any: the weight's, from the
    parts that the launch before this one left of it.
    """
    program = tl.program_id(0).to(tl.int64)
    if program < sample_programs:
        _sample_tile(
            features,
            pairs,
            row_index,
            statistics,
            map_gradient,
            grad_source,
            result,
            program // column_tiles * BLOCK_M + tl.arange(0, BLOCK_M),
            # Four elements a thread and load, else loads of float32 would take half a sector each, as wide as those of
            # halves.
            tl.max_contiguous(program % column_tiles * BLOCK_N + tl.arange(0, BLOCK_N), 4),
            width,
            count,
            batch,
            DIFFERENCE,
            LIST,
            MINMAX,
            ACC,
            BLOCK_M,
            BLOCK_N,
        )
    elif weight_partials is not None:
        store_sum(weight_partials, grad_weight, program - sample_programs, weight_splits, BLOCK_N, weight_size)


@device_function
def _sample_tile(
    features,
    pairs,
    row_index,
    statistics,
    map_gradient,
    grad_source,
    result,
    sample,
    column,
    width,
    count,
    batch,
    DIFFERENCE: tl.constexpr,
    LIST: tl.constexpr,
    MINMAX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Gradient of the features of samples: of the rows they are the source of, grad_source and what comes through the
    map; of those they are the partner of, what comes through the map. In the order of the :mod:`.row_index`, without
    atomics.

    ``map_gradient`` [R, n] is T, or T + grad_source where DIFFERENCE.
    """
    active = sample < batch
    own = load_rows(features, sample, active, column, width, ACC)
    total = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    end = 2 * tl.cast(count, tl.int32)
    endpoint = tl.load(row_index + sample, mask=active, other=end)
    while tl.min(endpoint) < end:
        here = endpoint < end
        of_source = endpoint < count
        row = tl.where(of_source, endpoint, endpoint - count).to(tl.int64)
        source, partner, valid = directed_row(pairs, row, count, batch, LIST)
        # Of a row that is not valid any sample will do: its scale is NaN.
        other = tl.where(valid, tl.where(of_source, partner, source), 0)
        other = load_rows(features, other, here, column, width, ACC)
        t = load_rows(map_gradient, row, here, column, width, ACC)
        g = load_rows(grad_source, row, here & (of_source | DIFFERENCE), column, width, ACC)
        if DIFFERENCE:
            t = t - g
        scale, rescale, low = load_map(statistics, row, count, here)
        forward = of_source[:, None]
        u = own * other
        m = (u - low) * scale * rescale
        dm = t * tl.where(forward, own, other)
        at_low = load_statistic(statistics, 6, row, count, here)
        if MINMAX:
            high = load_statistic(statistics, 3, row, count, here)
            at_high = load_statistic(statistics, 7, row, count, here)
            inner = dm - tl.where(u == low, at_low, 0.0) - tl.where(u == high, at_high, 0.0)
        else:
            inner = dm - m * at_low
        # In this order, as du may overflow where the gradient does not.
        total += inner * scale * other * rescale + tl.where(forward, g + m * t, 0.0)
        endpoint = tl.load(row_index + batch + endpoint, mask=here, other=end)
    inside = active[:, None] & (column < width)[None, :]
    at = result + sample[:, None] * width + column[None, :]
    tl.store(at, narrow(total, result.dtype.element_ty), mask=inside)


def map_backward(
    features: Tensor,
    pairs: Tensor,
    row_index: Tensor,
    statistics: Tensor,
    map_gradient: Tensor,
    grad_source: Tensor,
    result: Tensor,
    tile: Tile,
    *,
    minmax: bool,
    difference: bool,
    weight_partials: Tensor | None = None,
    grad_weight: Tensor | None = None,
) -> None:
    """Fills ``result`` [B, n], see :func:`_sample_tile`; and ``grad_weight`` [C, n] from ``weight_partials``
    [splits, C, n], where there are any."""
    batch, width = features.shape
    splits, weight_size = (0, 0) if weight_partials is None else (len(weight_partials), weight_partials[:1].numel())
    column_tiles = cdiv(width, tile.block_n)
    sample_programs = cdiv(batch, tile.block_m) * column_tiles
    launch(
        map_backward_kernel,
        (sample_programs + cdiv(weight_size, tile.block_n),),
        tile,
        features,
        pairs,
        row_index,
        statistics,
        map_gradient,
        grad_source,
        result,
        weight_partials,
        grad_weight,
        width,
        pairs.numel(),
        batch,
        sample_programs,
        column_tiles,
        splits,
        weight_size,
        DIFFERENCE=difference,
        LIST=pairs.dim() == 2,
        MINMAX=minmax,
        ACC=triton_dtype(statistics.dtype),
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
    )
