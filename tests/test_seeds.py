"""Seeds of mining: from torch's generators, which a refused call leaves alone, or the sequence of a module."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import kit
import pytest
import torch
from kit import Backend, Case
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from indeed_ext import INDeeDHead, INDeeDLoss, fused_indeed_loss, mine_pairs

_BATCH, _WIDTH, _CLASSES = 9, 20, 6


def _batch(seed: int) -> tuple[Tensor, Tensor]:
    inputs = Case(_BATCH, _WIDTH, _CLASSES, dtype=torch.float64, values="positive").build()
    generator = torch.Generator().manual_seed(seed)
    return inputs.leaves["features"], kit.random_labels(generator, _BATCH, _CLASSES, density=0.4)


def _gradients(call: Callable[..., Tensor], backend: Backend, batches: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Of features and weight, after the losses of all batches and one backward each, the last batch first."""
    head = INDeeDHead(_WIDTH, _CLASSES, dtype=torch.float64, seed=7, backend=backend.name).to(backend.device)
    for parameter in head.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    leaves = [features.clone().to(backend.device).requires_grad_() for features, _ in batches]
    losses = [call(head, leaf, labels.to(backend.device)) for leaf, (_, labels) in zip(leaves, batches, strict=True)]
    for loss in reversed(losses):
        loss.backward()
    return [head.weight.grad, *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("reentrant", [False, True], ids=["without reentry", "reentrant"])
def test_a_checkpointed_forward_is_run_again_with_its_own_seed(backend: Backend, reentrant: bool, batches: int) -> None:
    inputs = [_batch(k) for k in range(batches)]
    # The test would pass with any seed if all gave the same pairs.
    partners = [mine_pairs(inputs[0][1], seed=7 + k, backend=backend.name) for k in range(3)]
    assert not torch.equal(partners[0], partners[1])
    assert not torch.equal(partners[1], partners[2])
    plain = _gradients(lambda head, *arguments: head(*arguments), backend, inputs)
    again = _gradients(lambda *arguments: checkpoint(*arguments, use_reentrant=reentrant), backend, inputs)
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one, other)


def test_a_second_backward_runs_a_checkpoint_with_the_same_seed(backend: Backend) -> None:
    head = INDeeDHead(_WIDTH, _CLASSES, dtype=torch.float64, seed=7, backend=backend.name)
    features, labels = _batch(0)
    features.requires_grad_()
    for _ in range(2):  # the same labels in a later step are no repetition
        loss = checkpoint(head, features, labels, use_reentrant=False)
        first, second = (torch.autograd.grad(loss, features, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, second)
    assert int(head.criterion.seed) == 9


def test_a_repetition_that_cannot_be_told_is_refused(backend: Backend) -> None:
    head = INDeeDHead(_WIDTH, _CLASSES, dtype=torch.float64, seed=7, backend=backend.name)
    features, labels = _batch(0)
    features.requires_grad_()

    def labels_of_its_own(x: Tensor) -> Tensor:
        return head(x, labels.clone())

    def the_same_labels_twice(x: Tensor) -> Tensor:
        return head(x, labels) + head(2 * x, labels)

    for function in (labels_of_its_own, the_same_labels_twice):
        with pytest.raises(RuntimeError, match=r"seed: .*labels"):
            checkpoint(function, features, use_reentrant=False).backward()


def test_a_copied_module_goes_on_from_the_seed_it_has(backend: Backend) -> None:
    features, labels = _batch(0)
    loss = INDeeDLoss(seed=7, backend=backend.name)
    with torch.no_grad():
        loss(features, torch.ones(_CLASSES, _WIDTH, dtype=torch.float64), labels)
    assert int(copy.deepcopy(loss).seed) == 8
    assert "seed" not in loss.state_dict()


_REFUSED: dict[str, dict[str, Any]] = {
    "labels that are none": {"labels": torch.full((_BATCH, _CLASSES), 0.95)},
    "more than one float32 apart": {"labels": torch.full((_BATCH, _CLASSES), 1 + 1e-9, dtype=torch.float64)},
    "labels of another batch": {"labels": torch.zeros(_BATCH + 1, _CLASSES)},
    "bits beyond the last class": {"labels": torch.full((_BATCH, 1), -1, dtype=torch.int32)},
    "positive and not valid": {"labels": (torch.ones(_BATCH, 1).int(), torch.zeros(_BATCH, 1).int())},
    "norm": {"norm": "l3"},
    "strategy": {"strategy": "best"},
    "reduction": {"reduction": "median"},
    "lam": {"lam": -1.0},
    "lam as a tensor": {"lam": torch.tensor(float("nan"))},
    "eps": {"eps": -1.0},
    "weight": {"weight": torch.zeros(_CLASSES, _WIDTH + 1, dtype=torch.float64)},
    "bias": {"bias": torch.zeros(_CLASSES + 1, dtype=torch.float64)},
    "pos_weight": {"pos_weight": torch.zeros(_CLASSES + 1)},
    "backend": {"backend": "fpga"},
}


@pytest.mark.parametrize("changes", _REFUSED.values(), ids=_REFUSED)
def test_a_refused_call_draws_nothing(backend: Backend, changes: dict[str, Any]) -> None:
    if not backend.sees_values and "labels" in changes and not isinstance(changes["labels"], tuple):
        pytest.skip("labels on a GPU are not looked at")
    features, labels = _batch(0)
    weight = torch.zeros(_CLASSES, _WIDTH, dtype=torch.float64)
    arguments = {"features": features, "weight": weight, "labels": labels, "backend": backend.name} | changes
    before = torch.get_rng_state()
    with pytest.raises((TypeError, ValueError)):
        fused_indeed_loss(**arguments)
    if changes.keys() == {"labels"} and changes["labels"][0].shape[-1] == _CLASSES and len(changes["labels"]) == _BATCH:
        with pytest.raises((TypeError, ValueError)):
            mine_pairs(arguments["labels"], num_classes=_CLASSES, backend=backend.name)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_default_generator_makes_a_run_repeatable(backend: Backend) -> None:
    _, labels = _batch(0)
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        draws.append([mine_pairs(labels.to(backend.device), backend=backend.name) for _ in range(3)])
    assert all(torch.equal(one, other) for one, other in zip(*draws, strict=True))
    assert not torch.equal(draws[0][0], draws[0][1])


def test_lam_moves_with_its_module() -> None:
    lam = torch.tensor(0.3, dtype=torch.float64)
    module = INDeeDLoss(lam=(lam, 2.0)).to("meta")
    identical, disparate = module.lam
    assert identical.device.type == "meta"
    assert disparate == 2.0
    assert not module.state_dict()
    half = INDeeDLoss(lam=lam).half()
    assert half.lam.dtype == torch.float64, "a weight keeps its precision"
