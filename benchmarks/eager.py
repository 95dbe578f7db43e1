"""The baseline in plain PyTorch: the same method as a user who knows PyTorch well would write it.

Every step is one vectorised pass: compatibility from one matrix product, one draw for all samples, the features
stacked to ``[f; I; D]`` for one linear layer and one binary cross-entropy. Among several ways to write a step the one
that measured fastest on a CPU was kept. Partners are as random as those of :func:`indeed_ext.mine_pairs` but not the
same ones, as the reproducible hash of the package costs something that this user does not need.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Up to this batch a Python loop over the shuffled edges beats rounds of whole-matrix operations.
SEQUENTIAL_BATCH = 192


# --------------------------------------------------------------------------- mining


def mine_pairs(labels: Tensor, strategy: str) -> Tensor:
    """A random partner for every sample of float 0/1 ``labels [B, C]``: int64 ``[B]``, itself where there is none."""
    compatible = compatible_pairs(labels)
    if strategy == "anchor":
        return anchor(compatible)
    balanced = strategy == "balanced"
    if labels.device.type == "cpu" and len(labels) <= SEQUENTIAL_BATCH:
        return sequential_matching(compatible, balanced)
    return mutual_best_matching(compatible, balanced)


def compatible_pairs(labels: Tensor) -> Tensor:
    """Bool ``[B, B]``: a label in common, but not all."""
    common = labels @ labels.T
    size = labels.sum(1)
    return (common > 0) & (common < torch.maximum(size[:, None], size))


def anchor(compatible: Tensor) -> Tensor:
    """The r-th compatible sample with r uniform; faster than ``torch.multinomial`` or the argmax of masked noise."""
    ranks = compatible.cumsum(1, dtype=torch.int32)
    count = ranks[:, -1]
    rank = (torch.rand(len(count), device=count.device) * count).to(torch.int32) + 1
    chosen = torch.searchsorted(ranks, rank[:, None]).squeeze(1)
    return torch.where(count > 0, chosen, torch.arange(len(count), device=count.device))


def sequential_matching(compatible: Tensor, balanced: bool) -> Tensor:
    """Edges in random order (balanced: those of samples with few partners first), each taken if both ends are free."""
    first, second = compatible.triu(1).nonzero().T
    if balanced:
        degree = compatible.sum(1)
        order = (degree[first] * degree[second] * (1 + 6 * torch.rand(len(first)))).argsort()
    else:
        order = torch.randperm(len(first))
    partner = list(range(len(compatible)))
    for i, j in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if partner[i] == i and partner[j] == j:
            partner[i], partner[j] = j, i
    return torch.tensor(partner)


def mutual_best_matching(compatible: Tensor, balanced: bool) -> Tensor:
    """Samples that are each other's best free partner match; the rest go on in a smaller matrix."""
    batch, device = len(compatible), compatible.device
    noise = torch.rand(batch, device=device)
    key = (noise[:, None] + noise).mul_(977.0).frac_()  # symmetric, and uniform over [0, 1)
    if balanced:
        degree = compatible.sum(1).to(key.dtype)
        key = 1 / ((1 + 6 * key) * (degree[:, None] * degree))
    key.masked_fill_(~compatible, -1.0)
    partner = free = torch.arange(batch, device=device)
    partner = partner.clone()
    while len(free):
        best_key, best = key.max(1)
        mutual = (best[best] == torch.arange(len(free), device=device)) & (best_key >= 0)
        matched = mutual.nonzero().squeeze(1)
        if not len(matched):
            break
        partner[free[matched]] = free[best[matched]]
        left = ((best_key >= 0) & ~mutual).nonzero().squeeze(1)
        key, free = key[left][:, left], free[left]
    return partner


# ----------------------------------------------------------------------------- loss


def _differentiates_aminmax() -> bool:
    """Whether this torch has a derivative of it; the oldest that is supported has none."""
    ones = torch.ones(1, 1, requires_grad=True)
    try:
        torch.autograd.grad(ones.aminmax(dim=1).max.sum(), ones)
    except RuntimeError:
        return False
    return True


_AMINMAX = _differentiates_aminmax()


def _extremes(product: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest element of every row; in one pass, which is faster, where that has a gradient."""
    if _AMINMAX:
        low, high = product.aminmax(dim=1, keepdim=True)
        return low, high
    return product.amin(1, keepdim=True), product.amax(1, keepdim=True)


def identical_disparate(features: Tensor, pairs: Tensor, norm: str) -> tuple[Tensor, Tensor, Tensor]:
    """(source, identical, disparate) features of every row."""
    if pairs.dim() == 1:
        source, other = features, features[pairs]
    else:
        source, other = features[pairs.T.reshape(-1)], features[pairs.flip(1).T.reshape(-1)]
    product = source * other
    if norm == "l2":
        identical_map = F.normalize(product, dim=1, eps=1e-12)
    else:
        low, high = _extremes(product)
        identical_map = (product - low) / (high - low).clamp_min(1e-12)
    identical = identical_map * source
    return source, identical, source - identical


def targets(labels: Tensor, pairs: Tensor) -> Tensor:
    """Targets of the original, identical and disparate rows, stacked."""
    if pairs.dim() == 1:
        own, other = labels, labels[pairs]
    else:
        own, other = labels[pairs.T.reshape(-1)], labels[pairs.flip(1).T.reshape(-1)]
    common = own * other
    return torch.cat([own, common, own - common])


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of the three terms, summed over classes; in float32 for half types, as autocast would."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    total = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="sum")
    return total * (3 / len(logits))


def indeed_loss(features: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, pairs: Tensor, norm: str) -> Tensor:
    """The loss with pairs given: one linear layer, one cross-entropy."""
    stacked = torch.cat(identical_disparate(features, pairs, norm))
    return cross_entropy(F.linear(stacked, weight, bias), targets(labels, pairs))
