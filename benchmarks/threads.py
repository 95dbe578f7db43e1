"""Whether the number of threads, or the instruction set of the CPU kernels, changes results."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import indeed_ext
from indeed_ext import _extension

from .agreement import NAMES, relative_difference
from .baselines import Key, compiled_backends, loss_step, losses
from .cases import NORMS, Case, Inputs, Shape, make_inputs
from .results import Report, Row, Settings, table
from .timing import Spread

SECTION = "threads"
THREADS = (1, 2, 4)
UNITS = ("ulp", "of the largest element")
SHAPES = (Shape(64, 512, 20), Shape(128, 2048, 80), Shape(512, 2048, 80))


def run(settings: Settings, report: Report) -> None:
    """Loss, gradients and mined partners with other threads or instructions, against one thread of the best variant."""
    if torch.device(settings.device).type != "cpu":
        report.notes.append("thread counts matter on a CPU only")
        return
    shapes = [shape for shape in settings.shapes if shape in SHAPES] or settings.shapes[:1]
    before = torch.get_num_threads()
    try:
        for case in (Case(shape, norm) for shape in shapes for norm in NORMS):
            settings.say(f"  {case}")
            inputs = make_inputs(case)
            for backend in compiled_backends("cpu"):
                _compare(report, case, inputs, backend)
    finally:
        torch.set_num_threads(before)


def _compare(report: Report, case: Case, inputs: Inputs, backend: str) -> None:
    results = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        results[f"{threads}"] = _results(case, inputs, backend)
    torch.set_num_threads(1)
    library = _extension.LIBRARY
    if backend == "cpu" and library is not None:
        best, *others = library.kernel_variants()
        for variant in others:
            library.set_kernel_variant(variant)
            results[variant] = _results(case, inputs, backend)
        library.set_kernel_variant(best)
    single = results.pop("1")
    for note, found in results.items():
        for name, tensor in found.items():
            values = ulps(tensor, single[name]), relative_difference(tensor, single[name])
            for unit, value in zip(UNITS, values, strict=True):
                difference = Spread.single(value)
                row = Row(SECTION, case, Key(backend), "largest difference", unit, difference, {}, f"{name}, {note}")
                report.rows.append(row)


def _results(case: Case, inputs: Inputs, backend: str) -> dict[str, Tensor]:
    step = loss_step(losses(case)[backend], inputs)
    partners = indeed_ext.mine_pairs(inputs.labels, strategy="anchor", seed=0, backend=backend)
    return {**dict(zip(NAMES, step, strict=True)), "partners": partners}


def ulps(one: Tensor, other: Tensor) -> float:
    """The most representable numbers between two elements; for integers, their largest difference."""
    if not one.numel():
        return 0.0
    return float((_ordinal(one) - _ordinal(other)).abs().max())


def _ordinal(tensor: Tensor) -> Tensor:
    """Integers in the order of the floating-point numbers, neighbours one apart, both zeros at 0."""
    if not tensor.is_floating_point():
        return tensor.long()
    bits = tensor.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
    magnitude = (bits & torch.iinfo(bits.dtype).max).long()
    return torch.where(bits < 0, -magnitude, magnitude)


# ------------------------------------------------------------------------ rendering


def render(rows: Sequence[Row], device: str) -> str:
    """One line per case and number of threads or instruction set, one column per result."""
    exact, scaled = (
        {(row.case, row.key.name, row.note): row.value.median for row in rows if row.unit == unit} for unit in UNITS
    )
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for (case, backend, note), value in exact.items():
        name, _, other = note.rpartition(", ")
        text = "equal" if value == 0 else f"{value:.0f} ulp ({scaled[case, backend, note]:.0e})"
        lines.setdefault((str(case.shape), case.norm, backend, other), {})[name] = text
    columns = list(dict.fromkeys(name for found in lines.values() for name in found))
    return "\n".join(
        (
            "## Threads\n",
            "Results with several threads, and with one on other instruction sets, against those with one. *equal* is "
            "bit for bit; else the largest difference "
            "in units in the last place of the element itself, which is large where an element nearly cancels, and in "
            "brackets relative to the tensor's largest element.\n",
            table(
                ["batch x width x classes", "norm", "backend", "threads or variant", *columns],
                [[*head, *(found[column] for column in columns)] for head, found in lines.items()],
            )
            + "\n",
        )
    )
