"""The autograd Function of the loss: what requires a gradient, upstream gradients, and graphs used more than once.

All of it holds for the node in Python and for the one in C++ that eager calls take where it is there.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from typing import Any

import kit
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from kit import Backend, Case
from torch import Tensor
from torch._dynamo import compiled_autograd

from indeed_ext import _extension, autograd, fused_indeed_loss, identical_disparate, reference, six_way_bce

_LEAVES = ("features", "weight", "bias")
_SUBSETS = [subset for size in (1, 2, 3) for subset in itertools.combinations(_LEAVES, size)]


@pytest.fixture(params=["C++", "Python"], autouse=True)
def node(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The language of the node."""
    if request.param == "Python":
        monkeypatch.setattr(autograd, "_node", lambda namespace: None)
    elif _extension.AUTOGRAD is None:
        pytest.skip(f"no node in C++: {_extension.AUTOGRAD_ERROR}")
    return request.param


@pytest.mark.parametrize("wanted", _SUBSETS, ids=" and ".join)
@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
@pytest.mark.parametrize("norm", kit.NORMS)
def test_each_input_alone_requires_grad(backend: Backend, norm: str, reduction: str, wanted: tuple[str, ...]) -> None:
    for pairing, lam in (("anchor", 1.0), ("list", (0.0, 1.0)), ("matching", 0.0)):
        inputs = Case(9, 12, 7, norm, pairing, reduction, torch.float32, pos_weight=True, lam=lam).build()
        kit.check_loss(backend, inputs, wanted)


@pytest.mark.parametrize("kind", ["expanded", "strided", "one row", "zero"])
@pytest.mark.parametrize("pairing", ["anchor", "list"])
@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
@pytest.mark.parametrize("norm", kit.NORMS)
def test_upstream_gradients_of_every_layout(
    backend: Backend, norm: str, dtype: torch.dtype, pairing: str, kind: str
) -> None:
    inputs = Case(9, 12, 7, norm, pairing, "none", dtype).build()
    rows = torch.zeros_like(inputs.upstream)
    if kind == "expanded":
        rows = inputs.upstream[:1].expand(len(rows))
        assert rows.stride() == (0,)
    elif kind == "strided":
        rows = torch.stack([inputs.upstream, rows], 1)[:, 0]
        assert rows.stride() == (2,)
    elif kind == "one row":
        rows[3] = -1.5
    actual = kit.check_loss(backend, replace(inputs, upstream=rows))
    if kind == "zero":
        assert not any(gradient.any() for gradient in actual.gradients.values())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("scale", [0.0, 1.0, -3.5, 4096.0])
@pytest.mark.parametrize("width", [12, 40])
@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
def test_upstream_gradients_of_every_size(
    backend: Backend, dtype: torch.dtype, width: int, scale: float, reduction: str
) -> None:
    """A loss scale must reach gradients that are too small for float16 before they are rounded to it."""
    inputs = Case(9, width, 7, "minmax", "anchor", reduction, dtype).build()
    if dtype == torch.float16 and scale > 1:
        inputs.leaves["weight"] = inputs.leaves["weight"] * 1e-3
        inputs.leaves["features"] = inputs.leaves["features"] * 1e-2
    actual = kit.check_loss(backend, replace(inputs, upstream=torch.full_like(inputs.upstream, scale)))
    assert all(bool(gradient.any()) == (scale != 0) for gradient in actual.gradients.values())


@pytest.mark.compiled
@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
@pytest.mark.parametrize("pairing", kit.PAIRINGS)
@pytest.mark.parametrize("norm", kit.NORMS)
def test_gradcheck(backend: Backend, norm: str, pairing: str, reduction: str) -> None:
    case = Case(4, 5, 3, norm, pairing, reduction, pos_weight=True, unknown=reduction == "sum", values="positive")
    inputs = case.build().to(backend.device)

    def loss(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return fused_indeed_loss(features, weight, inputs.labels, bias=bias, backend=backend.name, **inputs.options)

    leaves = tuple(inputs.leaves[name].requires_grad_() for name in _LEAVES)
    assert torch.autograd.gradcheck(loss, leaves, fast_mode=backend.sampled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=kit.SHORT.get)
@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
def test_backward_twice(backend: Backend, reduction: str, dtype: torch.dtype) -> None:
    """With retain_graph both passes give the same gradients; afterwards they accumulate like any other."""
    inputs = Case(9, 12, 7, "minmax", "anchor", reduction, dtype).build().to(backend.device)
    leaves = {name: leaf.requires_grad_() for name, leaf in inputs.leaves.items()}
    loss = fused_indeed_loss(labels=inputs.labels, backend=backend.name, **leaves, **inputs.options)
    inputs_list = list(leaves.values())
    first = torch.autograd.grad(loss, inputs_list, inputs.upstream, retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    torch.autograd.grad(loss, inputs_list, 3 * inputs.upstream, retain_graph=True)
    assert all(map(torch.equal, first, kept))
    loss.backward(inputs.upstream, retain_graph=True)
    loss.backward(inputs.upstream)
    for leaf, gradient in zip(inputs_list, kept, strict=True):
        assert torch.equal(leaf.grad, 2 * gradient)


def test_features_used_beside_the_loss(backend: Backend) -> None:
    """Gradients that are handed on must not alias what another branch of the graph adds to."""
    inputs = Case(9, 12, 7, pairing="anchor").build()

    def both(loss: Any) -> Any:
        def call(features: Tensor, weight: Tensor, labels: Tensor, **options: Any) -> Tensor:
            total = loss(features, weight, labels, **options) + loss(features, weight, labels, **options)
            return total + F.linear(features, weight).square().sum()

        return call

    actual = kit.run_loss(inputs.to(backend.device), both(functools.partial(fused_indeed_loss, backend=backend.name)))
    kit.assert_accurate(actual, kit.run_loss(inputs.mined(), both(reference.fused_indeed_loss)), lambda: actual)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
def test_without_gradients(backend: Backend, dtype: torch.dtype, reduction: str, mode: Any) -> None:
    inputs = Case(9, 12, 7, "minmax", "anchor", reduction, dtype).build()
    moved = inputs.to(backend.device)
    leaves = {name: leaf.requires_grad_() for name, leaf in moved.leaves.items()}
    with mode():
        loss = fused_indeed_loss(labels=moved.labels, backend=backend.name, **leaves, **moved.options)
    assert not loss.requires_grad
    kit.assert_accurate(kit.Result(dtype, {"loss": loss.cpu()}), kit.run_truth(inputs), lambda: kit.run_plain(inputs))


def test_nothing_to_differentiate(backend: Backend) -> None:
    inputs = Case(9, 12, 7).build().to(backend.device)
    loss = fused_indeed_loss(labels=inputs.labels, backend=backend.name, **inputs.leaves, **inputs.options)
    assert not loss.requires_grad


@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
def test_several_upstream_gradients_at_once(backend: Backend, reduction: str) -> None:
    inputs = backend.limit(Case(7, 12, 6, "minmax", "anchor", reduction, torch.float64)).build().to(backend.device)
    leaves = [leaf.requires_grad_() for leaf in inputs.leaves.values()]
    features, weight, bias = leaves
    loss = fused_indeed_loss(features, weight, inputs.labels, bias=bias, backend=backend.name, **inputs.options)
    upstream = torch.stack([inputs.upstream, torch.ones_like(inputs.upstream), 2 * inputs.upstream])
    singly = [torch.autograd.grad(loss, leaves, each, retain_graph=True) for each in upstream]
    together = torch.autograd.grad(loss, leaves, upstream, is_grads_batched=True)
    for gradient, each in zip(together, zip(*singly, strict=True), strict=True):
        torch.testing.assert_close(gradient, torch.stack(each))


@pytest.mark.compiled
@pytest.mark.parametrize("requires_grad", [False, True])
def test_forward_mode_is_refused(backend: Backend, requires_grad: bool) -> None:
    inputs = Case(5, 6, 4, dtype=torch.float64).build().to(backend.device)
    leaves = {name: leaf.requires_grad_(requires_grad) for name, leaf in inputs.leaves.items()}
    features = leaves.pop("features")
    pairs = torch.arange(5, device=backend.device).flip(0)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(features, torch.ones_like(features))
        for call in (
            lambda: fused_indeed_loss(dual, labels=inputs.labels, backend=backend.name, **leaves, **inputs.options),
            lambda: identical_disparate(dual, pairs, backend=backend.name),
            lambda: six_way_bce(dual, dual, dual, torch.ones(5, 6).to(dual), pairs, backend=backend.name),
        ):
            with pytest.raises(NotImplementedError, match="forward mode AD"):
                call()


@pytest.mark.compiled
def test_transforms_of_functions_are_refused(backend: Backend) -> None:
    inputs = Case(5, 6, 4, dtype=torch.float64).build().to(backend.device)
    features = inputs.leaves.pop("features")
    loss = functools.partial(fused_indeed_loss, labels=inputs.labels, backend=backend.name, **inputs.leaves)
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda f: loss(f, **inputs.options))(features)


@pytest.mark.compiled
@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
def test_gradients_are_never_silently_constant(backend: Backend, reduction: str) -> None:
    """A penalty on gradients needs their derivative, which must not be a zero."""
    inputs = Case(5, 6, 4, reduction=reduction, dtype=torch.float64).build().to(backend.device)
    leaves = {name: leaf.requires_grad_() for name, leaf in inputs.leaves.items()}
    loss = fused_indeed_loss(labels=inputs.labels, backend=backend.name, **leaves, **inputs.options).sum()
    (gradient,) = torch.autograd.grad(loss, leaves["features"], create_graph=True)
    with pytest.raises(RuntimeError, match="backend='reference'"):
        (loss + gradient.square().sum()).backward()


class _Unused(torch.autograd.Function):
    """Gives its input no gradient, as a branch does that is cut off in the backward."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> None:
        return None


@pytest.mark.compiled
@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
def test_no_upstream_gradient_gives_none(backend: Backend, reduction: str) -> None:
    """As torch's own operators do."""
    inputs = Case(5, 6, 4, reduction=reduction).build().to(backend.device)
    leaves = {name: leaf.requires_grad_() for name, leaf in inputs.leaves.items()}
    loss = fused_indeed_loss(labels=inputs.labels, backend=backend.name, **leaves, **inputs.options)
    found = torch.autograd.grad(_Unused.apply(loss).sum(), [*leaves.values()], allow_unused=True)
    assert found == (None, None, None)


class _Labelled(Tensor):
    """A tensor of a class of its own, which stays one."""


class _Operators(torch.overrides.TorchFunctionMode):
    """Notes the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.compiled
def test_the_node_of_eager_calls(backend: Backend, node: str) -> None:
    """Where something watches what functions of torch are called with, it is the one that calls them from Python."""
    inputs = Case(5, 6, 4).build().to(backend.device)
    leaves = {name: leaf.requires_grad_() for name, leaf in inputs.leaves.items()}
    loss = functools.partial(fused_indeed_loss, labels=inputs.labels, backend=backend.name, **inputs.options)
    assert ("CppNode" in loss(**leaves).grad_fn.name()) == (node == "C++")
    with _Operators() as mode:
        loss(**leaves)
    assert any("fused_indeed_loss" in name for name in mode.names)
    own = leaves["features"].detach().as_subclass(_Labelled).requires_grad_()
    assert isinstance(loss(**leaves | {"features": own}), _Labelled)


def _kept(packed: list[Tensor], tensor: Tensor) -> Tensor:
    packed.append(tensor)
    return tensor


@pytest.mark.compiled
def test_saved_tensors_hooks(backend: Backend) -> None:
    """Checkpointing and offloading see what a node keeps: the gradients, or, per row, what they are made from."""
    for reduction, count in (("mean", 3), ("none", 6)):
        inputs = Case(5, 6, 4, reduction=reduction).build().to(backend.device)
        leaves = {name: leaf.requires_grad_() for name, leaf in inputs.leaves.items()}
        packed: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(functools.partial(_kept, packed), torch.clone):
            loss = fused_indeed_loss(labels=inputs.labels, backend=backend.name, **leaves, **inputs.options)
        assert len(packed) == count
        loss.sum().backward()
        assert all(leaf.grad is not None for leaf in leaves.values())


@pytest.mark.compiled
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_autograd(backend: Backend, reduction: str) -> None:
    """A backward that torch.compile traces calls what the eager one calls."""
    inputs = Case(5, 6, 4, reduction=reduction).build().to(backend.device)
    leaves = {name: leaf.requires_grad_() for name, leaf in inputs.leaves.items()}

    def loss() -> Tensor:
        return fused_indeed_loss(labels=inputs.labels, backend=backend.name, **leaves, **inputs.options)

    expected = torch.autograd.grad(loss(), [*leaves.values()], inputs.upstream)
    with compiled_autograd._enable(functools.partial(torch.compile, backend="eager")):
        loss().backward(inputs.upstream)
    for leaf, gradient in zip(leaves.values(), expected, strict=True):
        torch.testing.assert_close(leaf.grad, gradient)
