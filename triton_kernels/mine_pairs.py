"""Pair mining. The result is defined by (labels, seed) alone, and is that of every other backend bit for bit."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indeed_ext.constants import STRATEGIES

from .arguments import dense, require, require_device, require_dtype, require_matrix
from .config import configuration
from .device_function import device_function
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
from .launch import blocks, launch

_ANCHOR, _BALANCED = STRATEGIES["anchor"], STRATEGIES["balanced"]

#: Words that memory is read in units of: a program goes through those of its samples in steps of at most as many.
_SECTOR_WORDS = 8


@device_function
def _label_words(present, sample, start, batch, words, WORDS: tl.constexpr):
    """Label words [N * WORDS] of samples [N], those of a sample side by side as in memory; zero beyond the edges."""
    word = start + tl.arange(0, WORDS)
    mask = (sample < batch)[:, None] & (word < words)[None, :]
    found = tl.load(present + sample[:, None] * words + word[None, :], mask=mask, other=0)
    return tl.reshape(found, [sample.shape[0] * WORDS])


@device_function
def _compatible(present, first, second, batch, words, SHAPE: tl.constexpr, WORDS: tl.constexpr):
    """Eqs. (1) and (2) for samples [M] and [N], the latter in the SHAPE [1, N] or [M, N / M]: a common label, and
    different label sets. Nobody is compatible with a sample beyond the batch.

    The words of a sample are read together and told apart afterwards: one by one, each would take a sector of memory.
    """
    common = tl.zeros([first.shape[0], SHAPE[1]], tl.int32)
    different = tl.zeros([first.shape[0], SHAPE[1]], tl.int32)
    for start in range(0, words, WORDS):
        of_first = _label_words(present, first, start, batch, words, WORDS)
        of_second = _label_words(present, second, start, batch, words, WORDS)
        for word in tl.static_range(WORDS):
            mine = tl.gather(of_first, tl.arange(0, first.shape[0]) * WORDS + word, axis=0)[:, None]
            other = tl.gather(of_second, tl.arange(0, second.shape[0]) * WORDS + word, axis=0)
            other = tl.reshape(other, SHAPE)
            common |= mine & other
            different |= mine ^ other
    return (common != 0) & (different != 0)


@triton.jit
def anchor_kernel(
    present,
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
        found = _compatible(present, sample, column, batch, words, [1, BLOCK_N], WORDS)
        hit = tl.gather(found.to(tl.int32), probe.to(tl.int32), axis=1) != 0
    else:
        one_by_one = tl.reshape(probe, [BLOCK_M * ANCHOR_PROBES])
        hit = _compatible(present, sample, one_by_one, batch, words, [BLOCK_M, ANCHOR_PROBES], WORDS)
    first = tl.min(tl.where(hit, draw[None, :], ANCHOR_PROBES), axis=1)
    drawn = tl.sum(tl.where(draw[None, :] == first[:, None], probe, 0), axis=1)
    chosen = tl.where(first < ANCHOR_PROBES, drawn, sample)
    missing = active & (first == ANCHOR_PROBES)

    if tl.sum(missing.to(tl.int32)) > 0:
        count = tl.zeros([BLOCK_M], tl.int64)
        for start in range(0, batch, BLOCK_N):
            if not WHOLE:
                other = start + column.to(tl.int64)
                found = _compatible(present, sample, other, batch, words, [1, BLOCK_N], WORDS)
            count += tl.sum(found.to(tl.int64), axis=1)
        rank = scale_hash(anchor_hash(hashed, tl.full([1], ANCHOR_PROBES, tl.int32)), count)
        for start in range(0, batch, BLOCK_N):
            other = start + column.to(tl.int64)
            if not WHOLE:
                found = _compatible(present, sample, other, batch, words, [1, BLOCK_N], WORDS)
            order = tl.cumsum(found.to(tl.int32), axis=1) - 1
            here = missing[:, None] & found & (order == rank[:, None])
            chosen += tl.sum(tl.where(here, other[None, :] - sample[:, None], 0), axis=1)
            rank -= tl.sum(found.to(tl.int64), axis=1)
    tl.store(partner + sample, chosen, mask=active)


@triton.jit
def compatibility_kernel(
    present,
    rows,
    partner,
    batch,
    words,
    row_words,
    BLOCK_M: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Bits of the compatible samples of every sample, rows [batch, row_words]; everyone is their own partner."""
    sample = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    other = tl.program_id(1).to(tl.int64) * BLOCK_WORDS * 32 + tl.arange(0, BLOCK_WORDS * 32)
    active = sample < batch
    found = _compatible(present, sample, other, batch, words, [1, BLOCK_WORDS * 32], WORDS)
    bits = tl.where(found, (tl.full([1], 1, tl.int32) << (other % 32).to(tl.int32))[None, :], 0)
    word = tl.program_id(1) * BLOCK_WORDS + tl.arange(0, BLOCK_WORDS)
    packed = tl.sum(tl.reshape(bits, [BLOCK_M, BLOCK_WORDS, 32]), axis=2)
    inside = active[:, None] & (word < row_words)[None, :]
    tl.store(rows + sample[:, None] * row_words + word[None, :], packed, mask=inside)
    if tl.program_id(1) == 0:
        tl.store(partner + sample, sample, mask=active)


@triton.jit
def matching_kernel(
    rows,
    seed,
    degree,
    best,
    partner,
    batch,
    row_words,
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
    dearest = tl.full([BLOCK_M, BLOCK_N], 0x7FFFFFFFFFFFFFFF, tl.int64)
    if BALANCED:
        for start in range(0, batch, BLOCK_M):
            sample = start + tl.arange(0, BLOCK_M)
            count = tl.zeros([BLOCK_M], tl.int64)
            for first in range(0, batch, BLOCK_N):
                linked = _linked(rows, sample, first, batch, row_words, BLOCK_M, BLOCK_N)
                count += tl.sum(linked.to(tl.int64), axis=1)
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
                least = tl.full([BLOCK_M], 0x7FFFFFFFFFFFFFFF, tl.int64)
                for first in range(0, batch, BLOCK_N):
                    other = first + tl.arange(0, BLOCK_N)
                    other_free = tl.load(partner + other, mask=other < batch, other=-1) == other
                    linked = _linked(rows, sample, first, batch, row_words, BLOCK_M, BLOCK_N)
                    open = linked & other_free[None, :]
                    edge = edge_hash(hashed[:, None], sample_hash(stream, other)[None, :])
                    if BALANCED:
                        theirs = tl.load(degree + other, mask=other < batch, other=0)
                        cost = balanced_cost(edge, theirs[None, :])
                    else:
                        cost = matching_cost(edge)
                    cost = tl.where(open, cost, dearest)
                    lowest = tl.min(cost, axis=1)
                    at = tl.where(open & (cost == lowest[:, None]), other[None, :].to(tl.int64), dearest)
                    # Among equal costs the lower index wins: later columns must be cheaper.
                    better = lowest < least
                    choice = tl.where(better, tl.min(at, axis=1), choice)
                    least = tl.where(better, lowest, least)
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
def _linked(rows, sample, first, batch, row_words, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Compatibility of samples [M] with the N samples from ``first`` on, a multiple of 32: every word is read once."""
    word = first // 32 + tl.arange(0, BLOCK_N // 32)
    mask = (sample < batch)[:, None] & (word < row_words)[None, :]
    packed = tl.load(rows + sample[:, None].to(tl.int64) * row_words + word[None, :], mask=mask, other=0)
    bits = (packed[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1
    return tl.reshape(bits, [BLOCK_M, BLOCK_N]) != 0


def mine_pairs(present: Tensor, seed: Tensor, strategy: int) -> Tensor:
    """A partner for every sample, int64 [B], from label words and an int64 seed of one element."""
    require_matrix("labels", present)
    require_dtype("labels", present, torch.int32)
    require_dtype("seed", seed, torch.int64)
    require(seed.numel() == 1, f"seed: expected one value, got {seed.numel()}")
    require(strategy in STRATEGIES.values(), f"strategy: unknown code {strategy}")
    require_device(present, seed=seed)
    present = dense(present)
    batch, words = present.shape
    require(batch < 1 << 31, f"labels: expected fewer than 2**31 rows, got {batch}")
    partner = torch.empty((batch,), dtype=torch.int64, device=present.device)
    tiles = configuration(batch, batch, torch.float32, torch.float32)
    if batch == 0:
        return partner
    step = min(triton.next_power_of_2(max(words, 1)), _SECTOR_WORDS)
    if strategy == _ANCHOR:
        tile = tiles.anchor
        launch(
            anchor_kernel,
            (blocks(batch, tile.rows),),
            tile,
            present,
            seed,
            partner,
            batch,
            words,
            WHOLE=batch <= tile.columns,
            BLOCK_M=tile.rows,
            BLOCK_N=tile.columns,
            WORDS=step,
        )
        return partner
    row_words = blocks(batch, 32)
    rows = torch.empty((batch, row_words), dtype=torch.int32, device=present.device)
    degree, best = torch.empty((2, batch), dtype=torch.int64, device=present.device)
    tile = tiles.compatibility
    launch(
        compatibility_kernel,
        (blocks(batch, tile.rows), blocks(row_words, tile.columns // 32)),
        tile,
        present,
        rows,
        partner,
        batch,
        words,
        row_words,
        BLOCK_M=tile.rows,
        BLOCK_WORDS=tile.columns // 32,
        WORDS=step,
    )
    tile = tiles.matching
    launch(
        matching_kernel,
        (1,),
        tile,
        rows,
        seed,
        degree,
        best,
        partner,
        batch,
        row_words,
        BALANCED=strategy == _BALANCED,
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
    )
    return partner
