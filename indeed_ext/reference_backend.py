"""``backend="reference"``: the method in plain PyTorch, from arguments that are checked already.

The one module that calls :mod:`.reference`, which checks nothing and knows plain labels only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import reference
from .validation import Labels, check_label_values, check_pair_values, packed_bits


def pack_labels(labels: Tensor) -> tuple[Tensor, Tensor]:
    """(positive, valid) words."""
    check_label_values(labels)
    positive, valid = reference.pack_labels(labels, with_known=True)
    return positive, valid


def mine_pairs(positive_bits: Tensor, seed: Tensor, strategy: str) -> Tensor:
    """Partners from words."""
    plain = reference.unpack_labels(positive_bits, positive_bits.shape[1] * reference.WORD_BITS)
    return reference.mine_pairs(plain, strategy=strategy, seed=seed)


def identical_disparate(features: Tensor, pairs: Tensor, *, norm: str, eps: float) -> tuple[Tensor, Tensor]:
    """See :func:`.functional.identical_disparate`."""
    check_pair_values(pairs, features.shape[0])
    return reference.identical_disparate(features, pairs, norm=norm, eps=eps)


def six_way_bce(logits: Tensor, identical: Tensor, disparate: Tensor, labels: Labels, pairs: Tensor, **options: Any):
    """See :func:`.functional.six_way_bce`."""
    check_pair_values(pairs, logits.shape[0])
    return reference.six_way_bce(logits, identical, disparate, plain_labels(labels, logits.shape[1]), pairs, **options)


def fused_indeed_loss(features: Tensor, weight: Tensor, plain: Tensor, *, pairs: Tensor | None, **options: Any):
    """See :func:`.functional.fused_indeed_loss`; (loss, components) from :func:`plain_labels`."""
    if pairs is not None:
        check_pair_values(pairs, features.shape[0])
    return reference.fused_indeed_loss(features, weight, plain, pairs=pairs, return_components=True, **options)


def plain_labels(labels: Labels, num_classes: int) -> Tensor:
    """Labels ``[B, C]`` in {-1, 0, 1}."""
    bits = packed_bits(labels, num_classes)
    if bits is None:
        assert isinstance(labels, Tensor)
        check_label_values(labels)
        return labels
    positive, valid = bits
    plain = reference.unpack_labels(positive, num_classes).to(torch.int64)
    return plain if valid is None else plain.masked_fill(~reference.unpack_labels(valid, num_classes), -1)
