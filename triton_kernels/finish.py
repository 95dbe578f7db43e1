"""The end of a class block: the bias gradient of its classes and, after the last block, the loss; in a fixed order."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from indeed_ext.constants import REDUCTIONS

from .config import Tile
from .convert import narrow
from .device_function import device_function
from .launch import blocks, launch

MEAN = REDUCTIONS["mean"]
NONE = REDUCTIONS["none"]


@device_function
def finish_part(
    part,
    sums,
    lam,
    loss,
    components,
    bias_partials,
    grad_bias,
    count,
    bias_tiles,
    classes,
    first_class,
    LOSS: tl.constexpr,
    PER_ROW: tl.constexpr,
    AVERAGE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Part 0: the loss and its components, where LOSS; the others: the bias gradient of their classes."""
    if LOSS and part == 0:
        lam_identical = tl.load(lam)
        lam_disparate = tl.load(lam + 1)
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
        kind = components.dtype.element_ty
        tl.store(components, (tl.sum(originals) * scale).to(kind))
        tl.store(components + 1, (tl.sum(identicals) * scale).to(kind))
        tl.store(components + 2, (tl.sum(disparates) * scale).to(kind))
    elif grad_bias is not None:
        column = (part - (1 if LOSS else 0)) * BLOCK_N + tl.arange(0, BLOCK_N)
        gradient = tl.zeros([BLOCK_N], tl.float64)
        at = bias_partials + column
        for _ in range(0, bias_tiles):
            gradient += tl.load(at, mask=column < classes, other=0.0).to(tl.float64)
            at += classes
        tl.store(grad_bias + first_class + column, narrow(gradient, grad_bias.dtype.element_ty), mask=column < classes)


@triton.jit
def finish_kernel(
    sums,
    lam,
    loss,
    components,
    bias_partials,
    grad_bias,
    count,
    bias_tiles,
    classes,
    first_class,
    LOSS: tl.constexpr,
    PER_ROW: tl.constexpr,
    AVERAGE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """:func:`finish_part` by itself, where no product with the gradients by logits could take it along."""
    finish_part(
        tl.program_id(0),
        sums,
        lam,
        loss,
        components,
        bias_partials,
        grad_bias,
        count,
        bias_tiles,
        classes,
        first_class,
        LOSS,
        PER_ROW,
        AVERAGE,
        BLOCK_N,
    )


@dataclass(frozen=True)
class Finish:
    """The end of a block of classes: ``loss`` and ``components`` where it is the ``last`` one, and its part of
    ``grad_bias`` where there are ``bias_partials`` [row tiles, classes of the block]."""

    sums: Tensor
    lam: Tensor
    loss: Tensor
    components: Tensor
    reduction: int
    tile: Tile
    last: bool = True
    bias_partials: Tensor | None = None
    grad_bias: Tensor | None = None
    first_class: int = 0

    @property
    def bias_tiles(self) -> int:
        return 0 if self.bias_partials is None else self.bias_partials.shape[0]

    @property
    def programs(self) -> int:
        columns = 0 if self.bias_partials is None else self.bias_partials.shape[1]
        return int(self.last) + blocks(columns, self.tile.columns)

    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.sums, self.lam, self.loss, self.components, self.bias_partials, self.grad_bias

    def constants(self) -> dict[str, bool]:
        return {"LOSS": self.last, "PER_ROW": self.reduction == NONE, "AVERAGE": self.reduction == MEAN}

    def launch(self) -> None:
        """By itself."""
        classes = 0 if self.bias_partials is None else self.bias_partials.shape[1]
        launch(
            finish_kernel,
            (self.programs,),
            self.tile,
            *self.tensors(),
            self.sums.shape[1],
            self.bias_tiles,
            classes,
            self.first_class,
            **self.constants(),
            BLOCK_N=self.tile.columns,
        )


def empty_loss(reduction: int, count: int, like: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Uninitialised (loss [] or [R], components [3])."""
    loss = like.new_empty((count,) if reduction == NONE else (), dtype=dtype)
    return loss, like.new_empty((3,), dtype=dtype)
