"""The oracle itself: the reference against the paper read literally (literal.py)."""

from __future__ import annotations

import itertools
from typing import Any

import kit
import literal
import pytest
import torch
from kit import Case, Inputs
from torch import Tensor

from indeed_ext import reference

_VALUES = ("relu", "signed", "tied", "constant", "zero")


def _problem(inputs: Inputs) -> literal.Problem:
    classes = inputs.labels.shape[1]
    labels = inputs.labels.tolist()
    bias, pos_weight = inputs.leaves.get("bias"), inputs.options.get("pos_weight")
    return literal.Problem(
        features=inputs.leaves["features"].tolist(),
        weight=inputs.leaves["weight"].tolist(),
        bias=[0.0] * classes if bias is None else bias.tolist(),
        present=[{c for c in range(classes) if row[c] == 1} for row in labels],
        known=[{c for c in range(classes) if row[c] != -1} for row in labels],
        norm=inputs.options["norm"],
        lam=inputs.options["lam"],
        pos_weight=[1.0] * classes if pos_weight is None else pos_weight.tolist(),
    )


def _rows(pairs: Tensor) -> list[tuple[int, int]]:
    if pairs.dim() == 1:
        return list(enumerate(pairs.tolist()))
    return [(a, b) for a, b in pairs.tolist()] + [(b, a) for a, b in pairs.tolist()]


def _cases() -> list[Case]:
    product = itertools.product(kit.NORMS, kit.PAIRINGS, kit.REDUCTIONS, _VALUES)
    return [
        Case(7, 4, 5, norm, pairing, reduction, bias=turn % 2 == 0, pos_weight=turn % 3 == 0, unknown=turn % 5 < 2,
             values=values)
        for turn, (norm, pairing, reduction, values) in enumerate(product)
    ]  # fmt: skip


@pytest.mark.parametrize("case", _cases(), ids=str)
def test_loss_and_gradients(case: Case) -> None:
    inputs = case.build().mined()
    problem, rows = _problem(inputs), _rows(inputs.options["pairs"])
    terms = torch.tensor([literal.row_terms(problem, a, b) for a, b in rows], dtype=torch.float64)
    losses = terms @ torch.tensor([1.0, *case.lam], dtype=torch.float64)
    scale = {"mean": 1 / len(rows), "sum": 1.0, "none": 1.0}[case.reduction]

    inputs.options["return_components"] = True
    loss, components = reference.fused_indeed_loss(labels=inputs.labels, **inputs.leaves, **inputs.options)
    torch.testing.assert_close(loss, losses if case.reduction == "none" else losses.sum() * scale)
    torch.testing.assert_close(components, terms.sum(0) * scale)

    del inputs.options["return_components"]
    actual = kit.run_loss(inputs, reference.fused_indeed_loss).gradients
    expected = vars(literal.gradients(problem, rows, (inputs.upstream * scale).expand(len(rows)).tolist()))
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, torch.tensor(expected[name], dtype=torch.float64), msg=name)


@pytest.mark.parametrize("strategy", ["matching", "balanced"])
@pytest.mark.parametrize("norm", kit.NORMS)
def test_a_matching_is_the_papers_six_terms(norm: str, strategy: str) -> None:
    """Each pair's loss of eq. (6) once, and half of it for a default pair, whose six terms are three twice."""
    inputs = Case(9, 4, 5, norm, strategy, "sum").build().mined()
    problem, partner = _problem(inputs), inputs.options["pairs"].tolist()
    expected = 0.0
    for i, j in enumerate(partner):
        assert partner[j] == i
        expected += literal.pair_loss(problem, i, j) * (1.0 if i < j else 0.5 if i == j else 0.0)
    assert any(i != j for i, j in enumerate(partner))
    assert any(i == j for i, j in enumerate(partner))
    assert float(kit.run_truth(inputs).values["loss"]) == pytest.approx(expected, rel=1e-12)


def test_a_pair_list_is_the_papers_six_terms() -> None:
    inputs = Case(6, 4, 5, "minmax", "list", "sum").build()
    expected = sum(literal.pair_loss(_problem(inputs), a, b) for a, b in inputs.options["pairs"].tolist())
    assert float(kit.run_truth(inputs).values["loss"]) == pytest.approx(expected, rel=1e-12)


def test_the_default_pair_teaches_nothing_disparate() -> None:
    """Eq. (11) for (X_a, X_a): the identical target is y_a, the disparate one is empty."""
    labels = torch.tensor([[1, 0, 1]])
    logits = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64)
    loss = reference.six_way_bce(logits, logits, logits, labels, torch.tensor([0]))
    softplus = torch.nn.functional.softplus
    original = softplus(logits).sum() - logits[0, [0, 2]].sum()
    torch.testing.assert_close(loss, 2 * original + softplus(logits).sum())


@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_mining(strategy: str) -> None:
    generator = torch.Generator().manual_seed(11)
    seeds = [0, 1, -1, 2**63 - 1, -(2**63), *torch.randint(-(2**62), 2**62, (95,), generator=generator).tolist()]
    for turn, seed in enumerate(seeds):
        density = (0.1, 0.4)[turn % 2]
        labels = kit.random_labels(generator, turn % 27, 2 + turn % 9, unknown=turn % 4 == 0, density=density)
        present = [{c for c, label in enumerate(row) if label == 1} for row in labels.tolist()]
        expected = literal.mine_pairs(present, strategy, seed)
        assert reference.mine_pairs(labels, strategy=strategy, seed=seed).tolist() == expected, (turn, seed)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("pairing", ["anchor", "list"])
@pytest.mark.parametrize("norm", kit.NORMS)
def test_second_derivatives(norm: str, pairing: str, reduction: str) -> None:
    inputs = Case(4, 4, 3, norm, pairing, reduction, values="positive", pos_weight=True, unknown=True).build().mined()

    def loss(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return reference.fused_indeed_loss(features, weight, inputs.labels, bias=bias, **inputs.options)

    leaves = tuple(leaf.requires_grad_() for leaf in inputs.leaves.values())
    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)


@pytest.mark.parametrize("lam", [1, 0.5, (0.5, 2.0), (0.0, 1.0), (1.0, 0.0), 0.0, torch.tensor(0.5)], ids=str)
def test_lam(lam: Any) -> None:
    inputs = Case(5, 4, 3, "l2", "anchor", "sum").build().mined()
    pair = reference.split_lam(lam)
    inputs.options["lam"] = tuple(map(float, pair))
    problem = _problem(inputs)
    expected = 0.0
    for a, b in _rows(inputs.options["pairs"]):
        original, identical, disparate = literal.row_terms(problem, a, b)
        expected += original + float(pair[0]) * identical + float(pair[1]) * disparate
    inputs.options["lam"] = lam
    assert float(kit.run_loss(inputs, reference.fused_indeed_loss).values["loss"]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
@pytest.mark.parametrize("norm", kit.NORMS)
def test_every_type(norm: str, dtype: torch.dtype) -> None:
    """A loss in float32 for half types, maps in float32, and finite results from features that would overflow."""
    inputs = Case(5, 8, 3, norm, "anchor", dtype=dtype).build().mined()
    large = 300.0 if dtype == torch.float16 else 1e4
    inputs.leaves["features"] = inputs.leaves["features"] * large
    result = kit.run_plain(inputs)
    assert result.values["loss"].dtype == reference.accumulation_dtype(dtype)
    for name, tensor in (*result.values.items(), *result.gradients.items()):
        assert torch.isfinite(tensor).all(), name
