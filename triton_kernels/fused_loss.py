"""The whole loss, with gradients made in the forward, class block by class block; see ``csrc/fused_loss.h``.

statistics of the maps
per block:  logits, as sums over parts of the features
            logits -> cross-entropies -> G_O, G_I in their place
            [V; T] += [G_O; G_I] W,   dW <- G_O^T f + G_I^T I,   bias gradient, after the last block the loss
df <- V + what T sends through the maps
"""

from __future__ import annotations

from dataclasses import replace

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

from . import autotune
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
from .config import Configuration, configuration, split_width
from .cross_entropies import cross_entropies_kernel
from .finish import MEAN, Finish, empty_loss
from .identical_map import SUMS, row_statistics, triton_dtype
from .launch import blocks as blocks_of
from .launch import launch
from .map_backward import map_backward
from .mine_pairs import mine_pairs
from .multiply import product_precision
from .pack_labels import pack_labels
from .products import gradients_kernel, logits_kernel

Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

#: Elements that the gradients by logits of a class block may have.
BLOCK_ELEMENTS = 1 << 23
_WORD_BITS = 32


def _class_block(count: int, classes: int, most: int) -> int:
    """Classes of a block: whole words of labels, and as many as ``most`` elements allow."""
    return min(classes, max(most // max(2 * count, 1) // _WORD_BITS * _WORD_BITS, _WORD_BITS))


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
    tiles: Configuration | None = None,
) -> Results:
    """Loss, components and the gradients asked for (empty otherwise) of features, weight and bias.

    ``tiles``: in place of those of the table, or those found where autotuning is asked for.
    """
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
    if tiles is None:
        tiles = configuration(count, classes, features.dtype, accumulation)
        if autotune.is_wanted(features):
            options = (pairs, lam, pos_weight, row_weight, norm, eps, reduction, blocks, gradients)
            device = torch.cuda.get_device_name(features.device)
            tiles = autotune.tuned(
                autotune.key_of(device, count, width, classes, features.dtype, accumulation),
                tiles,
                lambda trial: autotune.device_time(
                    lambda: fused_indeed_loss(features, weight, bias, present, known, *options, tiles=trial)
                ),
            )
    block = _class_block(count, classes, BLOCK_ELEMENTS)
    shape = {
        "LIST": pairs.dim() == 2,
        "ACC": triton_dtype(accumulation),
    }
    products = {**shape, "MAPS": blocks != 0, "PRECISION": product_precision(features.dtype)}

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
    sums = scratch(SUMS, count, dtype=torch.float64)
    ending = Finish(sums, lam, loss, components, reduction, tiles.row_local)
    if classes == 0:
        sums.zero_()
        ending.launch()
        return loss, components, grad_features, grad_weight, grad_bias

    statistics, links = row_statistics(
        features, pairs, count, minmax, eps, accumulation, tiles, linked=bool(gradients & GRAD_FEATURES)
    )
    direct = map_gradient = None
    if gradients & GRAD_FEATURES:
        direct, map_gradient = scratch(count, width), scratch(count, width)

    row_tiles = blocks_of(count, tiles.logits.rows)
    for first in range(0, classes, block):
        # What an earlier block used is free again before this one asks for as much.
        partials = bias_partials = None
        taken, last = min(block, classes - first), first + block >= classes
        weight_block = weight[first : first + taken]
        class_tiles = blocks_of(taken, tiles.logits.columns)
        part = split_width(width, row_tiles * class_tiles, tiles)
        splits = max(1, blocks_of(width, part))
        partials = scratch(splits, 2, count, taken)
        launch(
            logits_kernel,
            (row_tiles, class_tiles, splits),
            tiles.logits,
            features,
            weight_block,
            pairs,
            statistics,
            partials,
            width,
            part,
            taken,
            count,
            batch,
            **products,
            BLOCK_M=tiles.logits.rows,
            BLOCK_N=tiles.logits.columns,
            BLOCK_K=tiles.logits.step,
        )
        tile = tiles.cross_entropies
        bias_partials = scratch(blocks_of(count, tile.rows), taken) if gradients & GRAD_BIAS else None
        launch(
            cross_entropies_kernel,
            (blocks_of(count, tile.rows),),
            tile,
            partials,
            bias,
            present,
            known,
            pairs,
            lam,
            pos_weight,
            row_weight,
            statistics,
            bias_partials,
            sums,
            splits,
            taken,
            first,
            present.shape[1],
            count,
            batch,
            **shape,
            FIRST=first == 0,
            LAST=last,
            MINMAX=minmax,
            IDENTICAL=bool(blocks & IDENTICAL_BLOCK),
            DISPARATE=bool(blocks & DISPARATE_BLOCK),
            AVERAGE=reduction == MEAN,
            GRADIENTS=bool(gradients & (GRAD_FEATURES | GRAD_WEIGHT)),
            BLOCK_M=tile.rows,
            BLOCK_N=tile.columns,
        )
        end = replace(
            ending,
            last=last,
            bias_partials=bias_partials,
            grad_bias=None if bias_partials is None else grad_bias,
            first_class=first,
        )
        if not gradients & (GRAD_FEATURES | GRAD_WEIGHT):
            end.launch()
            continue
        column_tiles = blocks_of(width, tiles.features.columns)
        feature_programs = column_tiles * blocks_of(count, tiles.features.rows) if direct is not None else 0
        weight_programs = column_tiles * blocks_of(taken, tiles.weight.rows) if gradients & GRAD_WEIGHT else 0
        launch(
            gradients_kernel,
            (feature_programs + weight_programs + end.programs,),
            tiles.features,
            features,
            weight_block,
            pairs,
            statistics,
            partials,
            direct,
            map_gradient,
            grad_weight[first : first + taken] if gradients & GRAD_WEIGHT else None,
            *end.tensors(),
            width,
            taken,
            first,
            count,
            batch,
            end.bias_tiles,
            feature_programs,
            weight_programs,
            column_tiles,
            **products,
            FIRST=first == 0,
            FEATURES_M=tiles.features.rows,
            FEATURES_K=tiles.features.step,
            WEIGHT_M=tiles.weight.rows,
            WEIGHT_K=tiles.weight.step,
            BLOCK_N=tiles.features.columns,
            **end.constants(),
            FINISH_N=end.tile.columns,
        )
    if direct is not None:
        map_backward(
            features,
            pairs,
            links,
            statistics,
            map_gradient,
            direct,
            grad_features,
            tiles.maps,
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
