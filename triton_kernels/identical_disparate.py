"""Identical and disparate features, eq. (5), as operators of their own, for classifiers that are not linear."""

import torch
import triton.language as tl
from torch import Tensor

from indeed_ext.constants import NORMS, cdiv

from .arguments import Checked, computation_dtype, require_float, require_matrix
from .config import configuration
from .convert import narrow, triton_dtype
from .jit import kernel
from .launch import launch
from .map_backward import map_backward
from .map_statistics import identical_features, load_map, load_rows, map_statistics, store_corrections
from .rows import directed_row


@kernel
def form_rows_kernel(
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
    scale, rescale, low = load_map(statistics, row, count, row < count)
    source = load_rows(features, source_index, valid, column, width, ACC)
    partner = load_rows(features, partner_index, valid, column, width, ACC)
    formed = identical_features(source, partner, scale, rescale, low)
    inside = (row < count)[:, None] & (column < width)[None, :]
    at = row[:, None] * width + column[None, :]
    tl.store(identical + at, narrow(formed, identical.dtype.element_ty), mask=inside)
    tl.store(disparate + at, narrow(source - formed, disparate.dtype.element_ty), mask=inside)


@kernel
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
    """The corrections of every row, from sum dm m and sum dm (1 - m)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    source_index, partner_index, valid = directed_row(pairs, row, count, batch, LIST)
    scale, rescale, low = load_map(statistics, row, count, row < count)
    identical = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    disparate = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    for start in range(0, width, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        source = load_rows(features, source_index, valid, column, width, ACC)
        partner = load_rows(features, partner_index, valid, column, width, ACC)
        t = load_rows(grad_identical, row, valid, column, width, ACC)
        t -= load_rows(grad_disparate, row, valid, column, width, ACC)
        formed = identical_features(source, partner, scale, rescale, low)
        identical += t * formed
        disparate += t * (source - formed)
    store_corrections(statistics, row, count, tl.sum(identical, axis=1), tl.sum(disparate, axis=1), MINMAX)


def identical_disparate(features: Tensor, pairs: Tensor, norm: int, eps: float) -> tuple[Tensor, Tensor]:
    """features [B, n], pairs [B] or [P, 2] -> identical and disparate features [R, n]."""
    features = require_matrix("features", features)
    batch, width = features.shape
    accumulation = computation_dtype(require_float("features", features), width)
    pairs = Checked(features.device).pairs(pairs, batch)
    count = pairs.numel()
    tiles = configuration(features.device, count, width, features.dtype, accumulation)
    minmax = norm == NORMS["minmax"]
    statistics, _ = map_statistics(features, pairs, minmax, eps, accumulation, tiles, indexed=False)
    identical = features.new_empty((count, width))
    disparate = torch.empty_like(identical)
    tile = tiles.row_local
    launch(
        form_rows_kernel,
        (cdiv(count, tile.block_m), cdiv(width, tile.block_n)),
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
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
    )
    return identical, disparate


def identical_disparate_backward(
    grad_identical: Tensor, grad_disparate: Tensor, features: Tensor, pairs: Tensor, norm: int, eps: float
) -> Tensor:
    """The gradient of the features [B, n]."""
    features = require_matrix("features", features)
    batch, width = features.shape
    accumulation = computation_dtype(require_float("features", features), width)
    checked = Checked(features.device)
    pairs = checked.pairs(pairs, batch)
    count = pairs.numel()
    grad_identical = checked.tensor("grad_identical", grad_identical, None, count, width)
    grad_disparate = checked.tensor("grad_disparate", grad_disparate, None, count, width)
    tiles = configuration(features.device, count, width, features.dtype, accumulation)
    minmax = norm == NORMS["minmax"]
    statistics, row_index = map_statistics(features, pairs, minmax, eps, accumulation, tiles, indexed=True)
    assert row_index is not None
    tile = tiles.row_local
    launch(
        map_dots_kernel,
        (cdiv(count, tile.block_m),),
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
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
    )
    # dI = m f and dD = (1 - m) f meet the map as T = dI - dD, and the source as m T + dD.
    result = features.new_empty((batch, width))
    map_backward(
        features,
        pairs,
        row_index,
        statistics,
        grad_identical,
        grad_disparate,
        result,
        tiles.map_backward,
        minmax=minmax,
        difference=True,
    )
    return result
