"""torch.compile(fullgraph=True) gives the loss and the gradients that eager execution gives."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterator

import kit
import pytest
import torch
from kit import Backend, Case
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from indeed_ext import INDeeDHead, fused_indeed_loss, identical_disparate, mine_pairs, pack_labels, six_way_bce

#: The reference compiles too, slowly, as PyTorch code does: nothing of ours to test.
pytestmark = pytest.mark.compiled


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _judge(backend: Backend, case: Case, compiler: str) -> None:
    inputs = case.build()
    eager = functools.partial(fused_indeed_loss, backend=backend.name)
    actual = kit.run_loss(inputs.to(backend.device), torch.compile(eager, fullgraph=True, backend=compiler))
    kit.assert_accurate(actual, kit.run_truth(inputs), lambda: kit.run_plain(inputs))


_TRACED = [
    Case(9, 12, 7, norm, kit.PAIRINGS[turn % 4], reduction, dtype, turn % 2 == 0, turn % 3 == 0, turn % 5 == 0)
    for turn, (norm, reduction, dtype) in enumerate(
        itertools.product(kit.NORMS, kit.REDUCTIONS, (torch.float64, torch.float32, torch.float16))
    )
]


@pytest.mark.parametrize("case", _TRACED, ids=str)
def test_traced(backend: Backend, case: Case) -> None:
    _judge(backend, case, "aot_eager")


_GENERATED = [
    Case(9, 12, 7, "l2", "anchor", "mean", torch.float32),
    Case(9, 12, 7, "minmax", "list", "none", torch.float32, pos_weight=True, unknown=True),
]


@pytest.mark.parametrize("case", _GENERATED, ids=str)
def test_generated_code(backend: Backend, case: Case) -> None:
    """Through the default compiler, which writes and builds C++ (or Triton)."""
    _judge(backend, case, "inductor")


def test_autocast(backend: Backend) -> None:
    """Autocast inside the compiled function; the types are those of eager execution, and so is the loss."""
    inputs = Case(9, 12, 7, pairing="anchor", dtype=torch.float32).build().to(backend.device)

    def step(leaves: dict[str, Tensor]) -> Tensor:
        with torch.autocast(backend.device, dtype=torch.bfloat16):
            return fused_indeed_loss(**leaves, labels=inputs.labels, backend=backend.name, **inputs.options)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected, actual = (kit.differentiate(call, inputs.leaves, inputs.upstream) for call in (step, compiled))
    for kind in ("values", "gradients"):
        torch.testing.assert_close(getattr(actual, kind), getattr(expected, kind))


def test_the_default_backend(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice by environment variable and device is made while tracing."""
    monkeypatch.setenv("INDEED_BACKEND", backend.name)
    inputs = Case(9, 12, 7, pairing="anchor", dtype=torch.float32).build()
    compiled = torch.compile(fused_indeed_loss, fullgraph=True, backend="aot_eager")
    actual = kit.run_loss(inputs.to(backend.device), compiled)
    kit.assert_accurate(actual, kit.run_truth(inputs), lambda: actual)


def test_separate_steps(backend: Backend) -> None:
    """A model with another classifier: packing, mining, blocks and loss in one graph."""
    inputs = Case(9, 12, 7, dtype=torch.float64).build().to(backend.device)
    seed = torch.tensor(5, device=backend.device)

    def step(leaves: dict[str, Tensor]) -> Tensor:
        words = pack_labels(inputs.labels, with_known=True, backend=backend.name)
        pairs = mine_pairs(words, seed=seed, num_classes=7, backend=backend.name)
        blocks = identical_disparate(leaves["features"], pairs, backend=backend.name)
        logits = [torch.tanh(block @ leaves["weight"].T) for block in (leaves["features"], *blocks)]
        return six_way_bce(*logits, inputs.labels, pairs, backend=backend.name)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected, actual = (kit.differentiate(call, inputs.leaves, inputs.upstream) for call in (step, compiled))
    for kind in ("values", "gradients"):
        torch.testing.assert_close(getattr(actual, kind), getattr(expected, kind))


def test_batches_of_every_size_share_a_graph(backend: Backend) -> None:
    """The last batch of an epoch is smaller: a second graph with a dynamic size serves all that follow."""
    counter = CompileCounterWithBackend("aot_eager")
    eager = functools.partial(fused_indeed_loss, backend=backend.name)
    compiled = torch.compile(eager, fullgraph=True, backend=counter)
    graphs = []
    for batch in (8, 5, 7, 6, 9):
        inputs = Case(batch, 6, 4, pairing="anchor", dtype=torch.float64).build()
        inputs.options["seed"] = torch.tensor(batch, device=backend.device)
        actual, expected = (kit.run_loss(inputs.to(backend.device), loss) for loss in (compiled, eager))
        for kind in ("values", "gradients"):
            torch.testing.assert_close(getattr(actual, kind), getattr(expected, kind))
        graphs.append(counter.frame_count)
    assert graphs[1:] == graphs[1:2] * 4


def test_lam_and_seed_change_without_recompilation(backend: Backend) -> None:
    """As 0-d tensors, for a warm-up and for new pairs at every step."""
    counter = CompileCounterWithBackend("aot_eager")
    inputs = Case(8, 6, 4, pairing="anchor", dtype=torch.float64).build().to(backend.device)
    call = functools.partial(
        fused_indeed_loss, labels=inputs.labels, reduction="none", backend=backend.name, **inputs.leaves
    )
    compiled = torch.compile(call, fullgraph=True, backend=counter)
    losses, graphs = [], 0
    for step in range(4):
        options = {
            "seed": torch.tensor(step, device=backend.device),
            "lam": torch.tensor(step / 3, dtype=torch.float64, device=backend.device),
        }
        losses.append(compiled(**options))
        torch.testing.assert_close(losses[-1], call(**options))
        graphs = graphs or counter.frame_count
    assert counter.frame_count == graphs
    assert not torch.equal(losses[0], losses[1])


@pytest.mark.parametrize("seed", [None, 7], ids=["default generator", "seeded"])
def test_head(backend: Backend, seed: int | None) -> None:
    """Every training step mines anew, from the seed that the uncompiled module would use, in one graph."""
    inputs = Case(16, 6, 4, dtype=torch.float32).build().to(backend.device)
    counter = CompileCounterWithBackend("aot_eager")
    torch.manual_seed(0)
    eager = INDeeDHead(6, 4, seed=seed, reduction="none", backend=backend.name).to(backend.device)
    twin = INDeeDHead(6, 4, seed=seed, reduction="none", backend=backend.name).to(backend.device)
    twin.load_state_dict(eager.state_dict())
    compiled = torch.compile(twin, fullgraph=True, backend=counter)
    steps, graphs = [], 0
    for step in range(3):
        torch.manual_seed(step)
        expected = eager(inputs.leaves["features"], inputs.labels)
        torch.manual_seed(step)
        steps.append(compiled(inputs.leaves["features"], inputs.labels))
        torch.testing.assert_close(steps[-1], expected)
        steps[-1].sum().backward()
        expected.sum().backward()
        graphs = graphs or counter.frame_count
    torch.testing.assert_close(twin.weight.grad, eager.weight.grad)
    assert not torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[1], steps[2])
    assert counter.frame_count == graphs


def _reduce_overhead(backend: Backend) -> Counter[str]:
    """Inductor's counters after training steps under the mode that captures CUDA graphs."""
    counters.clear()
    inputs = Case(16, 6, 4, dtype=torch.float32).build().to(backend.device)
    head = INDeeDHead(6, 4, backend=backend.name).to(backend.device)
    step = torch.compile(head, mode="reduce-overhead", fullgraph=True)
    for _ in range(3):
        torch.compiler.cudagraph_mark_step_begin()
        head.zero_grad()
        step(inputs.leaves["features"], inputs.labels).backward()
    return counters["inductor"]


def test_no_graph_breaks(backend: Backend) -> None:
    """A step with mining, loss and gradients is one graph."""
    _reduce_overhead(backend)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1


def test_cuda_graphs_are_not_skipped(backend: Backend) -> None:
    """Nothing in a step waits for the host or works on it."""
    if backend.device != "cuda":
        pytest.skip("CUDA graphs are captured on a GPU only")
    assert _reduce_overhead(backend)["cudagraph_skips"] == 0


def test_values_are_still_checked(backend: Backend) -> None:
    """Labels and pairs out of range are refused by the kernels, so that tracing does not lose the check."""
    inputs = Case(8, 6, 4, dtype=torch.float32).build().to(backend.device)
    if not backend.sees_values:
        pytest.skip("values are not looked at, which would mean to wait for the device")
    compiled = torch.compile(
        functools.partial(fused_indeed_loss, **inputs.leaves, backend=backend.name),
        fullgraph=True,
        backend="aot_eager",
    )
    pairs = torch.arange(8)
    compiled(labels=inputs.labels, pairs=pairs)
    with pytest.raises(ValueError, match="pairs"):
        compiled(labels=inputs.labels, pairs=pairs + 1)
    with pytest.raises(ValueError, match="labels"):
        compiled(labels=inputs.labels + 1, pairs=pairs)
