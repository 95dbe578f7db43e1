"""Checks of operator arguments, those of ``csrc/arguments.h``: shapes a kernel relies on, never values."""

from __future__ import annotations

import torch
from torch import Tensor

from indeed_ext.reference import WORD_BITS, accumulation_dtype

#: Rows narrower than this are computed in float64: the gradient through their map cancels almost wholly.
NARROW_WIDTH = 16


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_matrix(name: str, tensor: Tensor) -> None:
    require(tensor.dim() == 2, f"{name}: expected 2 dimensions, got {tensor.dim()}")


def require_shape(name: str, tensor: Tensor | None, *shape: int) -> None:
    if tensor is not None:
        require(tuple(tensor.shape) == shape, f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")


def require_dtype(name: str, tensor: Tensor | None, dtype: torch.dtype) -> None:
    if tensor is not None:
        require(tensor.dtype == dtype, f"{name}: expected {dtype}, got {tensor.dtype}")


def require_device(like: Tensor, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        require(
            tensor is None or tensor.device == like.device,
            f"{name}: expected device {like.device}, got {None if tensor is None else tensor.device}",
        )


def require_float(name: str, tensor: Tensor) -> torch.dtype:
    """The type sums are held in."""
    allowed = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    require(tensor.dtype in allowed, f"{name}: expected float32, float64, bfloat16 or float16, got {tensor.dtype}")
    return accumulation_dtype(tensor.dtype)


def require_label_words(present: Tensor, known: Tensor | None, batch: int, classes: int) -> None:
    words = -(-classes // WORD_BITS)
    for tensor in (present, known):
        require_dtype("labels", tensor, torch.int32)
        require_shape("labels", tensor, batch, words)


def require_loss_weights(lam: Tensor) -> None:
    require_dtype("lam", lam, torch.float64)
    require_shape("lam", lam, 2)


def row_count(pairs: Tensor, batch: int) -> int:
    """The directed rows that ``pairs`` stands for."""
    require_dtype("pairs", pairs, torch.int64)
    require_shape("pairs", pairs, *((batch,) if pairs.dim() == 1 else (pairs.shape[0], 2)))
    return pairs.numel()


def computation_dtype(accumulation: torch.dtype, width: int) -> torch.dtype:
    """The type rows of this width are computed in."""
    return torch.float64 if width < NARROW_WIDTH else accumulation


def dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()
