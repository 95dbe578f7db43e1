"""Host time of a training step by the Triton backend where there is no GPU: kernels are compiled, launches do nothing.

The public function runs on small CPU tensors with a driver that takes them for a device's. What a launch costs beyond
Triton's Python (its C launcher and the CUDA driver, together some microseconds) is missing from the figures.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

import indeed_ext
from indeed_ext import backends

from .cases import Case, Shape, dtype_name, make_inputs
from .results import number, table

#: Small, as torch's own operators work on the tensors.
SHAPE = Shape(8, 256, 80)
DTYPES = (torch.bfloat16, torch.float32)
ROUNDS, WARM_UP = 300, 5


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


@contextlib.contextmanager
def stubbed() -> Iterator[_Driver]:
    """The Triton backend serves CPU tensors, with a driver that does nothing."""
    from indeed_ext.triton_kernels import config, operators

    driver = _Driver()
    driver.activate()
    library = torch.library.Library(operators.NAMESPACE, "IMPL")
    for name in operators.SCHEMAS:
        library.impl(name, operators._implementation(name), "CPU")
    backends.register_backend("triton", operators.NAMESPACE, "cpu")
    with mock.patch.object(config, "device_kind", return_value="hopper"):
        yield driver


def main() -> int:
    """Print a table."""
    lines = []
    with stubbed() as driver:
        for dtype in DTYPES:
            forward, backward, launches = _measure(Case(SHAPE, dtype=dtype), driver)
            cells = [number(value * 1e6) for each in (forward, backward) for value in (np.median(each), each.min())]
            lines.append([dtype_name(dtype), *cells, str(launches)])
    header = ["type", "forward [µs]", "least", "backward [µs]", "least", "Triton launches"]
    print(table(header, lines))
    return 0


def _measure(case: Case, driver: _Driver) -> tuple[np.ndarray, np.ndarray, int]:
    """Seconds of every forward and backward, and the launches of a step."""
    inputs = make_inputs(case)
    settings: dict[str, Any] = {"bias": inputs.bias, "seed": torch.zeros((), dtype=torch.int64), "backend": "triton"}
    times = []
    for _ in range(WARM_UP + ROUNDS):
        before, start = driver.launches, time.perf_counter()
        loss = indeed_ext.fused_indeed_loss(inputs.features, inputs.weight, inputs.labels, **settings)
        middle = time.perf_counter()
        torch.autograd.grad(loss, inputs.leaves, torch.ones(()))
        times.append((middle - start, time.perf_counter() - middle))
    forward, backward = np.array(times[WARM_UP:]).T
    return forward, backward, driver.launches - before


if __name__ == "__main__":
    sys.exit(main())
