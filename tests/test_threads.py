"""The number of threads decides how fast, not what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import kit
import pytest
import torch
from kit import Backend, Case, Result

from indeed_ext import mine_pairs


@pytest.fixture
def with_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=kit.SHORT.get)
@pytest.mark.parametrize("norm", kit.NORMS)
def test_loss_and_gradients(
    backend: Backend, with_threads: Callable[[int], None], norm: str, dtype: torch.dtype, reduction: str
) -> None:
    """To a few units in the last place, which sums in another order may cost."""
    inputs = backend.limit(Case(257, 300, 100, norm, "anchor", reduction, dtype)).build()
    results: list[Result] = []
    for threads in (1, 2, 5):
        with_threads(threads)
        results.append(kit.run_backend(backend, inputs))
    bound = 16 * torch.finfo(dtype).eps
    for other in results[1:]:
        for kind in ("values", "gradients"):
            for name, tensor in getattr(results[0], kind).items():
                kit.assert_within(name, getattr(other, kind)[name], tensor.double(), bound)


@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_mining(backend: Backend, with_threads: Callable[[int], None], strategy: str) -> None:
    labels = kit.random_labels(torch.Generator().manual_seed(0), min(500, backend.max_batch), 60).to(backend.device)
    partners = []
    for threads in (1, 2, 5):
        with_threads(threads)
        partners.append(mine_pairs(labels, strategy=strategy, seed=3, backend=backend.name))
    assert torch.equal(partners[0], partners[1])
    assert torch.equal(partners[0], partners[2])


def test_calls_from_several_python_threads(backend: Backend) -> None:
    """Scratch memory is not shared between calls."""
    inputs = [backend.limit(Case(40 + k, 64, 30, "minmax", "anchor", dtype=torch.float32)).build() for k in range(8)]
    expected = [kit.run_backend(backend, each) for each in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            results = list(pool.map(lambda each: kit.run_backend(backend, each), inputs))
            assert all(map(kit.same_bits, results, expected))
