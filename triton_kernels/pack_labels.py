"""Labels to words of bits."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arguments import require, require_matrix
from .config import configuration
from .launch import blocks, launch


@triton.jit
def pack_labels_kernel(
    labels,
    present,
    known,
    batch,
    classes,
    words,
    row_stride,
    column_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    word = tl.program_id(1) * BLOCK_WORDS + tl.arange(0, BLOCK_WORDS)
    bit = tl.arange(0, 32)
    column = word[None, :, None].to(tl.int64) * 32 + bit[None, None, :]
    inside = (sample < batch)[:, None, None] & (column < classes)
    # Classes beyond the last are neither present nor known.
    label = tl.load(labels + sample[:, None, None] * row_stride + column * column_stride, mask=inside, other=0).to(
        tl.float32
    )
    at = sample[:, None] * words + word[None, :]
    written = (sample < batch)[:, None] & (word < words)[None, :]
    value = (tl.full([1], 1, tl.int32) << bit)[None, None, :]
    tl.store(present + at, tl.sum(tl.where(label == 1.0, value, 0), axis=2), mask=written)
    tl.store(known + at, tl.sum(tl.where(inside & (label != -1.0), value, 0), axis=2), mask=written)


def pack_labels(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Labels [B, C] -> (present, known) int32 [B, ceil(C / 32)]."""
    require_matrix("labels", labels)
    require(not labels.is_complex(), "labels: expected bool, integer or float labels")
    batch, classes = labels.shape
    words = blocks(classes, 32)
    present = torch.empty((batch, words), dtype=torch.int32, device=labels.device)
    known = torch.empty_like(present)
    values = labels.view(torch.uint8) if labels.dtype == torch.bool else labels
    tile = configuration(batch, classes, torch.float32, torch.float32).row_local
    block_words = tile.columns // 32
    launch(
        pack_labels_kernel,
        (blocks(batch, tile.rows), blocks(words, block_words)),
        tile,
        values,
        present,
        known,
        batch,
        classes,
        words,
        *values.stride(),
        BLOCK_M=tile.rows,
        BLOCK_WORDS=block_words,
    )
    return present, known
