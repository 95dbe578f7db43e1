"""What the suites share: which competitors and devices there are, and how one call is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from .competitors import compiled_backends
from .timing import WARM_UP_CALLS, synchronise

#: Seconds a single benchmark may take, beyond pytest-benchmark's fewest rounds.
MOST_SECONDS = 0.2


def devices() -> list[str]:
    """Devices that some backend has kernels for; the CPU even without."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() and compiled_backends("cuda") else [])]


def competitor_parameters(*plain: str) -> pytest.MarkDecorator:
    """Parametrises ``device`` and ``competitor``: the plain ones and every backend of the device."""
    found: Iterable[tuple[str, str]] = [
        (device, name) for device in devices() for name in (*plain, *compiled_backends(device))
    ]
    return pytest.mark.parametrize(("device", "competitor"), found, ids=[f"{device}-{name}" for device, name in found])


def time_call(benchmark: BenchmarkFixture, group: str, device: str, call: Callable[[], object]) -> None:
    """One line of the table ``group``; on a GPU until the device is done."""

    def until_done() -> None:
        call()
        synchronise(device)

    benchmark.group = f"{group} on {device}"
    for _ in range(WARM_UP_CALLS):
        until_done()
    benchmark(until_done)
