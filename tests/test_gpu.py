"""What only a GPU can show; the suite proper runs on it as backends ``cuda`` and ``triton``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import kit
import pytest
import torch
from kit import Backend, Case
from torch import Tensor

from indeed_ext import available_backends, fused_indeed_loss, mine_pairs, pack_labels
from indeed_ext.backends import missing_reasons


@pytest.fixture(params=["cuda", "triton"])
def gpu(request: pytest.FixtureRequest) -> Backend:
    backend = kit.REGISTRY[request.param]
    if backend.name not in available_backends():
        pytest.skip(missing_reasons()[backend.name])
    if backend.device != "cuda":
        pytest.skip(f"{backend.name} runs on the {backend.device} here: torch finds no usable GPU")
    return backend


@contextlib.contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _inputs(case: Case) -> tuple[dict[str, Tensor], Tensor]:
    inputs = case.build().to("cuda")
    return {name: leaf.requires_grad_() for name, leaf in inputs.leaves.items()}, inputs.labels


def _step(
    gpu: Backend, leaves: dict[str, Tensor], labels: Tensor, seed: Tensor, **options: object
) -> tuple[Tensor, ...]:
    loss = fused_indeed_loss(**leaves, labels=labels, seed=seed, backend=gpu.name, **options)
    return loss.detach(), *torch.autograd.grad(loss, list(leaves.values()))


@pytest.mark.parametrize("strategy", kit.STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=kit.SHORT.get)
def test_capture_and_replay_with_new_seeds(gpu: Backend, strategy: str, dtype: torch.dtype) -> None:
    leaves, labels = _inputs(Case(64, 128, 20, dtype=dtype))
    seed = torch.zeros((), dtype=torch.int64, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # a capture wants a warm allocator and handle
        _step(gpu, leaves, labels, seed, strategy=strategy)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = _step(gpu, leaves, labels, seed, strategy=strategy)
    losses = []
    for value in (5, 6, 5):
        seed.fill_(value)
        graph.replay()
        torch.cuda.synchronize()
        for replayed, eager in zip(captured, _step(gpu, leaves, labels, seed, strategy=strategy), strict=True):
            assert torch.equal(replayed, eager)
        losses.append(captured[0].clone())
    assert torch.equal(losses[0], losses[2])
    assert not torch.equal(losses[0], losses[1])


@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_nothing_waits(gpu: Backend, strategy: str, reduction: str) -> None:
    leaves, labels = _inputs(Case(33, 64, 20, dtype=torch.float32))
    seed = torch.ones((), dtype=torch.int64, device="cuda")
    options = {"strategy": strategy, "reduction": reduction}

    def step() -> None:
        loss = fused_indeed_loss(**leaves, labels=labels, seed=seed, backend=gpu.name, **options)
        torch.autograd.grad(loss, list(leaves.values()), torch.ones_like(loss))
        mine_pairs(pack_labels(labels), strategy=strategy, seed=seed, num_classes=20, backend=gpu.name)

    step()  # loading a kernel, and compiling one, may wait
    with _waiting_is_an_error():
        step()


def test_streams(gpu: Backend) -> None:
    """Calls on several streams at once, each on inputs of its own."""
    cases = [Case(40 + k, 256, 30, "minmax", "anchor", dtype=torch.float32) for k in range(8)]
    streams = [torch.cuda.Stream() for _ in cases]
    inputs = [_inputs(case) for case in cases]
    seeds = [torch.full((), k, device="cuda") for k in range(len(cases))]
    expected = [_step(gpu, *each, seed) for each, seed in zip(inputs, seeds, strict=True)]
    torch.cuda.synchronize()
    results = []
    for _ in range(5):
        for each, seed, stream in zip(inputs, seeds, streams, strict=True):
            with torch.cuda.stream(stream):
                results.append(_step(gpu, *each, seed))
    torch.cuda.synchronize()
    for k, result in enumerate(results):
        assert all(torch.equal(a, b) for a, b in zip(result, expected[k % len(cases)], strict=True))


def _peak(call: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    held = call()
    torch.cuda.synchronize()
    del held
    return torch.cuda.max_memory_allocated() - before


def test_memory_does_not_grow_with_classes(gpu: Backend) -> None:
    """Beyond the gradients, at most 64 MiB at (256, 768, 131072)."""
    batch, width, classes = 256, 768, 131_072
    leaves = {
        "features": torch.rand(batch, width, device="cuda", requires_grad=True),
        "weight": torch.randn(classes, width, device="cuda", requires_grad=True),
    }
    labels = torch.rand(batch, classes, device="cuda") < 1e-4
    seed = torch.zeros((), dtype=torch.int64, device="cuda")
    words = pack_labels(labels, backend=gpu.name)
    del labels
    _step(gpu, {name: leaf[:64].detach().requires_grad_() for name, leaf in leaves.items()}, words[:64, :2], seed)
    gradients = 4 * width * (batch + classes)
    assert _peak(lambda: _step(gpu, leaves, words, seed)) <= gradients + (64 << 20)


def test_indices_beyond_32_bits(gpu: Backend) -> None:
    """B n past 2**31, where a 32-bit index would wrap; the last rows are compared with a batch of their own."""
    batch, width, classes = 70_000, 32_768, 8
    if torch.cuda.mem_get_info()[0] < 48 << 30:
        pytest.skip("needs 48 GiB of free GPU memory")
    features = torch.rand(batch, width, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(classes, width, device="cuda", dtype=torch.bfloat16)
    labels = torch.rand(batch, classes, device="cuda") < 0.3
    pairs = torch.arange(batch, device="cuda") ^ 1
    options = {"reduction": "none", "backend": gpu.name}
    whole = fused_indeed_loss(features, weight, labels, pairs=pairs, **options)
    last = fused_indeed_loss(features[-64:], weight, labels[-64:], pairs=pairs[:64], **options)
    torch.testing.assert_close(whole[-64:], last)


def _gradients(
    gpu: Backend, features: Tensor, weight: Tensor, labels: Tensor, pairs: Tensor, wanted: int
) -> tuple[Tensor, ...]:
    leaves = [features.detach().requires_grad_(wanted == 0), weight.detach().requires_grad_(wanted == 1)]
    loss = fused_indeed_loss(*leaves, labels, pairs=pairs, reduction="sum", backend=gpu.name)
    return torch.autograd.grad(loss, [leaves[wanted]])


def test_feature_gradients_beyond_32_bits(gpu: Backend) -> None:
    """B n past 2**31: those of the last samples are those of a batch of their own."""
    batch, width, classes = 66_000, 32_768, 8
    if torch.cuda.mem_get_info()[0] < 64 << 30:
        pytest.skip("needs 64 GiB of free GPU memory")
    features = torch.rand(batch, width, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(classes, width, device="cuda", dtype=torch.bfloat16)
    labels = torch.rand(batch, classes, device="cuda") < 0.3
    pairs = torch.arange(batch, device="cuda") ^ 1
    (whole,) = _gradients(gpu, features, weight, labels, pairs, 0)
    (last,) = _gradients(gpu, features[-64:], weight, labels[-64:], pairs[:64], 0)
    torch.testing.assert_close(whole[-64:], last)


def test_weight_gradients_beyond_32_bits(gpu: Backend) -> None:
    """C n past 2**31: those of the last classes are those of a classifier of their own."""
    batch, width, classes = 8, 16_384, 132_096
    if torch.cuda.mem_get_info()[0] < 48 << 30:
        pytest.skip("needs 48 GiB of free GPU memory")
    features = torch.rand(batch, width, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(classes, width, device="cuda", dtype=torch.bfloat16)
    labels = torch.rand(batch, classes, device="cuda") < 0.3
    pairs = torch.arange(batch, device="cuda") ^ 1
    (whole,) = _gradients(gpu, features, weight, labels, pairs, 1)
    (last,) = _gradients(gpu, features, weight[-64:], labels[:, -64:].contiguous(), pairs, 1)
    torch.testing.assert_close(whole[-64:], last)
