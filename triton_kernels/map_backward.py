"""The gradient of the features from what is sent to the rows, through the maps and directly."""

import triton
import triton.language as tl
from torch import Tensor

from .config import Tile
from .convert import narrow
from .identical_map import load_rows, product_gradient, triton_dtype
from .launch import blocks, launch
from .rows import directed_row


@triton.jit
def map_backward_kernel(
    features,
    pairs,
    links,
    statistics,
    map_gradient,
    direct,
    result,
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
    """Gradient of the features of samples: of the rows they are the source of, what is sent to them directly and
    through the map; of those they are the partner of, what is sent through the map. In the order of the
    :mod:`.links`, without atomics.

    ``map_gradient`` [R, n] is T, or T + direct where DIFFERENCE.
    """
    sample = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    # Four elements a thread and load, else loads of float32 would take half a sector each, as wide as those of halves.
    column = tl.max_contiguous(tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N), 4)
    active = sample < batch
    own = load_rows(features, sample, active, column, width, ACC)
    total = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    end = 2 * tl.cast(count, tl.int32)
    endpoint = tl.load(links + sample, mask=active, other=end)
    while tl.min(endpoint) < end:
        here = endpoint < end
        of_source = endpoint < count
        row = tl.where(of_source, endpoint, endpoint - count).to(tl.int64)
        source, partner, _valid = directed_row(pairs, row, count, batch, LIST)
        other = load_rows(features, tl.where(of_source, partner, source), here, column, width, ACC)
        t = load_rows(map_gradient, row, here, column, width, ACC)
        sent = load_rows(direct, row, here & (of_source | DIFFERENCE), column, width, ACC)
        if DIFFERENCE:
            t = t - sent
        at = statistics + row
        scale = tl.load(at, mask=here, other=0.0)[:, None]
        at_low = tl.load(at + 3 * count, mask=here, other=0.0)[:, None]
        low = tl.zeros([BLOCK_M, 1], ACC)
        high = low
        at_high = low
        if MINMAX:
            low = tl.load(at + count, mask=here, other=0.0)[:, None]
            high = tl.load(at + 2 * count, mask=here, other=0.0)[:, None]
            at_high = tl.load(at + 4 * count, mask=here, other=0.0)[:, None]
        forward = of_source[:, None]
        u = own * other
        dm = t * tl.where(forward, own, other)
        du = product_gradient(u, dm, scale, low, high, at_low, at_high, MINMAX)
        total += du * other + tl.where(forward, sent + (u - low) * scale * t, 0.0)
        endpoint = tl.load(links + batch + endpoint, mask=here, other=end)
    inside = active[:, None] & (column < width)[None, :]
    at = result + sample[:, None] * width + column[None, :]
    tl.store(at, narrow(total, result.dtype.element_ty), mask=inside)


def map_backward(
    features: Tensor,
    pairs: Tensor,
    links: Tensor,
    statistics: Tensor,
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
        (blocks(batch, tile.rows), blocks(width, tile.columns)),
        tile,
        features,
        pairs,
        links,
        statistics,
        map_gradient,
        direct,
        result,
        width,
        statistics.shape[1],
        batch,
        DIFFERENCE=difference,
        LIST=pairs.dim() == 2,
        MINMAX=minmax,
        ACC=triton_dtype(statistics.dtype),
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
    )
