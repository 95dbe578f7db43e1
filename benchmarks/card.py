"""Time of a kernel from its bytes, operations and serial steps, given the constants of a card."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from indeed_ext.constants import cdiv

#: What multiplies: instructions of warp groups (sm_90), of warps, or the ordinary units.
WGMMA, MMA, FMA = "wgmma", "mma", "fma"
#: Who launches.
TORCH, EXTENSION, TRITON = "torch", "extension", "triton"

#: Registers allow a multiprocessor about so many threads at once: 65,536 by 64 a thread.
RESIDENT_THREADS = 1024


@dataclass(frozen=True)
class Card:
    """What a GPU, and the host that feeds it, can do. Seconds, bytes/s, FLOP/s."""

    name: str
    multiprocessors: int
    memory_bandwidth: float
    cache_bytes: int
    cache_bandwidth: float
    flops: dict[str, float]
    latency: float  # of one memory access that waits for the one before
    start: float  # of a kernel that does nothing, first to last instruction
    gap: float  # between two kernels of a CUDA graph
    launch: dict[str, float]  # host time of an eager launch
    call: float  # host time of an eager step of the package beside its launches
    replay: float  # host time of a call of a compiled function that replays a graph forward and one backward


H100 = Card(
    name="H100",
    multiprocessors=132,  # data sheet of the SXM5 card
    memory_bandwidth=3.0e12,  # seen by copies; the data sheet says 3.35e12
    cache_bytes=50 << 20,  # data sheet
    cache_bandwidth=5.5e12,  # published microbenchmarks of reads that hit the L2 cache
    flops={
        WGMMA: 798e12,  # seen by large bfloat16 products of cuBLAS; the data sheet says 989e12
        MMA: 480e12,  # mma.sync reaches about 0.6 of wgmma (Luo et al. 2024, arXiv:2402.13499)
        FMA: 50e12,  # large float32 products of cuBLAS without TF32; the data sheet says 67e12
    },
    latency=0.3e-6,  # an estimate between about 0.2 of the L2 cache and 0.5 of memory
    start=1.5e-6,  # an estimate: profilers show empty kernels at 1 to 2 microseconds
    gap=1e-6,  # an estimate: about 1 microsecond between dependent nodes of a graph
    launch={
        TORCH: 6e-6,  # an estimate: 3 microseconds of launch, as much of Python, dispatcher and autograd
        EXTENSION: 3e-6,  # an estimate of cudaLaunchKernel from C++
        # benchmarks.host_time: a launch's share of what a Triton step takes beyond a CUDA one (390 by 110 microseconds,
        # 8 launches), which is Triton's Python and the operators'; and 3 microseconds of launch.
        TRITON: 38e-6,
    },
    # benchmarks.host_time, the CUDA step, on a server CPU that takes 47 microseconds for its line of torch.
    call=110e-6,
    replay=60e-6,  # an estimate: guards, AOTAutograd's wrappers, copies of the inputs, two launches of graphs
)


@dataclass(frozen=True)
class Part:
    """Programs of a launch that do the same.

    A step is a memory access that waits for the one before it; of accesses that do not wait for each other four count
    as one, as so many are under way at once. ``flops`` are those of matrix products, of all programs.
    """

    programs: int
    steps: float
    flops: float = 0.0
    unit: str = FMA


@dataclass(frozen=True)
class Kernel:
    """One launch, or ``count`` alike; its ``parts`` in the order of the grid."""

    name: str
    parts: tuple[Part, ...]
    read: float  # bytes, every array once
    written: float
    requested: float = 0.0  # bytes that programs ask the cache for, where they read the same ones again
    resident: int = RESIDENT_THREADS // 256  # programs that a multiprocessor runs at once
    count: int = 1
    launcher: str = EXTENSION

    @property
    def programs(self) -> int:
        return sum(part.programs for part in self.parts)

    @property
    def steps(self) -> float:
        """Serial steps of the longest program."""
        return max(part.steps for part in self.parts)

    @property
    def flops(self) -> float:
        return sum(part.flops for part in self.parts)

    @property
    def moved(self) -> float:
        """Bytes of one launch."""
        return self.read + self.written


def device_seconds(kernel: Kernel, card: Card) -> float:
    """Of all ``count`` launches in a graph: the slowest of memory, arithmetic and serial steps, and what any takes."""
    bandwidth = card.cache_bandwidth if kernel.moved <= card.cache_bytes else card.memory_bandwidth
    share = min(1.0, kernel.programs / card.multiprocessors)
    memory = max(kernel.moved / bandwidth, kernel.requested / card.cache_bandwidth) / share
    arithmetic = sum(part.flops / card.flops[part.unit] for part in kernel.parts)
    return kernel.count * (max(memory, arithmetic, _serial_seconds(kernel, card)) + card.start + card.gap)


def _serial_seconds(kernel: Kernel, card: Card) -> float:
    """Until the last program ends: those of a part start, in the order of the grid, as slots come free."""
    slots = card.multiprocessors * kernel.resident
    end = work = 0.0
    started = 0
    for part in kernel.parts:
        steps = part.steps * card.latency
        alone = part.flops / max(part.programs, 1) / (card.flops[part.unit] / card.multiprocessors)
        start = work / slots if started >= slots else 0.0
        end = max(end, start + max(steps, alone, part.programs * steps / slots))
        started += part.programs
        work += part.programs * steps
    return end


def graph_seconds(kernels: Iterable[Kernel], card: Card) -> float:
    """Device time of a step that is replayed from a CUDA graph."""
    return sum(device_seconds(kernel, card) for kernel in kernels)


def launch_seconds(kernels: Iterable[Kernel], card: Card) -> float:
    """Host time of the launches, one by one."""
    return sum(kernel.count * card.launch[kernel.launcher] for kernel in kernels)


def product(
    name: str, sizes: tuple[int, int, int], element: tuple[float, float], unit: str, card: Card, count: int = 1
) -> Kernel:
    """A matrix product of cuBLAS: (rows, columns, length of the sums), bytes of an element of (operands, result).

    It is taken to cut the result into tiles of 128 x 128, or of 64 x 64 where those do not fill the card, and the sums
    into parts of at least 256 until they do.
    """
    rows, columns, summed = sizes
    tiles = cdiv(rows, 128) * cdiv(columns, 128)
    if tiles < card.multiprocessors:
        tiles = cdiv(rows, 64) * cdiv(columns, 64)
    parts = max(1, min(card.multiprocessors // tiles, summed // 256))
    part = Part(tiles * parts, 2 + summed / parts / 64 / 4, 2.0 * rows * columns * summed, unit)
    read, written = (rows + columns) * summed * element[0], rows * columns * element[1]
    return Kernel(name, (part,), read, written, resident=1, count=count, launcher=TORCH)


def pointwise(name: str, read: float, written: float, count: int = 1) -> Kernel:
    """A kernel of torch that goes through its tensors once, 4 KiB a program."""
    return Kernel(
        name, (Part(max(1, cdiv(int(max(read, written)), 4096)), 2),), read, written, count=count, launcher=TORCH
    )
