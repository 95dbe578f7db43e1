"""Block sizes, warps and stages: a small table; :mod:`.autotune` looks for better ones only where it is asked to.

Autotuning at the first call would launch kernels of its own, wait for the device and give different machines different
summation orders. The table has one line per kind of device, type of the products and size class:

- A training batch is small for a GPU. The logits of (128, 2048, 80) are two tiles of 64 x 128, all classes in one, so
  that features are read once; :func:`split_width` cuts the features into enough parts for 64 programs. Fewer rows a
  tile would read the weight more often, more would leave larger partial sums to be read again.
- The products with the gradients by logits share a launch and the width of their tiles. 32 rows x 128 features of V and
  T and 128 classes x 128 features of the weight's gradient start 80 programs there; narrower tiles would read the
  gradients by logits more often.
- float32 is multiplied without tensor cores, from registers that hold a step of both operands beside the sums: its
  tiles are smaller and its steps shorter. float64 has room for 16 x 16: its products are broadcast sums.
- Large sizes have programs enough, and take more warps.
- Row-local kernels take few rows per program, so that a training batch starts a program for each multiprocessor, and
  as many columns as keep loads wide.
- A tile of candidates holds a training batch, whose label words ``anchor`` then reads in order, once for as many
  samples as draw more of them. One of ``compatibility`` is as tall as keeps the words that its neighbours read again
  few. A tile of ``matching`` has a word of 32 bits for every thread: of fewer words Triton
  lets every thread load those it needs bits of.
- Blackwell (sm_100 and later) keeps sums and operands of half types in 512 columns of tensor memory, which the tiles of
  both products with the gradients by logits must fit together: theirs are half as wide.
- Stages beyond two pay on sm_80 and later, whose copies to shared memory are asynchronous. AMD has no such copies, and
  64 KiB of shared memory per workgroup.
- The interpreter's time goes by operations, whatever their size: tiles hold most of a test's sizes at once, and leave
  two parts of the features, two steps and two tiles to larger ones.
"""

import contextlib
import itertools
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

    logits: Tile  # rows x classes, features in steps
    features: Tile  # rows x features, classes in steps
    weight: Tile  # classes x features, rows in steps; columns, warps and stages are those of ``features``
    programs: int = 64  # the logits kernel cuts the features into parts until it starts this many
    row_local: Tile = Tile(4, 256)  # label packing, blocks, cross-entropies of given logits, the end of a class block
    cross_entropies: Tile = Tile(2, 128)  # rows x classes
    statistics: Tile = Tile(2, 1024)  # rows x features
    links: Tile = Tile(64, 64)  # endpoints x endpoints
    maps: Tile = Tile(1, 1024, warps=2)  # samples x features
    anchor: Tile = Tile(8, 128)  # samples x candidates
    compatibility: Tile = Tile(64, 128, warps=8)  # samples x candidates
    matching: Tile = Tile(64, 128, warps=8)  # samples x candidates, one program


_HALF, _SINGLE, _DOUBLE = "half", "single", "double"
_SMALL, _LARGE = "small", "large"

_BROADCAST = Configuration(Tile(16, 16, 16), Tile(16, 16, 16), Tile(16, 16, 16))

#: (kind of device, type of the products, size class) to tiles.
TABLE = {
    ("cuda", _HALF, _SMALL): Configuration(
        Tile(64, 128, 32, warps=8, stages=3), Tile(32, 128, 32, warps=8, stages=2), Tile(128, 128, 16)
    ),
    ("cuda", _HALF, _LARGE): Configuration(
        Tile(64, 128, 32, warps=8, stages=3),
        Tile(32, 128, 32, warps=8, stages=2),
        Tile(128, 128, 16),
        cross_entropies=Tile(4, 256),
    ),
    ("cuda", _SINGLE, _SMALL): Configuration(
        Tile(32, 64, 16, warps=8, stages=2),
        Tile(32, 64, 16, warps=8, stages=2),
        Tile(32, 64, 16),
        maps=Tile(1, 1024),
    ),
    ("cuda", _SINGLE, _LARGE): Configuration(
        Tile(32, 64, 16, warps=8, stages=2),
        Tile(32, 64, 16, warps=8, stages=2),
        Tile(32, 64, 16),
        maps=Tile(1, 1024),
        cross_entropies=Tile(4, 256),
    ),
    ("cuda", _DOUBLE, _SMALL): _BROADCAST,
    ("cuda", _DOUBLE, _LARGE): _BROADCAST,
    ("blackwell", _HALF, _SMALL): Configuration(
        Tile(64, 128, 32, warps=8, stages=3), Tile(32, 64, 32, warps=8, stages=2), Tile(128, 64, 16)
    ),
    ("blackwell", _HALF, _LARGE): Configuration(
        Tile(64, 128, 32, warps=8, stages=3),
        Tile(32, 64, 32, warps=8, stages=2),
        Tile(128, 64, 16),
        cross_entropies=Tile(4, 256),
    ),
    ("hip", _HALF, _SMALL): Configuration(Tile(64, 128, 32, warps=8), Tile(32, 128, 32, warps=8), Tile(128, 128, 16)),
    ("hip", _HALF, _LARGE): Configuration(
        Tile(64, 128, 32, warps=8),
        Tile(64, 128, 32, warps=8),
        Tile(128, 128, 16),
        cross_entropies=Tile(4, 256),
    ),
    ("hip", _SINGLE, _SMALL): Configuration(
        Tile(64, 64, 32, warps=8), Tile(64, 64, 32, warps=8), Tile(64, 64, 32, warps=8)
    ),
    ("hip", _SINGLE, _LARGE): Configuration(
        Tile(64, 64, 32, warps=8),
        Tile(64, 64, 32, warps=8),
        Tile(64, 64, 32, warps=8),
        cross_entropies=Tile(4, 256),
    ),
    ("hip", _DOUBLE, _SMALL): _BROADCAST,
    ("hip", _DOUBLE, _LARGE): _BROADCAST,
}
for _kind, _size in itertools.product((_SINGLE, _DOUBLE), (_SMALL, _LARGE)):
    TABLE["blackwell", _kind, _size] = TABLE["cuda", _kind, _size]

_INTERPRETER = Configuration(
    Tile(16, 64, 32),
    Tile(16, 64, 64),
    Tile(64, 64, 16),
    programs=2,
    row_local=Tile(64, 64),
    cross_entropies=Tile(16, 64),
    statistics=Tile(64, 64),
    links=Tile(64, 64),
    maps=Tile(32, 64),
    anchor=Tile(64, 64),
    compatibility=Tile(64, 64),
    matching=Tile(64, 64),
)

#: From this many elements of the logits on, tiles alone start programs enough.
_LARGE_LOGITS = 1 << 18

#: Compute capability from which on there is tensor memory.
_BLACKWELL = 10

#: Set while kernels are compiled for a device that is not there.
_assumed_kind: str | None = None


@contextlib.contextmanager
def assumed_device(kind: str) -> Iterator[None]:
    """Tiles for ``"cuda"``, ``"blackwell"`` or ``"hip"``, whatever is here."""
    global _assumed_kind
    _assumed_kind = kind
    try:
        yield
    finally:
        _assumed_kind = None


def device_kind() -> str:
    """``"interpreter"``, ``"cuda"`` (before Blackwell), ``"blackwell"`` or ``"hip"``."""
    if _assumed_kind is not None:
        return _assumed_kind
    if is_interpreted():
        return "interpreter"
    if torch.version.hip:
        return "hip"
    return "blackwell" if torch.cuda.get_device_capability()[0] >= _BLACKWELL else "cuda"


def line_of(rows: int, classes: int, dtype: torch.dtype, accumulation: torch.dtype) -> tuple[str, str, str]:
    """The line of the table for a loss of this many rows and classes of ``dtype``, computed in ``accumulation``."""
    kind = _DOUBLE if accumulation == torch.float64 else _SINGLE if dtype == torch.float32 else _HALF
    return device_kind(), kind, _SMALL if rows * classes < _LARGE_LOGITS else _LARGE


def configuration(rows: int, classes: int, dtype: torch.dtype, accumulation: torch.dtype) -> Configuration:
    """The tiles of that line."""
    if device_kind() == "interpreter":
        return _INTERPRETER
    return TABLE[line_of(rows, classes, dtype, accumulation)]


def split_width(width: int, tiles: int, configuration: Configuration) -> int:
    """How many features a program of the logits kernel sums over, where there are ``tiles`` of rows and classes.

    Whole steps, and as many parts as it takes to start enough programs.
    """
    step = configuration.logits.step
    parts = max(1, -(-configuration.programs // max(tiles, 1)))
    return max(1, -(-width // (parts * step))) * step
