"""torch.autocast casts features and classifier as it does for a linear layer; gradients keep their own types."""

from __future__ import annotations

import functools
from dataclasses import replace

import kit
import pytest
import torch
from kit import Backend, Case, Inputs, Result
from torch import Tensor

from indeed_ext import fused_indeed_loss


def _run(backend: Backend, inputs: Inputs, dtype: torch.dtype) -> Result:
    def loss(*arguments: Tensor, **options: object) -> Tensor:
        with torch.autocast(backend.device, dtype=dtype):
            return fused_indeed_loss(*arguments, backend=backend.name, **options)

    return kit.run_loss(inputs.to(backend.device), loss)


def _check_as_if_cast(backend: Backend, inputs: Inputs, dtype: torch.dtype) -> None:
    """The same bounds as for inputs that are of the half type to begin with."""
    actual = _run(backend, inputs, dtype)
    assert actual.values["loss"].dtype == torch.float32
    rounded = Result(dtype, actual.values, {name: each.to(dtype) for name, each in actual.gradients.items()})
    cast = replace(inputs, leaves={name: leaf.to(dtype) for name, leaf in inputs.leaves.items()})
    kit.assert_accurate(rounded, kit.run_truth(cast), lambda: kit.run_plain(cast))


@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
@pytest.mark.parametrize("pairing", ["anchor", "list"])
@pytest.mark.parametrize("norm", kit.NORMS)
@pytest.mark.parametrize("backbone", ["half features", "float32 features"])
@pytest.mark.parametrize("dtype", kit.HALF_DTYPES, ids=kit.SHORT.get)
def test_loss_and_gradients(
    backend: Backend, dtype: torch.dtype, backbone: str, norm: str, pairing: str, reduction: str
) -> None:
    """The classifier stays in float32, as it does in training; so do its gradients."""
    case = Case(33, 30, 20, norm, pairing, reduction, torch.float32, pos_weight=True, unknown=True)
    inputs = backend.limit(case).build()
    if backbone == "half features":
        inputs.leaves["features"] = inputs.leaves["features"].to(dtype)
    _check_as_if_cast(backend, inputs, dtype)


def test_loss_scaling(backend: Backend) -> None:
    """Gradients too small for float16 survive when a gradient scaler scales the loss."""
    inputs = backend.limit(Case(33, 30, 20, "minmax", "anchor", "mean", torch.float32)).build()
    inputs.leaves["weight"] = inputs.leaves["weight"] * 1e-3
    _check_as_if_cast(backend, replace(inputs, upstream=inputs.upstream * 4096), torch.float16)


def test_double_stays_double(backend: Backend) -> None:
    """nn.Linear leaves float64 alone under autocast."""
    inputs = Case(9, 12, 7).build()
    actual = _run(backend, inputs, torch.bfloat16)
    kit.assert_accurate(actual, kit.run_truth(inputs), lambda: actual)


def test_disabled_autocast_changes_nothing(backend: Backend) -> None:
    inputs = Case(9, 12, 7, dtype=torch.float32).build()

    def inner(*arguments: Tensor, **options: object) -> Tensor:
        with torch.autocast(backend.device, dtype=torch.bfloat16), torch.autocast(backend.device, enabled=False):
            return fused_indeed_loss(*arguments, backend=backend.name, **options)

    actual = kit.run_loss(inputs.to(backend.device), inner)
    kit.assert_accurate(actual, kit.run_truth(inputs), lambda: kit.run_plain(inputs))


def test_autocast_by_the_function_alone(backend: Backend) -> None:
    """Autocast around the call, not around backward: gradients have the types of their inputs."""
    inputs = Case(9, 12, 7, pairing="anchor", dtype=torch.float32).build().to(backend.device)
    leaves = {name: leaf.requires_grad_() for name, leaf in inputs.leaves.items()}
    call = functools.partial(fused_indeed_loss, labels=inputs.labels, backend=backend.name, **inputs.options)
    with torch.autocast(backend.device, dtype=torch.bfloat16):
        loss = call(**leaves)
    loss.backward()
    assert all(leaf.grad is not None and leaf.grad.dtype == torch.float32 for leaf in leaves.values())
