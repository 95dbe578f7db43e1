"""A fuzz of the public functions on the CPU: any call is refused by name, or right up to rounding.

A :class:`Recipe` is a call in a few numbers, which hypothesis draws and shrinks. An oracle that shares nothing with
:mod:`indeed_ext.validation` says which argument is bad. The judge of results is the float64 reference; how far from it
they may be comes from a running error analysis of the formulas in the type that sums are held in, which also says where
numbers may leave the range of that type: there, and nowhere else, a result may be non-finite though the truth is not.

pytest tests/test_fuzz.py --fuzz-cases 10000    # fresh ones each time; a failure prints its recipe and how to repeat it
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import kit
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

import indeed_ext
from indeed_ext import _extension, reference
from indeed_ext.constants import NARROW_WIDTH

if not _extension.is_loaded():
    pytest.skip(str(_extension.EXTENSION_ERROR), allow_module_level=True)

NAN, INF = math.nan, math.inf
Arguments = dict[str, Any]

# ----------------------------------------------------------------------------- recipes

_PLAIN_LABELS = {
    "bool": torch.bool,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    **{str(dtype).removeprefix("torch."): dtype for dtype in kit.DTYPES},
}
_PACKED_LABELS = ("words", "word pair", "word pair with stray valid bits")
_LAYOUTS = ("plain", "guarded", "transposed", "every other", "expanded")
_MAGNITUDES = (0, 0, 0, 0, 0, 0, 4, -4, 10, -10, 19, -19, 30, -30)
LEAVES = {
    "identical_disparate": ("features",),
    "six_way_bce": ("logits", "identical_logits", "disparate_logits"),
    "fused_indeed_loss": ("features", "weight", "bias"),
}


@dataclass(frozen=True)
class Recipe:
    """One call; what a function does not take is passed over."""

    seed: int = 0
    batch: int = 3
    width: int = 5
    classes: int = 4
    dtype: torch.dtype = torch.float32
    values: str = "relu"
    magnitudes: tuple[int, int, int] = (0, 0, 0)  # decimal exponents of features, weight and bias, or of the logits
    poison: tuple[int, float] | None = None  # which of the leaves holds this number in some places
    has_bias: bool = True
    labels: str = "int64"
    density: float = 0.3
    unknown: bool = False
    pairs: str = "mined"
    pairs_dtype: torch.dtype = torch.int64
    layouts: tuple[str, ...] = ("plain",)  # dealt to the tensors in turn
    strategy: str = "anchor"
    norm: str = "l2"
    lam: Any = 1.0
    eps: float = 1e-12
    reduction: str = "mean"
    pos_weight: str | None = None
    seeding: str = "int"
    upstream: str = "one"
    wanted: int = 7  # bits: which leaves require grad
    threads: int = 1
    bad: tuple[str, float] | None = None  # a label, an index of a pair, or the number of a fault

    def bad_value(self, kind: str) -> Any:
        return self.bad[1] if self.bad is not None and self.bad[0] == kind else None

    def generator(self, salt: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 16 + salt)


def _mostly(usual: Any, others: Any) -> st.SearchStrategy[Any]:
    """The usual value three times out of four."""
    return st.one_of(st.just(usual), st.just(usual), st.just(usual), others)


_BAD_LABELS = st.tuples(
    st.just("label"),
    st.sampled_from((2, -2, 127, 257, 2**32, 2**32 + 1, -(2**63), 0.95, 2.0, NAN, 1 + 1e-9, 1e-30, -0.5, INF, -INF)),
)
_BAD_INDICES = st.tuples(st.just("index"), st.sampled_from((-1, -(2**63), 40, 100, 2**31, 2**32, 2**63 - 1)))
_LAM_NUMBERS = st.sampled_from((1.0, 1, 0, 0.0, 0.3, 3e4, 1e-30, 1e30))
_LAM = st.one_of(_LAM_NUMBERS, _LAM_NUMBERS.map(lambda value: ("tensor", value)))
RECIPES = st.builds(
    Recipe,
    seed=st.integers(0, 2**32),
    batch=st.one_of(st.sampled_from((0, 1, 2, 3, 5, 15, 16, 17, 31, 33, 40)), st.integers(0, 40)),
    width=st.one_of(st.sampled_from((0, 1, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 70)), st.integers(0, 70)),
    classes=st.one_of(st.sampled_from((0, 1, 2, 31, 32, 33, 40, 63, 64, 65, 97)), st.integers(0, 97)),
    dtype=st.sampled_from(kit.DTYPES),
    values=st.sampled_from(("relu", "signed", "positive", "sparse", "tied", "constant", "zero", "one hot", "wide")),
    magnitudes=_mostly((0, 0, 0), st.tuples(*[st.sampled_from(_MAGNITUDES)] * 3)),
    poison=_mostly(None, st.tuples(st.integers(0, 2), st.sampled_from((NAN, INF, -INF)))),
    has_bias=st.booleans(),
    labels=st.sampled_from((*_PLAIN_LABELS, *_PACKED_LABELS)),
    density=st.sampled_from((0.0, 0.05, 0.3, 0.6, 1.0)),
    unknown=st.booleans(),
    pairs=st.sampled_from(("mined", "mined", "mined", "vector", "hub", "involution", "list", "repeated", "empty list")),
    pairs_dtype=st.sampled_from((torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)),
    layouts=_mostly(("plain",), st.lists(st.sampled_from(_LAYOUTS), min_size=1, max_size=5).map(tuple)),
    strategy=st.sampled_from(kit.STRATEGIES),
    norm=st.sampled_from(kit.NORMS),
    lam=st.one_of(_LAM, st.tuples(_LAM, _LAM)),
    eps=_mostly(1e-12, st.sampled_from((0, 0.0, 1e-300, 1e-40, 1e-6, 0.5, 1e30))),
    reduction=st.sampled_from(kit.REDUCTIONS),
    pos_weight=st.sampled_from((None, None, "same", "float64", "bfloat16", "zero", "large")),
    seeding=st.sampled_from(("int", "tensor", "default generator", "generator")),
    upstream=st.sampled_from(("one", "random", "zero", "loss scale")),
    wanted=st.integers(0, 7),
    threads=st.sampled_from((1, 1, 1, 2, 3)),
    bad=_mostly(None, st.one_of(_BAD_LABELS, _BAD_INDICES, st.tuples(st.just("fault"), st.integers(0, 999)))),
)


# --------------------------------------------------------------------------- arguments


@dataclass
class Call:
    """The arguments that a recipe stands for."""

    arguments: Arguments
    memory: dict[str, Tensor]  # what the tensors lie in
    plain_labels: Tensor | None  # int64 [B, C], what good labels mean
    bad: dict[str, set[type[Exception]]]  # arguments that are bad, and the errors each may give


class Builder:
    """Makes the arguments of a recipe, every random number of them from one generator."""

    def __init__(self, function: str, recipe: Recipe) -> None:
        self.leaves = LEAVES.get(function, ())
        self.recipe, self.random = recipe, recipe.generator()
        self.memory: dict[str, Tensor] = {}
        self.placed = 0

    def integer(self, high: int) -> int:
        return int(torch.randint(high, (), generator=self.random))

    def numbers(self, name: str, shape: tuple[int, ...], kind: str, magnitude: int) -> Tensor:
        """A floating tensor of the recipe's type, maybe poisoned, in some layout."""
        normal = functools.partial(torch.randn, generator=self.random, dtype=torch.float64)
        matrix = (shape[0], shape[1] if len(shape) > 1 else 1)
        if kind == "one hot":
            values = torch.zeros(matrix, dtype=torch.float64)
            if values.numel():
                values.scatter_(1, torch.randint(matrix[1], (matrix[0], 1), generator=self.random), 0.5)
        elif kind == "wide":
            values = normal(*matrix) * 10 ** (normal(*matrix) * 10).clamp(-30, 30)
        else:
            values = kit.feature_values(kind, normal, *matrix)
        values = (values.reshape(shape) * 10.0**magnitude).to(self.recipe.dtype)
        leaf, number = self.recipe.poison or (None, NAN)
        if leaf is not None and values.numel() and name == self.leaves[leaf % len(self.leaves)]:
            for _ in range(1 + self.integer(2)):
                values.view(-1)[self.integer(values.numel())] = number
        return self.place(name, values)

    def place(self, name: str, values: Tensor) -> Tensor:
        """The values in the next layout, with junk wherever nothing may be read or written."""
        layout = self.recipe.layouts[self.placed % len(self.recipe.layouts)]
        self.placed += 1
        junk = NAN if values.is_floating_point() else 77
        if layout == "guarded":
            around = torch.full((values.numel() + 70,), junk).to(values.dtype)
            view = around[35 : 35 + values.numel()].view(values.shape)
        elif layout == "transposed" and values.dim() == 2:
            around = torch.full(values.T.shape, junk).to(values.dtype)
            view = around.T
        elif layout == "every other" and values.dim():
            around = torch.full((*values.shape[:-1], 2 * values.shape[-1] + 1), junk).to(values.dtype)
            view = around[..., 1::2]
        elif layout == "expanded" and values.dim() and values.shape[0]:
            around = values[:1].clone()
            self.memory[name] = around
            return around.expand(values.shape)
        else:
            around = view = torch.empty_like(values)
        view.copy_(values)
        self.memory[name] = around
        return view

    def labels(self) -> tuple[Any, Tensor]:
        """(labels as they are given, the int64 labels they mean unless they are bad)."""
        recipe = self.recipe
        shape = (recipe.batch, recipe.classes)
        form, bad = recipe.labels, recipe.bad_value("label")
        unknown = recipe.unknown and form not in ("bool", "uint8", "words")
        plain = kit.random_labels(self.random, *shape, density=recipe.density, unknown=unknown)
        if recipe.layouts[self.placed % len(recipe.layouts)] == "expanded":
            plain = plain[:1].expand(shape).clone()  # words are expanded as they are
        if form in _PLAIN_LABELS:
            given = plain.to(_PLAIN_LABELS[form])
            if bad is not None and plain.numel() and form != "bool" and _fits(bad, given.dtype):
                given.view(-1)[self.integer(plain.numel())] = bad
            given = self.place("labels", given)
            return given, given.long()
        present, valid = reference.pack_labels(plain, with_known=True)
        stray = -1 << recipe.classes % 32 if recipe.classes % 32 else 0
        if bad is not None and present.numel():
            row = self.integer(len(present))
            if form != "words":  # positive and not valid
                present[row, 0] |= 1
                valid[row, 0] &= ~1
            elif recipe.classes > 1:  # else the word is a plain label
                present[row, -1] |= stray
        if form == "words":
            return self.place("labels", present), plain
        if "stray" in form and valid.numel():
            valid[:, -1] |= stray
        given = self.place("labels", present)
        self.placed -= 1  # both in one layout
        return (given, self.place("valid labels", valid)), plain

    def pairs(self) -> Tensor | None:
        recipe = self.recipe
        batch, kind = recipe.batch, recipe.pairs
        if kind == "mined":
            return None
        any_sample = functools.partial(torch.randint, max(batch, 1), generator=self.random)
        count = 0 if kind == "empty list" or batch == 0 else 1 + self.integer(30)
        if kind in ("list", "repeated", "empty list"):
            pairs = any_sample((count, 2))
            pairs = torch.cat([pairs, pairs[:3], pairs[:2].flip(1)]) if kind == "repeated" else pairs
        elif kind == "hub":
            pairs = any_sample((1,)).repeat(batch)
        elif kind == "involution":
            order = torch.randperm(batch, generator=self.random)
            pairs = torch.arange(batch)
            half = batch // 2
            pairs[order[:half]], pairs[order[half : 2 * half]] = order[half : 2 * half], order[:half]
        else:
            pairs = any_sample((batch,))
        pairs = pairs.to(recipe.pairs_dtype)
        bad = recipe.bad_value("index")
        if bad is not None and pairs.numel() and _fits(bad, pairs.dtype):
            pairs.view(-1)[self.integer(pairs.numel())] = bad
        return self.place("pairs", pairs)

    def pos_weight(self) -> Tensor | None:
        kind, classes = self.recipe.pos_weight, self.recipe.classes
        if kind is None:
            return None
        weights = torch.rand(classes, generator=self.random, dtype=torch.float64) * 3 + 0.25
        weights = {"zero": weights * 0, "large": weights * 1e4}.get(kind, weights)
        dtypes = {"float64": torch.float64, "bfloat16": torch.bfloat16}
        return self.place("pos_weight", weights.to(dtypes.get(kind, self.recipe.dtype)))

    def lam(self) -> Any:
        def part(value: Any) -> Any:
            if not isinstance(value, tuple):
                return value
            (number,) = value[1:]
            dtype = torch.int64 if isinstance(number, int) else (torch.float32, torch.float64)[self.integer(2)]
            return torch.tensor(number, dtype=dtype)

        lam = self.recipe.lam
        if isinstance(lam, tuple) and lam[0] != "tensor":
            return part(lam[0]), part(lam[1])
        return part(lam)

    def seed(self) -> Arguments:
        seed = self.recipe.seed - 2**31
        return {
            "int": {"seed": seed * 2**31},
            "tensor": {"seed": torch.tensor(seed)},
            "generator": {"generator": self.recipe.generator(1)},
            "default generator": {},
        }[self.recipe.seeding]


def _fits(value: float, dtype: torch.dtype) -> bool:
    """Whether a value of this kind can be put into the type at all; a float rounds."""
    if dtype.is_floating_point:
        return True
    bounds = torch.iinfo(dtype)
    return isinstance(value, int) and bounds.min <= value <= bounds.max


def _rows(pairs: Tensor) -> int:
    return len(pairs) if pairs.dim() == 1 else 2 * len(pairs)


def build(function: str, recipe: Recipe) -> Call:
    make = Builder(function, recipe)
    arguments: Arguments = {"backend": "cpu"}
    plain_labels = None
    floats = recipe.magnitudes
    if function in ("identical_disparate", "fused_indeed_loss"):
        arguments["features"] = make.numbers("features", (recipe.batch, recipe.width), recipe.values, floats[0])
    if function == "fused_indeed_loss":
        kind = recipe.values if recipe.values in ("tied", "sparse", "wide") else "signed"
        arguments["weight"] = make.numbers("weight", (recipe.classes, recipe.width), kind, floats[1])
        if recipe.has_bias:
            arguments["bias"] = make.numbers("bias", (recipe.classes,), "signed", floats[2])
    if function != "identical_disparate":
        arguments["labels"], plain_labels = make.labels()
    if function in ("identical_disparate", "six_way_bce", "fused_indeed_loss"):
        pairs = make.pairs()
        if pairs is None and function != "fused_indeed_loss":
            pairs = torch.randint(max(recipe.batch, 1), (recipe.batch,), generator=make.random)
        if pairs is not None:
            arguments["pairs"] = pairs
    if function == "six_way_bce":
        rows = {"logits": recipe.batch, "identical_logits": _rows(pairs), "disparate_logits": _rows(pairs)}
        kind = "wide" if recipe.values == "wide" else "signed"
        for (name, count), magnitude in zip(rows.items(), floats, strict=True):
            arguments[name] = make.numbers(name, (count, recipe.classes), kind, magnitude)
    if function in ("six_way_bce", "fused_indeed_loss"):
        arguments |= {"lam": make.lam(), "reduction": recipe.reduction}
        if (pos_weight := make.pos_weight()) is not None:
            arguments["pos_weight"] = pos_weight
    if function in ("identical_disparate", "fused_indeed_loss"):
        arguments |= {"norm": recipe.norm, "eps": recipe.eps}
    if function in ("mine_pairs", "fused_indeed_loss"):
        arguments |= {"strategy": recipe.strategy, **make.seed()}
    if function == "mine_pairs" and recipe.labels in _PACKED_LABELS and recipe.classes:
        arguments["num_classes"] = recipe.classes
    if function == "fused_indeed_loss":
        arguments["return_components"] = True
    return Call(arguments, make.memory, plain_labels, bad_arguments(function, recipe, arguments))


# ---------------------------------------------------------------------------- refusals

#: (argument, error, what to put in its place: a function of the good value, or a value)
Fault = tuple[str, type[Exception], Any]


def _each(change: Callable[[Tensor], Any]) -> Callable[[Any], Any]:
    """Of labels, which may be two tensors of words."""
    return lambda labels: tuple(map(change, labels)) if isinstance(labels, tuple) else change(labels)


def _faults(given: Arguments) -> Iterator[Fault]:
    """All that can be wrong with these arguments beside values of labels and indices of pairs."""
    floats = {*itertools.chain(*LEAVES.values()), "pos_weight"}
    for name in (name for name in given if name in floats):
        yield name, TypeError, Tensor.int
        yield name, TypeError, Tensor.tolist
        yield name, ValueError, lambda good: good[None]
        if name not in ("features", "logits"):  # to which the others must fit
            yield name, ValueError, lambda good: F.pad(good, (0, 1))
            yield name, ValueError, lambda good: good.to("meta")
            if name != "pos_weight":
                yield name, TypeError, lambda good: good.to(next(dtype for dtype in kit.DTYPES if dtype != good.dtype))
    if "labels" in given:
        yield "labels", TypeError, _each(lambda good: good.to(torch.complex64))
        yield "labels", TypeError, lambda good: [1, 0]
        yield "labels", ValueError, _each(lambda good: good[None])
        if "pairs" in given:
            yield "labels", ValueError, _each(lambda good: torch.zeros(len(good) + 1, good.shape[1], dtype=good.dtype))
    if "pairs" in given:
        yield "pairs", TypeError, Tensor.double
        yield "pairs", TypeError, lambda good: torch.zeros(good.shape, dtype=torch.uint16)
        yield "pairs", ValueError, lambda good: torch.zeros(len(good), 3, dtype=torch.int64)
        yield "pairs", ValueError, lambda good: good[None, None]
    for name in (name for name in given if name in ("norm", "strategy", "reduction")):
        yield name, ValueError, "MEAN"
        yield name, TypeError, 1
    for name in (name for name in given if name in ("eps", "lam")):
        for number in (-1e-12, NAN, INF):
            yield name, ValueError, number
        for value in ("1", True, None):
            yield name, TypeError, value
    if "lam" in given:
        yield "lam", ValueError, (1.0, torch.tensor(NAN))
        yield "lam", ValueError, (1.0, 1.0, 1.0)
        yield "lam", ValueError, torch.ones(1)
        yield "lam", ValueError, torch.ones((), requires_grad=True)
    if "strategy" in given:
        for value in (2**63, -(2**63) - 1, torch.tensor([1])):
            yield "seed", ValueError, value
        for value in ("1", 1.0, True, torch.tensor(1.0), torch.tensor(1, dtype=torch.int32)):
            yield "seed", TypeError, value
    if "strategy" in given and "reduction" not in given:
        yield "num_classes", ValueError, 0
        yield "num_classes", TypeError, 5.0
    yield "backend", ValueError, "gpu"


def _labels_are_bad(labels: Any, num_classes: int | None) -> bool:
    """Whether some value is no label, by way of Python's own numbers."""
    if isinstance(labels, tuple):
        present, valid = (words.tolist() for words in labels)
    elif num_classes is not None and labels.dtype == torch.int32 and labels.shape[1] != num_classes:
        present, valid = labels.tolist(), [[-1] * labels.shape[1]] * len(labels)
    else:
        return not {*labels.flatten().tolist()} <= {-1, 0, 1}
    beyond = num_classes % 32 if num_classes else 0
    stray = any(words and beyond and (words[-1] & 0xFFFFFFFF) >> beyond for words in present)
    return stray or any(p & ~v for row in zip(present, valid, strict=True) for p, v in zip(*row, strict=True))


def bad_arguments(function: str, recipe: Recipe, given: Arguments) -> dict[str, set[type[Exception]]]:
    """Which arguments are bad, and the errors each may give; puts in the fault that the recipe asks for."""
    bad: dict[str, set[type[Exception]]] = {}
    if "labels" in given:
        packed = isinstance(given["labels"], tuple)
        num_classes = given.get("num_classes") if function in ("pack_labels", "mine_pairs") else recipe.classes
        if function == "pack_labels" and packed:
            bad["labels"] = {TypeError}
        elif _labels_are_bad(given["labels"], num_classes):
            bad["labels"] = {ValueError}
    if "pairs" in given and not {*given["pairs"].flatten().tolist()} <= {*range(recipe.batch)}:
        bad["pairs"] = {ValueError}
    if (number := recipe.bad_value("fault")) is not None:
        faults = list(_faults(given))
        name, error, change = faults[number % len(faults)]
        given[name] = change(given[name]) if callable(change) else change
        bad.setdefault(name, set()).add(error)
    return bad


# ------------------------------------------------------------------------- how far off


@dataclass
class Rounded:
    """The most that the sizes of numbers can be, and how far rounding may take them from their exact values."""

    size: Tensor
    error: Tensor

    def __getitem__(self, index: Tensor) -> Rounded:
        return Rounded(self.size[index], self.error[index])

    @property
    def T(self) -> Rounded:
        return Rounded(self.size.T, self.error.T)


_OF_TRUTH = 2 * torch.finfo(torch.float64).eps


def exact(values: Tensor) -> Rounded:
    return Rounded(values.abs(), torch.zeros_like(values))


class Arithmetic:
    """A running error analysis in one type; numbers beyond ``limit`` become infinite."""

    def __init__(self, dtype: torch.dtype, limit: float) -> None:
        bounds = torch.finfo(dtype)
        self.limit = limit
        self.eps = bounds.eps * (2 if dtype == torch.float64 else 1)  # in float64 the truth is rounded as well
        self.normal, self.least = bounds.smallest_normal, bounds.smallest_normal * bounds.eps

    def made(self, size: Tensor, error: Tensor, terms: int = 1) -> Rounded:
        """The result of an operation, a sum of so many terms, given the errors it was handed."""
        size = torch.where(size + error > self.limit, INF, size)
        return Rounded(size, error + (3 + 2 * terms**0.5) * self.eps * size + terms * self.least)

    def add(self, a: Rounded, b: Rounded) -> Rounded:
        return self.made(a.size + b.size, a.error + b.error)

    def mul(self, a: Rounded, b: Rounded) -> Rounded:
        return self.made(a.size * b.size, a.error * b.size + a.size * b.error + a.error * b.error)

    def matmul(self, a: Rounded, b: Rounded) -> Rounded:
        error = a.error @ b.size + a.size @ b.error + a.error @ b.error
        return self.made(a.size @ b.size, error, a.size.shape[1])

    def sum(self, a: Rounded, dim: int, keepdim: bool = False) -> Rounded:
        return self.made(a.size.sum(dim, keepdim), a.error.sum(dim, keepdim), a.size.shape[dim])

    def gather(self, a: Rounded, index: Tensor, count: int) -> Rounded:
        """Rows added up where ``index`` says."""
        zero = torch.zeros(count, *a.size.shape[1:], dtype=torch.float64)
        return self.made(zero.index_add(0, index, a.size), zero.index_add(0, index, a.error), len(index))


class Maps:
    """The identical maps of directed rows, and what flows back through them."""

    def __init__(self, a: Arithmetic, features: Tensor, pairs: Tensor, norm: str, eps: float) -> None:
        self.a, self.batch = a, len(features)
        self.source_index, self.partner_index = reference.directed_rows(pairs)
        self.source, self.partner = exact(features[self.source_index]), exact(features[self.partner_index])
        product = features[self.source_index] * features[self.partner_index]
        u = a.mul(self.source, self.partner)
        #: For each end of the range: which elements are it, which may be, and one by the number of those that are.
        self.ends: list[tuple[Tensor, Tensor, Tensor]] = []
        if product.shape[1] == 0:
            self.map, self.inverse = exact(product), exact(product.sum(1, keepdim=True))
        elif norm == "l2":
            extent = torch.linalg.vector_norm(product, dim=1, keepdim=True)
            self._divide(u, a.made(extent, torch.zeros_like(extent), product.shape[1]), eps)
        else:
            low, high = product.amin(1, keepdim=True), product.amax(1, keepdim=True)
            doubt = 2 * u.error.amax(1, keepdim=True)
            for end in (low, high):
                here, near = product == end, (product - end).abs() <= doubt
                self.ends.append((here, near & ~(near == here).all(1, keepdim=True), 1 / here.sum(1, keepdim=True)))
            shifted = a.made((product - low).abs(), doubt.expand(product.shape))
            self._divide(shifted, a.made(high - low, doubt), eps)
        self.identical = a.mul(self.map, self.source)
        self.disparate = a.add(self.source, self.identical)

    def _divide(self, numerator: Rounded, extent: Rounded, eps: float) -> None:
        """Sets the map and one by the extent: nothing where a row is degenerate, anything where it may be."""
        error = torch.where(extent.size == 0, 0, extent.error)  # equal products are equal when rounded
        counts = ~(extent.size + error <= eps)
        relative = torch.where(extent.size - 2 * error > eps, 2 * error / extent.size, INF)
        inverse = torch.where(extent.size.isinf(), NAN, 1 / extent.size)  # what is finite comes out as zero

        def made(size: Tensor, error: Tensor) -> Rounded:
            return self.a.made(torch.where(counts, size, 0), torch.where(counts, error, 0))

        self.inverse = made(inverse, inverse * relative)
        self.map = made(numerator.size * inverse, (numerator.error + numerator.size * relative) * inverse)

    def back(self, t: Rounded) -> Rounded:
        """The gradient by the features, given that by the identical ones."""
        a = self.a
        inner = a.mul(t, self.source)
        along = a.sum(a.mul(t, self.identical), 1, keepdim=True)
        if self.ends:
            across = a.sum(a.mul(t, self.disparate), 1, keepdim=True)
            for total, (here, doubtful, portion) in zip((across, along), self.ends, strict=True):
                share = a.mul(total, exact(portion.double()))
                error = torch.where(doubtful, total.size + total.error, here * share.error)
                inner = a.add(inner, Rounded(torch.where(doubtful, total.size, here * share.size), error))
        else:
            inner = a.add(inner, a.mul(self.map, along))
        du = a.mul(inner, self.inverse)
        own = a.add(a.mul(self.map, t), a.mul(du, self.partner))
        to_partner = a.gather(a.mul(du, self.source), self.partner_index, self.batch)
        return a.add(a.gather(own, self.source_index, self.batch), to_partner)


def cross_entropy(
    a: Arithmetic, x: Rounded, logits: Tensor, target: Tensor, known: Tensor, pos_weight: Tensor | None
) -> tuple[Rounded, Rounded]:
    """Values and slopes, given the logits in truth and how far off they may be."""
    weight = torch.ones_like(logits) if pos_weight is None else torch.where(target, pos_weight.double(), 1)
    y = torch.where(target, -logits, logits)
    y = torch.where(x.size.isfinite(), y, NAN)
    value, slope = F.softplus(y, threshold=800), torch.sigmoid(y)
    value_error = x.error * torch.sigmoid(y + x.error)
    nearest = (y.abs() - x.error).clamp(min=0)  # to zero, where the slope is steepest
    slope_error = (x.error * torch.sigmoid(nearest) * torch.sigmoid(-nearest)).clamp(max=1)

    def made(size: Tensor, error: Tensor) -> Rounded:
        # The truth has a value and a slope that are differences, from which the logit is lost beyond 800, and a weight
        # of 1 + (pos_weight - 1); subnormal results may be 0.
        of_truth = _OF_TRUTH * (1 + size + y.abs().clamp(max=800))
        error = weight * error + weight.clamp(min=1) * (of_truth + 4 * a.normal)
        return a.made(torch.where(known, weight * size, 0), torch.where(known, error, 0))

    return made(value, value_error), made(slope, slope_error)


@dataclass
class SixTerms:
    """Of every row: its loss, the three terms, and their slopes in the gradient; and whether a logit overflows."""

    rows: Rounded
    terms: list[Rounded]
    slopes: list[Rounded]
    overflow: Tensor


def six_terms(a: Arithmetic, x: list[Rounded], logits: list[Tensor], options: Arguments, scale: Tensor) -> SixTerms:
    """Of the logits of each row in truth, and how far off they may be; ``scale`` of each row in the gradient."""
    labels = options["labels"]
    source, partner = reference.directed_rows(options["pairs"])
    present, known = labels == 1, labels != -1
    both = known[source] & known[partner]
    targets = (present[source], present[source] & present[partner], present[source] & ~present[partner])
    nothing = exact(torch.zeros_like(logits[0]))
    result = SixTerms(a.sum(nothing, 1), [], [], torch.zeros(len(source), dtype=torch.bool))
    for block, lam in enumerate((1.0, *reference.split_lam(options["lam"]))):
        valid = known[source] if block == 0 else both
        if not isinstance(lam, Tensor) and lam == 0:
            valid = torch.zeros_like(valid)
        pos_weight = options.get("pos_weight")
        value, slope = cross_entropy(a, x[block], logits[block], targets[block], valid, pos_weight)
        weight = torch.full_like(scale, float(lam))
        result.terms.append(a.sum(value, 1))
        result.rows = a.add(result.rows, a.mul(result.terms[-1], exact(weight)))
        result.slopes.append(a.mul(slope, exact((weight * scale)[:, None])))
        result.overflow |= (valid & (logits[block].abs() > 1.001 * a.limit)).any(1)
    return result


def analyse(
    function: str, options: Arguments, upstream: tuple[Tensor, ...], a: Arithmetic
) -> tuple[dict[str, Rounded], Tensor]:
    """How far rounding may take each result and gradient; rows whose loss must be non-finite."""
    if function == "identical_disparate":
        maps = Maps(a, options["features"], options["pairs"], options["norm"], options["eps"])
        of_identical, of_disparate = (exact(each.double()) for each in upstream)
        direct = a.gather(of_disparate, maps.source_index, maps.batch)
        gradient = a.add(maps.back(a.add(of_identical, of_disparate)), direct)
        return {"output 0": maps.identical, "output 1": maps.disparate, "features": gradient}, torch.zeros(0)

    source, _ = reference.directed_rows(options["pairs"])
    each_row = torch.tensor(1 / max(len(source), 1) if options["reduction"] == "mean" else 1, dtype=torch.float64)
    scale, final = each_row.expand(len(source)), upstream[0].double()
    if options["reduction"] == "none":
        scale, final = final.abs(), each_row
    if function == "six_way_bce":
        logits = [options["logits"][source], options["identical_logits"], options["disparate_logits"]]
        six = six_terms(a, [exact(each) for each in logits], logits, options, scale)
        original = a.gather(six.slopes[0], source, len(options["logits"]))
        gradients = dict(zip(LEAVES[function], (original, *six.slopes[1:]), strict=True))
    else:
        six, gradients = analyse_fused(options, scale, a)
    terms = Rounded(*(torch.stack([getattr(term, part) for term in six.terms]) for part in ("size", "error")))
    loss = six.rows if options["reduction"] == "none" else a.sum(six.rows, 0)
    results = {"loss": a.mul(loss, exact(each_row)), "components": a.mul(a.sum(terms, 1), exact(each_row))}
    return results | {name: a.mul(each, exact(final)) for name, each in gradients.items()}, six.overflow


def analyse_fused(options: Arguments, scale: Tensor, a: Arithmetic) -> tuple[SixTerms, dict[str, Rounded]]:
    features, weight, bias = options["features"], options["weight"], options.get("bias")
    pairs, of_map = options["pairs"], {"norm": options["norm"], "eps": options["eps"]}
    maps = Maps(a, features, pairs, **of_map)
    source = maps.source_index
    blocks = (features[source], *reference.identical_disparate(features, pairs, **of_map))
    logits = [F.linear(block, weight, bias) for block in blocks]
    f, w = exact(features), exact(weight)
    x = [a.matmul(f, w.T)[source], a.matmul(maps.identical, w.T)]
    x.append(a.add(*x))
    if bias is not None:
        x = [a.add(each, exact(bias)) for each in x]
    six = six_terms(a, x, logits, options, scale)
    by_sample = a.gather(a.add(six.slopes[0], six.slopes[2]), source, maps.batch)
    gradients = {"features": a.matmul(by_sample, w), "weight": a.matmul(by_sample.T, f)}
    by_row = a.add(six.slopes[1], six.slopes[2])
    if any(isinstance(lam, Tensor) or lam != 0 for lam in reference.split_lam(options["lam"])):
        gradients["features"] = a.add(gradients["features"], maps.back(a.matmul(by_row, w)))
        gradients["weight"] = a.add(gradients["weight"], a.matmul(by_row.T, maps.identical))
    gradients["bias"] = a.sum(a.add(a.add(six.slopes[0], six.slopes[1]), six.slopes[2]), 0)
    return six, gradients


# ------------------------------------------------------------------------------ trials

#: Calls a public function and asserts that it does what it should.
Trial = Callable[[], None]


def refusal(function: Callable[..., Any], call: Call) -> Trial:
    """One of the bad arguments is named, in an error that is due to it, and no random number is drawn."""

    def trial() -> None:
        before = torch.get_rng_state()
        with pytest.raises((TypeError, ValueError)) as caught:
            function(**call.arguments)
        name = str(caught.value).split(":")[0]
        assert type(caught.value) in call.bad.get(name, ()), f"{caught.value!r}, while these are bad: {call.bad}"
        assert torch.equal(torch.get_rng_state(), before), "a refused call drew random numbers"

    return trial


def packing(call: Call) -> Trial:
    expected = reference.pack_labels(call.arguments["labels"], with_known=True)

    def trial() -> None:
        for words, exact_words in zip(indeed_ext.pack_labels(**call.arguments, with_known=True), expected, strict=True):
            assert words.dtype == torch.int32
            assert torch.equal(words, exact_words)
        assert torch.equal(indeed_ext.pack_labels(**call.arguments), expected[0])

    return trial


def seeded(recipe: Recipe, function: Callable[..., Any], arguments: Arguments) -> tuple[Any, Tensor]:
    """The result with all generators as the recipe has them, and how the default one is left."""
    torch.manual_seed(recipe.seed)
    if "generator" in arguments:
        arguments = {**arguments, "generator": recipe.generator(1)}
    return function(**arguments), torch.get_rng_state()


def true_partners(recipe: Recipe, call: Call) -> tuple[Tensor, Tensor]:
    options = {name: call.arguments[name] for name in ("strategy", "seed", "generator") if name in call.arguments}
    return seeded(recipe, reference.mine_pairs, {"labels": call.plain_labels, **options})


def mining(recipe: Recipe, call: Call) -> Trial:
    expected, left = true_partners(recipe, call)

    def trial() -> None:
        partner, state = seeded(recipe, indeed_ext.mine_pairs, call.arguments)
        assert partner.dtype == torch.int64
        assert torch.equal(partner, expected), f"{partner.tolist()}, expected {expected.tolist()}"
        assert torch.equal(state, left), "the default generator is left otherwise"

    return trial


def upstream_of(name: str, recipe: Recipe, rows: int) -> tuple[Tensor, ...]:
    random = functools.partial(torch.randn, generator=recipe.generator(2), dtype=torch.float64)
    if name == "identical_disparate":
        return tuple(random(rows, recipe.width).to(recipe.dtype) for _ in range(2))
    shape = (rows,) if recipe.reduction == "none" else ()
    made = {
        "one": torch.ones(()).expand(shape),
        "random": random(shape),
        "zero": random(shape) * (random(shape) > 0) if shape else torch.zeros(()),
        "loss scale": torch.full(shape, 65536.0),
    }
    return (made[recipe.upstream].to(reference.accumulation_dtype(recipe.dtype)),)


def differentiate(
    function: Callable[..., Any], arguments: Arguments, wanted: list[str], upstream: tuple[Tensor, ...]
) -> kit.Result:
    """Results, and the gradients that are wanted."""
    leaves = {leaf: arguments[leaf] for leaf in LEAVES[function.__name__] if leaf in arguments}
    beside = {}

    def outputs(leaves: dict[str, Tensor]) -> Any:
        result = function(**(arguments | leaves))
        if "return_components" in arguments:
            result, beside["components"] = result
        return result

    if wanted:
        result = kit.differentiate(outputs, leaves, upstream, wanted)
    else:
        made = outputs(leaves)
        made = {f"output {k}": each for k, each in enumerate(made)} if isinstance(made, tuple) else {"loss": made}
        result = kit.Result(leaves[LEAVES[function.__name__][0]].dtype, made)
    result.values.update(beside)
    return result


def judge(
    name: str,
    actual: Tensor,
    truth: Tensor,
    tolerance: Rounded,
    sizes: Rounded,
    upstream: float,
    *,
    is_loss: bool,
    strict: bool,
) -> None:
    """``actual`` is as far from the truth as rounding can take it, and finite unless a number on the way may not be."""
    assert actual.shape == truth.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(truth.shape)}"
    bounds = torch.finfo(actual.dtype)
    bound = tolerance.error + 2 * bounds.eps * (truth.abs() + tolerance.error + bounds.smallest_normal * upstream)
    finite, error = actual.isfinite(), (actual.double() - truth).abs()
    in_range = sizes.size.isfinite()
    wrong = {
        "off by more than rounding": finite & (error > bound) & (in_range | is_loss),
        "finite, while the truth is not": finite & ~truth.isfinite() & strict,
        "not finite": ~finite & in_range & (truth.abs() + bound <= bounds.max * (1 - bounds.eps)),
    }
    for what, where in wrong.items():
        for at in map(tuple, where.nonzero()[:1].tolist()):
            values = f"{actual[at].item()!r}, in truth {truth[at].item()!r}, bound {bound[at].item():.1e}"
            raise AssertionError(f"{name}{[*at]} {what}: {values}; {int(where.sum())} such elements")


def numbers(name: str, recipe: Recipe, call: Call) -> Trial:
    """Results and gradients are judged by the float64 reference and the error analysis."""
    options = {
        key: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for key, value in call.arguments.items()
        if key not in ("strategy", "seed", "generator", "backend")
    }
    if call.plain_labels is not None:
        options["labels"] = call.plain_labels
    if "pairs" in options:
        _, left = seeded(recipe, dict, {})
    else:
        options["pairs"], left = true_partners(recipe, call)
    options["pairs"] = options["pairs"].long()
    upstream = upstream_of(name, recipe, _rows(options["pairs"]))
    leaves = [leaf for leaf in LEAVES[name] if leaf in options]
    wanted = [leaf for bit, leaf in enumerate(leaves) if recipe.wanted >> bit & 1]
    truth = differentiate(getattr(reference, name), options, leaves, tuple(each.double() for each in upstream))
    kept = reference.accumulation_dtype(recipe.dtype)
    narrow = name != "six_way_bce" and recipe.width < NARROW_WIDTH  # computed in float64, and gradients kept for later
    sums = torch.float64 if narrow else kept
    tolerance, _ = analyse(name, options, upstream, Arithmetic(sums, INF))
    sizes, overflow = analyse(name, options, upstream, Arithmetic(sums, torch.finfo(kept).max))
    # Autograd multiplies what a class that is left out sends by zero, and an infinite weight by the zero that the least
    # element of a row becomes, which rounding may make a small number.
    is_defined = name == "identical_disparate" or (
        recipe.classes > 0 and not recipe.unknown and not any(options[leaf].isinf().any() for leaf in leaves[1:])
    )
    largest = max([1.0, *(float(each.abs().max()) for each in upstream if each.numel())])

    def trial() -> None:
        call_it = functools.partial(differentiate, getattr(indeed_ext, name), wanted=wanted, upstream=upstream)
        actual, state = seeded(recipe, lambda **arguments: call_it(arguments), call.arguments)
        for group in ("values", "gradients"):
            for key, value in getattr(actual, group).items():
                is_loss = key in ("loss", "components")
                assert value.dtype == (reference.accumulation_dtype(recipe.dtype) if is_loss else recipe.dtype)
                exact_value = getattr(truth, group)[key]
                strict = is_loss or is_defined
                judge(key, value, exact_value, tolerance[key], sizes[key], largest, is_loss=is_loss, strict=strict)
        if "loss" in actual.values and not narrow:
            lost = actual.values["loss"].isfinite() & (overflow if recipe.reduction == "none" else overflow.any())
            assert not lost.any(), f"a finite loss {actual.values['loss']} of logits that overflow"
        assert torch.equal(state, left), "the default generator is left otherwise"

    return trial


@contextlib.contextmanager
def kernels_of(variant: str) -> Iterator[None]:
    before = _extension.LIBRARY.kernel_variant()
    _extension.LIBRARY.set_kernel_variant(variant)
    try:
        yield
    finally:
        _extension.LIBRARY.set_kernel_variant(before)


def check(name: str, recipe: Recipe) -> None:
    """One call of a public function, with the kernels of every instruction set that runs here."""
    call = build(name, recipe)
    if call.bad:
        trial = refusal(getattr(indeed_ext, name), call)
    elif name == "pack_labels":
        trial = packing(call)
    elif name == "mine_pairs":
        trial = mining(recipe, call)
    else:
        trial = numbers(name, recipe, call)
    for variant in kit.kernel_variants():
        with kernels_of(variant), kit.threads(recipe.threads), kit.Unchanged(call.memory):
            trial()


#: Of a hundred cases.
SHARES = {"pack_labels": 10, "mine_pairs": 15, "identical_disparate": 20, "six_way_bce": 20, "fused_indeed_loss": 35}


@pytest.mark.parametrize("name", SHARES)
def test_any_call(name: str, request: pytest.FixtureRequest) -> None:
    """Refused by name, or right; nothing that it is given changes."""
    asked = request.config.getoption("--fuzz-cases")
    limits = settings(
        max_examples=(asked or 300) * SHARES[name] // 100,
        derandomize=asked is None,
        database=None,
        deadline=None,
        print_blob=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )

    @limits
    @given(recipe=RECIPES)
    def any_call(recipe: Recipe) -> None:
        check(name, recipe)

    any_call()
