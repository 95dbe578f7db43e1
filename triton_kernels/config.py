"""Block sizes, warps and stages: a small table in place of autotuning.

Autotuning would launch kernels of its own, wait for the device and give different machines
different summation orders. The table has one line per kind of device and size class:

- Row-local kernels stream a row's elements; a few rows per program and 256 columns keep loads
  wide and, at a training batch of 128, still start a program for every four rows.
- Products of small batches or few classes take small tiles, so that enough programs start; large
  ones take more rows at eight warps. Two accumulators per tile (originals and identicals) bound
  them: logits of 32 x 64 spill registers in float32 on sm_80 or sm_100, gradients do not. gfx942
  spills below 64 x 64.
- float64 has no room for more than 16 x 16: its products are broadcast sums.
- Stages beyond two pay on sm_80 and later, whose copies to shared memory are asynchronous. AMD has
  no such copies, and 64 KiB of shared memory per workgroup.
- The interpreter runs programs one after the other in Python: tiles are small enough for tests to
  have edges in all three dimensions, and no smaller.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .operators import is_interpreted


@dataclass(frozen=True)
class Tile:
    """A program's rows and columns, the columns it goes forward in a step, and how it is scheduled."""

    rows: int
    columns: int
    step: int = 0
    warps: int = 4
    stages: int = 1


@dataclass(frozen=True)
class Configuration:
    """Tiles of every kernel."""

    row_local: Tile  # statistics, blocks, cross-entropies of given logits, label packing
    logits: Tile  # rows x classes, features in steps
    features: Tile  # rows x features, classes in steps
    weight: Tile  # classes x features, rows in steps
    gather: Tile  # the gradient through the maps: features of one sample, pairs in steps
    anchor: Tile  # samples x candidates
    matching: Tile  # samples x candidates, one program


_ROW_LOCAL = Tile(4, 256)
_GATHER = Tile(1, 512, 128)
_ANCHOR = Tile(4, 64, warps=2)
_MATCHING = Tile(32, 128, warps=16)


def _products(logits: Tile, gradients: Tile | None = None) -> Configuration:
    gradients = gradients or logits
    return Configuration(_ROW_LOCAL, logits, gradients, gradients, _GATHER, _ANCHOR, _MATCHING)


_SMALL, _LARGE, _DOUBLE = "small", "large", "double"

#: (kind of device, size class) to tiles.
TABLE = {
    ("cuda", _SMALL): _products(Tile(16, 32, 32, stages=3)),
    ("cuda", _LARGE): _products(Tile(32, 32, 32, warps=8, stages=2), Tile(32, 64, 32, warps=8, stages=2)),
    ("cuda", _DOUBLE): _products(Tile(16, 16, 16)),
    ("hip", _SMALL): _products(Tile(16, 32, 32)),
    ("hip", _LARGE): _products(Tile(64, 64, 32, warps=8)),
    ("hip", _DOUBLE): _products(Tile(16, 16, 16)),
}
_INTERPRETER = Configuration(
    Tile(64, 64), Tile(16, 32, 32), Tile(16, 32, 32), Tile(32, 32, 16), Tile(1, 64, 64), Tile(64, 64), Tile(64, 64)
)

#: Below this many elements of the logits, large tiles would leave most of a GPU without a program.
_SMALL_LOGITS = 1 << 18


#: Set while kernels are compiled for a device that is not there.
_assumed_kind: str | None = None


@contextlib.contextmanager
def assumed_device(kind: str) -> Iterator[None]:
    """Tiles for ``"cuda"`` or ``"hip"``, whatever this torch was built for."""
    global _assumed_kind
    _assumed_kind = kind
    try:
        yield
    finally:
        _assumed_kind = None


def device_kind() -> str:
    """``"interpreter"``, ``"cuda"`` or ``"hip"``."""
    if _assumed_kind is not None:
        return _assumed_kind
    if is_interpreted():
        return "interpreter"
    return "hip" if torch.version.hip else "cuda"


def configuration(rows: int, classes: int, dtype: torch.dtype) -> Configuration:
    """The tiles for a loss of this many rows and classes computed in ``dtype``."""
    device = device_kind()
    if device == "interpreter":
        return _INTERPRETER
    if dtype == torch.float64:
        return TABLE[device, _DOUBLE]
    return TABLE[device, _SMALL if rows * classes < _SMALL_LOGITS else _LARGE]
