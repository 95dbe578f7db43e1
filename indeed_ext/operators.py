"""What torch must know of the operators beside their kernels: schemas and result shapes.

Every compiled backend implements :data:`.schemas.SCHEMAS` in a dispatcher namespace of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .constants import (
    GRAD_BIAS,
    GRAD_FEATURES,
    GRAD_WEIGHT,
    REDUCTIONS,
    WORD_BITS,
    accumulation_dtype,
    cdiv,
    saved_grad_dtype,
)
from .schemas import SCHEMAS

#: A library takes its operators along when it is collected.
_libraries: list[torch.library.Library] = []


def define(namespace: str) -> torch.library.Library:
    """Define the operators in ``torch.ops.<namespace>``, with their result shapes."""
    library = torch.library.Library(namespace, "FRAGMENT")
    _libraries.append(library)
    for name, schema in SCHEMAS.items():
        library.define(name + schema)
        torch.library.register_fake(f"{namespace}::{name}", _FAKES[name], lib=library)
    return library


def row_count(pairs: Tensor) -> Any:
    """The directed rows that pairs stand for."""
    return pairs.shape[0] if pairs.dim() == 1 else 2 * pairs.shape[0]


# --------------------------------------------------------------------------- result shapes


def _pack_labels(labels: Tensor) -> tuple[Tensor, Tensor]:
    bits = labels.new_empty((labels.shape[0], cdiv(labels.shape[1], WORD_BITS)), dtype=torch.int32)
    return bits, torch.empty_like(bits)


def _mine_pairs(positive_bits: Tensor, *rest: Any) -> Tensor:
    return positive_bits.new_empty((positive_bits.shape[0],), dtype=torch.int64)


def _identical_disparate(features: Tensor, pairs: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    identical = features.new_empty((row_count(pairs), features.shape[1]))
    return identical, torch.empty_like(identical)


def _identical_disparate_backward(
    grad_identical: Tensor, grad_disparate: Tensor, features: Tensor, *rest: Any
) -> Tensor:
    return features.new_empty(features.shape)


def _loss_and_components(like: Tensor, pairs: Tensor, reduction: int) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(like.dtype)
    loss = like.new_empty((row_count(pairs),) if reduction == REDUCTIONS["none"] else (), dtype=dtype)
    return loss, like.new_empty((3,), dtype=dtype)


def _six_way_bce(logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    pairs, reduction = rest[4], rest[9]
    return _loss_and_components(logits, pairs, reduction)


def _six_way_bce_backward(grad_loss: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(logits.new_empty(logits.shape) for logits in rest[:3])


def _fused_indeed_loss(features: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    pairs, reduction, output_mask = rest[2], rest[-3], rest[-1]
    dtype = saved_grad_dtype(features.dtype)
    outputs = ((features.shape, GRAD_FEATURES), (weight.shape, GRAD_WEIGHT), (weight.shape[:1], GRAD_BIAS))
    grads = (features.new_empty(shape if output_mask & bit else (0,), dtype=dtype) for shape, bit in outputs)
    return *_loss_and_components(features, pairs, reduction), *grads


def _scale_gradients(*gradients_and_scale: Tensor) -> None:
    """Nothing is made: gradients are scaled in place."""


_FAKES: dict[str, Callable[..., Any]] = {
    "pack_labels": _pack_labels,
    "mine_pairs": _mine_pairs,
    "identical_disparate": _identical_disparate,
    "identical_disparate_backward": _identical_disparate_backward,
    "six_way_bce": _six_way_bce,
    "six_way_bce_backward": _six_way_bce_backward,
    "fused_indeed_loss": _fused_indeed_loss,
    "scale_gradients": _scale_gradients,
}
