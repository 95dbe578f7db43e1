"""The loss from the sums of its rows, and the bias gradient from those of its tiles; in a fixed order.

Sums of a row over its classes are float64 [5, R]: cross-entropies of originals, identicals and disparates, then
sum dm m and sum dm (1 - m).
"""

import torch
import triton.language as tl
from torch import Tensor

from indeed_ext.constants import REDUCTIONS

from .arguments import Lam
from .config import Tile
from .convert import narrow
from .jit import device_function, kernel
from .launch import launch
from .rows import term_weights

SUMS = 5
MEAN, NONE = REDUCTIONS["mean"], REDUCTIONS["none"]


@device_function
def _reduce_loss(
    sums,
    lam,
    lam_identical,
    lam_disparate,
    loss,
    components,
    count,
    PER_ROW: tl.constexpr,
    AVERAGE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    lam_identical, lam_disparate = term_weights(lam, lam_identical, lam_disparate)
    totals = tl.zeros([BLOCK_N], tl.float64)
    originals = tl.zeros([BLOCK_N], tl.float64)
    identicals = tl.zeros([BLOCK_N], tl.float64)
    disparates = tl.zeros([BLOCK_N], tl.float64)
    for start in range(0, count, BLOCK_N):
        row = start + tl.arange(0, BLOCK_N)
        inside = row < count
        original = tl.load(sums + row, mask=inside, other=0.0)
        identical = tl.load(sums + count + row, mask=inside, other=0.0)
        disparate = tl.load(sums + 2 * count + row, mask=inside, other=0.0)
        total = original + lam_identical * identical + lam_disparate * disparate
        if PER_ROW:
            tl.store(loss + row, narrow(total, loss.dtype.element_ty), mask=inside)
        totals += total
        originals += original
        identicals += identical
        disparates += disparate
    scale = tl.full([], 1.0, tl.float64)
    if AVERAGE:
        scale = scale / tl.maximum(count, 1)
    if not PER_ROW:
        tl.store(loss, narrow(tl.sum(totals) * scale, loss.dtype.element_ty))
    kind: tl.constexpr = components.dtype.element_ty
    tl.store(components, (tl.sum(originals) * scale).to(kind))
    tl.store(components + 1, (tl.sum(identicals) * scale).to(kind))
    tl.store(components + 2, (tl.sum(disparates) * scale).to(kind))


@device_function
def reduce_loss_and_bias(
    part,
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
    PER_ROW: tl.constexpr,
    AVERAGE: tl.constexpr,
    ROWS: tl.constexpr,
    BIAS_M: tl.constexpr,
    BIAS_N: tl.constexpr,
):
    """Part 0: the loss and its components, of the classes so far; the others: the bias gradient of a few classes."""
    if part == 0:
        _reduce_loss(sums, lam, lam_identical, lam_disparate, loss, components, count, PER_ROW, AVERAGE, ROWS)
    elif grad_bias is not None:
        column = (part - 1) * BIAS_N + tl.arange(0, BIAS_N)
        gradient = tl.zeros([BIAS_M, BIAS_N], tl.float64)
        for start in range(0, bias_tiles, BIAS_M):
            tile = start + tl.arange(0, BIAS_M)
            mask = (tile < bias_tiles)[:, None] & (column < classes)[None, :]
            at = tile[:, None].to(tl.int64) * classes + column[None, :]
            gradient += tl.load(bias_partials + at, mask=mask, other=0.0).to(tl.float64)
        gradient = tl.sum(gradient, axis=0)
        tl.store(grad_bias + column, narrow(gradient, grad_bias.dtype.element_ty), mask=column < classes)


@kernel
def reduce_loss_kernel(
    sums,
    lam,
    lam_identical: tl.float64,
    lam_disparate: tl.float64,
    loss,
    components,
    count,
    PER_ROW: tl.constexpr,
    AVERAGE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    _reduce_loss(sums, lam, lam_identical, lam_disparate, loss, components, count, PER_ROW, AVERAGE, BLOCK_N)


def reduce_loss(sums: Tensor, lam: Lam, loss: Tensor, components: Tensor, reduction: int, tile: Tile) -> None:
    """Fills ``loss`` and ``components``."""
    constants = reduction_constants(reduction)
    launch(
        reduce_loss_kernel, (1,), tile, sums, *lam, loss, components, sums.shape[1], **constants, BLOCK_N=tile.block_n
    )


def reduction_constants(reduction: int) -> dict[str, bool]:
    return {"PER_ROW": reduction == NONE, "AVERAGE": reduction == MEAN}


def empty_loss(reduction: int, count: int, like: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Uninitialised (loss [] or [R], components [3])."""
    loss = like.new_empty((count,) if reduction == NONE else (), dtype=dtype)
    return loss, like.new_empty((3,), dtype=dtype)
