"""Block sizes, warps and stages: a small table, one line per kind of device and type of the products.

Autotuning at the first call would launch kernels of its own, wait for the device and give different machines different
summation orders.

- A training batch is small for a GPU. The logits of (128, 2048, 80) are two tiles of 64 x 128, all classes in one, so
  that features are read once; :func:`split_width` cuts the features into enough parts for 64 programs. Fewer rows a
  tile would read the weight more often, more would leave larger partial sums to be read again.
- The products with the gradients of the logits share a launch and the width of their tiles. 32 rows x 128 features of V
  and T and 128 classes x 128 features of the weight's gradient start 80 programs there; narrower tiles would read the
  gradients of the logits more often.
- float32 is multiplied without tensor cores, from registers that hold a step of both operands beside the sums: its
  tiles are smaller and its steps shorter. float64 has room for 16 x 16: its products are broadcast sums.
- Row-local kernels take few rows per program, so that a training batch starts a program for each multiprocessor, and
  as many columns as keep loads wide. Many logits start programs enough, which take more rows and columns.
- A tile of candidates holds a training batch, whose label words ``anchor`` then reads in order, once for as many
  samples as draw more of them. One of ``compatibility`` is as tall as keeps the words that its neighbours read again
  few. A tile of ``matching`` has a word of 32 bits for every thread: of fewer words Triton
  lets every thread load those it needs bits of.
- Blackwell (sm_100 and later) keeps sums and operands of half types in 512 columns of tensor memory, which the tiles of
  both products with the gradients of the logits must fit together: theirs are half as wide.
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
    programs: int = 64  # the logits kernel cuts the features into parts until it starts this many
    row_local: Tile = Tile(4, 256)  # label packing, formed rows, cross-entropies of given logits, the reduction
    bce_epilogue: Tile = Tile(2, 128)  # rows x classes
    map_statistics: Tile = Tile(2, 1024)  # rows x features
    row_index: Tile = Tile(64, 64)  # endpoints x endpoints
    map_backward: Tile = Tile(1, 1024)  # samples x features
    anchor: Tile = Tile(4, 128)  # samples x candidates
    compatibility: Tile = Tile(64, 128, warps=8)  # samples x candidates
    matching: Tile = Tile(64, 128, warps=8)  # samples x candidates, one program


#: From this many logits on, tiles alone start programs enough.
_MANY_LOGITS = 1 << 18

_HALF = Configuration(Tile(64, 128, 32, warps=8, stages=3), Tile(32, 128, 32, warps=8, stages=2), Tile(128, 128, 16))
_SINGLE = Configuration(Tile(32, 64, 16, warps=8, stages=2), Tile(32, 64, 16, warps=8, stages=2), Tile(32, 64, 16))
_DOUBLE = Configuration(Tile(16, 16, 16), Tile(16, 16, 16), Tile(16, 16, 16))
_HIP_SINGLE = Tile(64, 64, 32, warps=8)

_INTERPRETER = Configuration(
    Tile(16, 64, 32),
    Tile(16, 64, 64),
    Tile(64, 64, 16),
    programs=2,
    row_local=Tile(64, 64),
    bce_epilogue=Tile(16, 64),
    map_statistics=Tile(64, 64),
    row_index=Tile(64, 64),
    map_backward=Tile(32, 64),
    anchor=Tile(64, 64),
    compatibility=Tile(64, 64),
    matching=Tile(64, 64),
)

#: Kind of device to the tiles of half types, float32 and float64.
_TABLE = {
    "cuda": (_HALF, _SINGLE, _DOUBLE),
    "blackwell": (
        replace(_HALF, grad_features=Tile(32, 64, 32, warps=8, stages=2), grad_weight=Tile(128, 64, 16)),
        _SINGLE,
        _DOUBLE,
    ),
    "hip": (
        Configuration(Tile(64, 128, 32, warps=8), Tile(32, 128, 32, warps=8), Tile(128, 128, 16)),
        Configuration(_HIP_SINGLE, _HIP_SINGLE, _HIP_SINGLE),
        _DOUBLE,
    ),
    "interpreter": (_INTERPRETER,) * 3,
}

#: Compute capability from which on there is tensor memory.
_BLACKWELL = 10


@functools.cache
def device_kind(device: torch.device) -> str:
    """``"interpreter"``, ``"cuda"`` (before Blackwell), ``"blackwell"`` or ``"hip"``."""
    if is_interpreted():
        return "interpreter"
    if torch.version.hip:
        return "hip"
    return "blackwell" if torch.cuda.get_device_capability(device)[0] >= _BLACKWELL else "cuda"


def configuration(
    device: torch.device, rows: int, classes: int, dtype: torch.dtype, accumulation: torch.dtype
) -> Configuration:
    """The tiles for a loss of this many rows and classes of ``dtype``, computed in ``accumulation``."""
    kind = device_kind(device)
    half, single, double = _TABLE[kind]
    if accumulation == torch.float64:
        return double
    tiles = single if dtype == torch.float32 else half
    return tiles if kind == "interpreter" or rows * classes < _MANY_LOGITS else _for_many_logits(tiles)


@functools.cache
def _for_many_logits(tiles: Configuration) -> Configuration:
    return replace(tiles, bce_epilogue=Tile(4, 256))


def split_width(width: int, tiles: int, configuration: Configuration) -> int:
    """How many features a program of the logits kernel sums over, where there are ``tiles`` of rows and classes.

    Whole steps, and as many parts as it takes to start enough programs.
    """
    step = configuration.logits.block_k
    parts = cdiv(configuration.programs, max(tiles, 1))
    return max(1, cdiv(width, parts * step)) * step
