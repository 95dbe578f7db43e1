"""Gradients that were made in the forward, times the upstream one, in place."""

import triton.language as tl
from torch import Tensor

from indeed_ext.constants import cdiv

from .arguments import require
from .config import Tile
from .convert import narrow, widen
from .jit import device_function, kernel
from .launch import launch

_TILE = Tile(1, 4096, warps=8)


@device_function
def _scale(gradient, at, count, factor):
    inside = at < count
    value = widen(tl.load(gradient + at, mask=inside, other=0.0), factor.dtype) * factor
    tl.store(gradient + at, narrow(value, gradient.dtype.element_ty), mask=inside)


@kernel
def scale_gradients_kernel(features, weight, bias, scale, feature_count, weight_count, bias_count, BLOCK: tl.constexpr):
    factor = tl.load(scale)
    if factor != 1:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        _scale(features, at, feature_count, factor)
        _scale(weight, at, weight_count, factor)
        _scale(bias, at, bias_count, factor)


def scale_gradients(features: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> None:
    """Contiguous gradients of one type, empty where they are not wanted, times ``scale`` [] of the type of sums."""
    gradients = (features, weight, bias)
    require(scale.numel() == 1, f"scale: expected one value, got {scale.numel()}")
    require(all(each.is_contiguous() for each in gradients), "gradients: expected contiguous tensors")
    counts = [each.numel() for each in gradients]
    grid = (cdiv(max(counts), _TILE.block_n),)
    launch(scale_gradients_kernel, grid, _TILE, *gradients, scale, *counts, BLOCK=_TILE.block_n)
