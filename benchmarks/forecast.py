"""What a training step would take on a GPU that is not there: launches, bytes and serial steps by a card's constants.

Rows: the compiled CUDA kernels (benchmarks/cuda_kernels.py states their launches), the Triton kernels (launches
recorded), torch.compile with CUDA graphs on the plain loss (what Inductor schedules), and that loss run eagerly.
Columns: device time of a step replayed from a CUDA graph, host time of an eager call (of torch.compile: of a call that
replays), launches.
A forecast is good for a factor of one and a half; the constants stand, with their sources, in benchmarks/card.py.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import cuda_kernels, eager_kernels, inductor_kernels, triton_launches
from .card import H100, Card, Kernel, device_seconds, graph_seconds, launch_seconds
from .cases import GPU_DTYPES, GPU_SHAPES, Shape, Step, dtype_name, gpu_steps
from .results import number, table

CUDA, TRITON, COMPILE, EAGER = "cuda", "triton", "compile", "eager"
IMPLEMENTATIONS = (CUDA, TRITON, COMPILE, EAGER)


@dataclass(frozen=True)
class Forecast:
    """One implementation of one step; times in seconds."""

    step: Step
    implementation: str
    kernels: tuple[Kernel, ...]
    device: float
    host: float

    @property
    def launches(self) -> int:
        return sum(kernel.count for kernel in self.kernels)

    @property
    def bytes(self) -> float:
        return sum(kernel.count * kernel.moved for kernel in self.kernels)

    @property
    def flops(self) -> float:
        return sum(kernel.count * kernel.flops for kernel in self.kernels)


def forecast(step: Step, implementation: str, card: Card = H100) -> Forecast:
    """The forecast of a step.

    Raises:
        ImportError, Unavailable: why the launches cannot be had here.
    """
    sources: dict[str, Callable[[], list[Kernel]]] = {
        CUDA: lambda: cuda_kernels.kernels(step, card),
        TRITON: lambda: triton_launches.kernels(step),
        COMPILE: lambda: inductor_kernels.kernels(step, card),
        EAGER: lambda: eager_kernels.kernels(step, card),
    }
    kernels = sources[implementation]()
    host = card.replay if implementation == COMPILE else launch_seconds(kernels, card)
    if implementation in (CUDA, TRITON):
        host += card.call
    return Forecast(step, implementation, tuple(kernels), graph_seconds(kernels, card), host)


def forecasts(steps: Iterable[Step], card: Card = H100) -> tuple[list[Forecast], list[str]]:
    """Every implementation of every step, and sentences about what cannot be had here."""
    found, missing = [], []
    for step in steps:
        for implementation in IMPLEMENTATIONS:
            try:
                found.append(forecast(step, implementation, card))
            except (ImportError, inductor_kernels.Unavailable) as error:
                missing.append(f"{implementation} cannot be forecast here: {error}")
    return found, list(dict.fromkeys(missing))


# ------------------------------------------------------------------------ rendering


def render(found: Sequence[Forecast], missing: Sequence[str], card: Card = H100, kernels: bool = False) -> str:
    """The tables as Markdown."""
    by_step: dict[Step, dict[str, Forecast]] = {}
    for each in found:
        by_step.setdefault(each.step, {})[each.implementation] = each
    lines = []
    for step, row in by_step.items():
        cells = [str(step.case.shape), dtype_name(step.case.dtype), "mined" if step.mined else "given"]
        for name in IMPLEMENTATIONS:
            cells += _cells(row.get(name))
        lines.append(cells)
    header = ["batch x width x classes", "type", "pairs"]
    header += [f"{name}: {what}" for name in IMPLEMENTATIONS for what in ("device [µs]", "host [µs]", "launches")]
    parts = [
        f"## Forecast for one {card.name}\n",
        "Device time of forward and backward replayed from a CUDA graph; host time of an eager call, of `compile` of "
        "one that replays its graphs. Not measured: launches, bytes and serial steps by the constants of the card, "
        "good for a factor of one and a half.\n",
        table(header, lines) + "\n",
        *(f"Note: {text}\n" for text in missing),
    ]
    if kernels:
        for each in found:
            parts += [f"### {each.step}, {each.implementation}\n", kernel_table(each, card) + "\n"]
    return "\n".join(parts)


def _cells(found: Forecast | None) -> list[str]:
    if found is None:
        return ["—"] * 3
    return [number(found.device * 1e6), number(found.host * 1e6), str(found.launches)]


def kernel_table(found: Forecast, card: Card = H100) -> str:
    """Every kernel of a step, launches alike in one line."""
    groups: dict[str, list[Kernel]] = {}
    for kernel in found.kernels:
        groups.setdefault(kernel.name, []).append(kernel)
    lines = []
    for name, group in groups.items():
        total = sum(device_seconds(kernel, card) for kernel in group)
        sums = [sum(k.count * getattr(k, what) for k in group) for what in ("read", "written", "flops")]
        first = group[0]
        lines.append(
            [
                name if len(name) <= 60 else f"{name[:57]}...",
                str(sum(kernel.count for kernel in group)),
                str(first.programs),
                number(first.steps),
                *(number(each / scale) for each, scale in zip(sums, (1e6, 1e6, 1e9), strict=True)),
                number(total * 1e6),
            ]
        )
    header = ["kernel", "launches", "programs", "steps", "read [MB]", "written [MB]", "GFLOP", "device [µs]"]
    return table(header, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.forecast", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", type=Shape.parse, nargs="+", default=list(GPU_SHAPES), metavar="BxNxC")
    types = {dtype_name(dtype): dtype for dtype in GPU_DTYPES}
    parser.add_argument("--types", nargs="+", choices=types, default=list(types), metavar="TYPE")
    parser.add_argument("--kernels", action="store_true", help="every kernel of every step as well")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args(arguments)
    found, missing = forecasts(gpu_steps(options.shapes, [types[name] for name in options.types]))
    print(render(found, missing, kernels=options.kernels))
    if options.csv:
        _write_csv(options.csv, found)
    return 0


def _write_csv(path: Path, found: Sequence[Forecast]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        sizes = ("batch", "width", "classes")
        writer.writerow([*sizes, "dtype", "implementation", "device_us", "host_us", "launches", "bytes", "flops"])
        for each in found:
            case = each.step.case
            figures = [f"{value:.6g}" for value in (each.device * 1e6, each.host * 1e6)]
            work = [each.launches, f"{each.bytes:.6g}", f"{each.flops:.6g}"]
            shape = [getattr(case.shape, name) for name in sizes]
            writer.writerow([*shape, dtype_name(case.dtype), each.implementation, *figures, *work])


if __name__ == "__main__":
    sys.exit(main())
