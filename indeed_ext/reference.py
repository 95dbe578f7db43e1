"""The method in plain PyTorch, written to be read beside the paper.

Every compiled backend is checked against this module. It works in any floating
dtype, on any device, and supports second derivatives. Equation numbers are those
of *INDeeD: Identical and Disparate Feature Decomposition from Multi-label Data*.

The functions carry the names and arguments of the public ones, less ``backend``.
They check nothing: :mod:`indeed_ext.functional` does that once for every backend.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WORD_BITS = 32
MASK32 = 0xFFFFFFFF

#: Hashed draws the anchor strategy makes before it counts the compatible samples.
ANCHOR_PROBES = 32
#: Fixed-point bits of (1 + rho) in the balanced strategy, and the upper end of rho.
BALANCED_FRACTION_BITS = 20
BALANCED_SPREAD = 6


# --------------------------------------------------------------------------- labels


def pack_labels(labels: Tensor, *, with_known: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """Bits of ``labels [B, C]`` as int32 words ``[B, ceil(C / 32)]``, class c at bit c % 32 of word c // 32.

    A label of -1 is unknown: absent in the present bits, cleared in the known bits.
    """
    present = _pack_bits(labels == 1)
    if not with_known:
        return present
    return present, _pack_bits(labels != -1)


def _pack_bits(flags: Tensor) -> Tensor:
    batch, num_classes = flags.shape
    words = -(-num_classes // WORD_BITS)
    padded = F.pad(flags.to(torch.int64), (0, words * WORD_BITS - num_classes))
    bit_values = torch.ones(WORD_BITS, dtype=torch.int64, device=flags.device) << torch.arange(
        WORD_BITS, device=flags.device
    )
    unsigned = (padded.view(batch, words, WORD_BITS) * bit_values).sum(-1)
    return torch.where(unsigned >= 1 << 31, unsigned - (1 << 32), unsigned).to(torch.int32)


def unpack_labels(words: Tensor, num_classes: int) -> Tensor:
    """The inverse of :func:`pack_labels`: bool ``[B, num_classes]`` from int32 words."""
    shifts = torch.arange(WORD_BITS, device=words.device)
    bits = (words.to(torch.int64).unsqueeze(-1) >> shifts) & 1
    return bits.flatten(1)[:, :num_classes].bool()


# --------------------------------------------------------------------------- mining


def compatible_pairs(present: Tensor) -> Tensor:
    """Which samples form partial-coco pairs, eqs. (1) and (2): bool ``[B, B]`` from bool labels ``[B, C]``.

    Compatible samples share a label and have different label sets; counts stay exact in
    float32 up to 2**24 classes.
    """
    indicator = present.float()
    common = indicator @ indicator.T
    sizes = indicator.sum(1)
    equal = (common == sizes[:, None]) & (common == sizes[None, :])
    return (common > 0) & ~equal


def _mix(x: Tensor) -> Tensor:
    """A 32-bit integer finaliser on int64 tensors that hold unsigned 32-bit values."""
    x = x & MASK32
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & MASK32
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & MASK32
    return x ^ (x >> 16)


def sample_hash(seed: Tensor, batch: int) -> Tensor:
    """One 32-bit hash per sample, int64 ``[B]``, from a 0-d int64 seed."""
    stream = _mix((seed & MASK32) + _mix(((seed >> 32) & MASK32) + 0x9E3779B9))
    return _mix(stream + torch.arange(batch, device=seed.device) * 0x9E3779B9)


def edge_hash(hashes: Tensor) -> Tensor:
    """The symmetric 32-bit hash of every edge (i, j): int64 ``[B, B]``."""
    return _mix(hashes[:, None] + hashes[None, :])


def anchor_hash(hashes: Tensor, draw: int) -> Tensor:
    """The 32-bit hash of draw number ``draw`` of every sample: int64 ``[B]``."""
    counter = _mix(torch.tensor(draw + 0x85EBCA6B, device=hashes.device))
    return _mix(hashes ^ counter)


def mine_pairs(
    labels: Tensor,
    *,
    strategy: str = "anchor",
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A partner for every sample of ``labels [B, C]``: int64 ``[B]``, itself where there is none."""
    if seed is None:
        seed = torch.randint(2**63 - 1, (), generator=generator)
    seed = torch.as_tensor(seed, dtype=torch.int64, device=labels.device)
    compatible = compatible_pairs(labels == 1)
    hashes = sample_hash(seed, labels.shape[0])
    if strategy == "anchor":
        return _anchor(compatible, hashes)
    return _mutual_best(compatible, _edge_cost(compatible, hashes, strategy))


def _anchor(compatible: Tensor, hashes: Tensor) -> Tensor:
    """Every sample draws one of its compatible partners uniformly, with replacement."""
    batch = len(hashes)
    rows = torch.arange(batch, device=hashes.device)
    partner = rows.clone()
    if batch == 0:
        return partner
    # The last draw is made first, so that an earlier compatible one overwrites it.
    count = compatible.sum(1)
    rank = (anchor_hash(hashes, ANCHOR_PROBES) * count) >> 32
    chosen = compatible & (compatible.cumsum(1) == rank[:, None] + 1)
    partner = torch.where(count > 0, chosen.to(torch.int8).argmax(1), partner)
    for draw in reversed(range(ANCHOR_PROBES)):
        probe = (anchor_hash(hashes, draw) * batch) >> 32
        partner = torch.where(compatible[rows, probe], probe, partner)
    return partner


def _edge_cost(compatible: Tensor, hashes: Tensor, strategy: str) -> Tensor:
    """The order in which a greedy matching takes edges, smallest first: int64 ``[B, B]``."""
    random = edge_hash(hashes)
    if strategy == "matching":
        return MASK32 - random
    degree = compatible.sum(1)
    factor = (1 << BALANCED_FRACTION_BITS) + ((random * BALANCED_SPREAD) >> (32 - BALANCED_FRACTION_BITS))
    return degree[:, None] * degree[None, :] * factor


def _mutual_best(compatible: Tensor, cost: Tensor) -> Tensor:
    """Free samples point at their cheapest free neighbour, mutual pointers match, until none is left.

    Equals sequential greedy over all edges ordered by (cost, lower index, higher index).
    """
    batch = compatible.shape[0]
    rows = torch.arange(batch, device=compatible.device)
    partner = rows.clone()
    available = compatible.clone()
    beyond = torch.iinfo(torch.int64).max
    while available.any():
        masked = torch.where(available, cost, beyond)
        cheapest = available & (masked == masked.amin(1, keepdim=True))
        best = torch.where(cheapest, rows, batch).amin(1)  # the lowest index among equals; batch: none
        pointed_back = torch.where(best < batch, best[best.clamp(max=batch - 1)] == rows, False)
        partner = torch.where(pointed_back, best, partner)
        available &= ~(pointed_back[:, None] | pointed_back[None, :])
    return partner


# --------------------------------------------------------------------------- blocks


def directed_rows(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Row sources and partners: ``[B]`` from a partner vector, ``[2P]`` from a pair list ``[P, 2]``."""
    if pairs.dim() == 1:
        return torch.arange(len(pairs), device=pairs.device), pairs
    return pairs.T.reshape(-1), pairs.flip(1).T.reshape(-1)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for half types, the type itself otherwise."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def identical_map(source: Tensor, partner: Tensor, norm: str, eps: float) -> Tensor:
    """The identical map m of eqs. (3), (4) for rows ``[R, n]``; zero, without gradient, where it is degenerate."""
    product = source * partner
    if product.shape[1] == 0:
        return product
    if norm == "l2":
        # The norm of a row whose square sum is zero has no gradient: take it of ones and discard it.
        degenerate = torch.linalg.vector_norm(product.detach(), dim=1, keepdim=True) <= eps
        safe = torch.where(degenerate, torch.ones_like(product), product)
        scaled = safe / torch.linalg.vector_norm(safe, dim=1, keepdim=True)
    else:
        low, high = product.amin(1, keepdim=True), product.amax(1, keepdim=True)
        degenerate = (high - low).detach() <= eps
        scaled = (product - low) / torch.where(degenerate, torch.ones_like(low), high - low)
    return torch.where(degenerate, torch.zeros_like(product), scaled)


def identical_disparate(
    features: Tensor, pairs: Tensor, *, norm: str = "l2", eps: float = 1e-12
) -> tuple[Tensor, Tensor]:
    """Identical and disparate features of eq. (5): two ``[R, n]`` from features ``[B, n]``."""
    source_index, partner_index = directed_rows(pairs)
    source, partner = (
        features[index].to(accumulation_dtype(features.dtype)) for index in (source_index, partner_index)
    )
    identical = identical_map(source, partner, norm, eps) * source
    return identical.to(features.dtype), (source - identical).to(features.dtype)


# --------------------------------------------------------------------------- loss


def binary_cross_entropy_rows(logits: Tensor, target: Tensor, known: Tensor, pos_weight: Tensor | None) -> Tensor:
    """Eq. (10) summed over the known classes of each row: ``[R]`` from logits ``[R, C]``."""
    logits = logits.to(accumulation_dtype(logits.dtype))
    if pos_weight is not None:
        pos_weight = pos_weight.to(logits.dtype)
    terms = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none", pos_weight=pos_weight)
    return torch.where(known, terms, torch.zeros_like(terms)).sum(1)


def split_lam(lam: float | Tensor | tuple[float | Tensor, float | Tensor]) -> tuple[float | Tensor, float | Tensor]:
    """(lam_identical, lam_disparate) from one value for both or a tuple of two."""
    return lam if isinstance(lam, tuple) else (lam, lam)


def six_way_bce(
    logits: Tensor,
    identical_logits: Tensor,
    disparate_logits: Tensor,
    labels: Tensor,
    pairs: Tensor,
    *,
    lam: float | Tensor | tuple[float | Tensor, float | Tensor] = 1.0,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    return_components: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The loss of eqs. (6) to (9) from logits ``[B, C]``, ``[R, C]``, ``[R, C]``, with the targets of eq. (11)."""
    source, partner = directed_rows(pairs)
    present, known = labels == 1, labels != -1
    known_both = known[source] & known[partner]
    lam_identical, lam_disparate = split_lam(lam)

    original = binary_cross_entropy_rows(logits[source], present[source], known[source], pos_weight)
    rows = [original, torch.zeros_like(original), torch.zeros_like(original)]
    if not _is_zero(lam_identical):
        target = present[source] & present[partner]
        rows[1] = binary_cross_entropy_rows(identical_logits, target, known_both, pos_weight)
    if not _is_zero(lam_disparate):
        target = present[source] & ~present[partner]
        rows[2] = binary_cross_entropy_rows(disparate_logits, target, known_both, pos_weight)

    loss = rows[0] + lam_identical * rows[1] + lam_disparate * rows[2]
    components = torch.stack([row.detach().sum() for row in rows])
    if reduction == "mean":
        count = max(len(source), 1)
        loss, components = loss.sum() / count, components / count
    elif reduction == "sum":
        loss = loss.sum()
    return (loss, components) if return_components else loss


def _is_zero(lam: float | Tensor) -> bool:
    return not isinstance(lam, Tensor) and lam == 0


def fused_indeed_loss(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    pairs: Tensor | None = None,
    strategy: str = "anchor",
    norm: str = "l2",
    lam: float | Tensor | tuple[float | Tensor, float | Tensor] = 1.0,
    eps: float = 1e-12,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    return_components: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The whole of Figure 1: mine pairs, form the blocks, classify six features per pair through one classifier."""
    if pairs is None:
        pairs = mine_pairs(labels, strategy=strategy, seed=seed, generator=generator)
    identical, disparate = identical_disparate(features, pairs, norm=norm, eps=eps)
    return six_way_bce(
        F.linear(features, weight, bias),
        F.linear(identical, weight, bias),
        F.linear(disparate, weight, bias),
        labels,
        pairs,
        lam=lam,
        reduction=reduction,
        pos_weight=pos_weight,
        return_components=return_components,
    )
