"""Nothing overflows that the formula does not, and what overflows shows."""

from __future__ import annotations

import functools
import math

import kit
import pytest
import torch
import torch.nn.functional as F
from kit import Backend, Case
from torch import Tensor

from indeed_ext import fused_indeed_loss, identical_disparate, reference, six_way_bce

_INFINITY = math.inf


@pytest.mark.compiled  # in float32 the norm of plain PyTorch overflows
@pytest.mark.parametrize("eps", [1e-12, 0.0])
@pytest.mark.parametrize("magnitude", [1e-20, 1e-19, 1e-15, 1e13, 3e18])
@pytest.mark.parametrize("pairing", ["anchor", "list"])
@pytest.mark.parametrize("norm", kit.NORMS)
def test_features_of_extreme_magnitude(backend: Backend, norm: str, pairing: str, magnitude: float, eps: float) -> None:
    """In float32, whose products and squares of these leave its range; weights make up for the magnitude."""
    inputs = backend.limit(Case(9, 40, 40, norm, pairing, dtype=torch.float32, values="positive")).build()
    inputs.leaves["features"] *= magnitude
    inputs.leaves["weight"] /= magnitude
    inputs.options["eps"] = eps
    actual, truth = kit.run_backend(backend, inputs), kit.run_truth(inputs)
    # Products of the smallest are subnormal: of few bits, so that the map is what it can be.
    bound = 1e-5 if magnitude > 1e-19 else 1e-3
    for kind in ("values", "gradients"):
        for name, value in getattr(truth, kind).items():
            assert value.isfinite().all()
            kit.assert_within(name, getattr(actual, kind)[name], value, bound)


@pytest.mark.compiled
@pytest.mark.parametrize("magnitude", [1e-155, 1e-100, 1e100])
@pytest.mark.parametrize("norm", kit.NORMS)
def test_float64_of_extreme_magnitude(backend: Backend, norm: str, magnitude: float) -> None:
    """Scaling features by a power of two scales both results and leaves the map as it is."""
    features = Case(9, 40, 4, dtype=torch.float64, values="positive").build().leaves["features"]
    pairs, scale = torch.arange(9).flip(0), 2.0 ** round(math.log2(magnitude))
    split = functools.partial(identical_disparate, norm=norm, eps=0.0, backend=backend.name)
    device = backend.device
    expected = split(features.to(device), pairs.to(device))
    bound = 1e-12 if magnitude > 1e-150 else 1e-8  # products are subnormal there
    for one, other in zip(split((features * scale).to(device), pairs.to(device)), expected, strict=True):
        kit.assert_within("rows", (one / scale).cpu(), other.cpu(), bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=kit.SHORT.get)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "pos_weight"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("logit", [_INFINITY, -_INFINITY, math.nan, 1e4, -1e4])
def test_a_logit_that_is_not_finite_shows(
    backend: Backend, logit: float, positive: bool, weighted: bool, dtype: torch.dtype
) -> None:
    labels = torch.full((1, 3), float(positive))
    pos_weight = torch.tensor([2.0, 0.5, 1.0], dtype=dtype) if weighted else None
    logits = torch.tensor([[0.5, logit, -1.0]], dtype=dtype)
    wide = reference.accumulation_dtype(dtype)
    expected = F.binary_cross_entropy_with_logits(
        logits.to(wide),
        labels.to(wide),
        reduction="sum",
        pos_weight=None if pos_weight is None else pos_weight.to(wide),
    )

    def on_device(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(backend.device)

    options = {"lam": 0.0, "pos_weight": on_device(pos_weight), "backend": backend.name, "reduction": "sum"}
    actual = six_way_bce(*[on_device(logits)] * 3, on_device(labels), on_device(torch.zeros(1).long()), **options)
    torch.testing.assert_close(actual.cpu(), expected, equal_nan=True, rtol=1e-6, atol=1e-6)
    # The same logits by way of the classifier: one feature, whose weights they are.
    feature = torch.ones(1, 1, dtype=dtype)
    fused = fused_indeed_loss(on_device(feature), on_device(logits.T.contiguous()), on_device(labels), **options)
    torch.testing.assert_close(fused.cpu(), expected, equal_nan=True, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("term", [(1.0, 0.0), (0.0, 1.0)], ids=["identical", "disparate"])
def test_an_overflow_in_either_term_shows(backend: Backend, term: tuple[float, float]) -> None:
    """Features whose logits leave float32 while the features do not."""
    features = torch.full((2, 20), 1e20)
    weight = torch.full((3, 20), 1e20)
    labels = torch.tensor([[1, 1, 0], [1, 0, 0]])
    arguments = [tensor.to(backend.device) for tensor in (features, weight, labels)]
    for reduction in ("mean", "none"):
        loss = fused_indeed_loss(*arguments, lam=term, reduction=reduction, seed=0, backend=backend.name)
        assert not loss.isfinite().any()


def test_an_overflow_of_an_unknown_class_is_nothing(backend: Backend) -> None:
    """Its logit leaves float32 and takes no part, neither in the loss nor in any gradient."""
    inputs = backend.limit(Case(4, 20, 5, dtype=torch.float32, pairing="anchor", values="positive")).build()
    inputs.labels[:, 3] = -1
    inputs.leaves["features"] *= 1e8
    inputs.leaves["weight"] *= 1e-8
    inputs.leaves["weight"][3] = 1e32
    actual, truth = kit.run_backend(backend, inputs), kit.run_truth(inputs)
    for kind in ("values", "gradients"):
        for name, value in getattr(truth, kind).items():
            kit.assert_within(name, getattr(actual, kind)[name], value, 1e-5)


def test_no_features_after_a_larger_call(backend: Backend) -> None:
    """Scratch memory of the larger call is not read as what there is of features."""
    for width in (64, 0):
        inputs = backend.limit(Case(33, width, 40, dtype=torch.float32, pairing="anchor")).build()
        actual, truth = kit.run_backend(backend, inputs), kit.run_truth(inputs)
        kit.assert_accurate(actual, truth, lambda: kit.run_plain(inputs))  # noqa: B023
