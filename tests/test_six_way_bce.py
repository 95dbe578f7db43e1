"""The six cross-entropies of every backend, and their gradients, against the float64 reference."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import kit
import pytest
import torch
from kit import Backend, Case, Inputs, Result
from torch import Tensor

from indeed_ext import pack_labels, reference, six_way_bce

_LOGITS = ("logits", "identical_logits", "disparate_logits")


def _inputs(case: Case, scale: float = 2.0) -> Inputs:
    """Three sets of logits in place of features and a classifier."""
    inputs = case.build().mined()
    generator = case.generator()
    pairs = inputs.options["pairs"]
    rows = len(pairs) if pairs.dim() == 1 else 2 * len(pairs)
    leaves = {
        name: (scale * torch.randn(count, case.classes, generator=generator, dtype=torch.float64)).to(case.dtype)
        for name, count in zip(_LOGITS, (case.batch, rows, rows), strict=True)
    }
    del inputs.options["norm"]
    return replace(inputs, leaves=leaves)


def _run(inputs: Inputs, function: Callable[..., Tensor], wanted: Sequence[str] | None = None) -> Result:
    def call(leaves: dict[str, Tensor]) -> Tensor:
        return function(*(leaves[name] for name in _LOGITS), inputs.labels, **inputs.options)

    return kit.differentiate(call, inputs.leaves, inputs.upstream, wanted)


def _check(backend: Backend, inputs: Inputs, wanted: Sequence[str] | None = None) -> Result:
    with kit.Unchanged(inputs.tensors()):
        fused = functools.partial(six_way_bce, backend=backend.name)
        actual = _run(inputs.to(backend.device), fused, wanted)
    exact = _run(inputs.to(torch.float64), reference.six_way_bce)
    kit.assert_accurate(actual, exact, functools.partial(_run, inputs, reference.six_way_bce))
    return actual


def _cases(backend: Backend) -> list[Case]:
    options = itertools.product(("anchor", "list"), kit.REDUCTIONS, kit.DTYPES, (False, True), (False, True))
    cases = [
        Case(9, 4, 33, "l2", pairing, reduction, dtype, pos_weight=pos_weight, unknown=unknown)
        for pairing, reduction, dtype, pos_weight, unknown in options
    ]
    shapes = itertools.product(itertools.product(kit.BATCHES, kit.CLASSES), kit.DTYPES)
    cases += [
        Case(batch, 4, classes, "l2", kit.PAIRINGS[turn % 4], kit.REDUCTIONS[turn % 3], dtype,
             pos_weight=turn % 5 < 2, unknown=turn % 7 < 3)
        for turn, ((batch, classes), dtype) in enumerate(shapes)
    ]  # fmt: skip
    return list(dict.fromkeys(backend.limit(case) for case in cases))


@pytest.mark.cases(maker=_cases)
def test_loss_and_gradients(backend: Backend, case: Case) -> None:
    _check(backend, _inputs(case))


@pytest.mark.parametrize("scale", [0.0, 1e-3, 30.0, 1e4])
@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
def test_logits_of_every_size(backend: Backend, dtype: torch.dtype, reduction: str, scale: float) -> None:
    """Without overflow where exp would, and without losing log1p of a small number."""
    _check(backend, _inputs(Case(9, 4, 12, "l2", "list", reduction, dtype, pos_weight=True, unknown=True), scale))


@pytest.mark.compiled  # PyTorch's own gives 0 for small values such as the 2e-9 of a positive at 20
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=kit.SHORT.get)
@pytest.mark.parametrize("value", [0.0, 1e-30, 8.0, 20.0, 60.0, 88.8, 100.0, 750.0, 1e30])
def test_single_logits(backend: Backend, value: float, dtype: torch.dtype) -> None:
    """Each value accurate on its own, not only beside larger ones; each slope to a rounding of sigma."""
    fused = functools.partial(six_way_bce, backend=backend.name)
    bounds, tiny = kit.BOUNDS[dtype], torch.finfo(dtype).tiny
    for logit, label in itertools.product((value, -value), (0, 1)):
        leaves = {name: torch.full((1, 1), logit, dtype=dtype) for name in _LOGITS}
        options = {"pairs": torch.tensor([0]), "lam": (0.0, 0.0), "reduction": "sum"}
        inputs = Inputs(leaves, torch.tensor([[label]]), options, torch.ones((), dtype=dtype))
        actual = _run(inputs.to(backend.device), fused, ("logits",))
        # Read back, as the type rounds the value; written with math, as the truth of single values.
        away = -float(leaves["logits"]) if label else float(leaves["logits"])
        tail = math.exp(-abs(away))
        loss, slope = max(away, 0.0) + math.log1p(tail), (1.0 if away >= 0 else tail) / (1 + tail) * (-1) ** label
        loss, slope = (torch.tensor(exact, dtype=torch.float64) for exact in (loss, slope))
        kit.assert_within("loss", actual.values["loss"], loss, bounds[0], floor=tiny / bounds[0])
        kit.assert_within("slope", actual.gradients["logits"][0, 0], slope, bounds[1], floor=tiny / bounds[1])


@pytest.mark.parametrize("lam", [0.0, 0.7, (0.0, 1.5), (1.5, 0.0), torch.tensor(0.4), (0.3, torch.tensor(0))], ids=str)
@pytest.mark.parametrize("pairing", ["anchor", "list"])
@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
def test_lam(backend: Backend, reduction: str, pairing: str, lam: Any) -> None:
    inputs = _inputs(Case(9, 4, 7, "l2", pairing, reduction, torch.float32))
    inputs.options["lam"] = lam
    _check(backend, inputs)


def test_a_block_without_lam_may_hold_anything(backend: Backend) -> None:
    """With lam 0 as a number the logits of that block are not even looked at."""
    inputs = _inputs(Case(9, 4, 7, "l2", "anchor", "mean", torch.float32))
    inputs.options["lam"] = (0.0, 1.0)
    expected = _check(backend, inputs, ("logits", "disparate_logits"))
    inputs.leaves["identical_logits"] = torch.full_like(inputs.leaves["identical_logits"], float("nan"))
    fused = functools.partial(six_way_bce, backend=backend.name)
    assert kit.same_bits(_run(inputs.to(backend.device), fused, ("logits", "disparate_logits")), expected)


_SUBSETS = [subset for size in (1, 2) for subset in itertools.combinations(_LOGITS, size)]


@pytest.mark.parametrize("wanted", _SUBSETS, ids=" and ".join)
@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
def test_each_input_alone_requires_grad(backend: Backend, reduction: str, wanted: tuple[str, ...]) -> None:
    _check(backend, _inputs(Case(9, 4, 7, "l2", "anchor", reduction, torch.float32)), wanted)


@pytest.mark.parametrize("pairing", ["anchor", "list"])
@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
def test_expanded_upstream_gradient(backend: Backend, dtype: torch.dtype, pairing: str) -> None:
    inputs = _inputs(Case(9, 4, 7, "l2", pairing, "none", dtype))
    _check(backend, replace(inputs, upstream=inputs.upstream[:1].expand(inputs.upstream.shape)))


@pytest.mark.parametrize("which", _LOGITS)
@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
def test_layouts(backend: Backend, dtype: torch.dtype, which: str) -> None:
    inputs = _inputs(Case(9, 4, 7, "l2", "list", "mean", dtype))
    plain = inputs.leaves[which]
    for changed in (plain.t().contiguous().t(), plain.repeat_interleave(2, 1)[:, ::2], plain[:1].expand(plain.shape)):
        assert not changed.is_contiguous()
        _check(backend, replace(inputs, leaves={**inputs.leaves, which: changed}))


@pytest.mark.parametrize("unknown", [False, True], ids=["known", "some unknown"])
def test_packed_labels_agree(backend: Backend, unknown: bool) -> None:
    inputs = _inputs(Case(9, 4, 40, "l2", "anchor", "none", torch.float32, unknown=unknown)).to(backend.device)
    fused = functools.partial(six_way_bce, backend=backend.name)
    packed = replace(inputs, labels=pack_labels(inputs.labels, with_known=True))
    assert kit.same_bits(_run(packed, fused), _run(inputs, fused))
    if not unknown:
        assert kit.same_bits(_run(replace(inputs, labels=packed.labels[0]), fused), _run(inputs, fused))


@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
@pytest.mark.parametrize("pairs", ["vector", "list"])
def test_no_rows(backend: Backend, pairs: str, reduction: str) -> None:
    batch, shape = (0, (0,)) if pairs == "vector" else (4, (0, 2))
    leaves = [torch.rand(count, 5, device=backend.device, requires_grad=True) for count in (batch, 0, 0)]
    labels = torch.zeros(batch, 5, dtype=torch.int64, device=backend.device)
    index = torch.zeros(shape, dtype=torch.int64, device=backend.device)
    loss = six_way_bce(*leaves, labels, index, reduction=reduction, backend=backend.name)
    assert loss.sum() == 0
    loss.sum().backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert not leaf.grad.any()


@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
@pytest.mark.parametrize("pairing", ["anchor", "list"])
def test_gradcheck(backend: Backend, pairing: str, reduction: str) -> None:
    inputs = _inputs(Case(3, 4, 3, "l2", pairing, reduction, pos_weight=True, unknown=True)).to(backend.device)

    def call(*logits: Tensor) -> Tensor:
        return six_way_bce(*logits, inputs.labels, backend=backend.name, **inputs.options)

    leaves = tuple(inputs.leaves[name].requires_grad_() for name in _LOGITS)
    assert torch.autograd.gradcheck(call, leaves, fast_mode=backend.sampled)


@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=kit.SHORT.get)
def test_same_bits_on_a_second_run(backend: Backend, dtype: torch.dtype, reduction: str) -> None:
    inputs = _inputs(backend.limit(Case(257, 4, 80, "l2", "anchor", reduction, dtype)))
    inputs.options["pairs"] = torch.arange(len(inputs.labels)) % 3
    assert kit.same_bits(_check(backend, inputs), _check(backend, inputs))
