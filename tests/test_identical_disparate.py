"""Identical and disparate features of every backend, and their gradient, against the float64 reference."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import kit
import pytest
import torch
from kit import Backend, Case, Inputs, Result
from torch import Tensor

from indeed_ext import identical_disparate, reference

_VALUES = ("relu", "signed", "tied", "constant", "zero")
#: Where a map is exactly one (n = 1) the disparate feature and its gradient cancel to nothing.
_FLOOR = 0.5


def _rows(inputs: Inputs) -> int:
    pairs = inputs.options["pairs"]
    return len(pairs) if pairs.dim() == 1 else 2 * len(pairs)


def _run(inputs: Inputs, function: Callable[..., tuple[Tensor, Tensor]], upstream: tuple[Tensor, Tensor]) -> Result:
    options = {name: inputs.options[name] for name in ("pairs", "norm", "eps") if name in inputs.options}
    return kit.differentiate(
        lambda leaves: function(leaves["features"], **options), {"features": inputs.leaves["features"]}, upstream
    )


def _check(backend: Backend, inputs: Inputs, upstream: tuple[Tensor, Tensor] | None = None) -> Result:
    inputs = inputs.mined()
    if upstream is None:
        shape = (_rows(inputs), inputs.leaves["features"].shape[1])
        upstream = tuple(torch.randn(shape).to(inputs.leaves["features"].dtype) for _ in range(2))
    moved = tuple(tensor.to(backend.device) for tensor in upstream)
    fused = functools.partial(identical_disparate, backend=backend.name)
    with kit.Unchanged({**inputs.tensors(), "upstream of I": upstream[0], "upstream of D": upstream[1]}):
        actual = _run(inputs.to(backend.device), fused, moved)
    exact = _run(inputs.to(torch.float64), reference.identical_disparate, tuple(each.double() for each in upstream))
    plain = functools.partial(_run, inputs, reference.identical_disparate, upstream)
    kit.assert_accurate(actual, exact, plain, floor=_FLOOR)
    return actual


def _cases(backend: Backend) -> list[Case]:
    shapes = [*itertools.product((1, 2, 3, 33), kit.WIDTHS), (257, 64), (9, 31), (9, 32), (9, 33)]
    product = itertools.product(shapes, kit.NORMS, ("anchor", "list"), kit.DTYPES)
    cases = [
        Case(batch, width, 5, norm, pairing, dtype=dtype, values=_VALUES[turn % len(_VALUES)])
        for turn, ((batch, width), norm, pairing, dtype) in enumerate(product)
    ]
    return list(dict.fromkeys(backend.limit(case) for case in cases))


@pytest.mark.cases(maker=_cases)
def test_features_and_gradient(backend: Backend, case: Case) -> None:
    _check(backend, case.build())


def _both(case: Case) -> Inputs:
    return case.build().mined()


@pytest.mark.parametrize("kind", ["identical only", "disparate only", "expanded", "strided"])
@pytest.mark.parametrize("pairing", ["anchor", "list"])
@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
@pytest.mark.parametrize("norm", kit.NORMS)
def test_upstream_gradients(backend: Backend, norm: str, dtype: torch.dtype, pairing: str, kind: str) -> None:
    inputs = _both(Case(9, 12, 5, norm, pairing, dtype=dtype))
    shape = (_rows(inputs), 12)
    random = torch.randn(2, *shape).to(dtype)
    zero = torch.zeros(shape, dtype=dtype)
    _check(
        backend,
        inputs,
        {
            "identical only": (random[0], zero),
            "disparate only": (zero, random[1]),
            "expanded": (random[0, :1].expand(shape), random[1, :, :1].expand(shape)),
            "strided": (random[0].t().contiguous().t(), torch.stack([random[1], zero], -1)[..., 0]),
        }[kind],
    )


@pytest.mark.parametrize("used", [0, 1], ids=["identical", "disparate"])
@pytest.mark.parametrize("norm", kit.NORMS)
def test_one_output_used(backend: Backend, norm: str, used: int) -> None:
    inputs = _both(Case(9, 12, 5, norm, "anchor")).to(backend.device)
    call = functools.partial(identical_disparate, pairs=inputs.options["pairs"], norm=norm)
    upstream = torch.randn(9, 12, dtype=torch.float64, device=backend.device)
    features = inputs.leaves["features"].requires_grad_()
    (actual,) = torch.autograd.grad(call(features, backend=backend.name)[used], features, upstream)
    (expected,) = torch.autograd.grad(call(features, backend="reference")[used], features, upstream)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
@pytest.mark.parametrize("norm", kit.NORMS)
def test_properties(backend: Backend, norm: str, dtype: torch.dtype) -> None:
    """The two features add up to the sample's, and the map of non-negative features lies in [0, 1]."""
    inputs = _both(Case(9, 12, 5, norm, "list", dtype=dtype)).to(backend.device)
    features, pairs = inputs.leaves["features"], inputs.options["pairs"]
    identical, disparate = identical_disparate(features, pairs, norm=norm, backend=backend.name)
    source = features[reference.directed_rows(pairs)[0]]
    assert identical.dtype == disparate.dtype == dtype
    torch.testing.assert_close(identical + disparate, source)
    assert (identical >= 0).all()
    assert (identical <= source * (1 + torch.finfo(dtype).eps)).all()


@pytest.mark.parametrize("pairs", ["vector", "list"])
@pytest.mark.parametrize("norm", kit.NORMS)
def test_no_rows(backend: Backend, norm: str, pairs: str) -> None:
    features = torch.rand(0 if pairs == "vector" else 4, 6, device=backend.device, requires_grad=True)
    shape = (0,) if pairs == "vector" else (0, 2)
    index = torch.zeros(shape, dtype=torch.int64, device=backend.device)
    outputs = identical_disparate(features, index, norm=norm, backend=backend.name)
    assert all(output.shape == (0, 6) for output in outputs)
    sum(output.sum() for output in outputs).backward()
    assert features.grad is not None
    assert not features.grad.any()


@pytest.mark.parametrize("pairing", ["matching", "anchor", "list"])
@pytest.mark.parametrize("norm", kit.NORMS)
def test_gradcheck(backend: Backend, norm: str, pairing: str) -> None:
    inputs = _both(Case(4, 5, 5, norm, pairing, values="positive")).to(backend.device)

    def call(features: Tensor) -> Any:
        return identical_disparate(features, inputs.options["pairs"], norm=norm, backend=backend.name)

    assert torch.autograd.gradcheck(call, inputs.leaves["features"].requires_grad_(), fast_mode=backend.sampled)


@pytest.mark.parametrize("layout", ["transposed", "every other", "expanded"])
@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
@pytest.mark.parametrize("norm", kit.NORMS)
def test_layouts(backend: Backend, norm: str, dtype: torch.dtype, layout: str) -> None:
    inputs = _both(Case(9, 12, 5, norm, "list", dtype=dtype))
    features = inputs.leaves["features"]
    inputs.leaves["features"] = {
        "transposed": features.t().contiguous().t(),
        "every other": features.repeat_interleave(2, 1)[:, ::2],
        "expanded": features[:1].expand(features.shape),
    }[layout]
    assert not inputs.leaves["features"].is_contiguous()
    inputs.options["pairs"] = inputs.options["pairs"].t().contiguous().t()
    _check(backend, inputs)


@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
def test_same_bits_on_a_second_run(backend: Backend, dtype: torch.dtype) -> None:
    """A sample that is partner of many gathers its gradient in a fixed order."""
    inputs = backend.limit(Case(129, 70, 5, "minmax", dtype=dtype)).build().mined()
    inputs.options["pairs"] = torch.arange(len(inputs.labels)) % 3
    shape = inputs.leaves["features"].shape
    upstream = tuple(torch.randn(shape).to(dtype) for _ in range(2))
    assert kit.same_bits(_check(backend, inputs, upstream), _check(backend, inputs, upstream))
