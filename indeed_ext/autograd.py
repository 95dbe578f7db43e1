"""The gradients of the operators: one autograd Function each, whatever the backend and the device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from . import _extension
from .constants import GRAD_BIAS, GRAD_FEATURES, GRAD_WEIGHT, REDUCTIONS


class LossOptions(NamedTuple):
    """Options of the two losses, as the operators know them."""

    lam_identical: float
    lam_disparate: float
    reduction: int
    term_mask: int
    norm: int = 0
    eps: float = 0.0


def _first_order(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """With ``create_graph=True``, make differentiating the gradients an error, where it would be a silent zero."""

    @functools.wraps(backward)
    def wrapper(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return backward(ctx, *upstream)
        with torch.no_grad():
            gradients = backward(ctx, *upstream)
        refuse = torch._C._functions.DelayedError(
            "indeed_ext: second derivatives are not supported by the fused kernels; use backend='reference'", 1
        )
        return tuple(g if g is None else refuse(g.detach().requires_grad_()) for g in gradients)

    return wrapper


class IdenticalDisparate(torch.autograd.Function):
    """(identical, disparate) rows, eqs. (3) to (5); ``csrc/common/identical_map.h`` has the map and its backward."""

    @staticmethod
    def forward(ctx: Any, operators: Any, features: Tensor, pairs: Tensor, norm: int, eps: float):
        ctx.save_for_backward(features, pairs)
        ctx.operators, ctx.map = operators, (norm, eps)
        return operators.identical_disparate.default(features, pairs, norm, eps)

    @staticmethod
    @_first_order
    def backward(ctx: Any, grad_identical: Tensor, grad_disparate: Tensor):
        backward = ctx.operators.identical_disparate_backward.default
        return None, backward(grad_identical, grad_disparate, *ctx.saved_tensors, *ctx.map), None, None, None


class SixWayBCE(torch.autograd.Function):
    """The loss of three sets of logits."""

    @staticmethod
    def forward(
        ctx: Any,
        operators: Any,
        logits: Tensor,
        identical_logits: Tensor,
        disparate_logits: Tensor,
        positive_bits: Tensor,
        valid_bits: Tensor | None,
        pairs: Tensor,
        lam: Tensor | None,
        pos_weight: Tensor | None,
        options: LossOptions,
    ):
        tensors = (logits, identical_logits, disparate_logits, positive_bits, valid_bits, pairs, lam, pos_weight)
        ctx.save_for_backward(*tensors)
        ctx.operators, ctx.options = operators, options
        loss, _ = operators.six_way_bce.default(*_six_way_arguments(tensors, options))
        return loss

    @staticmethod
    @_first_order
    def backward(ctx: Any, grad_loss: Tensor):
        arguments = _six_way_arguments(ctx.saved_tensors, ctx.options)
        gradients = ctx.operators.six_way_bce_backward.default(grad_loss, *arguments)
        needed = ctx.needs_input_grad[1:4]
        return None, *(g if need else None for g, need in zip(gradients, needed, strict=True)), *(None,) * 6


def _six_way_arguments(tensors: tuple[Tensor | None, ...], options: LossOptions) -> tuple[Any, ...]:
    *rows, lam, pos_weight = tensors
    lams = (options.lam_identical, options.lam_disparate)
    return *rows, *lams, lam, pos_weight, options.reduction, options.term_mask


class FusedINDeeDLoss(torch.autograd.Function):
    """(loss, components); the gradients of a scalar loss are made in the forward and scaled in the backward."""

    @staticmethod
    def forward(
        ctx: Any,
        operators: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        positive_bits: Tensor,
        valid_bits: Tensor | None,
        pairs: Tensor,
        lam: Tensor | None,
        pos_weight: Tensor | None,
        options: LossOptions,
    ):
        tensors = (features, weight, bias, positive_bits, valid_bits, pairs, lam, pos_weight)
        _, of_features, of_weight, of_bias, *_ = ctx.needs_input_grad
        output_mask = GRAD_FEATURES * of_features + GRAD_WEIGHT * of_weight + GRAD_BIAS * of_bias
        ctx.call = operators, options, output_mask, features.dtype
        if options.reduction == REDUCTIONS["none"]:
            # The backward evaluates the rows again, with the upstream gradient as their weights.
            loss, components, *_ = _fused(operators, tensors, options, None, 0)
            ctx.save_for_backward(*tensors)
        else:
            loss, components, *gradients = _fused(operators, tensors, options, None, output_mask)
            ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(components)
        if not torch.compiler.is_compiling():  # which refuses it
            # Else zeros are made for the components in every backward, by a launch on a GPU.
            ctx.set_materialize_grads(False)
        return loss, components

    @staticmethod
    @_first_order
    def backward(ctx: Any, grad_loss: Tensor | None, _: Tensor | None):
        if grad_loss is None:
            return (None,) * 10
        operators, options, output_mask, dtype = ctx.call
        if options.reduction == REDUCTIONS["none"]:
            options = options._replace(reduction=REDUCTIONS["sum"])
            row_weight = grad_loss.contiguous()
            _, _, *gradients = _fused(operators, ctx.saved_tensors, options, row_weight, output_mask)
        else:
            gradients = _scaled(operators, ctx.saved_tensors, grad_loss)
        if dtype == torch.float16:
            gradients = [gradient.to(dtype) for gradient in gradients]
        needed = ctx.needs_input_grad[1:4]
        return None, *[g if need else None for g, need in zip(gradients, needed, strict=True)], *(None,) * 6


def fused_indeed_loss(
    operators: Any,
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positive_bits: Tensor,
    valid_bits: Tensor | None,
    pairs: Tensor,
    lam: Tensor | None,
    pos_weight: Tensor | None,
    options: LossOptions,
) -> tuple[Tensor, Tensor]:
    """(loss, components) by the operator, differentiable.

    Eager calls take :class:`FusedINDeeDLoss` as ``csrc/autograd`` has it, where that library is there. Tensors of a
    class of their own, and modes, see the operator called from Python.
    """
    tensors = (features, weight, bias, positive_bits, valid_bits, pairs, lam, pos_weight)
    if not torch.compiler.is_compiling() and not has_torch_function(tensors):
        node = _node(operators.name)
        if node is not None:
            o = options
            return node.apply(
                features, weight, bias, positive_bits, valid_bits, pairs, o.lam_identical, o.lam_disparate, lam,
                pos_weight, o.norm, o.eps, o.reduction, o.term_mask,
            )  # fmt: skip
    return FusedINDeeDLoss.apply(operators, *tensors, options)


@functools.cache
def _node(namespace: str) -> Any | None:
    """:class:`FusedINDeeDLoss` in C++ for the operators of a namespace."""
    return None if _extension.AUTOGRAD is None else _extension.AUTOGRAD.FusedINDeeDLoss(namespace)


def _fused(
    operators: Any, tensors: tuple[Any, ...], options: LossOptions, row_weight: Tensor | None, output_mask: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    *rows, lam, pos_weight = tensors
    o = options
    return operators.fused_indeed_loss.default(
        *rows, o.lam_identical, o.lam_disparate, lam, pos_weight, row_weight, o.norm, o.eps, o.reduction, o.term_mask,
        output_mask,
    )  # fmt: skip


def _scaled(operators: Any, saved: tuple[Tensor, ...], scale: Tensor) -> list[Tensor]:
    """Saved gradients times the upstream one; in place where this is their only use, and untouched where that is 1.

    A copy of the weight's gradient would be hundreds of megabytes where there are many classes.
    """
    if torch.compiler.is_compiling() or _is_batched(scale):
        return [gradient * scale for gradient in saved]
    if scale.is_cpu and scale.item() == 1:  # on a GPU a look would wait for the device
        return list(saved)
    if torch._C._autograd._get_current_graph_task_keep_graph():
        return [gradient * scale for gradient in saved]
    operators.scale_gradients.default(*saved, scale)
    return list(saved)


def _is_batched(tensor: Tensor) -> bool:
    """Whether it stands for several, as with ``is_grads_batched=True``."""
    return torch._C._functorch.is_legacy_batchedtensor(tensor) or torch._C._functorch.is_batchedtensor(tensor)
