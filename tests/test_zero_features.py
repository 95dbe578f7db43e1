"""Features that are zero in many places, as after a ReLU: kernels may pass over zeros where that changes nothing."""

from __future__ import annotations

import itertools

import kit
import pytest
import torch
from kit import Backend, Case, Inputs

from indeed_ext import _extension, fused_indeed_loss

#: Widths around words of 64 features and pieces of 256, and more rows than are worked on at a time.
_SHAPES = [(5, 70, 40), (9, 63, 97), (33, 300, 97), (130, 64, 33), (140, 513, 80), (300, 33, 50), (2, 1000, 200)]


def _zero_cases(backend: Backend) -> list[Case]:
    kinds = itertools.product(_SHAPES, ("relu", "sparse", "signed"), kit.NORMS, (torch.float64, torch.float32))
    cases = []
    for turn, (shape, values, norm, dtype) in enumerate(kinds):
        pairing, reduction = kit.PAIRINGS[turn % 4], kit.REDUCTIONS[turn % 3]
        cases.append(Case(*shape, norm, pairing, reduction, dtype, bias=turn % 5 != 0, values=values))
    halves = itertools.product(((33, 300, 97), (140, 513, 80)), kit.NORMS, kit.HALF_DTYPES)
    cases += [Case(*shape, norm, "anchor", dtype=dtype) for shape, norm, dtype in halves]
    return list(dict.fromkeys(backend.limit(case) for case in cases))


@pytest.mark.cases(maker=_zero_cases)
def test_loss_and_gradients(backend: Backend, case: Case) -> None:
    kit.check_loss(backend, case.build())


@pytest.mark.skipif(not _extension.is_loaded(), reason=str(_extension.EXTENSION_ERROR))
@pytest.mark.parametrize(("classes", "share", "passed_over"), [(48, 0.6, True), (48, 0.1, False), (32, 0.6, False)])
def test_when_zeros_are_passed_over(classes: int, share: float, passed_over: bool) -> None:
    """Seen by what scratch memory the kernels for the CPU take, as results do not tell."""
    weight, labels = torch.randn(classes, 130), torch.rand(40, classes) < 0.1
    features = torch.rand(40, 130, generator=torch.Generator().manual_seed(0))

    def scratch_bytes(features: torch.Tensor) -> int:
        _extension.LIBRARY.release_workspace()
        fused_indeed_loss(features.requires_grad_(), weight.requires_grad_(), labels, seed=1, backend="cpu")
        return _extension.LIBRARY.release_workspace()

    without = scratch_bytes(features + 1)
    assert without > 0
    assert (scratch_bytes(features * (features > share)) != without) == passed_over


@pytest.mark.parametrize("share", [0.0, 0.25, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("norm", kit.NORMS)
def test_any_share_of_zeros(backend: Backend, norm: str, share: float) -> None:
    """However many there are, and wherever: whole samples, whole columns."""
    inputs = backend.limit(Case(40, 130, 48, norm, "anchor", dtype=torch.float32, values="positive")).build()
    features = inputs.leaves["features"]
    zero = torch.rand(features.shape, generator=torch.Generator().manual_seed(1)) < share
    zero[3] = True
    zero[:, 5:9] = True
    inputs.leaves["features"] = features.masked_fill(zero, 0)
    kit.check_loss(backend, inputs)


def _gradients(backend: str, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in inputs.leaves.items()}
    loss = fused_indeed_loss(labels=inputs.labels, backend=backend, **leaves, **inputs.options)
    return loss.detach(), *torch.autograd.grad(loss, list(leaves.values()))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy, for Triton's interpreter
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["features", "weight"])
@pytest.mark.parametrize("norm", kit.NORMS)
def test_zero_times_what_is_not_finite(backend: Backend, norm: str, where: str, bad: float) -> None:
    """Not zero: wherever the loss or a gradient of plain PyTorch is not finite, so is it here."""
    inputs = backend.limit(Case(12, 70, 40, norm, "anchor", dtype=torch.float32)).build().mined().to(backend.device)
    inputs.leaves[where].flatten()[17] = bad
    assert (inputs.leaves["features"] == 0).float().mean() > 0.3
    results = _gradients(backend.name, inputs), _gradients("reference", inputs)
    assert not torch.isfinite(results[1][0])
    for name, actual, expected in zip(("loss", *inputs.leaves), *results, strict=True):
        hidden = torch.isfinite(actual) & ~torch.isfinite(expected)
        assert not hidden.any(), f"{name}: {int(hidden.sum())} of {expected.numel()} elements hide it"
