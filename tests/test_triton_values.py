"""Values that the host does not see on a GPU: tests of test_cuda_values.py for the Triton kernels, and more of them."""

from __future__ import annotations

import itertools

import kit
import pytest
import torch
import torch.nn.functional as F
from test_cuda_values import (  # noqa: F401 (its tests are collected here, with the fixture below)
    ALL_TERMS,
    INF,
    LAM,
    NAN,
    NONE,
    NORMS,
    Operators,
    _features_of_extent,
    rows,
    test_a_wrong_label_shows_in_its_rows,
    test_an_index_out_of_range_in_identical_disparate,
    test_an_index_out_of_range_in_six_way_bce,
    test_an_index_out_of_range_in_the_fused_loss,
    test_extents_whose_square_or_reciprocal_leaves_the_range,
    test_maps_of_what_is_not_finite_are_those_of_plain_pytorch,
    test_packed_bits_tell_unknown_labels_from_wrong_ones,
    test_pairs_of_an_empty_batch,
)

from indeed_ext import available_backends, backends, reference


@pytest.fixture
def gpu() -> Operators:
    if "triton" not in available_backends():
        pytest.skip(backends.missing_reasons()["triton"])
    return Operators("indeed_ext_triton", kit.REGISTRY["triton"].device)


@pytest.mark.parametrize("pos_weight", [None, 2.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_logits_that_are_not_finite(gpu: Operators, dtype: torch.dtype, pos_weight: float | None) -> None:
    """Each gives the loss that PyTorch's own cross-entropy gives, in each of the three terms."""
    finite = torch.full((1, 1), 0.25, dtype=dtype)
    weight = None if pos_weight is None else torch.full((1,), pos_weight, dtype=dtype)
    for value, positive, place in itertools.product((INF, -INF, NAN, 3.0), (0, 1), range(3)):
        logits = [finite] * 3
        logits[place] = torch.full_like(finite, value)
        # The default pair of a positive sample has the disparate target 0, as has every pair of a negative one.
        target = 0.0 if place == 2 else float(positive)
        plain = F.binary_cross_entropy_with_logits(logits[place], torch.full_like(finite, target), pos_weight=weight)
        bits = gpu.pack_labels(torch.tensor([[positive]]))
        pairs = torch.zeros(1, dtype=torch.int64)
        arguments = (*logits, *bits, pairs, 1.0, 1.0, None, weight, NONE, ALL_TERMS)
        _, components = gpu._call("six_way_bce", *arguments)
        tolerance = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(components[place].to(dtype), plain, equal_nan=True, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_logits_that_overflow_in_the_fused_loss(gpu: Operators, sign: int, label: int) -> None:
    features = torch.full((2, 20), 1e20)
    leaves = {"features": features, "weight": sign * features[:1], "bias": torch.zeros(1)}
    labels, pairs = torch.full((2, 1), label), torch.tensor([1, 0])
    expected = reference.fused_indeed_loss(**leaves, labels=labels, pairs=pairs, lam=0.0, reduction="none")
    assert not expected.isfinite().any()
    loss, *_ = gpu.fused(leaves, labels, pairs, torch.ones(2), term_mask=0)
    torch.testing.assert_close(loss, expected, equal_nan=True)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("dtype", "exponent"), [(torch.float32, 45), (torch.float32, -63), (torch.float64, 300)])
def test_extents_in_the_fused_loss(gpu: Operators, dtype: torch.dtype, exponent: int, norm: str) -> None:
    """A weight of the reciprocal size leaves the loss as it is, and the gradients but for powers of two."""
    pairs, power = torch.tensor([1, 0, 3, 4, 4]), torch.tensor(exponent)
    unit = _features_of_extent(dtype, 0)
    weight, bias = torch.randn(3, 37, dtype=dtype), torch.randn(3, dtype=dtype)
    labels, row_weight = torch.randint(0, 2, (5, 3)), torch.rand(5, dtype=dtype)
    truth = [leaf.double().requires_grad_() for leaf in (unit, weight, bias)]
    options = {"pairs": pairs, "norm": norm, "eps": 0.0, "lam": LAM, "reduction": "none"}
    expected = reference.fused_indeed_loss(truth[0], truth[1], labels, bias=truth[2], **options)
    exact = torch.autograd.grad(expected, truth, row_weight.double())
    leaves = (torch.ldexp(unit, power), torch.ldexp(weight, -power), bias)
    rest = (pairs, *LAM, None, None, row_weight, NORMS[norm], 0.0, NONE, ALL_TERMS, 7)
    loss, _, *gradients = gpu._call("fused_indeed_loss", *leaves, *gpu.pack_labels(labels), *rest)
    bound = 1e-12 if dtype == torch.float64 else 1e-5
    kit.assert_within("loss", loss, expected.detach(), bound)
    for name, actual, gradient, shift in zip(("features", "weight", "bias"), gradients, exact, (1, -1, 0), strict=True):
        kit.assert_within(name, torch.ldexp(actual, shift * power), gradient, bound)


@pytest.mark.parametrize("lam", [(0.1, 0.7), (1 / 3, 1e-9)])
def test_weights_of_the_terms_are_float64_however_given(gpu: Operators, lam: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    labels, pairs = torch.randint(0, 2, (5, 4), generator=generator), torch.tensor([1, 0, 3, 4, 4])
    expected = reference.six_way_bce(logits, logits, logits, labels, pairs, lam=lam)
    bits = gpu.pack_labels(labels)
    for given in ((*lam, None), (0.0, 0.0, torch.tensor(lam, dtype=torch.float64))):
        loss, _ = gpu._call("six_way_bce", logits, logits, logits, *bits, pairs, *given, None, 1, ALL_TERMS)
        torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)
