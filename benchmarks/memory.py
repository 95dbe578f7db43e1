"""Extra memory of one loss with gradients, beyond its inputs and the gradients themselves.

On a CPU every implementation runs in a fresh process of its own, and what counts is resident memory:

1. The inputs are made, and the same code runs once on a tiny shape, so that libraries, thread pools and compiled code
   are loaded. The allocator hands back what it holds for later (``malloc_trim``), or the loss could draw on it unseen.
2. The resident memory is read. Linux is told to start the process's high-water mark anew from here
   (``/proc/self/clear_refs``), so that memory that making the inputs needed for a moment does not count.
3. The loss runs with gradients. The kernel itself keeps the high-water mark, so no peak is too short to be seen, as it
   would be by a thread that samples.
4. Extra = high-water mark - resident memory before - bytes of the gradients.

Where the high-water mark cannot be started anew, a thread samples the resident memory every millisecond instead; the
method is named in the result. On a GPU it is the allocator's peak (``torch.cuda.max_memory_allocated``) less the same.

``python -m benchmarks.memory --help`` measures one implementation.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from . import ROOT
from .baselines import EAGER, Key, compiled_backends, loss_step, losses
from .cases import Case, Shape, make_inputs
from .results import Report, Row, Settings, number, table
from .timing import Spread

SECTION = "memory"
SHAPE = Shape(256, 768, 131_072)
QUICK_SHAPE = Shape(256, 768, 16_384)
WARM_UP_SHAPE = Shape(8, 16, 40)
TARGET = "≤ 64 MiB"
METRICS = ("extra", "inputs", "gradients")
MIB = 1 << 20
#: Losses of two processes agree to this, relatively; elementwise agreement is checked at smaller shapes.
LOSS_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Peak:
    """The report of a child process, in bytes."""

    extra: int
    inputs: int
    gradients: int
    loss: float
    method: str


# -------------------------------------------------------------------- child process


def measure_here(name: str, shape: Shape, device: str) -> Peak:
    """The peak of one implementation in this process, which should be a fresh one."""
    case = Case(shape, device=device)
    inputs, function = make_inputs(case), losses(case)[name]
    loss_step(function, make_inputs(Case(WARM_UP_SHAPE, device=device)))
    watch = _watch_device if torch.device(device).type == "cuda" else _watch_resident
    growth, (loss, *gradients), method = watch(lambda: loss_step(function, inputs))
    gradient_bytes = sum(gradient.nbytes for gradient in gradients)
    input_bytes = sum(tensor.nbytes for tensor in (*inputs.leaves, inputs.labels, inputs.pairs))
    return Peak(growth - gradient_bytes, input_bytes, gradient_bytes, float(loss), method)


Step = Callable[[], tuple[torch.Tensor, ...]]


def _watch_device(step: Step) -> tuple[int, tuple[torch.Tensor, ...], str]:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before, result, "allocator peak"


def _watch_resident(step: Step) -> tuple[int, tuple[torch.Tensor, ...], str]:
    _trim()
    before = _status("VmRSS")
    if _restart_high_water_mark():
        result = step()
        return _status("VmHWM") - before, result, "high-water mark"
    with _Sampler() as sampler:
        result = step()
    return sampler.highest - before, result, "sampled"


def _trim() -> None:
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return  # not glibc: nothing known to be kept back


def _status(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the system does not tell {name} of a process")


def _restart_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return _status("VmHWM") - _status("VmRSS") < MIB


class _Sampler:
    """The highest resident memory seen by a thread that looks every millisecond."""

    def __enter__(self) -> _Sampler:
        self.highest = _status("VmRSS")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(1e-3):
            self.highest = max(self.highest, _status("VmRSS"))


def measure_in_child(name: str, shape: Shape, device: str) -> Peak:
    """The peak of one implementation in a fresh process.

    Raises:
        RuntimeError: the process failed, with the end of what it said.
    """
    command = [sys.executable, "-m", "benchmarks.memory", name, "--shape", str(shape), "--device", device]
    command += ["--threads", str(torch.get_num_threads())]
    child = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    if child.returncode:
        raise RuntimeError(f"measuring the memory of {name} failed: {child.stderr.strip()[-500:]}")
    return Peak(**json.loads(child.stdout.splitlines()[-1]))


# -------------------------------------------------------------------------- section


def run(settings: Settings, report: Report) -> None:
    """Eager and every backend, one after the other."""
    case = Case(QUICK_SHAPE if settings.quick else SHAPE, device=settings.device)
    expected = None
    for name in (EAGER, *compiled_backends(settings.device)):
        settings.say(f"  {name} at {case.shape}")
        try:
            peak = measure_in_child(name, case.shape, settings.device)
        except (RuntimeError, OSError) as error:
            report.notes.append(str(error))
            continue
        expected = peak.loss if expected is None else expected
        if not abs(peak.loss - expected) <= LOSS_TOLERANCE * abs(expected):
            report.errors.append(f"{name} at {case}: its loss {peak.loss} is not eager's {expected}")
            continue
        for metric in METRICS:
            size = Spread.single(getattr(peak, metric) / MIB)
            report.rows.append(
                Row(SECTION, case, Key(name, "given"), f"{metric} memory", "MiB", size, note=peak.method)
            )


def render(rows: Sequence[Row], device: str) -> str:
    """One line per implementation."""
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        lines.setdefault((row.key.name, row.note), []).append(number(row.value.median))
    return "\n".join(
        (
            "## Memory\n",
            f"Peak memory of forward and backward at {rows[0].case.shape} (batch x width x classes) beyond inputs and "
            f"gradients (target: {TARGET}), each in a fresh process; see `benchmarks/memory.py` for the method.\n",
            table(
                ["", *(f"{metric} [MiB]" for metric in METRICS), "method"],
                [[name, *sizes, method] for (name, method), sizes in lines.items()],
            )
            + "\n",
        )
    )


def main() -> None:
    """Print one implementation's peak as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=main.__doc__)
    parser.add_argument("implementation", help="eager, or a backend such as cpu")
    parser.add_argument(
        "--shape", type=Shape.parse, default=SHAPE, help="batch x width x classes (default %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    parser.add_argument("--threads", type=int, help="threads torch may use")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(json.dumps(asdict(measure_here(options.implementation, options.shape, options.device))))


if __name__ == "__main__":
    main()
