"""Pair mining. The result is defined by (labels, seed) alone, and is that of every other backend bit for bit."""

import torch
import triton.language as tl
from torch import Tensor

from indeed_ext.constants import STRATEGIES, WORD_BITS, cdiv

from .arguments import Checked, require, require_matrix
from .config import configuration
from .hashing import (
    ANCHOR_PROBES,
    anchor_hash,
    balanced_cost,
    edge_hash,
    matching_cost,
    sample_hash,
    scale_hash,
    stream_hash,
)
from .jit import device_function, kernel
from .launch import launch

_ANCHOR, _BALANCED = STRATEGIES["anchor"], STRATEGIES["balanced"]

#: Words that memory is read in units of: a program goes through those of its samples in steps of at most as many.
_SECTOR_WORDS = 8


@device_function
def _label_words(positive_bits, sample, start, batch, words, WORDS: tl.constexpr):
    """Label words [N * WORDS] of samples [N], those of a sample side by side as in memory; zero beyond the edges."""
    word = start + tl.arange(0, WORDS)
    mask = (sample < batch)[:, None] & (word < words)[None, :]
    found = tl.load(positive_bits + sample[:, None] * words + word[None, :], mask=mask, other=0)
    return tl.reshape(found, [sample.shape[0] * WORDS])


@device_function
def _compatible(positive_bits, first, second, batch, words, SHAPE: tl.constexpr, WORDS: tl.constexpr):
    """Eqs. (1) and (2) for samples [M] and [N], the latter in the SHAPE [1, N] or [M, N / M]: a common label, and
    different label sets. Nobody is compatible with a sample beyond the batch.

    The words of a sample are read together and told apart afterwards: one by one, each would take a sector of memory.
    """
    common = tl.zeros([first.shape[0], SHAPE[1]], tl.int32)
    different = tl.zeros([first.shape[0], SHAPE[1]], tl.int32)
    for start in range(0, words, WORDS):
        of_first = _label_words(positive_bits, first, start, batch, words, WORDS)
        of_second = _label_words(positive_bits, second, start, batch, words, WORDS)
        for word in tl.static_range(WORDS):
            mine = tl.gather(of_first, tl.arange(0, first.shape[0]) * WORDS + word, axis=0)[:, None]
            other = tl.gather(of_second, tl.arange(0, second.shape[0]) * WORDS + word, axis=0)
            other = tl.reshape(other, SHAPE)
            common |= mine & other
            different |= mine ^ other
    return (common != 0) & (different != 0)


@kernel
def anchor_kernel(
    positive_bits,
    seed,
    partner,
    batch,
    words,
    WHOLE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WORDS: tl.constexpr,
):
    """The first compatible of the probes, else the compatible sample whose rank a last draw gives.

    Where the batch is one tile of candidates it is read WHOLE and in order: the probes' words would be more, read here
    and there.
    """
    sample = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    active = sample < batch
    hashed = sample_hash(stream_hash(seed), sample)
    draw = tl.arange(0, ANCHOR_PROBES)
    probe = scale_hash(anchor_hash(hashed[:, None], draw[None, :]), batch)
    column = tl.arange(0, BLOCK_N)
    if WHOLE:
        found = _compatible(positive_bits, sample, column, batch, words, [1, BLOCK_N], WORDS)
        hit = tl.gather(found.to(tl.int32), probe.to(tl.int32), axis=1) != 0
    else:
        one_by_one = tl.reshape(probe, [BLOCK_M * ANCHOR_PROBES])
        hit = _compatible(positive_bits, sample, one_by_one, batch, words, [BLOCK_M, ANCHOR_PROBES], WORDS)
    first = tl.min(tl.where(hit, draw[None, :], ANCHOR_PROBES), axis=1)
    drawn = tl.sum(tl.where(draw[None, :] == first[:, None], probe, 0), axis=1)
    chosen = tl.where(first < ANCHOR_PROBES, drawn, sample)
    missing = active & (first == ANCHOR_PROBES)

    if tl.sum(missing.to(tl.int32)) > 0:
        count = tl.zeros([BLOCK_M], tl.int64)
        for start in range(0, batch, BLOCK_N):
            if not WHOLE:
                other = start + column.to(tl.int64)
                found = _compatible(positive_bits, sample, other, batch, words, [1, BLOCK_N], WORDS)
            count += tl.sum(found.to(tl.int64), axis=1)
        rank = scale_hash(anchor_hash(hashed, tl.full([1], ANCHOR_PROBES, tl.int32)), count)
        for start in range(0, batch, BLOCK_N):
            other = start + column.to(tl.int64)
            if not WHOLE:
                found = _compatible(positive_bits, sample, other, batch, words, [1, BLOCK_N], WORDS)
            order = tl.cumsum(found.to(tl.int32), axis=1) - 1
            here = missing[:, None] & found & (order == rank[:, None])
            chosen += tl.sum(tl.where(here, other[None, :] - sample[:, None], 0), axis=1)
            rank -= tl.sum(found.to(tl.int64), axis=1)
    tl.store(partner + sample, chosen, mask=active)


@kernel
def compatibility_kernel(
    positive_bits,
    compatible,
    partner,
    batch,
    words,
    compatible_words,
    BLOCK_M: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Bits of the compatible samples of every sample, [batch, compatible_words]; everyone is their own partner."""
    sample = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    other = tl.program_id(1).to(tl.int64) * BLOCK_WORDS * 32 + tl.arange(0, BLOCK_WORDS * 32)
    active = sample < batch
    found = _compatible(positive_bits, sample, other, batch, words, [1, BLOCK_WORDS * 32], WORDS)
    bits = tl.where(found, (tl.full([1], 1, tl.int32) << (other % 32).to(tl.int32))[None, :], 0)
    word = tl.program_id(1) * BLOCK_WORDS + tl.arange(0, BLOCK_WORDS)
    packed = tl.sum(tl.reshape(bits, [BLOCK_M, BLOCK_WORDS, 32]), axis=2)
    inside = active[:, None] & (word < compatible_words)[None, :]
    tl.store(compatible + sample[:, None] * compatible_words + word[None, :], packed, mask=inside)
    if tl.program_id(1) == 0:
        tl.store(partner + sample, sample, mask=active)


@kernel
def matching_kernel(
    compatible,
    seed,
    degree,
    best,
    partner,
    batch,
    compatible_words,
    BALANCED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Greedy matching by mutual best: every free sample points at its cheapest free neighbour, mutual pointers match,
    and so on until a round matches nobody. One program, because a round ends with a barrier among all samples."""
    stream = stream_hash(seed)
    # A sample for every thread, as a tile has a word for every thread.
    PER_STEP: tl.constexpr = BLOCK_M * (BLOCK_N // 32)
    # Beyond any cost and any index.
    beyond = tl.full([BLOCK_M, BLOCK_N], 0x7FFFFFFFFFFFFFFF, tl.int64)
    if BALANCED:
        for start in range(0, batch, BLOCK_M):
            sample = start + tl.arange(0, BLOCK_M)
            count = tl.zeros([BLOCK_M], tl.int64)
            for first in range(0, batch, BLOCK_N):
                found = _compatible_tile(compatible, sample, first, batch, compatible_words, BLOCK_M, BLOCK_N)
                count += tl.sum(found.to(tl.int64), axis=1)
            tl.store(degree + sample, count, mask=sample < batch)
        tl.debug_barrier()

    progress = 1
    while progress > 0:
        progress = 0
        for start in range(0, batch, BLOCK_M):
            sample = start + tl.arange(0, BLOCK_M)
            active = sample < batch
            free = active & (tl.load(partner + sample, mask=active, other=-1) == sample)
            choice = tl.full([BLOCK_M], -1, tl.int64)
            if tl.sum(free.to(tl.int32)) > 0:
                hashed = sample_hash(stream, sample)
                cheapest = tl.full([BLOCK_M], 0x7FFFFFFFFFFFFFFF, tl.int64)
                for first in range(0, batch, BLOCK_N):
                    other = first + tl.arange(0, BLOCK_N)
                    other_free = tl.load(partner + other, mask=other < batch, other=-1) == other
                    found = _compatible_tile(compatible, sample, first, batch, compatible_words, BLOCK_M, BLOCK_N)
                    open = found & other_free[None, :]
                    edge = edge_hash(hashed[:, None], sample_hash(stream, other)[None, :])
                    if BALANCED:
                        theirs = tl.load(degree + other, mask=other < batch, other=0)
                        cost = balanced_cost(edge, theirs[None, :])
                    else:
                        cost = matching_cost(edge)
                    cost = tl.where(open, cost, beyond)
                    lowest = tl.min(cost, axis=1)
                    at = tl.where(open & (cost == lowest[:, None]), other[None, :].to(tl.int64), beyond)
                    # Among equal costs the lower index wins: later columns must be cheaper.
                    better = lowest < cheapest
                    choice = tl.where(better, tl.min(at, axis=1), choice)
                    cheapest = tl.where(better, lowest, cheapest)
            tl.store(best + sample, tl.where(free, choice, -1), mask=active)
        tl.debug_barrier()
        for start in range(0, batch, PER_STEP):
            sample = start + tl.arange(0, PER_STEP)
            choice = tl.load(best + sample, mask=sample < batch, other=-1)
            back = tl.load(best + choice, mask=choice >= 0, other=-1)
            mutual = (choice >= 0) & (back == sample)
            tl.store(partner + sample, choice, mask=mutual)
            progress += tl.sum(mutual.to(tl.int32))
        tl.debug_barrier()


@device_function
def _compatible_tile(compatible, sample, first, batch, compatible_words, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Compatibility of samples [M] with the N samples from ``first`` on, a multiple of 32: every word is read once."""
    word = first // 32 + tl.arange(0, BLOCK_N // 32)
    mask = (sample < batch)[:, None] & (word < compatible_words)[None, :]
    packed = tl.load(compatible + sample[:, None].to(tl.int64) * compatible_words + word[None, :], mask=mask, other=0)
    bits = (packed[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1
    return tl.reshape(bits, [BLOCK_M, BLOCK_N]) != 0


def mine_pairs(positive_bits: Tensor, seed: Tensor, strategy: int) -> Tensor:
    """A partner for every sample, int64 [B], from label words and an int64 seed of one element."""
    positive_bits = require_matrix("labels", positive_bits)
    batch, words = positive_bits.shape
    checked = Checked(positive_bits.device)
    positive_bits = checked.tensor("labels", positive_bits, torch.int32, batch, words)
    seed = checked.tensor("seed", seed, torch.int64, *seed.shape)
    require(seed.numel() == 1, "seed: expected one value")
    require(strategy in STRATEGIES.values(), "strategy: unknown code")
    require(batch < 1 << 31, "labels: expected fewer than 2**31 rows")
    partner = torch.empty((batch,), dtype=torch.int64, device=seed.device)
    if batch == 0:
        return partner
    tiles = configuration(seed.device, batch, batch, torch.float32, torch.float32)
    step = min(1 << (max(words, 1) - 1).bit_length(), _SECTOR_WORDS)
    if strategy == _ANCHOR:
        tile = tiles.anchor
        launch(
            anchor_kernel,
            (cdiv(batch, tile.block_m),),
            tile,
            positive_bits,
            seed,
            partner,
            batch,
            words,
            WHOLE=batch <= tile.block_n,
            BLOCK_M=tile.block_m,
            BLOCK_N=tile.block_n,
            WORDS=step,
        )
        return partner
    compatible_words = cdiv(batch, WORD_BITS)
    compatible = torch.empty((batch, compatible_words), dtype=torch.int32, device=seed.device)
    degree, best = torch.empty_like(partner), torch.empty_like(partner)
    tile = tiles.compatibility
    launch(
        compatibility_kernel,
        (cdiv(batch, tile.block_m), cdiv(compatible_words, tile.block_n // WORD_BITS)),
        tile,
        positive_bits,
        compatible,
        partner,
        batch,
        words,
        compatible_words,
        BLOCK_M=tile.block_m,
        BLOCK_WORDS=tile.block_n // WORD_BITS,
        WORDS=step,
    )
    tile = tiles.matching
    launch(
        matching_kernel,
        (1,),
        tile,
        compatible,
        seed,
        degree,
        best,
        partner,
        batch,
        compatible_words,
        BALANCED=strategy == _BALANCED,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
    )
    return partner
