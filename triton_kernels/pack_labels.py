"""Labels to words of bits.

A class is positive (label 1): both bits set; negative (0): valid; unknown (-1): neither. Anything else is no label:
positive and not valid, of which the cross-entropies make NaN (:mod:`.rows`).
"""

import torch
import triton.language as tl
from torch import Tensor

from indeed_ext.constants import WORD_BITS, cdiv

from .arguments import require, require_matrix
from .config import configuration
from .convert import widen
from .jit import kernel
from .launch import launch


@kernel
def pack_labels_kernel(
    labels,
    positive_bits,
    valid_bits,
    batch,
    classes,
    words,
    BLOCK_M: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    word = tl.program_id(1) * BLOCK_WORDS + tl.arange(0, BLOCK_WORDS)
    bit = tl.arange(0, 32)
    column = word[None, :, None].to(tl.int64) * 32 + bit[None, None, :]
    inside = (sample < batch)[:, None, None] & (column < classes)
    label = tl.load(labels + sample[:, None, None] * classes + column, mask=inside, other=0)
    # Compared exactly, in the label's own type; a byte has no -1.
    if labels.dtype.element_ty.is_int():
        label = label.to(tl.int64)
    elif labels.dtype.element_ty == tl.bfloat16:
        label = widen(label, tl.float32)
    # Classes beyond the last are neither.
    positive = inside & (label != 0) & (label != -1)
    valid = inside & ((label == 0) | (label == 1))
    at = sample[:, None] * words + word[None, :]
    written = (sample < batch)[:, None] & (word < words)[None, :]
    value = (tl.full([1], 1, tl.int32) << bit)[None, None, :]
    tl.store(positive_bits + at, tl.sum(tl.where(positive, value, 0), axis=2), mask=written)
    tl.store(valid_bits + at, tl.sum(tl.where(valid, value, 0), axis=2), mask=written)


def pack_labels(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Labels [B, C] -> (positive_bits, valid_bits) int32 [B, ceil(C / 32)]."""
    labels = require_matrix("labels", labels)
    require(not labels.is_complex(), "labels: expected bool, integer or float labels")
    batch, classes = labels.shape
    words = cdiv(classes, WORD_BITS)
    positive_bits = torch.empty((batch, words), dtype=torch.int32, device=labels.device)
    valid_bits = torch.empty_like(positive_bits)
    tile = configuration(labels.device, batch, classes, torch.float32, torch.float32).row_local
    block_words = tile.block_n // WORD_BITS
    launch(
        pack_labels_kernel,
        (cdiv(batch, tile.block_m), cdiv(words, block_words)),
        tile,
        labels.view(torch.uint8) if labels.dtype == torch.bool else labels,
        positive_bits,
        valid_bits,
        batch,
        classes,
        words,
        BLOCK_M=tile.block_m,
        BLOCK_WORDS=block_words,
    )
    return positive_bits, valid_bits
