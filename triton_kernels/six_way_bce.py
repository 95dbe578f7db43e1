"""The six cross-entropies of eqs. (7) to (9) as operators of their own, for classifiers that are not linear."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indeed_ext.constants import DISPARATE_BLOCK, IDENTICAL_BLOCK

from .arguments import (
    dense,
    require,
    require_device,
    require_float,
    require_label_words,
    require_loss_weights,
    require_matrix,
    require_shape,
    row_count,
)
from .bce import bce_term
from .config import Tile, configuration
from .convert import narrow, widen
from .finish import MEAN, NONE, Finish, empty_loss
from .identical_map import SUMS, triton_dtype
from .launch import blocks, launch
from .rows import directed_row, label_bits


@triton.jit
def six_way_kernel(
    logits,
    identical_logits,
    disparate_logits,
    present,
    known,
    pairs,
    pos_weight,
    sums,
    classes,
    words,
    count,
    batch,
    LIST: tl.constexpr,
    IDENTICAL: tl.constexpr,
    DISPARATE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Cross-entropies of every row, summed over the classes."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    source, partner, valid = directed_row(pairs, row, count, batch, LIST)
    original = tl.zeros([BLOCK_M], tl.float64)
    identical = tl.zeros([BLOCK_M], tl.float64)
    disparate = tl.zeros([BLOCK_M], tl.float64)
    for start in range(0, classes, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        mask = valid[:, None] & (column < classes)[None, :]
        mine = label_bits(present, source, column, mask, words)
        theirs = label_bits(present, partner, column, mask, words)
        single, both = mask, mask
        if known is not None:
            single = mask & label_bits(known, source, column, mask, words)
            both = single & label_bits(known, partner, column, mask, words)
        weight = tl.full([1, BLOCK_N], 1.0, ACC)
        if pos_weight is not None:
            weight = widen(tl.load(pos_weight + column, mask=column < classes, other=1.0), ACC)[None, :]
        o = widen(tl.load(logits + source[:, None] * classes + column[None, :], mask=mask, other=0.0), ACC)
        value, _slope = bce_term(o, mine, single, weight)
        original += tl.sum(value, axis=1).to(tl.float64)
        at = row[:, None] * classes + column[None, :]
        if IDENTICAL:
            q = widen(tl.load(identical_logits + at, mask=mask, other=0.0), ACC)
            value, _slope = bce_term(q, mine & theirs, both, weight)
            identical += tl.sum(value, axis=1).to(tl.float64)
        if DISPARATE:
            d = widen(tl.load(disparate_logits + at, mask=mask, other=0.0), ACC)
            value, _slope = bce_term(d, mine & (~theirs), both, weight)
            disparate += tl.sum(value, axis=1).to(tl.float64)
    # A row that does not exist makes the loss not a number.
    missing = float("nan")
    tl.store(sums + row, tl.where(valid, original, missing), mask=row < count)
    tl.store(sums + count + row, tl.where(valid, identical, missing), mask=row < count)
    tl.store(sums + 2 * count + row, tl.where(valid, disparate, missing), mask=row < count)


@triton.jit
def six_way_backward_kernel(
    grad_loss,
    logits,
    identical_logits,
    disparate_logits,
    present,
    known,
    pairs,
    lam,
    pos_weight,
    grad_logits,
    grad_identical,
    grad_disparate,
    classes,
    words,
    count,
    batch,
    LIST: tl.constexpr,
    IDENTICAL: tl.constexpr,
    DISPARATE: tl.constexpr,
    PER_ROW: tl.constexpr,
    AVERAGE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """A tile of rows, of which the gradients of identical and disparate logits, and of samples, of which the others."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    scale = tl.full([1], 1.0, ACC)
    if not PER_ROW:
        scale = widen(tl.load(grad_loss + tl.arange(0, 1)), ACC)
        if AVERAGE:
            scale = scale / tl.maximum(count, 1)
    pos = tl.full([1, BLOCK_N], 1.0, ACC)
    if pos_weight is not None:
        pos = widen(tl.load(pos_weight + column, mask=column < classes, other=1.0), ACC)[None, :]
    at = row[:, None] * classes + column[None, :]

    source, partner, valid = directed_row(pairs, row, count, batch, LIST)
    mask = valid[:, None] & (column < classes)[None, :]
    written = (row < count)[:, None] & (column < classes)[None, :]
    mine = label_bits(present, source, column, mask, words)
    theirs = label_bits(present, partner, column, mask, words)
    both = mask
    if known is not None:
        both = mask & label_bits(known, source, column, mask, words)
        both = both & label_bits(known, partner, column, mask, words)
    weight = scale
    if PER_ROW:
        weight = widen(tl.load(grad_loss + row, mask=valid, other=0.0), ACC)
    identical = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    if IDENTICAL:
        q = widen(tl.load(identical_logits + at, mask=mask, other=0.0), ACC)
        _value, slope = bce_term(q, mine & theirs, both, pos)
        identical += weight[:, None] * widen(tl.load(lam), ACC) * slope
    tl.store(grad_identical + at, narrow(identical, grad_identical.dtype.element_ty), mask=written)
    disparate = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    if DISPARATE:
        d = widen(tl.load(disparate_logits + at, mask=mask, other=0.0), ACC)
        _value, slope = bce_term(d, mine & (~theirs), both, pos)
        disparate += weight[:, None] * widen(tl.load(lam + 1), ACC) * slope
    tl.store(grad_disparate + at, narrow(disparate, grad_disparate.dtype.element_ty), mask=written)

    # The slope of an original is the same in all rows of its sample; only their weights differ.
    total = tl.zeros([BLOCK_M], ACC)
    for start in range(0, count, BLOCK_N):
        other = start + tl.arange(0, BLOCK_N)
        sources, _partners, exists = directed_row(pairs, other, count, batch, LIST)
        shares = scale
        if PER_ROW:
            shares = widen(tl.load(grad_loss + other, mask=exists, other=0.0), ACC)
        own = exists[None, :] & (sources[None, :] == row[:, None])
        total += tl.sum(tl.where(own, shares[None, :], 0.0), axis=1)
    mask = (row < batch)[:, None] & (column < classes)[None, :]
    single = mask
    if known is not None:
        single = mask & label_bits(known, row, column, mask, words)
    o = widen(tl.load(logits + at, mask=mask, other=0.0), ACC)
    _value, slope = bce_term(o, label_bits(present, row, column, mask, words), single, pos)
    tl.store(grad_logits + at, narrow(total[:, None] * slope, grad_logits.dtype.element_ty), mask=mask)


def _checked(
    logits: Tensor,
    identical_logits: Tensor,
    disparate_logits: Tensor,
    present: Tensor,
    known: Tensor | None,
    pairs: Tensor,
    lam: Tensor,
    pos_weight: Tensor | None,
) -> tuple[int, torch.dtype, tuple[Tensor | None, ...]]:
    """(R, accumulation type, the arguments without strides)."""
    require_matrix("logits", logits)
    batch, classes = logits.shape
    accumulation = require_float("logits", logits)
    count = row_count(pairs, batch)
    require_shape("identical_logits", identical_logits, count, classes)
    require_shape("disparate_logits", disparate_logits, count, classes)
    require_label_words(present, known, batch, classes)
    require_shape("pos_weight", pos_weight, classes)
    require_loss_weights(lam)
    require_device(
        logits,
        identical_logits=identical_logits,
        disparate_logits=disparate_logits,
        labels=present,
        known=known,
        pairs=pairs,
        lam=lam,
        pos_weight=pos_weight,
    )
    tensors = (logits, identical_logits, disparate_logits, present, known, pairs, lam, pos_weight)
    return count, accumulation, tuple(dense(tensor) for tensor in tensors)


def six_way_bce(
    logits: Tensor,
    identical_logits: Tensor,
    disparate_logits: Tensor,
    present: Tensor,
    known: Tensor | None,
    pairs: Tensor,
    lam: Tensor,
    pos_weight: Tensor | None,
    reduction: int,
    blocks_taken: int,
) -> tuple[Tensor, Tensor]:
    """logits [B, C], [R, C], [R, C] -> loss [] or [R], components [3]."""
    count, accumulation, tensors = _checked(
        logits, identical_logits, disparate_logits, present, known, pairs, lam, pos_weight
    )
    batch, classes = logits.shape
    *rows, pairs, lam, pos_weight = tensors
    tile = configuration(count, classes, logits.dtype, accumulation).row_local
    sums = torch.empty((SUMS, count), dtype=torch.float64, device=logits.device)
    launch(
        six_way_kernel,
        (blocks(count, tile.rows),),
        tile,
        *rows,
        pairs,
        pos_weight,
        sums,
        classes,
        present.shape[1],
        count,
        batch,
        **_constants(pairs, blocks_taken, accumulation, tile),
    )
    loss, components = empty_loss(reduction, count, logits, accumulation)
    Finish(sums, lam, loss, components, reduction, tile).launch()
    return loss, components


def six_way_bce_backward(
    grad_loss: Tensor,
    logits: Tensor,
    identical_logits: Tensor,
    disparate_logits: Tensor,
    present: Tensor,
    known: Tensor | None,
    pairs: Tensor,
    lam: Tensor,
    pos_weight: Tensor | None,
    reduction: int,
    blocks_taken: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the three sets of logits."""
    count, accumulation, tensors = _checked(
        logits, identical_logits, disparate_logits, present, known, pairs, lam, pos_weight
    )
    per_row = reduction == NONE
    require(grad_loss.numel() == (count if per_row else 1), "grad_loss: unexpected size")
    require_device(logits, grad_loss=grad_loss)
    batch, classes = logits.shape
    gradients = tuple(tensor.new_empty(tensor.shape) for tensor in tensors[:3])
    tile = configuration(count, classes, logits.dtype, accumulation).row_local
    launch(
        six_way_backward_kernel,
        (blocks(max(count, batch), tile.rows), blocks(classes, tile.columns)),
        tile,
        dense(grad_loss),
        *tensors,
        *gradients,
        classes,
        present.shape[1],
        count,
        batch,
        PER_ROW=per_row,
        AVERAGE=reduction == MEAN,
        **_constants(tensors[5], blocks_taken, accumulation, tile),
    )
    return gradients


def _constants(pairs: Tensor, blocks_taken: int, accumulation: torch.dtype, tile: Tile) -> dict[str, object]:
    return {
        "LIST": pairs.dim() == 2,
        "IDENTICAL": bool(blocks_taken & IDENTICAL_BLOCK),
        "DISPARATE": bool(blocks_taken & DISPARATE_BLOCK),
        "ACC": triton_dtype(accumulation),
        "BLOCK_M": tile.rows,
        "BLOCK_N": tile.columns,
    }
