"""No speed-up is quoted for a result that differs: every result is compared with the eager one first."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor

import indeed_ext
from indeed_ext import reference

from .baselines import COMPILE, EAGER, Loss, fused, loss_step
from .cases import Case, Inputs

#: Largest difference of the loss, relative to it, and of a gradient, relative to its largest element.
TOLERANCE = {
    torch.float64: (1e-12, 1e-10),
    torch.float32: (1e-5, 1e-4),
    torch.bfloat16: (2e-2, 5e-2),
    torch.float16: (5e-3, 2e-2),
}
NAMES = ("loss", "gradient of features", "gradient of weight", "gradient of bias")


class Disagreement(Exception):
    """An implementation computes something else than the eager one."""


def require_equal_losses(case: Case, inputs: Inputs, losses: Mapping[str, Loss]) -> None:
    """Compare all losses and their gradients, with the same pairs.

    Raises:
        Disagreement: naming implementation, case, tensor and difference.
    """
    require_equal_results(case, {name: loss_step(loss, inputs) for name, loss in losses.items()})
    for name in losses:
        if case.strategy and name not in (EAGER, COMPILE):
            _require_mining_inside(case, inputs, name)


def require_equal_results(case: Case, results: Mapping[str, tuple[Tensor, ...]]) -> None:
    """Compare all (loss, gradients...) with the eager ones.

    Raises:
        Disagreement: a tensor is further away than the tolerance of the case's dtype, or not finite.
    """
    expected = results[EAGER]
    for name, result in results.items():
        for index, (one, other) in enumerate(zip(result, expected, strict=True)):
            allowed = TOLERANCE[case.dtype][min(index, 1)]
            difference = relative_difference(one, other)
            if not difference <= allowed:
                tensor = NAMES[index] if index < len(NAMES) else f"result {index}"
                raise Disagreement(f"{name} at {case}: {tensor} differs by {difference:.1e} (allowed {allowed:.0e})")


def relative_difference(one: Tensor, other: Tensor) -> float:
    """The largest difference over the largest element of ``other``; NaN where either has one."""
    one, other = one.double(), other.double()
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-300))


def _require_mining_inside(case: Case, inputs: Inputs, backend: str) -> None:
    """The loss that mines for itself is that of the pairs mined beforehand from the same seed."""
    tensors, settings = (*inputs.leaves, inputs.labels), {"backend": backend, "norm": case.norm}
    pairs = indeed_ext.mine_pairs(inputs.labels, strategy=case.strategy, seed=1, backend=backend)
    with torch.no_grad():
        inside = fused(*tensors, strategy=case.strategy, seed=1, **settings)
        outside = fused(*tensors, pairs=pairs, **settings)
    if not relative_difference(inside, outside) <= TOLERANCE[case.dtype][0]:
        raise Disagreement(f"{backend} at {case}: the loss differs when it mines the same pairs itself")


def require_valid_mining(labels: Tensor, strategy: str, partners: Mapping[Hashable, Tensor]) -> None:
    """All partners keep the strategy's promises.

    Raises:
        Disagreement: an incompatible partner, a sample left alone needlessly, or pairs that are not disjoint.
    """
    compatible = reference.compatible_pairs(labels == 1)
    rows = torch.arange(len(labels), device=labels.device)
    for key, partner in partners.items():
        alone = partner == rows
        free = compatible & alone[:, None]
        if strategy != "anchor":
            free &= alone
        if not compatible[rows[~alone], partner[~alone]].all():
            raise Disagreement(f"{key}: {strategy} mining chose an incompatible partner")
        if free.any():
            raise Disagreement(f"{key}: {strategy} mining left a sample alone that has a free compatible partner")
        if strategy != "anchor" and not torch.equal(partner[partner], rows):
            raise Disagreement(f"{key}: {strategy} mining gave pairs that are not disjoint")
