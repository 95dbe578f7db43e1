"""The end of a class block: the bias gradient of its classes and, after the last block, the loss; in a fixed order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indeed_ext.constants import REDUCTIONS

from .config import Tile
from .convert import narrow
from .launch import blocks, launch

MEAN = REDUCTIONS["mean"]
NONE = REDUCTIONS["none"]


@triton.jit
def finish_kernel(
    sums,
    lam,
    loss,
    components,
    bias_partials,
    grad_bias,
    count,
    tiles,
    row_tiles,
    classes,
    first_class,
    LOSS: tl.constexpr,
    PER_ROW: tl.constexpr,
    AVERAGE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
):
    """Program 0: the loss and its components, where LOSS; the others: the bias gradient of their classes."""
    if LOSS and tl.program_id(0) == 0:
        lam_identical = tl.load(lam)
        lam_disparate = tl.load(lam + 1)
        totals = tl.zeros([BLOCK_ROWS], tl.float64)
        originals = tl.zeros([BLOCK_ROWS], tl.float64)
        identicals = tl.zeros([BLOCK_ROWS], tl.float64)
        disparates = tl.zeros([BLOCK_ROWS], tl.float64)
        for start in range(0, count, BLOCK_ROWS):
            row = start + tl.arange(0, BLOCK_ROWS)
            inside = row < count
            original = tl.zeros([BLOCK_ROWS], tl.float64)
            identical = tl.zeros([BLOCK_ROWS], tl.float64)
            disparate = tl.zeros([BLOCK_ROWS], tl.float64)
            at = sums + row
            for _ in range(0, tiles):
                original += tl.load(at, mask=inside, other=0.0)
                identical += tl.load(at + count, mask=inside, other=0.0)
                disparate += tl.load(at + 2 * count, mask=inside, other=0.0)
                at += 5 * count
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
        kind = components.dtype.element_ty
        tl.store(components, (tl.sum(originals) * scale).to(kind))
        tl.store(components + 1, (tl.sum(identicals) * scale).to(kind))
        tl.store(components + 2, (tl.sum(disparates) * scale).to(kind))
    elif grad_bias is not None:
        first = tl.program_id(0) - (1 if LOSS else 0)
        column = first * BLOCK_CLASSES + tl.arange(0, BLOCK_CLASSES)
        gradient = tl.zeros([BLOCK_CLASSES], tl.float64)
        at = bias_partials + column
        for _ in range(0, row_tiles):
            gradient += tl.load(at, mask=column < classes, other=0.0).to(tl.float64)
            at += classes
        tl.store(grad_bias + first_class + column, narrow(gradient, grad_bias.dtype.element_ty), mask=column < classes)


def empty_loss(reduction: int, count: int, like: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Uninitialised (loss [] or [R], components [3])."""
    loss = like.new_empty((count,) if reduction == NONE else (), dtype=dtype)
    return loss, like.new_empty((3,), dtype=dtype)


def finish(
    sums: Tensor,
    lam: Tensor,
    loss: Tensor,
    components: Tensor,
    reduction: int,
    tile: Tile,
    *,
    last: bool = True,
    bias_partials: Tensor | None = None,
    grad_bias: Tensor | None = None,
    first_class: int = 0,
) -> None:
    """Fills ``loss`` and ``components`` where this is the ``last`` block, and its part of ``grad_bias`` if given."""
    count = sums.shape[2]
    row_tiles, classes = (0, 0) if bias_partials is None else bias_partials.shape
    programs = int(last) + (0 if grad_bias is None else blocks(classes, tile.columns))
    launch(
        finish_kernel,
        (programs,),
        tile,
        sums,
        lam,
        loss,
        components,
        bias_partials,
        grad_bias,
        count,
        sums.shape[0],
        row_tiles,
        classes,
        first_class,
        LOSS=last,
        PER_ROW=reduction == NONE,
        AVERAGE=reduction == MEAN,
        BLOCK_ROWS=tile.columns,
        BLOCK_CLASSES=tile.columns,
    )
