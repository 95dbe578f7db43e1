"""What torch.compile and autograd must know of the operators: result shapes and backward formulas.

Every compiled backend registers the same schemas (``csrc/operators.cpp``) in a dispatcher
namespace of its own; :func:`register_fakes` describes their results, and the autograd
functions below take the namespace to run in as their first argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from . import _extension
from .constants import GRAD_BIAS, GRAD_FEATURES, GRAD_WEIGHT, REDUCTIONS
from .reference import WORD_BITS, accumulation_dtype

NONE = REDUCTIONS["none"]
SUM = REDUCTIONS["sum"]


# --------------------------------------------------------------------------- fakes


def gradient_dtype(dtype: torch.dtype) -> torch.dtype:
    """How gradients computed in the forward wait for the backward.

    float16 gradients wait in float32: the loss scale that keeps them in range is part of
    the upstream gradient, which comes later.
    """
    return torch.float32 if dtype == torch.float16 else dtype


def _row_count(pairs: Tensor) -> Any:
    return pairs.shape[0] if pairs.dim() == 1 else 2 * pairs.shape[0]


def _pack_labels(labels: Tensor) -> tuple[Tensor, Tensor]:
    words = (labels.shape[1] + WORD_BITS - 1) // WORD_BITS
    present = labels.new_empty((labels.shape[0], words), dtype=torch.int32)
    return present, torch.empty_like(present)


def _mine_pairs(present: Tensor, seed: Tensor, strategy: int) -> Tensor:
    return present.new_empty((present.shape[0],), dtype=torch.int64)


def _identical_disparate(features: Tensor, pairs: Tensor, norm: int, eps: float) -> tuple[Tensor, Tensor]:
    identical = features.new_empty((_row_count(pairs), features.shape[1]))
    return identical, torch.empty_like(identical)


def _identical_disparate_backward(
    grad_identical: Tensor, grad_disparate: Tensor, features: Tensor, pairs: Tensor, norm: int, eps: float
) -> Tensor:
    return features.new_empty(features.shape)


def _loss_and_components(like: Tensor, pairs: Tensor, reduction: int) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(like.dtype)
    loss = like.new_empty((_row_count(pairs),) if reduction == NONE else (), dtype=dtype)
    return loss, like.new_empty((3,), dtype=dtype)


def _six_way_bce(
    logits: Tensor,
    identical_logits: Tensor,
    disparate_logits: Tensor,
    present: Tensor,
    known: Tensor | None,
    pairs: Tensor,
    lam: Tensor,
    pos_weight: Tensor | None,
    reduction: int,
    blocks: int,
) -> tuple[Tensor, Tensor]:
    return _loss_and_components(logits, pairs, reduction)


def _six_way_bce_backward(
    grad_loss: Tensor, logits: Tensor, identical_logits: Tensor, disparate_logits: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (logits, identical_logits, disparate_logits))


def _fused_indeed_loss(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    present: Tensor,
    known: Tensor | None,
    pairs: Tensor,
    lam: Tensor,
    pos_weight: Tensor | None,
    row_weight: Tensor | None,
    norm: int,
    eps: float,
    reduction: int,
    blocks: int,
    gradients: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype = gradient_dtype(features.dtype)
    shapes = (features.shape, weight.shape, weight.shape[:1])
    wanted = (gradients & bit for bit in (GRAD_FEATURES, GRAD_WEIGHT, GRAD_BIAS))
    grads = (features.new_empty(s if w else (0,), dtype=dtype) for s, w in zip(shapes, wanted, strict=True))
    return *_loss_and_components(features, pairs, reduction), *grads


def _indeed_loss(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    known: Tensor | None,
    packed: bool,
    pairs: Tensor | None,
    seed: Tensor | None,
    lam: Tensor,
    pos_weight: Tensor | None,
    strategy: int,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = labels[:, 0] if pairs is None else pairs
    return _fused_indeed_loss(features, weight, bias, labels, known, rows, lam, pos_weight, None, *rest)


_FAKES = {
    "pack_labels": _pack_labels,
    "mine_pairs": _mine_pairs,
    "identical_disparate": _identical_disparate,
    "identical_disparate_backward": _identical_disparate_backward,
    "six_way_bce": _six_way_bce,
    "six_way_bce_backward": _six_way_bce_backward,
    "fused_indeed_loss": _fused_indeed_loss,
    "indeed_loss": _indeed_loss,
}


def register_fakes(namespace: str) -> None:
    """Tell torch.compile the result shapes of every operator in ``torch.ops.<namespace>``."""
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"{namespace}::{name}", fake)


# ------------------------------------------------------------------------- autograd


def _refuse_second_derivatives(gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """With create_graph=True, let gradients pass on but make differentiating them an error, not a silent zero."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return gradients
    present = [gradient for gradient in gradients if gradient is not None]
    refuse = torch._C._functions.DelayedError(
        "indeed_ext: second derivatives are not supported by the fused kernels; use backend='reference'", len(present)
    )
    wrapped = refuse(*[gradient.detach().requires_grad_() for gradient in present])
    remaining = iter(wrapped if isinstance(wrapped, (tuple, list)) else (wrapped,))
    return tuple(None if gradient is None else next(remaining) for gradient in gradients)


#: Whether the backward under way keeps its graph; absent from torch releases that do not tell.
_keep_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)


def _graph_is_kept() -> bool:
    """Whether this backward may be run again, so that saved gradients must survive it."""
    return torch.compiler.is_compiling() or _keep_graph is None or _keep_graph()


def label_words(operators: Any, labels: Tensor, known: Tensor | None, packed: bool) -> tuple[Tensor, Tensor | None]:
    """(present, known) bits; known is None where no class can be unknown."""
    if packed:
        return labels, known
    present, known = operators.pack_labels(labels)
    return present, None if labels.dtype in (torch.bool, torch.uint8) else known


class IdenticalDisparate(torch.autograd.Function):
    """(identical, disparate) rows; the map and its backward are those of ``csrc/common/identical_map.h``."""

    @staticmethod
    def forward(ctx: FunctionCtx, operators: Any, features: Tensor, pairs: Tensor, norm: int, eps: float):
        ctx.save_for_backward(features, pairs)
        ctx.operators, ctx.norm, ctx.eps = operators, norm, eps
        return operators.identical_disparate(features, pairs, norm, eps)

    @staticmethod
    def backward(ctx: Any, grad_identical: Tensor, grad_disparate: Tensor):
        features, pairs = ctx.saved_tensors
        with torch.no_grad():
            gradient = ctx.operators.identical_disparate_backward(
                grad_identical, grad_disparate, features, pairs, ctx.norm, ctx.eps
            )
        return None, *_refuse_second_derivatives((gradient,)), None, None, None


class SixWayBCE(torch.autograd.Function):
    """(loss, components) from three sets of logits."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, operators: Any, logits: Tensor, identical_logits: Tensor, disparate_logits: Tensor, *rest: Any
    ):
        present, known, pairs, lam, pos_weight, reduction, blocks = rest
        ctx.save_for_backward(logits, identical_logits, disparate_logits, present, known, pairs, lam, pos_weight)
        ctx.operators, ctx.settings = operators, (reduction, blocks)
        loss, components = operators.six_way_bce(logits, identical_logits, disparate_logits, *rest)
        ctx.mark_non_differentiable(components)
        return loss, components

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor):
        with torch.no_grad():
            gradients = ctx.operators.six_way_bce_backward(grad_loss, *ctx.saved_tensors, *ctx.settings)
        needed = ctx.needs_input_grad[1:4]
        gradients = tuple(g if need else None for g, need in zip(gradients, needed, strict=True))
        return None, *_refuse_second_derivatives(gradients), *(None,) * 7


class FusedINDeeDLoss(torch.autograd.Function):
    """(loss, components); the gradients of a scalar loss are made in the forward and scaled in the backward."""

    @staticmethod
    def forward(ctx: FunctionCtx, operators: Any, features: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any):
        _, of_features, of_weight, of_bias, *_ = ctx.needs_input_grad
        wanted = GRAD_FEATURES * of_features + GRAD_WEIGHT * of_weight + GRAD_BIAS * of_bias
        *_, reduction, blocks = rest
        ctx.operators, ctx.wanted, ctx.dtype, ctx.settings = operators, wanted, features.dtype, None
        if reduction == NONE:
            # The backward evaluates the rows again, with the upstream gradient as their weights.
            labels, known, packed, pairs, seed, lam, pos_weight, strategy, norm, eps, *_ = rest
            present, known = label_words(operators, labels, known, packed)
            if pairs is None:
                pairs = operators.mine_pairs(present, seed, strategy)
            rows = (features, weight, bias, present, known, pairs, lam, pos_weight)
            loss, components, *_ = operators.fused_indeed_loss(*rows, None, norm, eps, reduction, blocks, 0)
            ctx.save_for_backward(*rows)
            ctx.settings = (norm, eps, SUM, blocks)
        else:
            loss, components, *gradients = operators.indeed_loss.default(features, weight, bias, *rest, wanted)
            ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(components)
        ctx.set_materialize_grads(False)
        return loss, components

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, _: None):
        if grad_loss is None:
            return (None,) * 16
        if ctx.settings is None:
            gradients = _scaled(ctx.saved_tensors, grad_loss, ctx.dtype)
        else:
            with torch.no_grad():
                _, _, *gradients = ctx.operators.fused_indeed_loss(
                    *ctx.saved_tensors, grad_loss.contiguous(), *ctx.settings, ctx.wanted
                )
            gradients = [gradient.to(ctx.dtype) for gradient in gradients]
        features, weight, bias = _refuse_second_derivatives(
            [gradient if ctx.wanted & bit else None for gradient, bit in zip(gradients, _GRADIENTS, strict=True)]
        )
        return None, features, weight, bias, *_NO_MORE_GRADIENTS


#: The operator of csrc/autograd, which is FusedINDeeDLoss for eager calls of torch.ops.indeed_ext; None if not loaded.
native_node: Any | None = None
#: The same for calls that hold nothing out of the ordinary, from arguments as users give them; None if not loaded.
plain_loss: Any | None = None
if _extension.AUTOGRAD is not None:
    native_node = torch.ops.indeed_ext_autograd.indeed_loss.default
    plain_loss = _extension.AUTOGRAD.plain_loss


def native_node_for(operators: Any, reduction: int) -> Any | None:
    """:data:`native_node` where it serves such a call."""
    serves = operators is torch.ops.indeed_ext and reduction != NONE and not torch.compiler.is_compiling()
    return native_node if serves else None


_GRADIENTS = (GRAD_FEATURES, GRAD_WEIGHT, GRAD_BIAS)
_NO_MORE_GRADIENTS = (None,) * 12


def _scaled(saved: tuple[Tensor, ...], scale: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Saved gradients times the upstream one: in place where this is their only use, untouched where it is 1."""
    if _graph_is_kept():
        with torch.no_grad():
            saved = tuple(gradient * scale for gradient in saved)
    elif not scale.is_cpu or scale.item() != 1:
        with torch.no_grad():
            for gradient in saved:
                gradient.mul_(scale)
    return [gradient if gradient.dtype == dtype else gradient.to(dtype) for gradient in saved]
