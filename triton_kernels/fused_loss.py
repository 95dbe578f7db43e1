"""The whole loss, with gradients made in the forward, class block by class block; see ``csrc/fused_loss.h``.

statistics of the maps
per block:  logits -> cross-entropies -> G_O, G_I     one launch, no logits in memory
            bias gradient and, after the last block, the loss
            [V; T] += [G_O; G_I] W,   dW <- G_O^T f + G_I^T I     one launch
df <- V + what T sends through the maps
"""

from __future__ import annotations

import torch
from torch import Tensor

from indeed_ext.constants import (
    DISPARATE_BLOCK,
    GRAD_BIAS,
    GRAD_FEATURES,
    GRAD_WEIGHT,
    IDENTICAL_BLOCK,
    NORMS,
)
from indeed_ext.operators import gradient_dtype

from .arguments import (
    computation_dtype,
    dense,
    require,
    require_device,
    require_dtype,
    require_float,
    require_label_words,
    require_loss_weights,
    require_matrix,
    require_shape,
    row_count,
)
from .config import configuration, device_kind
from .finish import MEAN, empty_loss, finish
from .identical_map import SUMS, map_backward, row_statistics, triton_dtype
from .launch import blocks as blocks_of
from .launch import launch
from .mine_pairs import mine_pairs
from .pack_labels import pack_labels
from .products import gradients_kernel, logits_kernel

Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

#: Elements that the gradients by logits of a class block may have.
BLOCK_ELEMENTS = 1 << 23
_WORD_BITS = 32


def _class_block(count: int, classes: int, most: int) -> int:
    """Classes of a block: whole words of labels, and as many as ``most`` elements allow."""
    return min(classes, max(most // max(2 * count, 1) // _WORD_BITS * _WORD_BITS, _WORD_BITS))


def product_precision(dtype: torch.dtype) -> str:
    """How matrix instructions treat operands, which are float32 for all but float64.

    Half types are exact as a sum of two bfloat16, whose range holds the smallest gradient, and so are multiplied by
    three bfloat16 products; formed features and gradients then keep 16 bits. Rounding them to 8, or to float16's
    range, would make the loss less accurate than plain PyTorch's.
    """
    device = device_kind()
    if device == "interpreter":
        return "ieee"
    if dtype in (torch.bfloat16, torch.float16):
        return "bf16x3"
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 and device == "cuda" else "ieee"


def fused_indeed_loss(
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
) -> Results:
    """Loss, components and the gradients asked for (empty otherwise) of features, weight and bias."""
    require_matrix("features", features)
    require_matrix("weight", weight)
    (batch, width), classes = features.shape, weight.shape[0]
    require_shape("weight", weight, classes, width)
    loss_dtype = require_float("features", features)
    require_dtype("weight", weight, features.dtype)
    require_dtype("bias", bias, features.dtype)
    require_shape("bias", bias, classes)
    require_shape("pos_weight", pos_weight, classes)
    require_label_words(present, known, batch, classes)
    require_loss_weights(lam)
    require_device(
        features,
        weight=weight,
        bias=bias,
        labels=present,
        known=known,
        pairs=pairs,
        lam=lam,
        pos_weight=pos_weight,
        row_weight=row_weight,
    )
    count = row_count(pairs, batch)
    require_shape("row_weight", row_weight, count)
    require(bias is not None or not gradients & GRAD_BIAS, "gradients: there is no bias to differentiate")
    features, weight, bias, present, known, pairs, lam, pos_weight, row_weight = map(
        dense, (features, weight, bias, present, known, pairs, lam, pos_weight, row_weight)
    )

    accumulation = computation_dtype(loss_dtype, width)
    minmax = norm == NORMS["minmax"]
    tiles = configuration(count, classes, accumulation)
    block = _class_block(count, classes, BLOCK_ELEMENTS)
    shape = {
        "LIST": pairs.dim() == 2,
        "ACC": triton_dtype(accumulation),
        "PRECISION": product_precision(features.dtype),
    }

    def scratch(*sizes: int, dtype: torch.dtype = accumulation) -> Tensor:
        return torch.empty(sizes, dtype=dtype, device=features.device)

    def gradient(like: Tensor, bit: int) -> Tensor:
        # Without classes or rows no kernel fills it.
        sizes = like.shape if gradients & bit else (0,)
        make = torch.zeros if classes == 0 else torch.empty
        return make(sizes, dtype=gradient_dtype(features.dtype), device=features.device)

    grad_features, grad_weight = gradient(features, GRAD_FEATURES), gradient(weight, GRAD_WEIGHT)
    grad_bias = gradient(weight[:, 0] if width else weight.new_empty((classes,)), GRAD_BIAS)
    loss, components = empty_loss(reduction, count, features, loss_dtype)
    row_tiles, class_tiles = blocks_of(count, tiles.logits.rows), blocks_of(block, tiles.logits.columns)
    sums = scratch(max(class_tiles, 1), SUMS, count, dtype=torch.float64)
    if classes == 0:
        sums.zero_()
        finish(sums, lam, loss, components, reduction, tiles.row_local)
        return loss, components, grad_features, grad_weight, grad_bias

    statistics = row_statistics(features, pairs, count, minmax, eps, accumulation, tiles.row_local)
    grad_original = grad_identical = direct = map_gradient = None
    if gradients:
        grad_original, grad_identical = scratch(count, block), scratch(count, block)
    if gradients & GRAD_FEATURES:
        direct, map_gradient = scratch(count, width), scratch(count, width)

    for first in range(0, classes, block):
        taken, last = min(block, classes - first), first + block >= classes
        weight_block = weight[first : first + taken]
        bias_partials = scratch(row_tiles, taken) if gradients & GRAD_BIAS else None
        launch(
            logits_kernel,
            (row_tiles, class_tiles),
            tiles.logits,
            features,
            weight_block,
            bias,
            present,
            known,
            pairs,
            lam,
            pos_weight,
            row_weight,
            statistics,
            grad_original,
            grad_identical,
            bias_partials,
            sums,
            width,
            taken,
            first,
            present.shape[1],
            count,
            batch,
            FIRST=first == 0,
            IDENTICAL=bool(blocks & IDENTICAL_BLOCK),
            DISPARATE=bool(blocks & DISPARATE_BLOCK),
            AVERAGE=reduction == MEAN,
            BLOCK_M=tiles.logits.rows,
            BLOCK_N=tiles.logits.columns,
            BLOCK_K=tiles.logits.step,
            **shape,
        )
        if last or bias_partials is not None:
            finish(
                sums,
                lam,
                loss,
                components,
                reduction,
                tiles.row_local,
                last=last,
                bias_partials=bias_partials,
                grad_bias=None if bias_partials is None else grad_bias,
                first_class=first,
            )
        feature_tiles = blocks_of(count, tiles.features.rows) if direct is not None else 0
        weight_tiles = blocks_of(taken, tiles.weight.rows) if gradients & GRAD_WEIGHT else 0
        launch(
            gradients_kernel,
            (feature_tiles + weight_tiles, blocks_of(width, tiles.features.columns)),
            tiles.features,
            features,
            weight_block,
            pairs,
            statistics,
            grad_original,
            grad_identical,
            direct,
            map_gradient,
            grad_weight[first : first + taken] if weight_tiles else None,
            width,
            taken,
            count,
            batch,
            feature_tiles,
            FIRST=first == 0,
            MAPS=blocks != 0,
            FEATURES_M=tiles.features.rows,
            FEATURES_K=tiles.features.step,
            WEIGHT_M=tiles.weight.rows,
            WEIGHT_K=tiles.weight.step,
            BLOCK_N=tiles.features.columns,
            **shape,
        )
    if direct is not None:
        map_backward(
            features,
            pairs,
            statistics,
            sums,
            map_gradient,
            direct,
            grad_features,
            tiles.gather,
            minmax=minmax,
            difference=False,
        )
    return loss, components, grad_features, grad_weight, grad_bias


def indeed_loss(
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
    norm: int,
    eps: float,
    reduction: int,
    blocks: int,
    gradients: int,
) -> Results:
    """The fused loss from labels [B, C], or their words where ``packed``; pairs are mined where none are given."""
    require(pairs is not None or seed is not None, "seed: needed to mine pairs")
    if not packed:
        require_matrix("features", features)
        require_matrix("weight", weight)
        require_shape("labels", labels, features.shape[0], weight.shape[0])
        require_device(features, labels=labels)
        words, known_words = pack_labels(labels)
        # Bool and byte labels have no value that means unknown.
        if labels.dtype not in (torch.bool, torch.uint8):
            known = known_words
        labels = words
    if pairs is None:
        pairs = mine_pairs(labels, seed, strategy)
    return fused_indeed_loss(
        features, weight, bias, labels, known, pairs, lam, pos_weight, None, norm, eps, reduction, blocks, gradients
    )
