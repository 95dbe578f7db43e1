"""The number of threads decides how fast, not what."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import kit
import pytest
import torch
from kit import Backend, Case, Result

from indeed_ext import fused_indeed_loss, mine_pairs


@pytest.mark.parametrize("values", ["relu", "signed"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=kit.SHORT.get)
@pytest.mark.parametrize("norm", kit.NORMS)
def test_loss_and_gradients(backend: Backend, norm: str, dtype: torch.dtype, reduction: str, values: str) -> None:
    """Bit for bit on the CPU; elsewhere to a few units in the last place, which sums in another order may cost."""
    inputs = (
        backend.limit(Case(257, 300, 100, norm, "anchor", reduction, dtype, values=values)).build().to(backend.device)
    )
    fused = functools.partial(fused_indeed_loss, backend=backend.name)
    results: list[Result] = []
    for count in (1, 2, 5, 64):
        with kit.threads(count):
            results.append(kit.run_loss(inputs, fused))
    bound = 0.0 if backend.name == "cpu" else 16 * torch.finfo(dtype).eps
    for other in results[1:]:
        for kind in ("values", "gradients"):
            for name, tensor in getattr(results[0], kind).items():
                kit.assert_within(name, getattr(other, kind)[name], tensor.double(), bound)


@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_mining(backend: Backend, strategy: str) -> None:
    labels = kit.random_labels(torch.Generator().manual_seed(0), min(500, backend.max_batch), 60).to(backend.device)
    partners = []
    for count in (1, 2, 5):
        with kit.threads(count):
            partners.append(mine_pairs(labels, strategy=strategy, seed=3, backend=backend.name))
    assert torch.equal(partners[0], partners[1])
    assert torch.equal(partners[0], partners[2])


def test_calls_from_several_python_threads(backend: Backend) -> None:
    """Scratch memory is not shared between calls."""
    if backend.name == "triton" and backend.device == "cpu":
        pytest.skip("Triton's interpreter keeps the grid of a launch in a global: one call at a time")
    fused = functools.partial(fused_indeed_loss, backend=backend.name)
    cases = [backend.limit(Case(40 + k, 64, 30, "minmax", "anchor", dtype=torch.float32)) for k in range(8)]
    inputs = [case.build() for case in cases]
    truths = [kit.run_truth(each) for each in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            results = pool.map(lambda each: kit.run_loss(each.to(backend.device), fused), inputs)
            for result, truth in zip(results, truths, strict=True):
                kit.assert_accurate(result, truth, lambda: result)  # noqa: B023 (unused: not a half type)
