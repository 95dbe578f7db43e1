"""What the host cannot see of tensors on a GPU, at the operators: no labels, indices out of range, extreme numbers."""

from __future__ import annotations

from typing import Any

import kit
import pytest
import torch
import torch.nn.functional as F
from cuda_emulation.build import Unavailable
from torch import Tensor

from indeed_ext import reference

NAN, INF = float("nan"), float("inf")
NORMS = {"l2": 0, "minmax": 1}
NONE, SUM = 0, 2
ALL_TERMS, ALL_GRADIENTS = 3, 7
LAM = (0.8, 1.3)
B, N, C = 6, 20, 40


class Operators:
    """Those of a backend, without the arguments that nothing here varies; tensors are on its device."""

    def __init__(self, namespace: str, device: str) -> None:
        self.ops, self.device = getattr(torch.ops, namespace), device

    def _call(self, name: str, *arguments: Any) -> Any:
        moved = [each.to(self.device) if isinstance(each, Tensor) else each for each in arguments]
        results = getattr(self.ops, name)(*moved)
        return results.cpu() if isinstance(results, Tensor) else tuple(each.cpu() for each in results)

    def pack_labels(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self._call("pack_labels", labels)

    def identical_disparate(self, features: Tensor, pairs: Tensor, norm: str, eps: float = 1e-12) -> tuple[Tensor, ...]:
        return self._call("identical_disparate", features, pairs, NORMS[norm], eps)

    def identical_disparate_backward(
        self, upstream: tuple[Tensor, ...], features: Tensor, pairs: Tensor, norm: str, eps: float = 1e-12
    ) -> Tensor:
        return self._call("identical_disparate_backward", *upstream, features, pairs, NORMS[norm], eps)

    def six_way_bce(self, logits: tuple[Tensor, ...], labels: Tensor, pairs: Tensor) -> Tensor:
        rest = (*self.pack_labels(labels), pairs, *LAM, None, None, NONE, ALL_TERMS)
        return self._call("six_way_bce", *logits, *rest)[0]

    def six_way_bce_backward(
        self, upstream: Tensor, logits: tuple[Tensor, ...], labels: Tensor, pairs: Tensor, term_mask: int = ALL_TERMS
    ) -> tuple[Tensor, ...]:
        rest = (*self.pack_labels(labels), pairs, *LAM, None, None, NONE, term_mask)
        return self._call("six_way_bce_backward", upstream, *logits, *rest)

    def fused(
        self,
        leaves: dict[str, Tensor],
        labels: Tensor,
        pairs: Tensor,
        row_weight: Tensor,
        norm: str = "l2",
        term_mask: int = ALL_TERMS,
    ) -> tuple[Tensor, ...]:
        """Loss of every row, components, and the gradients of features, weight and bias."""
        rest = (pairs, *LAM, None, None, row_weight, NORMS[norm], 1e-12, NONE, term_mask, ALL_GRADIENTS)
        return self._call("fused_indeed_loss", *leaves.values(), *self.pack_labels(labels), *rest)


@pytest.fixture(params=[*(["cuda"] if torch.cuda.is_available() else []), "cuda-emulated"])
def gpu(request: pytest.FixtureRequest) -> Operators:
    if request.param == "cuda":
        return Operators("indeed_ext", "cuda")
    error = kit.emulation_error()
    if isinstance(error, Unavailable):
        pytest.skip(str(error))
    if error is not None:
        raise error
    return Operators("indeed_ext_emulated", "cpu")


def _inputs(dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    leaves = {
        "features": torch.rand(B, N, generator=generator, dtype=dtype),
        "weight": torch.randn(C, N, generator=generator, dtype=dtype),
        "bias": torch.randn(C, generator=generator, dtype=dtype),
    }
    return leaves, kit.random_labels(generator, B, C, density=0.3)


def _directed(pairs: Tensor) -> tuple[list[int], list[int]]:
    """Sources and partners of the rows."""
    if pairs.dim() == 1:
        return list(range(len(pairs))), pairs.tolist()
    return [*pairs[:, 0].tolist(), *pairs[:, 1].tolist()], [*pairs[:, 1].tolist(), *pairs[:, 0].tolist()]


def _are_nan_exactly(tensor: Tensor, rows: set[int] | list[int]) -> bool:
    """Whether these rows are NaN in all elements, and the others in none."""
    expected = torch.zeros(len(tensor), dtype=torch.bool)
    expected[list(rows)] = True
    return torch.equal(tensor.isnan(), expected.view(-1, *[1] * (tensor.dim() - 1)).expand(tensor.shape))


def _assert_close(actual: Tensor, expected: Tensor, rows: list[int] | slice = slice(None)) -> None:
    tolerance = 1e-11 if actual.dtype == torch.float64 else 2e-5
    torch.testing.assert_close(actual.double()[rows], expected.double()[rows], rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------- labels

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
#: What a type can hold beside labels, and -1 where it can hold that.
_WRONG: dict[torch.dtype, list[Any]] = {
    torch.uint8: [2, 255],
    torch.int8: [2, -2, -128],
    torch.int16: [2, 256, -257],
    torch.int32: [2, 2**24 + 1, -(2**31)],
    torch.int64: [2, 2**32 + 1, -(2**32) - 1, 2**62],
    torch.float16: [0.95, 1 + 2**-10, -0.999, NAN, INF, 6e-8],
    torch.bfloat16: [0.95, 1 + 2**-7, NAN, -INF, 1e-40],
    torch.float32: [0.95, 1 + 2**-23, -1 - 2**-23, 2, NAN, INF, 1e-45],
    torch.float64: [0.95, 1 + 1e-9, 1 - 1e-16, -1 + 1e-9, 1e-300, NAN, -INF],
}


@pytest.mark.parametrize("dtype", _WRONG, ids=str)
def test_packed_bits_tell_unknown_labels_from_wrong_ones(gpu: Operators, dtype: torch.dtype) -> None:
    unknown = [] if dtype == torch.uint8 else [-1]
    zeros = [0, -0.0] if dtype.is_floating_point else [0]
    values = [*zeros, 1, *unknown, *_WRONG[dtype]] * 4  # more than a word
    positive, valid = gpu.pack_labels(torch.tensor([values, values[::-1]], dtype=dtype))
    for words, expected in (
        (positive, [value not in (0, -1) or (value == -1 and not unknown) for value in values]),
        (valid, [value in (0, 1) for value in values]),
    ):
        bits = reference.unpack_labels(words, len(values))
        assert bits.tolist() == [expected, expected[::-1]]
        assert not reference.unpack_labels(words, 32 * words.shape[1])[:, len(values) :].any()


@pytest.mark.parametrize("value", [0.95, 2.0, NAN, 1 + 1e-9])
@pytest.mark.parametrize("form", ["vector", "list"])
def test_a_wrong_label_shows_in_its_rows(gpu: Operators, form: str, value: float) -> None:
    """In the original term of its sample, in the others of every row the sample takes part in, and in no other row."""
    wrong, bad_class = 2, 33
    leaves, right = _inputs(torch.float64)
    right[wrong, bad_class] = 0
    right[0, 5] = right[3, bad_class] = -1
    labels = right.double()
    labels[wrong, bad_class] = value
    pairs = torch.tensor([1, 2, 3, 2, 5, 5] if form == "vector" else [[0, 2], [1, 3], [4, 4], [5, 1]])
    sources, partners = _directed(pairs)
    bad = [row for row, ends in enumerate(zip(sources, partners, strict=True)) if wrong in ends]
    good = [row for row in range(len(sources)) if row not in bad]
    touched = {sources[row] for row in bad}
    truth = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    options = {"pairs": pairs, "lam": LAM, "reduction": "none"}
    expected = reference.fused_indeed_loss(**truth, labels=right, **options)
    expected_gradients = torch.autograd.grad(expected.sum(), list(truth.values()))

    loss, components, *gradients = gpu.fused(leaves, labels, pairs, torch.ones(len(sources), dtype=torch.float64))
    assert _are_nan_exactly(loss, bad)
    _assert_close(loss, expected.detach(), good)
    assert components.isnan().all()
    # The gradient by the logit of that class, so the features of the sources and what their maps reach.
    assert gradients[0].isnan().all(1).nonzero().flatten().tolist() == sorted(touched | {partners[row] for row in bad})
    clean = [sample for sample in range(B) if not gradients[0][sample].isnan().any()]
    _assert_close(gradients[0], expected_gradients[0], clean)
    for gradient, exact in zip(gradients[1:], expected_gradients[1:], strict=True):
        assert _are_nan_exactly(gradient, [bad_class])
        _assert_close(gradient, exact, [c for c in range(C) if c != bad_class])

    logits = tuple(F.linear(each, leaves["weight"]) for each in (leaves["features"], *_blocks(leaves, pairs)))
    assert _are_nan_exactly(gpu.six_way_bce(logits, labels, pairs), bad)
    upstream = torch.ones(len(sources), dtype=torch.float64)
    original, *others = gpu.six_way_bce_backward(upstream, logits, labels, pairs)
    assert original.isnan().nonzero().tolist() == [[wrong, bad_class]]
    for gradient in others:
        assert gradient.isnan().nonzero().tolist() == [[row, bad_class] for row in bad]


def _blocks(leaves: dict[str, Tensor], pairs: Tensor) -> tuple[Tensor, ...]:
    return reference.identical_disparate(leaves["features"], pairs)


# ------------------------------------------------------------------------ indices

_FORMS: dict[str, list[Any]] = {
    "partner": [1, 0, None, 3, 3, 2],
    "two partners": [None, 0, 4, 3, None, 2],
    "second": [[0, 1], [2, None], [3, 4], [3, 2]],
    "first": [[None, 1], [0, 1], [4, 4]],
    "both": [[0, 1], [None, None], [3, 4]],
}


class Rows:
    """Pairs with an index out of range, and what they should show in."""

    def __init__(self, form: str, index: int) -> None:
        def filled(entry: Any, value: int) -> Any:
            if isinstance(entry, list):
                return [filled(each, value) for each in entry]
            return value if entry is None else entry

        self.pairs, self.harmless = (torch.tensor(filled(_FORMS[form], value)) for value in (index, 0))
        ends = list(zip(*_directed(self.pairs), strict=True))
        self.bad = [row for row, pair in enumerate(ends) if not all(0 <= end < B for end in pair)]
        self.good = [row for row in range(len(ends)) if row not in self.bad]
        self.named = sorted({end for row in self.bad for end in ends[row] if 0 <= end < B})
        self.others = [sample for sample in range(B) if sample not in self.named]
        #: One per row; none for those that are wrong, so that NaN is not scaled away, and the truth without them.
        self.weight = torch.rand(len(ends), dtype=torch.float64) + 0.5
        self.weight[self.bad] = 0


@pytest.fixture(params=[(form, index) for form in _FORMS for index in (-1, B, 2**40)], ids=str)
def rows(request: pytest.FixtureRequest) -> Rows:
    return Rows(*request.param)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [N, N + 1])
def test_an_index_out_of_range_in_identical_disparate(gpu: Operators, rows: Rows, norm: str, width: int) -> None:
    features = torch.rand(B, width, dtype=torch.float64)
    leaf = features.clone().requires_grad_()
    expected = reference.identical_disparate(leaf, rows.harmless, norm=norm)
    upstream = tuple(torch.rand_like(each) * rows.weight[:, None] for each in expected)
    for actual, exact in zip(gpu.identical_disparate(features, rows.pairs, norm), expected, strict=True):
        assert _are_nan_exactly(actual, rows.bad)
        _assert_close(actual, exact.detach(), rows.good)
    gradient = gpu.identical_disparate_backward(upstream, features, rows.pairs, norm)
    assert _are_nan_exactly(gradient, rows.named)
    _assert_close(gradient, *torch.autograd.grad(expected, leaf, upstream), rows.others)


@pytest.mark.parametrize("term_mask", range(ALL_TERMS + 1))
def test_an_index_out_of_range_in_six_way_bce(gpu: Operators, rows: Rows, term_mask: int) -> None:
    count = len(rows.weight)
    logits = tuple(torch.randn(size, C, dtype=torch.float64, requires_grad=True) for size in (B, count, count))
    labels = kit.random_labels(torch.Generator().manual_seed(0), B, C, density=0.3, unknown=True)
    lam = tuple(number if term_mask >> term & 1 else 0.0 for term, number in enumerate(LAM))
    expected = reference.six_way_bce(*logits, labels, rows.harmless, lam=lam, reduction="none")
    detached = tuple(each.detach() for each in logits)
    if term_mask == ALL_TERMS:
        loss = gpu.six_way_bce(detached, labels, rows.pairs)
        assert _are_nan_exactly(loss, rows.bad)
        _assert_close(loss, expected.detach(), rows.good)
    gradients = gpu.six_way_bce_backward(rows.weight, detached, labels, rows.pairs, term_mask)
    exact = torch.autograd.grad(expected, logits, rows.weight, materialize_grads=True, allow_unused=True)
    for actual, truth, bad, good in zip(
        gradients,
        exact,
        (rows.named, rows.bad, rows.bad),
        (rows.others, rows.good, rows.good),
        strict=True,
    ):
        assert _are_nan_exactly(actual, bad)
        _assert_close(actual, truth, good)


@pytest.mark.parametrize("term_mask", range(ALL_TERMS + 1))
@pytest.mark.parametrize("norm", NORMS)
def test_an_index_out_of_range_in_the_fused_loss(gpu: Operators, rows: Rows, norm: str, term_mask: int) -> None:
    leaves, labels = _inputs(torch.float64)
    lam = tuple(number if term_mask >> term & 1 else 0.0 for term, number in enumerate(LAM))
    truth = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    options = {"pairs": rows.harmless, "norm": norm, "lam": lam, "reduction": "none"}
    expected = reference.fused_indeed_loss(**truth, labels=labels, **options)
    loss, components, *gradients = gpu.fused(leaves, labels, rows.pairs, rows.weight, norm, term_mask)
    assert _are_nan_exactly(loss, rows.bad)
    _assert_close(loss, expected.detach(), rows.good)
    assert components.isnan().all()
    assert _are_nan_exactly(gradients[0], rows.named)
    (exact,) = torch.autograd.grad(expected, truth["features"], rows.weight)
    _assert_close(gradients[0], exact, rows.others)
    if rows.named or term_mask:  # a row of no sample may reach the weight only through its identical features
        assert gradients[1].isnan().all()
    assert gradients[2].isnan().all()


def test_pairs_of_an_empty_batch(gpu: Operators) -> None:
    features, pairs = torch.zeros(0, N), torch.tensor([[0, 0], [3, -1]])
    for each in gpu.identical_disparate(features, pairs, "l2"):
        assert _are_nan_exactly(each, range(4))
    assert gpu.identical_disparate_backward((torch.ones(4, N),) * 2, features, pairs, "l2").shape == (0, N)
    logits = (torch.zeros(0, C), torch.zeros(4, C), torch.zeros(4, C))
    labels = torch.zeros(0, C)
    assert gpu.six_way_bce(logits, labels, pairs).isnan().all()
    original, *others = gpu.six_way_bce_backward(torch.ones(4), logits, labels, pairs)
    assert original.shape == (0, C)
    assert all(_are_nan_exactly(each, range(4)) for each in others)


# ------------------------------------------------------------------------ numbers


def _features_of_extent(dtype: torch.dtype, exponent: int) -> Tensor:
    """Whole numbers times a power of two, so that their products are exact, also where they are subnormal."""
    numbers = torch.randint(0, 8, (5, 37), generator=torch.Generator().manual_seed(3))
    numbers[:, 0] = 7
    return torch.ldexp(numbers.to(dtype), torch.tensor(exponent))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [
        *((torch.float32, exponent) for exponent in (-68, -63, -40, -32, 0, 30, 45, 60)),
        *((torch.float64, exponent) for exponent in (-520, -505, -300, -260, 250, 300, 505)),
    ],
)
def test_extents_whose_square_or_reciprocal_leaves_the_range(
    gpu: Operators, dtype: torch.dtype, exponent: int, norm: str
) -> None:
    """The map does not depend on the size of the features, and its gradient only by a factor."""
    pairs = torch.tensor([1, 0, 3, 4, 4])
    unit, features = (_features_of_extent(dtype, power) for power in (0, exponent))
    leaf = unit.double().requires_grad_()
    expected = reference.identical_disparate(leaf, pairs, norm=norm, eps=0.0)
    upstream = tuple(torch.randn(5, 37, generator=torch.Generator().manual_seed(4), dtype=dtype) for _ in range(2))
    (exact,) = torch.autograd.grad(expected, leaf, tuple(each.double() for each in upstream))
    for actual, truth in zip(gpu.identical_disparate(features, pairs, norm, 0.0), expected, strict=True):
        _assert_close(torch.ldexp(actual, torch.tensor(-exponent)), truth.detach())
    gradient = gpu.identical_disparate_backward(upstream, features, pairs, norm, 0.0)
    _assert_close(gradient, exact)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("values", [(NAN,), (INF,), (-INF,), (INF, -INF), (INF, NAN)], ids=str)
@pytest.mark.parametrize("base", ["zeros", "numbers"])
def test_maps_of_what_is_not_finite_are_those_of_plain_pytorch(
    gpu: Operators, norm: str, values: tuple[float, ...], base: str
) -> None:
    features = torch.rand(3, 21) if base == "numbers" else torch.zeros(3, 21)
    features[0, : len(values)] = torch.tensor(values)
    features[1] = 1
    pairs = torch.tensor([1, 0, 1])
    expected = reference.identical_disparate(features, pairs, norm=norm)
    for actual, exact in zip(gpu.identical_disparate(features, pairs, norm), expected, strict=True):
        torch.testing.assert_close(actual, exact, equal_nan=True)


# --------------------------------------------------------------------------- hubs


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("form", ["vector", "list"])
def test_one_sample_is_the_partner_of_all_others(gpu: Operators, form: str, norm: str) -> None:
    batch, hub = 300, 17
    generator = torch.Generator().manual_seed(2)
    leaves = {
        "features": torch.randn(batch, 24, generator=generator).relu(),
        "weight": torch.randn(7, 24, generator=generator) / 5,
        "bias": torch.randn(7, generator=generator),
    }
    labels = kit.random_labels(generator, batch, 7, unknown=True)
    partner = torch.full((batch,), hub)
    pairs = partner if form == "vector" else torch.stack([torch.arange(batch), partner], 1)
    row_weight = torch.randn(pairs.numel(), generator=generator)
    truth = {name: leaf.double().requires_grad_() for name, leaf in leaves.items()}
    options = {"pairs": pairs, "norm": norm, "lam": LAM, "reduction": "none"}
    expected = reference.fused_indeed_loss(**truth, labels=labels, **options)
    exact = torch.autograd.grad(expected, list(truth.values()), row_weight.double())
    loss, _, *gradients = gpu.fused(leaves, labels, pairs, row_weight, norm)
    kit.assert_within("loss", loss, expected.detach(), 1e-6)
    for name, actual, gradient in zip(truth, gradients, exact, strict=True):
        kit.assert_within(name, actual, gradient, 1e-5)
    blocks = reference.identical_disparate(truth["features"], pairs, norm=norm)
    upstream = tuple(torch.randn(each.shape, generator=generator) for each in blocks)
    (exact_features,) = torch.autograd.grad(blocks, truth["features"], tuple(each.double() for each in upstream))
    gradient = gpu.identical_disparate_backward(upstream, leaves["features"], pairs, norm)
    kit.assert_within("features", gradient, exact_features, 1e-5)
