"""The blocks of eq. (5) as operators of their own, for classifiers that are not linear."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indeed_ext.constants import NORMS

from .arguments import (
    computation_dtype,
    dense,
    require_device,
    require_float,
    require_matrix,
    require_shape,
    row_count,
)
from .config import configuration
from .convert import narrow
from .identical_map import (
    identical_features,
    load_map,
    load_rows,
    row_statistics,
    store_corrections,
    triton_dtype,
)
from .launch import blocks, launch
from .map_backward import map_backward
from .rows import directed_row


@triton.jit
def form_blocks_kernel(
    features,
    pairs,
    statistics,
    identical,
    disparate,
    width,
    count,
    batch,
    LIST: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    source_index, partner_index, valid = directed_row(pairs, row, count, batch, LIST)
    scale, low = load_map(statistics, row, count, valid)
    source = load_rows(features, source_index, valid, column, width, ACC)
    partner = load_rows(features, partner_index, valid, column, width, ACC)
    formed = identical_features(source, partner, scale, low)
    # A row that does not exist is not a number.
    formed = tl.where(valid[:, None], formed, float("nan"))
    inside = (row < count)[:, None] & (column < width)[None, :]
    at = row[:, None] * width + column[None, :]
    tl.store(identical + at, narrow(formed, identical.dtype.element_ty), mask=inside)
    tl.store(disparate + at, narrow(source - formed, disparate.dtype.element_ty), mask=inside)


@triton.jit
def map_dots_kernel(
    features,
    pairs,
    statistics,
    grad_identical,
    grad_disparate,
    width,
    count,
    batch,
    LIST: tl.constexpr,
    MINMAX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """What the statistics of every row take from sum dm m and sum dm (1 - m)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    source_index, partner_index, valid = directed_row(pairs, row, count, batch, LIST)
    scale, low = load_map(statistics, row, count, valid)
    identical = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    disparate = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    for start in range(0, width, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        source = load_rows(features, source_index, valid, column, width, ACC)
        partner = load_rows(features, partner_index, valid, column, width, ACC)
        t = load_rows(grad_identical, row, valid, column, width, ACC)
        t -= load_rows(grad_disparate, row, valid, column, width, ACC)
        formed = identical_features(source, partner, scale, low)
        identical += t * formed
        disparate += t * (source - formed)
    dot_identical, dot_disparate = tl.sum(identical, axis=1), tl.sum(disparate, axis=1)
    store_corrections(statistics, row, count, row < count, dot_identical, dot_disparate, MINMAX)


def identical_disparate(features: Tensor, pairs: Tensor, norm: int, eps: float) -> tuple[Tensor, Tensor]:
    """features [B, n], pairs [B] or [P, 2] -> identical and disparate features [R, n]."""
    require_matrix("features", features)
    batch, width = features.shape
    accumulation = computation_dtype(require_float("features", features), width)
    require_device(features, pairs=pairs)
    count = row_count(pairs, batch)
    features, pairs = dense(features), dense(pairs)
    tiles = configuration(count, width, features.dtype, accumulation)
    tile, minmax = tiles.row_local, norm == NORMS["minmax"]
    statistics, _ = row_statistics(features, pairs, count, minmax, eps, accumulation, tiles, linked=False)
    identical = features.new_empty((count, width))
    disparate = torch.empty_like(identical)
    launch(
        form_blocks_kernel,
        (blocks(count, tile.rows), blocks(width, tile.columns)),
        tile,
        features,
        pairs,
        statistics,
        identical,
        disparate,
        width,
        count,
        batch,
        LIST=pairs.dim() == 2,
        ACC=triton_dtype(accumulation),
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
    )
    return identical, disparate


def identical_disparate_backward(
    grad_identical: Tensor, grad_disparate: Tensor, features: Tensor, pairs: Tensor, norm: int, eps: float
) -> Tensor:
    """The gradient of the features [B, n]."""
    require_matrix("features", features)
    batch, width = features.shape
    accumulation = computation_dtype(require_float("features", features), width)
    require_device(features, grad_identical=grad_identical, grad_disparate=grad_disparate, pairs=pairs)
    count = row_count(pairs, batch)
    require_shape("grad_identical", grad_identical, count, width)
    require_shape("grad_disparate", grad_disparate, count, width)
    features, pairs = dense(features), dense(pairs)
    grad_identical, grad_disparate = dense(grad_identical), dense(grad_disparate)
    tiles = configuration(count, width, features.dtype, accumulation)
    tile, minmax = tiles.row_local, norm == NORMS["minmax"]
    statistics, links = row_statistics(features, pairs, count, minmax, eps, accumulation, tiles, linked=True)
    assert links is not None
    launch(
        map_dots_kernel,
        (blocks(count, tile.rows),),
        tile,
        features,
        pairs,
        statistics,
        grad_identical,
        grad_disparate,
        width,
        count,
        batch,
        LIST=pairs.dim() == 2,
        MINMAX=minmax,
        ACC=triton_dtype(accumulation),
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
    )
    # dI = m f and dD = (1 - m) f meet the map as T = dI - dD, and the source as m T + dD.
    result = features.new_empty((batch, width))
    map_backward(
        features,
        pairs,
        links,
        statistics,
        grad_identical,
        grad_disparate,
        result,
        tiles.maps,
        minmax=minmax,
        difference=True,
    )
    return result
