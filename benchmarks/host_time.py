"""Host time of an eager training step on a GPU that is not there: all that runs is the host's part.

The public function runs on small CPU tensors. The CUDA backend is that of ``tests/cuda_emulation``, the sources of
``csrc/cuda`` compiled for the host, with launches and matrix products that return at once; kernels of Triton are
compiled and handed to a driver that does nothing. So the figures leave out what CUDA takes for a launch (``launch`` in
benchmarks/card.py) and the change to the thread on which autograd runs the backward of a GPU. The line ``torch`` is one
operator of torch on three leaves of a few numbers: what autograd takes by itself, on this machine at this moment.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import indeed_ext
from indeed_ext import backends

from . import ROOT
from .cases import Case, Shape, dtype_name, make_inputs
from .results import number, table

#: Small, as torch's own operators work on the tensors.
SHAPE = Shape(8, 256, 80)
DTYPES = (torch.bfloat16, torch.float32)
ROUNDS, WARM_UP = 2000, 100


class _Driver:
    """What Triton asks of a driver."""

    def __init__(self) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", 90, 32)
        self.utils = SimpleNamespace(
            load_binary=lambda *_: (0, 0, 0, 0, 1024),
            get_device_properties=lambda _: {"max_shared_mem": 227 << 10, "multiprocessor_count": 132},
        )
        self.launcher_cls = lambda *_: self.launch
        self.launches = 0

    def activate(self) -> None:
        import triton

        triton.runtime.driver.set_active(self)

    def launch(self, *_: Any) -> None:
        self.launches += 1

    def is_active(self) -> bool:
        return True

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, _: int) -> None:
        pass

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def _hopper(_: torch.device) -> str:
    """No Mock, a call of which takes as long as a launch."""
    return "hopper"


@contextlib.contextmanager
def idle_triton() -> Iterator[Callable[[], int]]:
    """The backend ``"triton"`` serves CPU tensors, with a driver that does nothing; gives the launches so far.

    Raises:
        ImportError: there is no Triton.
    """
    from indeed_ext.triton_kernels import config, operators

    driver = _Driver()
    driver.activate()
    library = torch.library.Library(operators.NAMESPACE, "IMPL")
    for name in operators.SCHEMAS:
        library.impl(name, operators._implementation(name), "CPU")
    backends.register_backend("triton", operators.NAMESPACE, "cpu")
    with mock.patch.object(config, "device_kind", _hopper):
        yield lambda: driver.launches


@contextlib.contextmanager
def idle_cuda() -> Iterator[Callable[[], int]]:
    """The backend ``"cuda-emulated"`` serves CPU tensors and runs no kernel; gives the launches so far.

    Raises:
        ImportError: why it cannot be had here.
    """
    tests = str(ROOT / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    from cuda_emulation.build import Unavailable, load_backend

    try:
        library = load_backend()
    except Unavailable as reason:
        raise ImportError(str(reason)) from reason
    library.cuda_emulation_set_idle(True)
    try:
        yield library.cuda_emulation_launch_count
    finally:
        library.cuda_emulation_set_idle(False)


#: Name of the backend on a GPU to the one that stands for it, and to what makes that idle.
IDLE: dict[str, tuple[str, Callable[[], AbstractContextManager[Callable[[], int]]]]] = {
    "cuda": ("cuda-emulated", idle_cuda),
    "triton": ("triton", idle_triton),
}


def measure(forward: Callable[[], Tensor], leaves: Sequence[Tensor]) -> np.ndarray:
    """Seconds of the forward and of the backward, [2, rounds]."""
    # A GPU does not look whether this is 1.
    upstream = torch.full_like(forward(), 2.0)
    times = []
    with _one_thread():
        for _ in range(WARM_UP + ROUNDS):
            start = time.perf_counter()
            result = forward()
            middle = time.perf_counter()
            torch.autograd.grad(result, leaves, upstream)
            times.append((middle - start, time.perf_counter() - middle))
    return np.array(times[WARM_UP:]).T


def measure_loss(dtype: torch.dtype, backend: str, launches: Callable[[], int]) -> tuple[np.ndarray, int]:
    """Seconds as :func:`measure` gives them, and the launches of a step."""
    inputs = make_inputs(Case(SHAPE, dtype=dtype))

    def forward() -> Tensor:
        given = (inputs.features, inputs.weight, inputs.labels)
        return indeed_ext.fused_indeed_loss(*given, bias=inputs.bias, backend=backend)

    before = launches()
    torch.autograd.grad(forward(), inputs.leaves, torch.full((), 2.0))
    count = launches() - before
    return measure(forward, inputs.leaves), count


def measure_torch() -> np.ndarray:
    """Seconds of an operator of torch, as :func:`measure` gives them."""
    leaves = [torch.rand(4, requires_grad=True) for _ in range(3)]
    return measure(lambda: torch.addcmul(*leaves), leaves)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.host_time", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backends", nargs="+", choices=IDLE, default=list(IDLE), metavar="NAME")
    options = parser.parse_args(arguments)
    lines, notes = [_line("torch", torch.float32, measure_torch(), 0)], []
    for name in options.backends:
        backend, idle = IDLE[name]
        try:
            with idle() as launches:
                for dtype in DTYPES:
                    lines.append(_line(name, dtype, *measure_loss(dtype, backend, launches)))
        except ImportError as error:
            notes.append(f"{name} cannot be measured here: {error}")
    header = ["backend", "type", "forward [µs]", "backward [µs]", "both [µs]", "least", "launches"]
    print(table(header, lines))
    print(*notes, sep="\n", end="\n" if notes else "")
    return 0


def _line(name: str, dtype: torch.dtype, times: np.ndarray, launches: int) -> list[str]:
    both = times.sum(0)
    figures = (*np.median(times, 1), np.median(both), both.min())
    return [name, dtype_name(dtype), *(number(float(each) * 1e6) for each in figures), str(launches)]


if __name__ == "__main__":
    sys.exit(main())
