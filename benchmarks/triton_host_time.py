"""Time that a call of the Triton backend takes on the host, without a GPU: python -m benchmarks.triton_host_time

Tensors lie on the CPU, kernels are compiled for sm_90 and given to a driver that launches nothing. What is left out is
what the driver itself takes for a launch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget

from indeed_ext import backends, fused_indeed_loss, operators, schemas

NAMESPACE = "indeed_ext_triton_host_time"


class IdleDriver:
    """What Triton asks of a driver; its launches are counted and do nothing."""

    def __init__(self) -> None:
        self.utils = self
        self.launches = 0

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        def run(*arguments: Any) -> None:
            self.launches += 1

        return run

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[int, ...]:
        return 1, 1, 0, 0, 1024

    def unload_module(self, module: int) -> None:
        pass

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 227 << 10}

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def use_idle_driver() -> IdleDriver:
    """Register backend ``"triton-host-time"``, whose kernels go to the driver that is returned."""
    from indeed_ext.triton_kernels import config
    from indeed_ext.triton_kernels.operators import _implementation

    driver = IdleDriver()
    triton.runtime.driver.set_active(driver)
    mock.patch.object(config, "device_kind", lambda device: "hopper").start()
    library = operators.define(NAMESPACE)
    for name in schemas.SCHEMAS:
        library.impl(name, _implementation(name), "CPU")
    backends.register_backend("triton-host-time", NAMESPACE, "cpu")
    return driver


def microseconds(function: Callable[[], Any], calls: int = 2000) -> float:
    """The least of many calls, as others work on the machine."""
    least = float("inf")
    for _ in range(calls):
        start = time.perf_counter()
        function()
        least = min(least, time.perf_counter() - start)
    return 1e6 * least


def step(batch: int = 32, width: int = 128, classes: int = 40) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """(forward, forward and backward) of a loss; small, as the CPU takes long to allocate what a GPU would not."""
    leaves = [torch.rand(*shape, dtype=torch.bfloat16) for shape in ((batch, width), (classes, width), (classes,))]
    features, weight, bias = (leaf.requires_grad_() for leaf in leaves)
    labels, seed = torch.ones(batch, classes, dtype=torch.int64), torch.tensor(3)

    def forward() -> torch.Tensor:
        return fused_indeed_loss(features, weight, labels, bias=bias, seed=seed, backend="triton-host-time")

    def both() -> None:
        torch.autograd.grad(forward(), leaves)

    return forward, both


def main() -> None:
    from indeed_ext.triton_kernels import launch

    torch.set_num_threads(1)
    use_idle_driver()
    forward, both = step()
    recorded: list[Any] = []
    enqueue = launch._enqueue
    with mock.patch.object(launch, "_enqueue", lambda *call: recorded.append(call)):
        forward()
        packageless = microseconds(forward, 500)
    print(f"forward                  {microseconds(forward):6.1f} us")
    print(f"forward and backward     {microseconds(both):6.1f} us")
    print(f"forward without launches {packageless:6.1f} us")
    for call in recorded[:7]:
        print(f"  {call[0].__name__:<22} {microseconds(lambda call=call: enqueue(*call)):6.1f} us")


if __name__ == "__main__":
    main()
