"""The six cross-entropies of eqs. (7) to (9) as operators of their own, for classifiers that are not linear."""

from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from indeed_ext.constants import DISPARATE_TERM, IDENTICAL_TERM, cdiv

from .arguments import Checked, require_float, require_matrix
from .bce import bce_term
from .config import configuration
from .convert import narrow, triton_dtype, widen
from .jit import kernel
from .launch import launch
from .reduce_loss import NONE, SUMS, empty_loss, reduce_loss, reduction_constants
from .rows import class_values, directed_row, load_labels, row_validity, term_weights


@kernel
def six_way_bce_kernel(
    logits,
    identical_logits,
    disparate_logits,
    positive_bits,
    valid_bits,
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
    row_factor = row_validity(row, count, valid)
    original = tl.zeros([BLOCK_M], tl.float64) * row_factor
    identical = original
    disparate = original
    for start in range(0, classes, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        active = column < classes
        mask = valid[:, None] & active[None, :]
        validity = tl.where(active[None, :], row_factor[:, None], 0.0)
        mine, validity = load_labels(positive_bits, valid_bits, source, column, mask, words, validity)
        pos = class_values(pos_weight, column, active, 1.0, ACC)
        o = widen(tl.load(logits + source[:, None] * classes + column[None, :], mask=mask, other=0.0), ACC)
        value, _derivative = bce_term(o, mine, validity, pos)
        original += tl.sum(value, axis=1).to(tl.float64)
        theirs, validity = load_labels(positive_bits, valid_bits, partner, column, mask, words, validity)
        at = row[:, None] * classes + column[None, :]
        if IDENTICAL:
            q = widen(tl.load(identical_logits + at, mask=mask, other=0.0), ACC)
            value, _derivative = bce_term(q, mine & theirs, validity, pos)
            identical += tl.sum(value, axis=1).to(tl.float64)
        if DISPARATE:
            d = widen(tl.load(disparate_logits + at, mask=mask, other=0.0), ACC)
            value, _derivative = bce_term(d, mine & (~theirs), validity, pos)
            disparate += tl.sum(value, axis=1).to(tl.float64)
    tl.store(sums + row, original, mask=row < count)
    tl.store(sums + count + row, identical, mask=row < count)
    tl.store(sums + 2 * count + row, disparate, mask=row < count)


@kernel
def six_way_bce_backward_kernel(
    grad_loss,
    logits,
    identical_logits,
    disparate_logits,
    positive_bits,
    valid_bits,
    pairs,
    pos_weight,
    lam,
    lam_identical: tl.float64,
    lam_disparate: tl.float64,
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
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PER_ROW: tl.constexpr,
    AVERAGE: tl.constexpr,
):
    """A tile of rows, of which the gradients of identical and disparate logits, and of samples, of which the others."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    active = column < classes
    lam_identical, lam_disparate = term_weights(lam, lam_identical, lam_disparate)
    scale = tl.full([1], 1.0, ACC)
    if not PER_ROW:
        scale = widen(tl.load(grad_loss + tl.arange(0, 1)), ACC)
        if AVERAGE:
            scale = scale / tl.maximum(count, 1)
    pos = class_values(pos_weight, column, active, 1.0, ACC)
    at = row[:, None] * classes + column[None, :]

    source, partner, valid = directed_row(pairs, row, count, batch, LIST)
    mask = valid[:, None] & active[None, :]
    written = (row < count)[:, None] & active[None, :]
    row_factor = row_validity(row, count, valid)
    validity = tl.where(active[None, :], row_factor[:, None], 0.0)
    mine, validity = load_labels(positive_bits, valid_bits, source, column, mask, words, validity)
    theirs, validity = load_labels(positive_bits, valid_bits, partner, column, mask, words, validity)
    weight = scale
    if PER_ROW:
        weight = widen(tl.load(grad_loss + row, mask=valid, other=0.0), ACC)
    identical = tl.zeros([BLOCK_M, BLOCK_N], ACC) * row_factor[:, None]
    disparate = identical
    if IDENTICAL:
        q = widen(tl.load(identical_logits + at, mask=mask, other=0.0), ACC)
        _value, derivative = bce_term(q, mine & theirs, validity, pos)
        identical += weight[:, None] * lam_identical.to(ACC) * derivative
    tl.store(grad_identical + at, narrow(identical, grad_identical.dtype.element_ty), mask=written)
    if DISPARATE:
        d = widen(tl.load(disparate_logits + at, mask=mask, other=0.0), ACC)
        _value, derivative = bce_term(d, mine & (~theirs), validity, pos)
        disparate += weight[:, None] * lam_disparate.to(ACC) * derivative
    tl.store(grad_disparate + at, narrow(disparate, grad_disparate.dtype.element_ty), mask=written)

    # The derivative of an original is the same in all rows of its sample; only their weights differ.
    total = tl.zeros([BLOCK_M], ACC)
    for start in range(0, count, BLOCK_N):
        other = start + tl.arange(0, BLOCK_N)
        sources, _partners, exists = directed_row(pairs, other, count, batch, LIST)
        shares = scale
        if PER_ROW:
            shares = widen(tl.load(grad_loss + other, mask=exists, other=0.0), ACC)
        shares = tl.where(exists, shares, float("nan"))
        own = sources[None, :] == row[:, None]
        total += tl.sum(tl.where(own, shares[None, :], 0.0), axis=1)
    mask = (row < batch)[:, None] & active[None, :]
    o = widen(tl.load(logits + at, mask=mask, other=0.0), ACC)
    mine, validity = load_labels(positive_bits, valid_bits, row, column, mask, words, tl.where(mask, 1.0, 0.0))
    _value, derivative = bce_term(o, mine, validity, pos)
    tl.store(grad_logits + at, narrow(total[:, None] * derivative, grad_logits.dtype.element_ty), mask=mask)


@dataclass
class _Arguments:
    """The arguments that forward and backward share, checked, and sizes and tiles that follow from them."""

    logits: Tensor
    identical_logits: Tensor
    disparate_logits: Tensor
    positive_bits: Tensor
    valid_bits: Tensor | None
    pairs: Tensor
    lam_identical: float
    lam_disparate: float
    lam: Tensor | None
    pos_weight: Tensor | None
    reduction: int
    term_mask: int

    def __post_init__(self) -> None:
        self.logits = require_matrix("logits", self.logits)
        self.batch, self.classes = self.logits.shape
        self.accumulation = require_float("logits", self.logits)
        self.checked = checked = Checked(self.logits.device)
        self.pairs = checked.pairs(self.pairs, self.batch)
        self.count = self.pairs.numel()
        shape = (self.count, self.classes)
        self.identical_logits = checked.tensor("identical_logits", self.identical_logits, None, *shape)
        self.disparate_logits = checked.tensor("disparate_logits", self.disparate_logits, None, *shape)
        self.positive_bits, self.valid_bits = checked.bits(
            self.positive_bits, self.valid_bits, self.batch, self.classes
        )
        self.weights = checked.lam(self.lam_identical, self.lam_disparate, self.lam)
        self.pos_weight = checked.optional("pos_weight", self.pos_weight, None, self.classes)
        self.tile = configuration(
            self.logits.device, self.count, self.classes, self.logits.dtype, self.accumulation
        ).row_local

    @property
    def three_logits(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.logits, self.identical_logits, self.disparate_logits

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return *self.three_logits, self.positive_bits, self.valid_bits, self.pairs, self.pos_weight

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.classes, self.positive_bits.shape[1], self.count, self.batch

    @property
    def constants(self) -> dict[str, object]:
        return {
            "LIST": self.pairs.dim() == 2,
            "IDENTICAL": bool(self.term_mask & IDENTICAL_TERM),
            "DISPARATE": bool(self.term_mask & DISPARATE_TERM),
            "ACC": triton_dtype(self.accumulation),
            "BLOCK_M": self.tile.block_m,
            "BLOCK_N": self.tile.block_n,
        }


def six_way_bce(*arguments: Any) -> tuple[Tensor, Tensor]:
    """logits [B, C], [R, C], [R, C] and the rest of :class:`_Arguments` -> loss [] or [R], components [3]."""
    call = _Arguments(*arguments)
    sums = torch.empty((SUMS, call.count), dtype=torch.float64, device=call.logits.device)
    grid = (cdiv(call.count, call.tile.block_m),)
    launch(six_way_bce_kernel, grid, call.tile, *call.tensors, sums, *call.sizes, **call.constants)
    loss, components = empty_loss(call.reduction, call.count, call.logits, call.accumulation)
    reduce_loss(sums, call.weights, loss, components, call.reduction, call.tile)
    return loss, components


def six_way_bce_backward(grad_loss: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of the three sets of logits."""
    call = _Arguments(*arguments)
    shape = (call.count,) if call.reduction == NONE else ()
    grad_loss = call.checked.tensor("grad_loss", grad_loss, None, *shape)
    grads = tuple(torch.empty_like(logits) for logits in call.three_logits)
    launch(
        six_way_bce_backward_kernel,
        (cdiv(max(call.count, call.batch), call.tile.block_m), cdiv(call.classes, call.tile.block_n)),
        call.tile,
        grad_loss,
        *call.tensors,
        *call.weights,
        *grads,
        *call.sizes,
        **call.constants,
        **reduction_constants(call.reduction),
    )
    return grads
