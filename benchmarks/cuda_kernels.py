"""The launches of a training step by the compiled CUDA kernels: a line for each, in their order.

``tests/test_forecast.py`` holds kernels, grids and blocks to what the code launches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from indeed_ext.constants import CHUNK_ELEMENTS, WORD_BITS, cdiv

from .card import EXTENSION, FMA, RESIDENT_THREADS, WGMMA, Card, Kernel, Part, pointwise, product
from .cases import LABEL_DTYPE, Step

#: csrc/cuda/device.h: the fewest classes of a chunk, and the most groups of samples whose bias gradients are added.
MIN_CLASSES, MAX_GROUPS = 4096, 512
THREADS, WARP = 256, 32
#: Label words of a sample that a warp packs at once, in csrc/cuda/pack_labels.cu.
PACKED_WORDS = 4
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

    @property
    def pack_grid(self) -> tuple[int, int]:
        """Of csrc/cuda/pack_labels.cu: a row of blocks for each sample."""
        rows, block = min(self.batch, 65535), self.threads(cdiv(self.words, PACKED_WORDS) * WARP)
        return min(cdiv(self.words * WARP, PACKED_WORDS * block), (1 << 16) // rows), rows

    def threads(self, items: int) -> int:
        """``block_size`` of csrc/cuda/launch.h."""
        return min(cdiv(items, WARP) * WARP, THREADS)

    def row_threads(self, element: int) -> int:
        """Threads of 16 bytes each that go through a row of features."""
        return self.threads(cdiv(self.width * element, 16))


Formula = Callable[[Sizes], float]


@dataclass(frozen=True)
class Line:
    """A kernel as INDEED_LAUNCH names it."""

    kernel: str
    grid: Callable[[Sizes], tuple[int, ...]]
    block: Callable[[Sizes], int]
    steps: Formula  # serial ones of a block
    read: Formula
    written: Formula
    requested: Formula = lambda s: 0.0
    when: Callable[[Sizes], bool] = lambda s: True
    first: Callable[[Sizes], tuple[int, float]] = lambda s: (0, 0)  # blocks in front that take other steps
    in_last_chunk: bool = True


@dataclass(frozen=True)
class Product:
    """A matrix product of cuBLAS: rows, columns and the length of the sums.

    Half types are multiplied as they are; ``result`` is the bytes of an element of theirs.
    """

    kernel: str
    sizes: Callable[[Sizes], tuple[int, int, int]]
    result: int = ACCUMULATED
    in_last_chunk: bool = True


_THREADS = lambda s: THREADS  # noqa: E731
_WARPS = THREADS // WARP

BEFORE: tuple[Line | Product, ...] = (
    Line(
        "pack_labels_kernel",
        lambda s: s.pack_grid,
        lambda s: s.threads(cdiv(s.words, PACKED_WORDS) * WARP),
        lambda s: 2 + s.batch * cdiv(s.words, PACKED_WORDS) / (math.prod(s.pack_grid) * _WARPS),
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
        "form_rows_kernel",
        lambda s: (s.batch + s.rows, 1),
        lambda s: s.threads(max(cdiv(s.width * s.element, 16), s.rows)),
        lambda s: 6,
        lambda s: s.batch * s.width * s.element,
        lambda s: s.stacked * s.width * s.element + s.rows * (STATISTICS + 7 * INDEX),
        requested=lambda s: (s.batch + 4 * s.rows) * s.width * s.element,
        # The lists of incoming rows: a histogram, its sums, and tiles of rows, which look through themselves for about
        # as long as four accesses take.
        first=lambda s: (1, 4 + 8 * cdiv(s.rows, THREADS)),
    ),
)

#: Repeated for every chunk of the classes.
PER_CHUNK: tuple[Line | Product, ...] = (
    Product("logits", lambda s: (s.stacked, s.classes, s.width)),
    Line(
        "bce_epilogue_kernel",
        lambda s: (s.groups, 1),
        lambda s: s.threads(s.classes),
        # A sample's rows, the partner, its labels; then the sums of the row.
        lambda s: s.group * (4 * cdiv(s.classes, s.threads(s.classes)) + 2),
        lambda s: s.stacked * s.classes * ACCUMULATED + 2 * s.batch * s.words * 4,
        lambda s: s.stacked * s.classes * s.element + s.groups * s.classes * ACCUMULATED + s.rows * ROW_SUMS,
    ),
    Line(
        "reduce_loss_kernel",  # after the last chunk the map's backward takes these blocks
        lambda s: (cdiv(s.classes, WARP), 1),
        _THREADS,
        lambda s: 2 + cdiv(s.groups, _WARPS) / 4,
        lambda s: s.groups * s.classes * ACCUMULATED,
        lambda s: s.classes * s.element,
        in_last_chunk=False,
    ),
    Product("gradient of the weight", lambda s: (s.classes, s.width, s.stacked), result=2),
    Product("V, T", lambda s: (s.stacked, s.width, s.classes)),
)

AFTER: tuple[Line | Product, ...] = (
    Line(
        "map_backward_kernel",
        lambda s: (s.batch + cdiv(s.classes, WARP) + 1, cdiv(cdiv(s.width, 4), THREADS)),
        _THREADS,
        # Own row, then the incoming ones: rows, statistics and sums, features and T.
        lambda s: 8,
        lambda s: s.stacked * s.width * ACCUMULATED + s.batch * s.width * s.element + s.rows * ROW_SUMS,
        lambda s: s.batch * s.width * s.element,
        requested=lambda s: s.width * ((s.batch + 2 * s.rows) * ACCUMULATED + (s.batch + 2 * s.rows) * s.element),
        # The bias gradient and, longer, the loss.
        first=lambda s: (cdiv(s.classes, WARP) + 1, 2 + max(cdiv(s.groups, _WARPS) / 4, cdiv(s.rows, THREADS))),
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
    """The launches of a step, those of its chunks together; every chunk as large as the first."""
    given, lines = sizes(step), launched(step)
    made = [_kernel(line, given, card, lines.count(line)) for line in dict.fromkeys(lines)]
    return [*made, *scaled_gradients()]


def launched(step: Step) -> list[Line | Product]:
    """The lines of a step in the order of their launches."""
    given, count = sizes(step), chunks(step)[1]
    per_chunk = [line for k in range(count) for line in PER_CHUNK if line.in_last_chunk or k < count - 1]
    return [line for line in (*BEFORE, *per_chunk, *AFTER) if isinstance(line, Product) or line.when(given)]


def _kernel(line: Line | Product, s: Sizes, card: Card, count: int) -> Kernel:
    if isinstance(line, Product):
        elements, unit = ((s.element, line.result), WGMMA) if s.half else ((ACCUMULATED, ACCUMULATED), FMA)
        return replace(product(line.kernel, line.sizes(s), elements, unit, card, count), launcher=EXTENSION)
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


def scaled_gradients() -> list[Kernel]:
    """The upstream gradient, and the look at it: as it is 1, nothing is scaled."""
    return [pointwise("gradient of the loss", 0, ACCUMULATED), pointwise("scale_gradients_kernel", ACCUMULATED, 0)]
