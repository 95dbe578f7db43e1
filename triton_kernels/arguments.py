"""Checks of operator arguments, those of ``csrc/operators/arguments.h``: what a kernel relies on, never values."""

from __future__ import annotations

import torch
from torch import Tensor

from indeed_ext.constants import NARROW_WIDTH, WORD_BITS, accumulation_dtype, cdiv

Lam = tuple[Tensor | None, float, float]


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_matrix(name: str, tensor: Tensor) -> Tensor:
    """``tensor`` [*, *], made contiguous."""
    if tensor.dim() != 2:
        raise ValueError(f"{name}: expected 2 dimensions, got {tensor.dim()}")
    return tensor.contiguous()


def require_float(name: str, tensor: Tensor) -> torch.dtype:
    """The type of sums."""
    if tensor.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise ValueError(f"{name}: expected float32, float64, bfloat16 or float16, got {tensor.dtype}")
    return accumulation_dtype(tensor.dtype)


class Checked:
    """Tensors that must lie on one device, made contiguous as they are checked; an absent one stays absent."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def optional(self, name: str, tensor: Tensor | None, dtype: torch.dtype | None, *shape: int) -> Tensor | None:
        return None if tensor is None else self.tensor(name, tensor, dtype, *shape)

    def tensor(self, name: str, tensor: Tensor, dtype: torch.dtype | None, *shape: int) -> Tensor:
        """``dtype``: None for any."""
        # Messages are made only where they are wanted: to write them all takes longer than to launch a kernel.
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
        if dtype is not None and tensor.dtype != dtype:
            raise ValueError(f"{name}: expected {dtype}, got {tensor.dtype}")
        if tensor.device != self.device:
            raise ValueError(f"{name}: expected device {self.device}, got {tensor.device}")
        return tensor.contiguous()

    def pairs(self, pairs: Tensor, batch: int) -> Tensor:
        """[B] or [P, 2]; its elements are as many as there are directed rows."""
        return self.tensor("pairs", pairs, torch.int64, *((batch,) if pairs.dim() == 1 else (pairs.shape[0], 2)))

    def bits(self, positive: Tensor, valid: Tensor | None, batch: int, classes: int) -> tuple[Tensor, Tensor | None]:
        shape = (batch, cdiv(classes, WORD_BITS))
        return (
            self.tensor("labels", positive, torch.int32, *shape),
            self.optional("labels", valid, torch.int32, *shape),
        )

    def lam(self, identical: float, disparate: float, lam: Tensor | None) -> Lam:
        """Weights of the two terms as kernels take them, see :func:`~.rows.term_weights`."""
        return self.optional("lam", lam, torch.float64, 2), identical, disparate


def computation_dtype(accumulation: torch.dtype, width: int) -> torch.dtype:
    """The type rows of this width are computed in."""
    return torch.float64 if width < NARROW_WIDTH else accumulation
