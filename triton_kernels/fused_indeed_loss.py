"""The whole loss, with gradients made in the forward, class chunk by class chunk.

As in ``csrc/operators/fused_indeed_loss.h``:

statistics of the maps, and the index of the rows
per chunk:  logits, as sums over parts of the features
            logits -> cross-entropies -> G_O, G_I in their place
            [V; T] += [G_O; G_I] W,   dW <- G_O^T f + G_I^T I,   bias gradient and the loss of the classes so far
df <- V + what T gives through the maps
"""

from __future__ import annotations

import torch
from torch import Tensor

from indeed_ext.constants import (
    CHUNK_ELEMENTS,
    DISPARATE_TERM,
    GRAD_BIAS,
    GRAD_FEATURES,
    GRAD_WEIGHT,
    IDENTICAL_TERM,
    NORMS,
    WORD_BITS,
    cdiv,
    saved_grad_dtype,
)

from .arguments import Checked, computation_dtype, require, require_float, require_matrix
from .bce_epilogue import bce_epilogue_kernel
from .config import Configuration, configuration, multiprocessors, part_size
from .convert import triton_dtype
from .launch import launch
from .map_backward import map_backward
from .map_statistics import map_statistics
from .multiply import grad_dtype, product_precision
from .partial_sums import partial_sums
from .products import grad_products_kernel, logits_kernel
from .reduce_loss import MEAN, SUMS, empty_loss, reduction_constants

#: Steps of a part of the weight's gradient, where its tiles alone do not fill the device.
_LONGEST_SPLIT = 64

Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _chunk_classes(count: int, classes: int, elements: int) -> int:
    """Classes of a chunk: whole words of labels, and as many as ``elements`` of the gradients of their logits allow."""
    return min(classes, max(elements // max(2 * count, 1) // WORD_BITS * WORD_BITS, WORD_BITS))


def fused_indeed_loss(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positive_bits: Tensor,
    valid_bits: Tensor | None,
    pairs: Tensor,
    lam_identical: float,
    lam_disparate: float,
    lam: Tensor | None,
    pos_weight: Tensor | None,
    row_weight: Tensor | None,
    norm: int,
    eps: float,
    reduction: int,
    term_mask: int,
    output_mask: int,
    tiles: Configuration | None = None,
) -> Results:
    """Loss, components and the gradients asked for (empty otherwise) of features, weight and bias.

    ``tiles``: in place of those of the table.
    """
    features, weight = require_matrix("features", features), require_matrix("weight", weight)
    loss_dtype, dtype = require_float("features", features), features.dtype
    (batch, width), classes = features.shape, weight.shape[0]
    checked = Checked(features.device)
    weight = checked.tensor("weight", weight, dtype, classes, width)
    bias = checked.optional("bias", bias, dtype, classes)
    positive_bits, valid_bits = checked.bits(positive_bits, valid_bits, batch, classes)
    pairs = checked.pairs(pairs, batch)
    weights = checked.lam(lam_identical, lam_disparate, lam)
    pos_weight = checked.optional("pos_weight", pos_weight, None, classes)
    count = pairs.numel()
    row_weight = checked.optional("row_weight", row_weight, None, count)
    require(bias is not None or not output_mask & GRAD_BIAS, "output_mask: there is no bias to differentiate")

    accumulation = computation_dtype(loss_dtype, width)
    minmax = norm == NORMS["minmax"]
    if tiles is None:
        tiles = configuration(features.device, count, classes, dtype, accumulation)
    programs = multiprocessors(features.device)
    rows = {"LIST": pairs.dim() == 2, "ACC": triton_dtype(accumulation)}
    products = {**rows, "MAPS": term_mask != 0, "PRECISION": product_precision(dtype, features.device)}

    def scratch(*sizes: int, dtype: torch.dtype = accumulation) -> Tensor:
        return features.new_empty(sizes, dtype=dtype)

    def gradient(bit: int, *sizes: int) -> Tensor:
        return scratch(*(sizes if output_mask & bit else (0,)), dtype=saved_grad_dtype(dtype))

    grad_features = gradient(GRAD_FEATURES, batch, width)
    grad_weight, grad_bias = gradient(GRAD_WEIGHT, classes, width), gradient(GRAD_BIAS, classes)
    loss, components = empty_loss(reduction, count, features, loss_dtype)
    sums = scratch(SUMS, count, dtype=torch.float64)
    needs_features, needs_weight = bool(output_mask & GRAD_FEATURES), bool(output_mask & GRAD_WEIGHT)
    statistics, row_index = map_statistics(features, pairs, minmax, eps, accumulation, tiles, indexed=needs_features)
    grad_source = scratch(count, width) if needs_features else None
    map_gradient = scratch(count, width) if needs_features else None

    chunk = _chunk_classes(count, classes, CHUNK_ELEMENTS)
    row_tiles = cdiv(count, tiles.logits.block_m)
    # Without classes one chunk, of none: its sums and products are zero.
    for first in range(0, max(classes, 1), max(chunk, 1)):
        # What an earlier chunk used is free again before this one asks for as much.
        partials = grad_logits = bias_partials = weight_partials = None
        taken = min(chunk, classes - first)
        chunk_weight, chunk_grad_weight, chunk_grad_bias = (
            # Views take longer on the host than it takes to launch a kernel.
            tensor if taken == classes else tensor[first : first + taken]
            for tensor in (weight, grad_weight, grad_bias)
        )
        class_tiles = cdiv(taken, tiles.logits.block_n)
        part = part_size(width, tiles.logits.block_k, row_tiles * class_tiles, programs)
        splits = max(1, cdiv(width, part))
        partials = scratch(splits, 2, count, taken)
        launch(
            logits_kernel,
            (row_tiles, class_tiles, splits),
            tiles.logits,
            features,
            chunk_weight,
            pairs,
            statistics,
            partials,
            width,
            part,
            taken,
            count,
            batch,
            **products,
            BLOCK_M=tiles.logits.block_m,
            BLOCK_N=tiles.logits.block_n,
            BLOCK_K=tiles.logits.block_k,
        )
        tile, kind = tiles.bce_epilogue, grad_dtype(dtype, accumulation)
        grad_logits = partials[0] if kind == accumulation else scratch(2, count, taken, dtype=kind)
        bias_tiles = cdiv(count, tile.block_m) if output_mask & GRAD_BIAS else 0
        bias_partials = scratch(bias_tiles, taken) if output_mask & GRAD_BIAS else None
        launch(
            bce_epilogue_kernel,
            (cdiv(count, tile.block_m),),
            tile,
            partials,
            grad_logits,
            bias,
            positive_bits,
            valid_bits,
            pairs,
            *weights,
            pos_weight,
            row_weight,
            statistics,
            bias_partials,
            sums,
            splits,
            taken,
            first,
            positive_bits.shape[1],
            count,
            batch,
            **rows,
            MINMAX=minmax,
            IDENTICAL=bool(term_mask & IDENTICAL_TERM),
            DISPARATE=bool(term_mask & DISPARATE_TERM),
            AVERAGE=reduction == MEAN,
            GRADIENTS=bool(output_mask & (GRAD_FEATURES | GRAD_WEIGHT)),
            BLOCK_M=tile.block_m,
            BLOCK_N=tile.block_n,
        )
        tile, weight_tile, bias_tile = tiles.grad_features, tiles.grad_weight, tiles.grad_bias
        column_tiles = cdiv(width, tile.block_n)
        feature_programs = column_tiles * cdiv(count, tile.block_m) if needs_features else 0
        weight_tiles = column_tiles * cdiv(taken, weight_tile.block_m) if needs_weight else 0
        split_rows = part_size(count, weight_tile.block_k, weight_tiles, programs)
        if weight_tiles < programs:
            split_rows = min(split_rows, _LONGEST_SPLIT * weight_tile.block_k)
        weight_splits = max(1, cdiv(count, split_rows))
        weight_programs = weight_tiles * weight_splits
        reduce_programs = 1 + (cdiv(taken, bias_tile.block_n) if output_mask & GRAD_BIAS else 0)
        # What takes more steps begins first.
        weight_leads = split_rows // weight_tile.block_k >= cdiv(taken, tile.block_k)
        if needs_weight:
            weight_partials = scratch(weight_splits if weight_splits > 1 else 0, taken, width)
        launch(
            grad_products_kernel,
            (reduce_programs + feature_programs + weight_programs,),
            tile,
            features,
            chunk_weight,
            pairs,
            statistics,
            grad_logits,
            grad_source,
            map_gradient,
            weight_partials,
            chunk_grad_weight if needs_weight else None,
            sums,
            *weights,
            loss,
            components,
            bias_partials,
            chunk_grad_bias if output_mask & GRAD_BIAS else None,
            width,
            taken,
            first,
            count,
            batch,
            bias_tiles,
            reduce_programs,
            reduce_programs + (weight_programs if weight_leads else 0),
            feature_programs,
            reduce_programs + (0 if weight_leads else feature_programs),
            weight_programs,
            weight_splits,
            split_rows,
            column_tiles,
            **products,
            FEATURES_M=tile.block_m,
            FEATURES_K=tile.block_k,
            WEIGHT_M=weight_tile.block_m,
            WEIGHT_K=weight_tile.block_k,
            BLOCK_N=tile.block_n,
            **reduction_constants(reduction),
            LOSS_N=tiles.row_local.block_n,
            BIAS_M=bias_tile.block_m,
            BIAS_N=bias_tile.block_n,
        )
        # Those of the last chunk are added by the launch that follows, where there is one.
        is_followed = needs_features and first + taken >= classes
        if weight_partials is not None and weight_splits > 1 and not is_followed:
            partial_sums(weight_partials, chunk_grad_weight, tiles.row_local)
    if row_index is not None and map_gradient is not None and grad_source is not None:
        map_backward(
            features,
            pairs,
            row_index,
            statistics,
            map_gradient,
            grad_source,
            grad_features,
            tiles.map_backward,
            minmax=minmax,
            difference=False,
            weight_partials=weight_partials,
            grad_weight=chunk_grad_weight,
        )
    return loss, components, grad_features, grad_weight, grad_bias
