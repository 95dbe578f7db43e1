"""Loss and every gradient of every backend against the float64 reference."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from typing import Any

import kit
import pytest
import torch
import torch.nn.functional as F
from kit import Backend, Case, Inputs
from torch import Tensor

from indeed_ext import fused_indeed_loss, pack_labels, reference


@pytest.mark.cases(maker=kit.loss_matrix)
def test_loss_and_gradients(backend: Backend, case: Case) -> None:
    inputs = case.build()
    with kit.Unchanged(inputs.tensors()):
        kit.check_loss(backend, inputs)


# ------------------------------------------------------------------------- features


def _awkward_features(backend: Backend) -> list[Case]:
    kinds = itertools.product(("signed", "tied", "constant", "zero"), kit.NORMS, kit.PAIRINGS, kit.DTYPES)
    return [
        backend.limit(
            Case(7, 37, 21, norm, pairing, kit.REDUCTIONS[turn % 3], dtype, pos_weight=turn % 2 == 0, values=values)
        )
        for turn, (values, norm, pairing, dtype) in enumerate(kinds)
    ]


@pytest.mark.cases(maker=_awkward_features)
def test_awkward_features(backend: Backend, case: Case) -> None:
    """Signed values; ties in the minimum and the maximum; rows whose map is degenerate."""
    kit.check_loss(backend, case.build())


@pytest.mark.parametrize("norm", kit.NORMS)
@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
def test_eps_decides_which_maps_are_degenerate(backend: Backend, norm: str, dtype: torch.dtype) -> None:
    """An eps in the middle of the rows' norms and ranges: some rows lose their map, and its gradient."""
    inputs = Case(9, 5, 6, norm, "anchor", dtype=dtype).build().mined()
    source, partner = reference.directed_rows(inputs.options["pairs"])
    features = inputs.leaves["features"].double()
    product = features[source] * features[partner]
    size = product.norm(dim=1) if norm == "l2" else product.amax(1) - product.amin(1)
    middle = size.sort().values[[4, 5]]
    assert middle[0] < middle[1]
    inputs.options["eps"] = float(middle.mean())
    kit.check_loss(backend, inputs)


@pytest.mark.parametrize("values", ["relu", "constant", "zero"])
@pytest.mark.parametrize("norm", kit.NORMS)
@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
def test_without_eps(backend: Backend, dtype: torch.dtype, norm: str, values: str) -> None:
    """A norm or range of exactly zero is degenerate still."""
    inputs = Case(9, 12, 7, norm, "anchor", dtype=dtype, values=values).build()
    inputs.options["eps"] = 0.0
    kit.check_loss(backend, inputs)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6, 1e9])
@pytest.mark.parametrize("norm", kit.NORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=kit.SHORT.get)
def test_features_of_every_scale(backend: Backend, dtype: torch.dtype, norm: str, scale: float) -> None:
    """Small products fall under eps, large ones square to 1e36; float16 holds neither."""
    inputs = Case(9, 12, 7, norm, "anchor", dtype=dtype).build()
    inputs.leaves["features"] = inputs.leaves["features"] * scale
    inputs.leaves["weight"] = inputs.leaves["weight"] / scale
    kit.check_loss(backend, inputs)


@pytest.mark.parametrize("norm", kit.NORMS)
def test_minmax_ties_share_the_gradient_evenly(backend: Backend, norm: str) -> None:
    """Permuting tied features must permute their gradients, not move one of them."""
    features = torch.tensor([[0, 0, 2, 2, 1, 0], [3, 0, 2, 2, 0, 1]], dtype=torch.float64)
    order = torch.tensor([1, 0, 3, 2, 4, 5])
    inputs = Case(2, 6, 4, norm).build().mined()
    inputs.options["pairs"] = torch.tensor([1, 0])
    inputs.leaves["weight"][:] = inputs.leaves["weight"][:, :1]
    inputs.leaves["features"] = features
    swapped = replace(inputs, leaves={**inputs.leaves, "features": features[:, order]})
    first, second = (kit.check_loss(backend, each).gradients["features"] for each in (inputs, swapped))
    torch.testing.assert_close(first[:, order], second)
    assert first[0, 2] == pytest.approx(float(first[0, 3]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("norm", kit.NORMS)
def test_features_that_are_not_finite_show_in_the_loss(backend: Backend, norm: str, bad: float) -> None:
    """A gradient scaler skips a step by what it sees; nothing may hide an overflow."""
    inputs = Case(5, 8, 4, norm, "anchor", dtype=torch.float32).build().to(backend.device)
    features = inputs.leaves["features"].clone()
    features[2, 3] = bad
    features.requires_grad_()
    loss = fused_indeed_loss(features, inputs.leaves["weight"], inputs.labels, backend=backend.name, **inputs.options)
    loss.backward()
    assert not torch.isfinite(loss)
    assert not torch.isfinite(features.grad).all()


# ---------------------------------------------------------------- pairs and labels


@pytest.mark.parametrize("kind", ["none present", "all present", "all equal"])
@pytest.mark.parametrize("pairing", kit.STRATEGIES)
@pytest.mark.parametrize("norm", kit.NORMS)
def test_batches_without_a_pair(backend: Backend, norm: str, pairing: str, kind: str) -> None:
    inputs = Case(6, 9, 5, norm, pairing, dtype=torch.float32).build()
    labels = {"none present": [0, 0, 0, 0, 0], "all present": [1, 1, 1, 1, 1], "all equal": [1, 0, 0, 1, 0]}[kind]
    inputs = replace(inputs, labels=torch.tensor(labels).expand(6, 5))
    assert torch.equal(inputs.mined().options["pairs"], torch.arange(6))
    kit.check_loss(backend, inputs)


@pytest.mark.parametrize("index_dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
@pytest.mark.parametrize("norm", kit.NORMS)
def test_partner_vectors_need_not_be_matchings(
    backend: Backend, norm: str, reduction: str, index_dtype: torch.dtype
) -> None:
    inputs = Case(9, 12, 5, norm, reduction=reduction, dtype=torch.float32).build().mined()
    inputs.options["pairs"] = torch.tensor([3, 3, 3, 3, 8, 5, 0, 0, 4], dtype=index_dtype)
    expected = replace(inputs, options={**inputs.options, "pairs": inputs.options["pairs"].long()})
    actual = kit.run_backend(backend, inputs)
    kit.assert_accurate(actual, kit.run_truth(expected), lambda: kit.run_plain(expected))


@pytest.mark.parametrize("form", ["vector", "list"])
@pytest.mark.parametrize("norm", kit.NORMS)
def test_one_sample_may_be_the_partner_of_all(backend: Backend, norm: str, form: str) -> None:
    inputs = backend.limit(Case(300, 40, 20, norm, dtype=torch.float32)).build().mined()
    batch = len(inputs.labels)
    hub = torch.full((batch,), batch // 2)
    inputs.options["pairs"] = hub if form == "vector" else torch.stack([torch.arange(batch), hub], 1)
    kit.check_loss(backend, inputs)


@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
@pytest.mark.parametrize("norm", kit.NORMS)
def test_pair_lists_repeat_samples(backend: Backend, norm: str, reduction: str) -> None:
    """One sample in every pair, a pair three times, (a, a), samples in no pair; rows (a, b) before rows (b, a)."""
    pairs = torch.tensor([[0, 1], [0, 1], [1, 0], [0, 0], [0, 2], [4, 0], [4, 4]])
    inputs = Case(6, 12, 5, norm, "list", reduction, torch.float32).build()
    inputs.options["pairs"] = pairs
    inputs = replace(inputs, upstream=torch.randn(14) if reduction == "none" else inputs.upstream)
    actual = kit.check_loss(backend, inputs)
    if reduction == "none":
        torch.testing.assert_close(actual.values["loss"][3], actual.values["loss"][10])  # (0, 0) both ways
        torch.testing.assert_close(actual.values["loss"][0], actual.values["loss"][9])  # (0, 1), and (1, 0) reversed
    assert not actual.gradients["features"][[3, 5]].any()


_LABEL_DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
)  # fmt: skip


@pytest.mark.parametrize("classes", [1, 20, 32, 33, 70])
def test_labels_of_every_form_agree(backend: Backend, classes: int) -> None:
    inputs = backend.limit(Case(9, 12, classes, pairing="anchor", dtype=torch.float32)).build()
    expected = kit.run_backend(backend, inputs)
    forms = {str(dtype): inputs.labels.to(dtype) for dtype in _LABEL_DTYPES}
    forms["packed"] = pack_labels(inputs.labels)
    forms["packed tuple"] = pack_labels(inputs.labels, with_known=True)
    for name, labels in forms.items():
        assert kit.same_bits(_with_labels(backend, inputs, labels), expected), name


@pytest.mark.parametrize("classes", [1, 20, 32, 33])
def test_unknown_labels_of_every_form_agree(backend: Backend, classes: int) -> None:
    inputs = backend.limit(Case(9, 12, classes, pairing="anchor", dtype=torch.float32, unknown=True)).build()
    expected = kit.run_backend(backend, inputs)
    forms = {str(dtype): inputs.labels.to(dtype) for dtype in _LABEL_DTYPES[2:]}
    forms["packed tuple"] = pack_labels(inputs.labels, with_known=True)
    for name, labels in forms.items():
        assert kit.same_bits(_with_labels(backend, inputs, labels), expected), name


def _with_labels(backend: Backend, inputs: Inputs, labels: Tensor | tuple[Tensor, Tensor]) -> kit.Result:
    on_device = [words.to(backend.device) for words in (labels if isinstance(labels, tuple) else (labels,))]
    changed = replace(inputs.to(backend.device), labels=tuple(on_device) if isinstance(labels, tuple) else on_device[0])
    return kit.run_loss(changed, functools.partial(fused_indeed_loss, backend=backend.name))


def test_a_class_unknown_to_all_gets_no_gradient(backend: Backend) -> None:
    inputs = Case(6, 7, 4, dtype=torch.float32).build()
    inputs.labels[:, 2] = -1
    gradients = kit.check_loss(backend, inputs).gradients
    assert not gradients["weight"][2].any()
    assert gradients["bias"][2] == 0


# ------------------------------------------------------------------ lam, components


_LAMS: dict[str, Any] = {
    "int": 2,
    "float": 0.3,
    "tuple": (0.2, 1.7),
    "tensor": torch.tensor(0.4),
    "tensor of float64": torch.tensor(0.4, dtype=torch.float64),
    "tuple of tensors": (torch.tensor(0.4), torch.tensor(1.1)),
    "mixed tuple": (0.6, torch.tensor(0.25)),
    "zero": 0,
    "zero tensor": torch.tensor(0.0),
    "identical only": (1.2, 0.0),
    "disparate only": (0.0, 0.9),
    "disparate and a zero tensor": (torch.tensor(0.0), 0.9),
}


@pytest.mark.parametrize("pairing", ["anchor", "list"])
@pytest.mark.parametrize("norm", kit.NORMS)
@pytest.mark.parametrize("lam", _LAMS.values(), ids=_LAMS.keys())
def test_lam_of_every_form(backend: Backend, lam: Any, norm: str, pairing: str) -> None:
    for reduction, dtype in (("mean", torch.float32), ("none", torch.float64)):
        inputs = Case(9, 12, 7, norm, pairing, reduction, dtype, unknown=True).build()
        inputs.options["lam"] = lam
        kit.check_loss(backend, inputs)


@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
@pytest.mark.parametrize("lam", [0, 0.0, (0.0, 0.0)], ids=str)
def test_without_lam_it_is_binary_cross_entropy(backend: Backend, dtype: torch.dtype, lam: Any) -> None:
    inputs = Case(9, 12, 7, pairing="anchor", dtype=dtype).build()
    inputs.options["lam"] = lam

    def plain(leaves: dict[str, Tensor]) -> Tensor:
        logits = F.linear(leaves["features"], leaves["weight"], leaves["bias"])
        logits = logits.to(reference.accumulation_dtype(logits.dtype))
        target = inputs.labels.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1).mean()

    exact = inputs.to(torch.float64)
    kit.assert_accurate(
        kit.run_backend(backend, inputs),
        kit.differentiate(plain, exact.leaves, exact.upstream),
        lambda: kit.differentiate(plain, inputs.leaves, inputs.upstream),
    )


@pytest.mark.parametrize("lam", [1.0, (0.5, 2.0), (0.0, 1.5), (1.5, 0.0), 0.0], ids=str)
@pytest.mark.parametrize("pairing", ["matching", "list"])
@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=kit.SHORT.get)
def test_components(backend: Backend, dtype: torch.dtype, reduction: str, pairing: str, lam: Any) -> None:
    """Detached and unweighted; a block left out reports zero; with lam they add up to the loss."""
    inputs = Case(9, 12, 7, "minmax", pairing, reduction, dtype, pos_weight=True, unknown=True).build()
    inputs.options |= {"lam": lam, "return_components": True}
    exact = inputs.mined().to(torch.float64)
    moved = inputs.to(backend.device)
    leaves = {name: leaf.requires_grad_() for name, leaf in moved.leaves.items()}
    loss, components = fused_indeed_loss(labels=moved.labels, backend=backend.name, **leaves, **moved.options)
    _, expected = reference.fused_indeed_loss(labels=exact.labels, **exact.leaves, **exact.options)
    assert components.shape == (3,)
    assert components.dtype == loss.dtype == reference.accumulation_dtype(dtype)
    assert loss.requires_grad
    assert not components.requires_grad
    tolerance = 2e-2 if dtype == torch.bfloat16 else 4 * kit.BOUNDS[dtype][0]
    torch.testing.assert_close(components.double().cpu(), expected, rtol=tolerance, atol=0)
    weights = torch.tensor([1.0, *reference.split_lam(lam)], dtype=loss.dtype)
    torch.testing.assert_close(loss.sum().cpu(), components.cpu() @ weights, rtol=1e-5, atol=0)
    loss.sum().backward()
    assert all(leaf.grad is not None for leaf in leaves.values())


# -------------------------------------------------------------------- sizes, layouts


@pytest.mark.parametrize("pairing", kit.PAIRINGS)
@pytest.mark.parametrize("norm", kit.NORMS)
@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
def test_no_features(backend: Backend, dtype: torch.dtype, norm: str, pairing: str) -> None:
    """Only the bias is left to learn."""
    kit.check_loss(backend, Case(5, 0, 4, norm, pairing, dtype=dtype).build())


@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
@pytest.mark.parametrize("norm", kit.NORMS)
@pytest.mark.parametrize("pairs", ["mined", "vector", "list", "empty list"])
@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
def test_no_rows(backend: Backend, dtype: torch.dtype, pairs: str, norm: str, reduction: str) -> None:
    """An empty batch gives zero with a gradient path to every parameter, or distributed training would hang."""
    batch = 3 if pairs == "empty list" else 0
    given = {
        "mined": None,
        "vector": torch.zeros(0, dtype=torch.int64, device=backend.device),
        "list": torch.zeros(0, 2, dtype=torch.int64, device=backend.device),
        "empty list": torch.zeros(0, 2, dtype=torch.int64, device=backend.device),
    }[pairs]
    factory = {"dtype": dtype, "device": backend.device}
    leaves = {
        "features": torch.rand(batch, 6, **factory),
        "weight": torch.rand(5, 6, **factory),
        "bias": torch.rand(5, **factory),
    }
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    labels = torch.zeros(batch, 5, dtype=torch.int64, device=backend.device)
    options = {"pairs": given, "norm": norm, "reduction": reduction, "return_components": True}
    loss, components = fused_indeed_loss(**leaves, labels=labels, backend=backend.name, **options)
    assert loss.shape == ((0,) if reduction == "none" else ())
    assert loss.sum() == 0
    assert not components.any()
    loss.sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        assert not leaf.grad.any(), name


def _many_classes(backend: Backend) -> list[Case]:
    """Around multiples of the powers of two that a class block may be, with so many rows that blocks are needed."""
    around = sorted({multiple + step for multiple in (64, 128, 256, 512, 1024) for step in (-1, 0, 1)})
    shapes = itertools.product([(3, 5, classes) for classes in (*around, 5000)], kit.DTYPES)
    large = itertools.product([(1024, 12, 2049), (257, 16, 9000)], kit.DTYPES)
    some = [(1024, 12, 2047), (1024, 12, 2048), (1024, 12, 5000), (20_000, 3, 300)]
    some_large = itertools.product(some, (torch.float32, torch.bfloat16))
    cases = []
    for turn, (shape, dtype) in enumerate((*shapes, *large, *some_large)):
        # Summed over so many classes and rows, gradients do not fit float16.
        reduction = "mean" if dtype == torch.float16 else kit.REDUCTIONS[turn % 3]
        flags = {"bias": turn % 5 != 0, "pos_weight": turn % 3 == 0, "unknown": turn % 2 == 0}
        flags["values"] = "signed" if turn // 8 % 2 else "relu"
        pairing = kit.PAIRINGS[turn // 2 % 4] if shape[0] < 2000 else "list"  # the reference mines in B * B memory
        cases.append(Case(*shape, kit.NORMS[turn % 2], pairing, reduction, dtype, **flags))
    return list(dict.fromkeys(backend.limit(case) for case in cases))


@pytest.mark.cases(maker=_many_classes)
def test_many_classes(backend: Backend, case: Case) -> None:
    kit.check_loss(backend, case.build())


@pytest.mark.compiled
def test_several_class_chunks(backend: Backend) -> None:
    """Of rows wide enough to be multiplied in their own type, whose products are scaled and go on chunk by chunk."""
    if backend.name == "triton":
        pytest.skip("the interpreter takes minutes for so many logits")
    inputs = Case(3, 16, 4200, "minmax", "list", dtype=torch.float16, values="positive").build()
    # The emulation is built with smaller chunks: more rows would only take time.
    repeats = 5 if backend.name == "cuda-emulated" else 350
    inputs.options["pairs"] = torch.tensor([[0, 1], [1, 2], [2, 2]]).repeat(repeats, 1)
    kit.check_loss(backend, inputs)


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.t().contiguous().t()


def _every_other(tensor: Tensor) -> Tensor:
    wide = torch.stack([tensor, torch.full_like(tensor, 77 if tensor.is_floating_point() else 1)], -1)
    return wide.flatten(-2)[..., ::2]


def _offset(tensor: Tensor) -> Tensor:
    """A contiguous view that does not start on an aligned address."""
    flat = torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:]
    return flat.view(tensor.shape)


_LAYOUTS = {"transposed": _transposed, "every other": _every_other, "offset": _offset}


@pytest.mark.parametrize("layout", _LAYOUTS.values(), ids=_LAYOUTS.keys())
@pytest.mark.parametrize("which", ["features", "weight", "bias", "labels", "pos_weight", "pairs"])
@pytest.mark.parametrize("dtype", kit.DTYPES, ids=kit.SHORT.get)
def test_layouts_make_no_difference(backend: Backend, dtype: torch.dtype, which: str, layout: Any) -> None:
    for pairing, norm, reduction in (("list", "l2", "mean"), ("anchor", "minmax", "none")):
        inputs = Case(9, 13, 7, norm, pairing, reduction, dtype, pos_weight=True).build().mined().to(backend.device)
        groups = {"leaves": dict(inputs.leaves), "options": dict(inputs.options)}
        plain = inputs.tensors()[which]
        moved = plain if plain.dim() == 1 and layout is _transposed else layout(plain)
        assert torch.equal(moved, plain)
        if which == "labels":
            changed = replace(inputs, labels=moved)
        else:
            group = next(group for group in groups.values() if which in group)
            group[which] = moved
            changed = replace(inputs, **groups)
        kit.check_loss(backend, changed)


@pytest.mark.parametrize("norm", kit.NORMS)
def test_expanded_inputs(backend: Backend, norm: str) -> None:
    """Stride 0: one feature row for all samples, one weight row for all classes."""
    inputs = Case(6, 9, 5, norm, "anchor", dtype=torch.float32, pos_weight=True).build()
    leaves = {name: leaf[:1].expand(leaf.shape) for name, leaf in inputs.leaves.items()}
    inputs.options["pos_weight"] = inputs.options["pos_weight"][:1].expand(5)
    kit.check_loss(backend, replace(inputs, leaves=leaves))


@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=kit.SHORT.get)
def test_same_bits_on_a_second_run(backend: Backend, dtype: torch.dtype, reduction: str) -> None:
    inputs = backend.limit(Case(257, 96, 80, "minmax", "anchor", reduction, dtype)).build()
    assert kit.same_bits(kit.run_backend(backend, inputs), kit.run_backend(backend, inputs))


def test_pos_weight_may_be_wider_than_the_features(backend: Backend) -> None:
    """A module keeps it in float32 whatever the features are."""
    inputs = Case(9, 12, 7, pairing="anchor", dtype=torch.bfloat16, pos_weight=True).build()
    inputs.options["pos_weight"] = inputs.options["pos_weight"].float()
    kit.check_loss(backend, inputs)


@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_seeds(backend: Backend, strategy: str) -> None:
    """An int, a tensor, a generator and torch's default generator name the same pairs; another seed does not."""
    inputs = backend.limit(Case(33, 8, 6, pairing=strategy)).build().to(backend.device)
    options = {"strategy": strategy, "reduction": "none", "backend": backend.name}
    call = functools.partial(fused_indeed_loss, **inputs.leaves, labels=inputs.labels, **options)
    seed = torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(5))
    expected = call(seed=int(seed))
    torch.manual_seed(5)
    for again in (call(seed=seed.to(backend.device)), call(generator=torch.Generator().manual_seed(5)), call()):
        assert torch.equal(again, expected)
    assert not torch.equal(call(), expected)
    assert not torch.equal(call(seed=int(seed) ^ (1 << 40)), expected)  # the upper word of a seed counts
