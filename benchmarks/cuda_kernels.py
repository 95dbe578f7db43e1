"""The launches of a training step by the compiled CUDA kernels: a line for each, in their order.

``tests/test_forecast.py`` holds kernels, grids and blocks to what the code launches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from indeed_ext.constants import CHUNK_ELEMENTS, WORD_BITS, cdiv

from .card import FMA, RESIDENT_THREADS, Card, Kernel, Part, pointwise, product
from .cases import LABEL_DTYPE, Step

#: csrc/cuda/device.h: the fewest classes of a chunk, and the most groups of samples whose bias gradients are added.
MIN_CLASSES, MAX_GROUPS = 4096, 512
THREADS, WARP = 256, 32
#: Bytes of an accumulated number, of an index, and of csrc/common's RowSums and MapStatistics.
ACCUMULATED, INDEX, ROW_SUMS, STATISTICS = 4, 8, 40, 24


@dataclass(frozen=True)
class Sizes:
    """What the formulas below are given: a step, at one chunk of its classes."""

    batch: int
    width: int
    classes: int  # of the chunk
    all_classes: int
    element: int  # bytes of a feature
    mined: bool

    @property
    def rows(self) -> int:
        """Directed rows R: those of a partner vector."""
        return self.batch

    @property
    def stacked(self) -> int:
        """Rows of [f; I]."""
        return self.batch + self.rows

    @property
    def words(self) -> int:
        return cdiv(self.all_classes, WORD_BITS)

    @property
    def half(self) -> bool:
        return self.element < ACCUMULATED

    @property
    def group(self) -> int:
        """Samples that a block of the cross-entropies takes."""
        return cdiv(self.batch, MAX_GROUPS)

    @property
    def groups(self) -> int:
        return cdiv(self.batch, self.group) + 1

    def threads(self, items: int) -> int:
        """``block_size`` of csrc/cuda/launch.h."""
        return min(cdiv(items, WARP) * WARP, THREADS)

    def row_threads(self, element: int) -> int:
        """Threads of 16 bytes each that go through a row of features."""
        return self.threads(cdiv(self.width * element, 16))


Formula = Callable[[Sizes], float]


@dataclass(frozen=True)
class Line:
    """A kernel as INDEED_LAUNCH names it, or one of torch: those have no grid here, and launch_count() may leave them
    out."""

    kernel: str
    grid: Callable[[Sizes], tuple[int, ...]] | None
    block: Callable[[Sizes], int]
    steps: Formula  # serial ones of a block
    read: Formula
    written: Formula
    requested: Formula = lambda s: 0.0
    when: Callable[[Sizes], bool] = lambda s: True
    first: Callable[[Sizes], tuple[int, float]] = lambda s: (0, 0)  # blocks in front that take other steps
    counted: bool = True


@dataclass(frozen=True)
class Product:
    """A matrix product of torch: rows, columns and the length of the sums.

    ``half``: for half types, bytes of an operand and of a result, and what multiplies.
    """

    kernel: str
    sizes: Callable[[Sizes], tuple[int, int, int]]
    half: tuple[int, int, str] = (ACCUMULATED, ACCUMULATED, FMA)


def _torch(kernel: str, read: Formula, written: Formula, when: Callable[[Sizes], bool], counted: bool) -> Line:
    return Line(kernel, None, lambda s: THREADS, lambda s: 2, read, written, when=when, counted=counted)


_THREADS = lambda s: THREADS  # noqa: E731
_WARPS = THREADS // WARP

BEFORE: tuple[Line | Product, ...] = (
    Line(
        "pack_labels_kernel",
        lambda s: (min(cdiv(s.batch * s.words, _WARPS), 1 << 16), 1),
        _THREADS,
        lambda s: 2 + cdiv(s.batch * s.words, _WARPS << 16) / 4,
        lambda s: s.batch * s.all_classes * LABEL_DTYPE.itemsize,
        lambda s: 2 * s.batch * s.words * 4,
    ),
    Line(
        "anchor_kernel",
        lambda s: (cdiv(s.batch, _WARPS), 1),
        _THREADS,
        # The words of a probe, and, of a sample without a hit, those of everybody, twice.
        lambda s: 2 + s.words / 4 * (1 + 2 * cdiv(s.batch, WARP)),
        lambda s: s.batch * s.words * 4,
        lambda s: s.batch * INDEX,
        requested=lambda s: 33 * s.batch * s.words * 4,
        when=lambda s: s.mined,
    ),
    Line(
        "convert_all",  # weight, where it is one chunk, and bias
        lambda s: (
            (min(cdiv(s.classes * s.width, THREADS), 4096), 2)
            if s.classes == s.all_classes
            else (cdiv(s.all_classes, THREADS), 1)
        ),
        _THREADS,
        lambda s: 1 + cdiv(s.classes * s.width, THREADS * 4096) / 4,
        lambda s: (s.classes * s.width + s.classes) * s.element if s.classes == s.all_classes else 0,
        lambda s: (s.classes * s.width + s.classes) * ACCUMULATED if s.classes == s.all_classes else 0,
        when=lambda s: s.half,
    ),
    Line(
        "form_rows_kernel",
        lambda s: (s.batch + s.rows, 1),
        lambda s: s.row_threads(s.element),
        lambda s: 6,
        lambda s: s.batch * s.width * s.element,
        lambda s: s.stacked * s.width * ACCUMULATED + s.rows * (STATISTICS + 7 * INDEX),
        requested=lambda s: (s.batch + 4 * s.rows) * s.width * s.element + 2 * (s.batch + 1) * s.rows * INDEX,
        # A sample's features are copied, and all rows looked at for its own and its incoming ones, twice.
        first=lambda s: (s.batch, 4 + 2 * cdiv(s.rows, WARP) / 4),
    ),
)

#: Repeated for every chunk of the classes.
PER_CHUNK: tuple[Line | Product, ...] = (
    _torch(
        "weight to float32",
        lambda s: s.classes * s.width * s.element,
        lambda s: s.classes * s.width * ACCUMULATED,
        when=lambda s: s.half and s.classes < s.all_classes,
        counted=False,
    ),
    Product("logits", lambda s: (s.stacked, s.classes, s.width)),
    Line(
        "bce_epilogue_kernel",
        lambda s: (s.groups, 1),
        lambda s: s.threads(s.classes),
        # A sample's rows, the partner, its labels; then the sums of the row.
        lambda s: s.group * (4 * cdiv(s.classes, s.threads(s.classes)) + 2),
        lambda s: s.stacked * s.classes * ACCUMULATED + 2 * s.batch * s.words * 4,
        lambda s: s.stacked * s.classes * ACCUMULATED + s.groups * s.classes * ACCUMULATED + s.rows * ROW_SUMS,
    ),
    Line(
        "reduce_loss_kernel",
        # In the last chunk one more block, for the loss.
        lambda s: (cdiv(s.classes, WARP) + 1, 1),
        _THREADS,
        lambda s: 2 + cdiv(s.rows, THREADS),
        lambda s: s.groups * s.classes * ACCUMULATED + s.rows * (ROW_SUMS + INDEX),
        lambda s: s.classes * s.element,
        first=lambda s: (cdiv(s.classes, WARP), 2 + cdiv(s.groups, _WARPS) / 4),
    ),
    Product("gradient of the weight", lambda s: (s.classes, s.width, s.stacked)),
    Product("V, T", lambda s: (s.stacked, s.width, s.classes)),
    _torch(
        "gradient of the weight to bfloat16",
        lambda s: s.classes * s.width * ACCUMULATED,
        lambda s: s.classes * s.width * s.element,
        when=lambda s: s.half,
        counted=True,
    ),
)

AFTER: tuple[Line | Product, ...] = (
    Line(
        "map_backward_kernel",
        lambda s: (s.batch, cdiv(cdiv(s.width, 4), s.row_threads(ACCUMULATED))),
        lambda s: s.row_threads(ACCUMULATED),
        # Own row, then the incoming ones: rows, statistics and sums, features and T.
        lambda s: 8,
        lambda s: (s.batch + 2 * s.rows) * s.width * ACCUMULATED,
        lambda s: s.batch * s.width * s.element,
        requested=lambda s: (2 * s.batch + 4 * s.rows) * s.width * ACCUMULATED,
    ),
)


def chunks(step: Step) -> tuple[int, int]:
    """(classes of a chunk, how many chunks there are): ``class_chunk`` of csrc/operators/fused_indeed_loss.h."""
    batch, classes = step.case.shape.batch, step.case.shape.classes
    fitting = CHUNK_ELEMENTS // (2 * batch) // WORD_BITS * WORD_BITS
    chunk = min(classes, max(fitting, MIN_CLASSES))
    return chunk, cdiv(classes, chunk)


def sizes(step: Step) -> Sizes:
    shape = step.case.shape
    return Sizes(shape.batch, shape.width, chunks(step)[0], shape.classes, step.case.dtype.itemsize, step.mined)


def kernels(step: Step, card: Card) -> list[Kernel]:
    """The launches of a step; every chunk as large as the first."""
    given, count = sizes(step), chunks(step)[1]
    made = [_kernel(line, given, card, count if line in PER_CHUNK else 1) for line in launched(given)]
    return [*made, *scaled_gradients(step)]


def launched(s: Sizes) -> list[Line | Product]:
    """The lines of a step, those of a chunk once."""
    lines = (*BEFORE, *PER_CHUNK, *AFTER)
    return [line for line in lines if isinstance(line, Product) or line.when(s)]


def _kernel(line: Line | Product, s: Sizes, card: Card, count: int) -> Kernel:
    if isinstance(line, Product):
        operand, result, unit = line.half if s.half else (ACCUMULATED, ACCUMULATED, FMA)
        return product(line.kernel, line.sizes(s), (operand, result), unit, card, count)
    if line.grid is None:
        return pointwise(line.kernel, line.read(s), line.written(s), count)
    blocks, (first, first_steps) = math.prod(line.grid(s)), line.first(s)
    return Kernel(
        line.kernel,
        (Part(first, first_steps), Part(blocks - first, line.steps(s))),
        line.read(s),
        line.written(s),
        line.requested(s),
        RESIDENT_THREADS // line.block(s),
        count,
    )


def scaled_gradients(step: Step) -> list[Kernel]:
    """The upstream gradient, and the gradients times it."""
    shape, element = step.case.shape, step.case.dtype.itemsize
    sizes = {
        "features": shape.batch * shape.width,
        "weight": shape.classes * shape.width,
        "bias": shape.classes,
    }
    scaled = [pointwise(f"scaled gradient of {name}", size * element, size * element) for name, size in sizes.items()]
    return [pointwise("gradient of the loss", 0, ACCUMULATED), *scaled]
