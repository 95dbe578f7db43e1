"""The operators behind the public functions, as torch.library sees them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kit import Backend, Case
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from indeed_ext import fused_indeed_loss, identical_disparate, mine_pairs, pack_labels, six_way_bce

Call = tuple[Any, tuple[Any, ...]]


class _Recorder(TorchDispatchMode):
    """Keeps the arguments of every operator of the package that is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace.startswith("indeed_ext"):
            assert not kwargs
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def _loss(backend: Backend, case: Case) -> None:
    inputs = case.build().to(backend.device)
    leaves = {name: leaf.requires_grad_() for name, leaf in inputs.leaves.items()}
    loss = fused_indeed_loss(labels=inputs.labels, backend=backend.name, **leaves, **inputs.options)
    loss.backward(inputs.upstream)


def _steps(backend: Backend, case: Case) -> None:
    inputs = case.build().to(backend.device)
    words = pack_labels(inputs.labels, with_known=True, backend=backend.name)
    pairs = inputs.options.get("pairs")
    if pairs is None:
        pairs = mine_pairs(words, strategy=case.pairing, seed=1, num_classes=case.classes, backend=backend.name)
    features = inputs.leaves["features"].requires_grad_()
    blocks = identical_disparate(features, pairs, norm=case.norm, backend=backend.name)
    logits = [block @ inputs.leaves["weight"].T for block in (features, *blocks)]
    pos_weight = inputs.options.get("pos_weight")
    loss = six_way_bce(*logits, words, pairs, reduction=case.reduction, pos_weight=pos_weight, backend=backend.name)
    loss.backward(torch.ones_like(loss))


def _record(backend: Backend, call: Callable[[Backend, Case], None], case: Case) -> list[Call]:
    recorder = _Recorder()
    with recorder:
        call(backend, case)
    return recorder.calls


_CALLS = {
    "loss": (_loss, Case(6, 5, 4, pairing="anchor", dtype=torch.float32, pos_weight=True, unknown=True)),
    "loss, list": (_loss, Case(6, 5, 40, "minmax", "list", "sum", torch.float64, bias=False)),
    "loss, half": (_loss, Case(6, 5, 4, pairing="balanced", dtype=torch.float16)),
    "loss, per row": (_loss, Case(6, 5, 4, "minmax", "matching", "none", torch.bfloat16, pos_weight=True)),
    "loss, empty list": (_loss, Case(1, 5, 4, dtype=torch.float32, lam=(0.0, 1.0))),
    "steps": (_steps, Case(6, 5, 4, pairing="anchor", dtype=torch.float32)),
    "steps, list": (_steps, Case(6, 5, 40, "minmax", "list", "none", torch.float64, pos_weight=True, unknown=True)),
    "steps, half": (_steps, Case(6, 5, 4, "minmax", "matching", "sum", torch.bfloat16, unknown=True)),
}


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:.*an autograd kernel was not registered:UserWarning")
@pytest.mark.parametrize("requires_grad", [False, True], ids=["plain inputs", "inputs that require grad"])
@pytest.mark.parametrize(("call", "case"), _CALLS.values(), ids=_CALLS.keys())
def test_opcheck(backend: Backend, call: Callable[[Backend, Case], None], case: Case, requires_grad: bool) -> None:
    """Schema (nothing written to, nothing aliased), fake results, tracing with dynamic shapes."""
    calls = _record(backend, call, case)
    assert calls
    for operator, arguments in calls:
        fresh = tuple(
            value.detach().clone().requires_grad_(requires_grad and value.is_floating_point())
            if isinstance(value, Tensor)
            else value
            for value in arguments
        )
        torch.library.opcheck(operator, fresh)


@pytest.mark.compiled
def test_every_operator_is_checked(backend: Backend) -> None:
    calls = list(itertools.chain.from_iterable(_record(backend, call, case) for call, case in _CALLS.values()))
    (namespace,) = {operator.namespace for operator, _ in calls}
    seen = {operator.name().split(".")[0] for operator, _ in calls}
    assert seen == {name for name in torch._C._dispatch_get_all_op_names() if name.startswith(f"{namespace}::")}
