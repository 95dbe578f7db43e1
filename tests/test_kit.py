"""The suite judged: its judge rejects small errors, and its matrix leaves nothing out."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import kit
import pytest
import torch
from kit import Case, Result
from torch import Tensor


@functools.cache
def _good_and_judge(dtype: torch.dtype) -> tuple[Result, Callable[[Result], None]]:
    inputs = Case(33, 64, 20, "minmax", "anchor", "none", dtype, pos_weight=True, unknown=True).build()
    plain, truth = kit.run_plain(inputs), kit.run_truth(inputs)
    return plain, lambda result: kit.assert_accurate(result, truth, lambda: plain)


def _copy(result: Result) -> Result:
    values, gradients = (
        {name: tensor.clone() for name, tensor in group.items()} for group in (result.values, result.gradients)
    )
    return Result(result.dtype, values, gradients)


@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
def test_plain_pytorch_passes(dtype: torch.dtype) -> None:
    good, judge = _good_and_judge(dtype)
    judge(good)


def _largest(tensor: Tensor, factor: float) -> Tensor:
    flat = tensor.flatten()
    flat[flat.abs().argmax()] *= factor
    return tensor


#: What a kernel may get wrong, as a function of the good tensor and the unit roundoff of its type.
_SLIPS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "scaled": lambda tensor, eps: tensor * (1 + eps),
    "last row missing": lambda tensor, eps: torch.cat([tensor[:-1], tensor[-1:] * 0]),
    "two rows swapped": lambda tensor, eps: torch.cat([tensor[1:2], tensor[:1], tensor[2:]]),
    "largest element off": lambda tensor, eps: _largest(tensor, 1 + 30 * eps),
    "not a number": lambda tensor, eps: _largest(tensor, float("nan")),
}


@pytest.mark.parametrize("slip", _SLIPS.values(), ids=_SLIPS.keys())
@pytest.mark.parametrize("which", ["loss", "features", "weight", "bias"])
@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
def test_small_errors_fail(dtype: torch.dtype, which: str, slip: Callable[[Tensor, float], Tensor]) -> None:
    good, judge = _good_and_judge(dtype)
    bad = _copy(good)
    group = bad.values if which == "loss" else bad.gradients
    bound = torch.finfo(dtype).eps if dtype in kit.HALF_DTYPES else kit.BOUNDS[dtype][which != "loss"]
    group[which] = slip(group[which], 3 * bound)
    with pytest.raises(AssertionError, match=which):
        judge(bad)


def test_a_wrong_shape_fails() -> None:
    good, judge = _good_and_judge(torch.float32)
    bad = _copy(good)
    bad.values["loss"] = bad.values["loss"].sum()
    with pytest.raises(AssertionError, match="shape"):
        judge(bad)


def test_writing_to_an_input_fails() -> None:
    tensor = torch.zeros(3)
    with pytest.raises(AssertionError, match="in place"), kit.Unchanged({"tensor": tensor}):
        tensor.add_(0)


@pytest.mark.parametrize("dtype", kit.HALF_DTYPES, ids=kit.SHORT.get)
def test_half_linear_is_that_of_pytorch(dtype: torch.dtype) -> None:
    leaves = Case(9, 40, 11, dtype=dtype).build().leaves
    upstream = torch.randn(9, 11).to(dtype)

    def gradients(linear: Callable[..., Tensor]) -> Result:
        return kit.differentiate(lambda leaf: linear(leaf["features"], leaf["weight"], leaf["bias"]), leaves, upstream)

    expected, actual = gradients(torch.nn.functional.linear), gradients(kit.HalfLinear.apply)
    for kind in ("values", "gradients"):
        torch.testing.assert_close(getattr(actual, kind), getattr(expected, kind))


_OPTIONS = {
    "norm": kit.NORMS,
    "pairing": kit.PAIRINGS,
    "reduction": kit.REDUCTIONS,
    "dtype": kit.DTYPES,
    "bias": (False, True),
    "pos_weight": (False, True),
    "unknown": (False, True),
}
_SIZES = {"batch": kit.BATCHES, "width": kit.WIDTHS, "classes": kit.CLASSES}


def test_matrix_of_the_loss_covers_every_option() -> None:
    """The full product of options; every shape in every type and norm; every size with every pair of options."""
    cases = kit.loss_matrix(kit.REGISTRY["cpu"])

    def seen(*names: str) -> set[tuple[object, ...]]:
        return {tuple(getattr(case, name) for name in names) for case in cases}

    def product(*names: str) -> set[tuple[object, ...]]:
        return set(itertools.product(*((_OPTIONS | _SIZES)[name] for name in names)))

    assert seen(*_OPTIONS) >= product(*_OPTIONS)
    assert seen(*_SIZES, "dtype", "norm") >= product(*_SIZES, "dtype", "norm")
    for size in _SIZES:
        assert seen(size, "norm", "pairing", "reduction") >= product(size, "norm", "pairing", "reduction")
        for first, second in itertools.combinations(_OPTIONS, 2):
            assert seen(size, first, second) >= product(size, first, second), (size, first, second)


@pytest.mark.parametrize("name", kit.REGISTRY)
def test_slow_backends_run_every_option(name: str) -> None:
    cases = kit.loss_matrix(kit.REGISTRY[name])
    assert {tuple(getattr(case, option) for option in _OPTIONS) for case in cases} >= set(
        itertools.product(*_OPTIONS.values())
    )
