"""INDeeDHead is an nn.Linear with a loss; INDeeDLoss the function with its options held."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import distributed
import kit
import pytest
import torch
import torch.nn.functional as F
from kit import Backend, Case
from torch import Tensor, nn

from indeed_ext import INDeeDHead, INDeeDLoss, fused_indeed_loss


def _batch(backend: Backend, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    inputs = Case(16, 6, 4, dtype=dtype).build().to(backend.device)
    return inputs.leaves["features"], inputs.labels


def _head(backend: Backend, **options: Any) -> INDeeDHead:
    return INDeeDHead(6, 4, backend=backend.name, **options).to(backend.device)


# --------------------------------------------------------------- the linear classifier


@pytest.mark.parametrize("bias", [True, False])
def test_the_head_is_a_linear_layer(bias: bool) -> None:
    """Same class, state_dict, initial values and logits, so that a checkpoint moves both ways."""
    torch.manual_seed(3)
    linear = nn.Linear(6, 4, bias)
    torch.manual_seed(3)
    head = INDeeDHead(6, 4, bias, pos_weight=torch.ones(4), seed=5)
    assert isinstance(head, nn.Linear)
    assert (head.in_features, head.out_features) == (6, 4)
    assert list(head.state_dict()) == list(linear.state_dict())
    assert [name for name, _ in head.named_parameters()] == [name for name, _ in linear.named_parameters()]
    features = torch.randn(3, 6)
    assert torch.equal(head(features), linear(features))
    other = INDeeDHead(6, 4, bias)
    other.load_state_dict(linear.state_dict())
    linear.load_state_dict(head.state_dict())
    assert torch.equal(other(features), linear(features))


def test_logits_of_any_rank() -> None:
    head = INDeeDHead(6, 4)
    assert head(torch.randn(2, 3, 6)).shape == (2, 3, 4)


_OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "all set": {
        "norm": "minmax",
        "lam": (0.5, 2.0),
        "strategy": "balanced",
        "eps": 1e-6,
        "reduction": "none",
        "pos_weight": torch.tensor([0.5, 1.0, 2.0, 3.0]),
    },
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("options", _OPTIONS.values(), ids=_OPTIONS.keys())
def test_losses_are_those_of_the_function(backend: Backend, options: dict[str, Any], bias: bool) -> None:
    features, labels = _batch(backend)
    head = _head(backend, bias=bias, seed=7, **options)
    criterion = INDeeDLoss(seed=7, backend=backend.name, **options).to(backend.device)
    moved = {name: each.to(backend.device) if isinstance(each, Tensor) else each for name, each in options.items()}
    expected = fused_indeed_loss(features, head.weight, labels, bias=head.bias, seed=7, backend=backend.name, **moved)
    by_head, by_criterion = head(features, labels), criterion(features, head.weight, labels, head.bias)
    assert torch.equal(by_head, expected)
    assert torch.equal(by_criterion, expected)
    gradients = [torch.autograd.grad(loss.sum(), list(head.parameters())) for loss in (by_head, by_criterion, expected)]
    for each in zip(*gradients, strict=True):
        assert torch.equal(each[0], each[2])
        assert torch.equal(each[1], each[2])


def test_a_call_overrides_the_options(backend: Backend) -> None:
    features, labels = _batch(backend)
    head = _head(backend, reduction="none", seed=1)
    weight, bias = head.weight, head.bias
    pairs = torch.arange(16, device=backend.device).flip(0)
    common = {"bias": bias, "backend": backend.name}
    for overrides in (
        {"seed": 9},
        {"lam": 0.25, "seed": 9},
        {"lam": torch.tensor(0.25, device=backend.device), "seed": 9},
        {"pairs": pairs},
        {"norm": "minmax", "pairs": pairs},
        {"reduction": "sum", "pairs": pairs},
    ):
        expected = fused_indeed_loss(features, weight, labels, **{"reduction": "none", **common, **overrides})
        assert torch.equal(head(features, labels, **overrides), expected), list(overrides)
    loss, components = head(features, labels, return_components=True)
    assert loss.shape == (16,)
    assert components.shape == (3,)


# --------------------------------------------------------------------------- seeds


def _losses(module: nn.Module, features: Tensor, labels: Tensor, count: int = 3) -> list[Tensor]:
    """Per row, so that they tell which pairs were mined."""
    with torch.no_grad():
        return [module(features, labels) for _ in range(count)]


def test_training_calls_mine_anew(backend: Backend) -> None:
    features, labels = _batch(backend)
    head = _head(backend, reduction="none", seed=5)
    first, second, third = _losses(head, features, labels)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    again = _head(backend, reduction="none", seed=5)
    again.load_state_dict(head.state_dict())
    assert all(map(torch.equal, _losses(again, features, labels), (first, second, third)))


def test_evaluation_does_not_advance_the_seed(backend: Backend) -> None:
    features, labels = _batch(backend)
    head = _head(backend, reduction="none", seed=5)
    twin = copy.deepcopy(head)
    head.eval()
    first, second, _ = _losses(head, features, labels)
    assert torch.equal(first, second)
    head.train()
    assert all(map(torch.equal, _losses(head, features, labels), _losses(twin, features, labels)))


@pytest.mark.parametrize("call", ["logits", "given pairs", "given seed"])
def test_calls_that_do_not_mine_do_not_advance_the_seed(backend: Backend, call: str) -> None:
    features, labels = _batch(backend)
    head = _head(backend, reduction="none", seed=5)
    twin = copy.deepcopy(head)
    {
        "logits": lambda: head(features),
        "given pairs": lambda: head(features, labels, pairs=torch.arange(16, device=backend.device)),
        "given seed": lambda: head(features, labels, seed=99),
    }[call]()
    assert all(map(torch.equal, _losses(head, features, labels), _losses(twin, features, labels)))


def test_without_a_seed_torchs_generator_decides(backend: Backend) -> None:
    features, labels = _batch(backend)
    head = _head(backend, reduction="none")
    torch.manual_seed(1)
    first = _losses(head, features, labels)
    torch.manual_seed(1)
    assert all(map(torch.equal, _losses(head, features, labels), first))
    assert not torch.equal(first[0], first[1])


def test_a_seeded_module_leaves_the_global_generator_alone(backend: Backend) -> None:
    features, labels = _batch(backend)
    head = _head(backend, seed=5)
    state = torch.get_rng_state()
    head(features, labels)
    assert torch.equal(torch.get_rng_state(), state)


# ------------------------------------------------------------------ life of a module


def test_copies_and_pickles_go_on_where_the_original_was(backend: Backend) -> None:
    features, labels = _batch(backend)
    head = _head(backend, reduction="none", seed=5, pos_weight=torch.rand(4) + 0.5)
    _losses(head, features, labels, 2)
    file = io.BytesIO()
    torch.save(head, file)
    file.seek(0)
    copies = [copy.deepcopy(head), torch.load(file, weights_only=False)]
    expected = _losses(head, features, labels)
    for each in copies:
        assert all(map(torch.equal, _losses(each, features, labels), expected))


@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
def test_modules_change_type(backend: Backend, dtype: torch.dtype) -> None:
    """Weight and pos_weight follow; the seed stays an integer."""
    features, labels = _batch(backend, dtype)
    head = _head(backend, seed=2**40 + 1, pos_weight=torch.rand(4) + 0.5).to(dtype)
    loss = head(features, labels)
    loss.backward()
    assert head.weight.grad.dtype == dtype
    expected = fused_indeed_loss(
        features,
        head.weight,
        labels,
        bias=head.bias,
        pos_weight=head.criterion.pos_weight,
        seed=2**40 + 1,
        backend=backend.name,
    )
    assert torch.equal(loss, expected)


def test_training_reduces_the_loss(backend: Backend) -> None:
    features, labels = _batch(backend)
    backbone = nn.Sequential(nn.Linear(6, 6), nn.ReLU()).to(backend.device)
    head = _head(backend, norm="minmax", seed=0)
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=0.05)
    losses = []
    for _ in range(60):
        loss = head(backbone(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    mistakes = F.binary_cross_entropy_with_logits(head(backbone(features)), labels.float())
    assert mistakes < 0.5


def test_repr_tells_the_options() -> None:
    head = INDeeDHead(6, 4, norm="minmax", lam=0.3, strategy="matching")
    for module in (head, INDeeDLoss("minmax", 0.3, "matching")):
        for part in ("minmax", "0.3", "matching"):
            assert part in repr(module)


# ---------------------------------------------------------------------- distributed


@pytest.mark.compiled
def test_two_processes(backend: Backend, tmp_path: Path) -> None:
    """The mean of the gradients of both; an empty batch takes part, with gradients of zero."""
    if backend.device != "cpu":
        pytest.skip("two processes on one GPU: covered by the CPU backends")
    if backend.name == "cuda-emulated":
        pytest.skip("the emulation is loaded into this process only")
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch is built without gloo")
    generator = torch.Generator().manual_seed(0)
    scenarios = {
        f"{wrapper}, batches of {sizes}": (wrapper, [_random_batch(generator, size) for size in sizes])
        for wrapper in distributed.WRAPPERS
        for sizes in ((7, 5), (7, 0))
    }
    results = distributed.run(scenarios, backend.name, tmp_path)
    for scenario, (_, batches) in scenarios.items():
        expected: dict[str, Tensor] = {}
        for batch in batches:
            step = distributed.Step(distributed.model(backend.name))
            step(*batch).backward()
            for name, parameter in step.named_parameters():
                expected[name] = expected.get(name, 0) + parameter.grad / len(batches)
        assert results[scenario].keys() == expected.keys(), scenario
        for name, gradient in expected.items():
            torch.testing.assert_close(results[scenario][name], gradient, msg=f"{scenario}: {name}")


def _random_batch(generator: torch.Generator, size: int) -> distributed.Batch:
    images = torch.randn(size, 8, generator=generator, dtype=torch.float64)
    return images, kit.random_labels(generator, size, 5), torch.arange(size).flip(0)
