"""Block sizes, warps and stages: a small table, one line per kind of device and type of the products.

Autotuning at the first call would launch kernels of its own, wait for the device and give different machines different
summation orders.

- A training batch is small for a GPU. The logits of (128, 2048, 80) are two tiles of 64 x 128, all classes in one, so
  that features are read once; :func:`part_size` cuts the features into parts for the multiprocessors there are. Fewer
  rows a tile would read the weight more often, more would leave larger partial sums to be read again.
- Products of half types have at least 64 rows a tile, as many as Hopper's matrix instructions take: those of fewer
  rows compile to the ones of Ampere. In steps of 64 a row of features fills a line of the cache.
- The products with the gradients of the logits share a launch and the width of their tiles: 64 features at a training
  batch, for enough programs, 128 where there are many logits, as gradients are read again for every tile of features.
  The weight's gradient is cut over its rows: whatever the batch, there are few tiles of it where there are few classes.
- Ampere holds sums and operands in registers, which take 64 classes of the weight's gradient in place of 128.
- float32 is multiplied without tensor cores, from registers that hold a step of both operands beside the sums: its
  tiles are smaller and its steps shorter. float64 has room for 16 x 16: its products are broadcast sums.
- Row-local kernels take few rows per program, so that a training batch starts a program for each multiprocessor, and
  as many columns as keep loads wide. Many logits start programs enough, which take more rows and columns.
- A tile of candidates holds a training batch, whose label words ``anchor`` then reads in order, once for as many
  samples as draw more of them. One of ``compatibility`` is as tall as keeps the words that its neighbours read again
  few. A tile of ``matching`` has a word of 32 bits for every thread: of fewer words Triton
  lets every thread load those it needs bits of.
- Blackwell (sm_100 and later) keeps sums and operands of half types in 512 columns of tensor memory, which the tiles of
  both products with the gradients of the logits must fit together.
- Stages beyond two pay on sm_80 and later, whose copies to shared memory are asynchronous. AMD has no such copies, and
  64 KiB of shared memory per workgroup.
- The interpreter's time goes by operations, whatever their size: tiles hold most of a test's sizes at once, and leave
  two parts of the features, two steps and two tiles to larger ones.
"""

import functools
from dataclasses import dataclass, replace

import torch

from indeed_ext.constants import cdiv

from .operators import is_interpreted


@dataclass(frozen=True)
class Tile:
    """A program's rows and columns, the columns it goes forward in a step, and how it is scheduled."""

    block_m: int
    block_n: int
    block_k: int = 0
    warps: int = 4
    stages: int = 1


@dataclass(frozen=True)
class Configuration:
    """Tiles of every kernel."""

    logits: Tile  # rows x classes, features in steps
    grad_features: Tile  # rows x features, classes in steps
    grad_weight: Tile  # classes x features, rows in steps; the rest is that of ``grad_features``
    row_local: Tile = Tile(4, 256)  # label packing, formed rows, cross-entropies of given logits, the reduction
    bce_epilogue: Tile = Tile(1, 128)  # rows x classes
    grad_bias: Tile = Tile(128, 32)  # partial sums x classes, in the launch of ``grad_features``
    map_statistics: Tile = Tile(2, 1024)  # rows x features
    row_index: Tile = Tile(64, 64)  # endpoints x endpoints
    map_backward: Tile = Tile(1, 1024)  # samples x features
    anchor: Tile = Tile(4, 128)  # samples x candidates
    compatibility: Tile = Tile(64, 128, warps=8)  # samples x candidates
    matching: Tile = Tile(64, 128, warps=8)  # samples x candidates, one program


#: From this many logits on, narrow tiles alone start programs enough; and from this many on, tiles of few logits.
_LARGE_PRODUCTS = 1 << 17
_MANY_LOGITS = 1 << 18

_HALF = Configuration(Tile(64, 128, 64, warps=8, stages=3), Tile(64, 64, 64, stages=2), Tile(128, 64, 32))
_HALF_LARGE = Configuration(
    Tile(128, 128, 32, warps=8, stages=3), Tile(64, 128, 64, warps=8, stages=2), Tile(128, 128, 64)
)
_SINGLE = Configuration(Tile(32, 64, 16, warps=8, stages=2), Tile(32, 64, 16, warps=8, stages=2), Tile(32, 64, 16))
_DOUBLE = Configuration(Tile(16, 16, 16), Tile(16, 16, 16), Tile(16, 16, 16))
_HIP_SINGLE = Tile(64, 64, 32, warps=8)

_INTERPRETER = Configuration(
    Tile(16, 64, 32),
    Tile(16, 64, 64),
    Tile(64, 64, 16),
    row_local=Tile(64, 64),
    bce_epilogue=Tile(16, 64),
    map_statistics=Tile(64, 64),
    row_index=Tile(64, 64),
    map_backward=Tile(32, 64),
    anchor=Tile(64, 64),
    compatibility=Tile(64, 64),
    matching=Tile(64, 64),
)

#: Kind of device to the tiles of half types, of the same in large products, of float32 and float64.
_TABLE = {
    "ampere": (
        _HALF,
        replace(_HALF_LARGE, grad_features=Tile(64, 128, 32, warps=8, stages=2), grad_weight=Tile(64, 128, 32)),
        _SINGLE,
        _DOUBLE,
    ),
    "hopper": (_HALF, _HALF_LARGE, _SINGLE, _DOUBLE),
    "blackwell": (_HALF, _HALF_LARGE, _SINGLE, _DOUBLE),
    "hip": (
        _HALF,
        replace(_HALF_LARGE, grad_features=Tile(64, 128, 32, warps=8), grad_weight=Tile(128, 128, 32)),
        Configuration(_HIP_SINGLE, _HIP_SINGLE, _HIP_SINGLE),
        _DOUBLE,
    ),
    "interpreter": (_INTERPRETER,) * 4,
}

#: Compute capabilities from which on there are matrix instructions of four warps, and tensor memory.
_HOPPER, _BLACKWELL = 9, 10


@functools.cache
def device_kind(device: torch.device) -> str:
    """``"interpreter"``, ``"ampere"`` (and before), ``"hopper"``, ``"blackwell"`` (and later) or ``"hip"``."""
    if is_interpreted():
        return "interpreter"
    if torch.version.hip:
        return "hip"
    major, _ = torch.cuda.get_device_capability(device)
    return "blackwell" if major >= _BLACKWELL else "hopper" if major >= _HOPPER else "ampere"


def configuration(
    device: torch.device, rows: int, classes: int, dtype: torch.dtype, accumulation: torch.dtype
) -> Configuration:
    """The tiles for a loss of this many rows and classes of ``dtype``, computed in ``accumulation``."""
    kind = device_kind(device)
    half, half_large, single, double = _TABLE[kind]
    if accumulation == torch.float64:
        return double
    tiles = single
    if dtype != torch.float32:
        tiles = half if rows * classes < _LARGE_PRODUCTS else half_large
    return tiles if kind == "interpreter" or rows * classes < _MANY_LOGITS else _for_many_logits(tiles)


@functools.cache
def _for_many_logits(tiles: Configuration) -> Configuration:
    return replace(tiles, bce_epilogue=Tile(4, 256, warps=8))


#: What is assumed where no device can be asked.
_MULTIPROCESSORS = 132


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many programs it takes to fill the device."""
    if device.type != "cuda":
        return _MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def part_size(size: int, step: int, tiles: int, programs: int) -> int:
    """How much of a sum over ``size`` a program takes, where the result has so many ``tiles``.

    Whole steps, and as many parts as ``programs`` allow: one more would be a second turn for most of the device.
    """
    parts = max(1, programs // max(tiles, 1))
    return max(1, cdiv(size, parts * step)) * step
