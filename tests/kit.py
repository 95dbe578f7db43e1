"""What the whole suite shares: the backends under test, seeded cases, and the judge of results.

The judge is the float64 reference, evaluated at the inputs as rounded to the tested type. float32 and
float64 have fixed bounds; a half type may be no further from the truth than plain PyTorch in that type.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import indeed_ext
from indeed_ext import _extension, backends, reference

NORMS = ("l2", "minmax")
STRATEGIES = ("matching", "balanced", "anchor")
PAIRINGS = (*STRATEGIES, "list")
REDUCTIONS = ("mean", "sum", "none")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
HALF_DTYPES = (torch.bfloat16, torch.float16)
BATCHES = (1, 2, 3, 33, 257)
WIDTHS = (1, 5, 64, 2048)
CLASSES = (1, 20, 33, 80, 1000)

SHORT = {torch.float64: "f64", torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


# -------------------------------------------------------------------------- backends


@dataclass(frozen=True)
class Backend:
    """A backend under test. A slow one runs the same cases at smaller sizes."""

    name: str
    device: str = "cpu"
    compiled: bool = True  # kernels of its own: operators to check, no second derivatives
    sees_values: bool = True  # refuses labels and indices out of range; a GPU's are not waited for
    max_batch: int = 1 << 30
    max_width: int = 1 << 30
    max_classes: int = 1 << 30
    full_product_shapes: tuple[tuple[int, int, int], ...] = ((33, 64, 20), (3, 5, 33))
    label_sets: int = 1000  # random label sets its mining is compared on
    draws: int = 200  # random draws of tests that look for rare errors
    #: Every call takes long: a sample of the variants of each test is run, unless the backend is asked for by name, and
    #: gradients are checked in random directions in place of all.
    sampled: bool = False
    variant: str | None = None  # of the CPU kernels, in place of the best one

    def __str__(self) -> str:
        return self.name if self.variant is None else f"{self.name}-{self.variant}"

    def limit(self, case: Case) -> Case:
        return replace(
            case,
            batch=min(case.batch, self.max_batch),
            width=min(case.width, self.max_width),
            classes=min(case.classes, self.max_classes),
        )


def _slow(name: str) -> Backend:
    return Backend(name, max_batch=9, max_width=40, max_classes=40, full_product_shapes=((5, 6, 33),), label_sets=100)


def _triton() -> Backend:
    if torch.cuda.is_available():
        return Backend("triton", device="cuda", sees_values=False)
    # The interpreter takes up to half a second a call.
    return replace(_slow("triton"), sees_values=False, label_sets=20, draws=5, sampled=True)


REGISTRY = {
    backend.name: backend
    for backend in (
        replace(_slow("reference"), compiled=False),
        Backend("cpu"),
        Backend("cuda", device="cuda", sees_values=False),
        replace(_slow("cuda-emulated"), sees_values=False),
        _triton(),
    )
}


def kernel_variants() -> list[str]:
    """Instruction sets of the CPU kernels that run here, the default one first."""
    return [] if _extension.LIBRARY is None else _extension.LIBRARY.kernel_variants()


def with_variants(backends: list[Backend]) -> list[Backend]:
    """And, of the CPU's, the same for every other instruction set it has kernels for, at smaller sizes."""
    sizes = {"max_batch": 40, "max_width": 100, "max_classes": 100, "label_sets": 100}
    others = [Backend("cpu", variant=name, **sizes) for name in kernel_variants()[1:]]
    return [*backends, *(others if any(backend.name == "cpu" for backend in backends) else [])]


@functools.cache
def emulation_error() -> Exception | None:
    """Builds and registers the backend ``cuda-emulated``, unless it is there; what kept it from that."""
    from cuda_emulation import build  # it takes a minute at first, so only where it is asked for

    try:
        build.load_backend()
    except Exception as error:
        return error
    return None


def sample_size(variants: int) -> int:
    """How many of a test's variants run of a backend that is sampled."""
    return min(variants, max(2, round(0.6 * variants**0.5)))


@contextlib.contextmanager
def registered_backends(namespaces: dict[str, tuple[str, str]]) -> Iterator[None]:
    """These backends, and no others, are registered: name to (operator namespace, device type)."""

    def register(wanted: dict[str, tuple[str, str]]) -> None:
        backends._namespaces.clear()
        for name, (namespace, device_type) in wanted.items():
            backends.register_backend(name, namespace, device_type)

    before = dict(backends._namespaces)
    register(namespaces)
    try:
        yield
    finally:
        register(before)


def backends_under_test(chosen: Sequence[str] | None = None) -> list[Backend]:
    """All that this build has, or those of them that are chosen."""
    if not chosen or "cuda-emulated" in chosen:
        emulation_error()  # reported in test_backends.py
    available = [REGISTRY[name] for name in indeed_ext.available_backends() if name in REGISTRY]
    return [backend for backend in with_variants(available) if not chosen or {backend.name, str(backend)} & {*chosen}]


# ----------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """One call of the loss, drawn from a seed that is a hash of everything below."""

    batch: int = 33
    width: int = 64
    classes: int = 20
    norm: str = "l2"
    pairing: str = "matching"
    reduction: str = "mean"
    dtype: torch.dtype = torch.float64
    bias: bool = True
    pos_weight: bool = False
    unknown: bool = False
    values: str = "relu"  # or "signed", "positive", "sparse", "tied", "constant", "zero"
    lam: Any = (0.8, 1.3)

    def __str__(self) -> str:
        parts = [f"{self.batch}x{self.width}x{self.classes}", self.norm, self.pairing, self.reduction]
        parts.append(SHORT[self.dtype])
        parts += [name for name in ("bias", "pos_weight", "unknown") if getattr(self, name)]
        defaults = {entry.name: entry.default for entry in fields(self)}
        parts += [self.values] if self.values != "relu" else []
        parts += [f"lam={self.lam}"] if self.lam != defaults["lam"] else []
        return "-".join(parts)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(str(self).encode()))

    def build(self) -> Inputs:
        generator = self.generator()
        normal = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
        labels = random_labels(generator, self.batch, self.classes, unknown=self.unknown)
        options: dict[str, Any] = {"norm": self.norm, "reduction": self.reduction, "lam": self.lam}
        if self.pairing == "list":
            options["pairs"] = random_pair_list(generator, self.batch)
        else:
            options["strategy"] = self.pairing
            options["seed"] = int(torch.randint(-(2**62), 2**62, (), generator=generator))
        if self.pos_weight:
            options["pos_weight"] = (normal(self.classes).abs() + 0.25).to(self.dtype)
        leaves = {
            "features": feature_values(self.values, normal, self.batch, self.width),
            "weight": normal(self.classes, self.width) / self.width**0.5,
        }
        if self.bias:
            leaves["bias"] = normal(self.classes) * 0.5
        rows = 2 * len(options["pairs"]) if self.pairing == "list" else self.batch
        upstream = normal(rows) if self.reduction == "none" else normal(()).abs() + 0.5
        return Inputs(
            leaves={name: leaf.to(self.dtype) for name, leaf in leaves.items()},
            labels=labels,
            options=options,
            upstream=upstream.to(reference.accumulation_dtype(self.dtype)),
        )


def feature_values(kind: str, normal: Callable[..., Tensor], batch: int, width: int) -> Tensor:
    values = normal(batch, width)
    if kind == "relu":  # zeros, so ties at the minimum, are the normal case
        return values.relu()
    if kind == "positive":
        return values.abs() + 0.1
    if kind == "sparse":  # of both signs, so that a map is shifted where minmax is asked for
        return values * (values.abs() > 1)
    if kind == "tied":  # few distinct values: many elements share the minimum and the maximum
        return (values * 1.5).round().clamp(-1, 2)
    if kind == "constant":
        return torch.full_like(values, 0.75)
    if kind == "zero":
        return torch.zeros_like(values)
    return values


def random_labels(
    generator: torch.Generator, batch: int, classes: int, *, density: float | None = None, unknown: bool = False
) -> Tensor:
    """int64 labels of about three classes per sample: pairs are common, and some samples stay alone."""
    density = min(0.6, 3 / classes) if density is None else density
    labels = (torch.rand(batch, classes, generator=generator) < density).long()
    if unknown:
        labels[torch.rand(batch, classes, generator=generator) < 0.15] = -1
    return labels


def random_pair_list(generator: torch.Generator, batch: int) -> Tensor:
    """Pairs as a user may write them: repeated samples, a repeated pair, its reverse, and (a, a)."""
    pairs = torch.randint(batch, (max(1, batch // 2), 2), generator=generator)
    first = pairs[:1]
    return torch.cat([pairs, first, first.flip(1), first[:, :1].expand(1, 2)])


@dataclass
class Inputs:
    """Arguments of the loss: differentiable leaves, labels, the rest, and the upstream gradient."""

    leaves: dict[str, Tensor]
    labels: Tensor
    options: dict[str, Any]
    upstream: Tensor

    def tensors(self) -> dict[str, Tensor]:
        named = {**self.leaves, "labels": self.labels, "upstream": self.upstream, **self.options}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    def to(self, target: torch.dtype | str) -> Inputs:
        """The same in another type (floating tensors only) or on another device."""
        leaves, options = (
            {name: _convert(value, target) for name, value in group.items()} for group in (self.leaves, self.options)
        )
        upstream = self.upstream
        if not isinstance(target, torch.dtype):
            upstream = upstream.to(target)
        elif target == torch.float64:
            upstream = upstream.double()
        return Inputs(leaves, _convert(self.labels, target), options, upstream)

    def mined(self) -> Inputs:
        """The same with the reference's partner vector in place of a strategy and a seed."""
        options = dict(self.options)
        if "pairs" not in options:
            strategy, seed = options.pop("strategy"), options.pop("seed")
            options["pairs"] = reference.mine_pairs(self.labels, strategy=strategy, seed=seed)
        return replace(self, options=options)


def _convert(value: Any, target: torch.dtype | str) -> Any:
    if not isinstance(value, Tensor) or (isinstance(target, torch.dtype) and not value.is_floating_point()):
        return value
    return value.to(target)


@dataclass
class Result:
    """What a call in ``dtype`` gave, on the CPU: outputs and, where they were asked for, gradients by name."""

    dtype: torch.dtype
    values: dict[str, Tensor]
    gradients: dict[str, Tensor] = field(default_factory=dict)
    #: What the error of a value is taken for where by luck it is less.
    typical_errors: dict[str, float] = field(default_factory=dict)


def differentiate(
    function: Callable[[dict[str, Tensor]], Tensor | tuple[Tensor, ...]],
    leaves: dict[str, Tensor],
    upstream: Tensor | tuple[Tensor, ...],
    wanted: Sequence[str] | None = None,
) -> Result:
    """Value and gradients of ``function(leaves)``; only the ``wanted`` leaves require grad (all by default)."""
    wanted = list(leaves) if wanted is None else list(wanted)
    local = {name: leaf.detach().requires_grad_(name in wanted) for name, leaf in leaves.items()}
    outputs = function(local)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    upstream = upstream if isinstance(upstream, tuple) else (upstream,)
    gradients = torch.autograd.grad(
        outputs, [local[name] for name in wanted], upstream, allow_unused=True, materialize_grads=True
    )
    for name, gradient in zip(wanted, gradients, strict=True):
        assert gradient.dtype == leaves[name].dtype, f"gradient of {name} is {gradient.dtype}"
        assert gradient.shape == leaves[name].shape, f"gradient of {name} is {tuple(gradient.shape)}"
    return Result(
        next(iter(leaves.values())).dtype,
        {f"output {k}" if len(outputs) > 1 else "loss": value.detach().cpu() for k, value in enumerate(outputs)},
        {name: gradient.cpu() for name, gradient in zip(wanted, gradients, strict=True)},
    )


def run_loss(inputs: Inputs, loss: Callable[..., Tensor], wanted: Sequence[str] | None = None) -> Result:
    """``loss`` on ``inputs`` with its gradients."""

    def call(leaves: dict[str, Tensor]) -> Tensor:
        return loss(leaves["features"], leaves["weight"], inputs.labels, bias=leaves.get("bias"), **inputs.options)

    return differentiate(call, inputs.leaves, inputs.upstream, wanted)


def run_backend(backend: Backend, inputs: Inputs, wanted: Sequence[str] | None = None) -> Result:
    """A large case on several threads; small ones, on a busy machine, would only wait for each other."""
    large = inputs.labels.numel() * inputs.leaves["features"].shape[1] > 1 << 18
    with threads(3 if large else 1):
        fused = functools.partial(indeed_ext.fused_indeed_loss, backend=backend.name)
        return run_loss(inputs.to(backend.device), fused, wanted)


def run_truth(inputs: Inputs) -> Result:
    return run_loss(inputs.mined().to(torch.float64), reference.fused_indeed_loss)


def run_plain(inputs: Inputs) -> Result:
    """Plain PyTorch in the type of the inputs."""
    if inputs.leaves["features"].dtype not in HALF_DTYPES:
        return run_loss(inputs.mined(), reference.fused_indeed_loss)
    mined = inputs.mined()
    result = run_loss(mined, _plain_half_loss)
    result.typical_errors["loss"] = _typical_error(mined)
    return result


def _typical_error(mined: Inputs) -> float:
    """How far rounding every logit to its half type takes a loss when the errors have random signs.

    The few numbers of a loss may come out better by luck.
    """
    features, weight, bias = (mined.leaves.get(name) for name in ("features", "weight", "bias"))
    options = {**mined.options, "reduction": "none"}
    rows = _plain_half_loss(features, weight, mined.labels, bias=bias, **options).detach()
    divisor = max(len(rows), 1) if mined.options.get("reduction", "mean") == "mean" else 1
    rounding = torch.finfo(features.dtype).eps / 2
    return rounding * float(rows.norm()) / max(len(weight), 1) ** 0.5 / divisor


class HalfLinear(torch.autograd.Function):
    """``F.linear`` of half types: products summed in float32, rounded once. PyTorch's own takes seconds on a CPU."""

    @staticmethod
    def forward(ctx: Any, feature: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(feature, weight)
        ctx.has_bias = bias is not None
        return F.linear(feature.float(), weight.float(), bias.float() if ctx.has_bias else None).to(feature.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        feature, weight = ctx.saved_tensors
        wide, dtype = gradient.float(), feature.dtype
        bias_gradient = wide.sum(0).to(dtype) if ctx.has_bias else None
        return (wide @ weight.float()).to(dtype), (wide.T @ feature.float()).to(dtype), bias_gradient


def _plain_half_loss(
    features: Tensor, weight: Tensor, labels: Tensor, *, pairs: Tensor, bias: Tensor | None = None, **options: Any
) -> Tensor:
    blocks = {name: options.pop(name) for name in ("norm", "eps") if name in options}
    logits = [
        HalfLinear.apply(feature, weight, bias)
        for feature in (features, *reference.identical_disparate(features, pairs, **blocks))
    ]
    return reference.six_way_bce(*logits, labels, pairs, **options)


def check_loss(backend: Backend, inputs: Inputs, wanted: Sequence[str] | None = None) -> Result:
    """Loss and gradients of a backend, judged."""
    actual = run_backend(backend, inputs, wanted)
    assert_accurate(actual, run_truth(inputs), lambda: run_plain(inputs))
    return actual


# ----------------------------------------------------------------------------- judge

#: Norm-wise relative bounds of (values, gradients).
BOUNDS = {torch.float64: (1e-12, 1e-12), torch.float32: (1e-6, 1e-5)}
#: A single element may be off by this many bounds of the largest element of its tensor.
ELEMENT = 4.0
#: A half type: its error may be this many times that of plain PyTorch, in norm and in the worst element (a
#: matter of luck in small tensors), beside two roundings of the result to the type: as it is stored, and again
#: when the upstream gradient scales it.
HALF_FACTORS = (1.25, 2.0)


def assert_accurate(actual: Result, truth: Result, plain: Callable[[], Result], *, floor: float = 0.0) -> None:
    """Fail with the name and the size of the first error that is out of bounds.

    ``floor`` is the least size that errors are taken relative to, for results that may cancel to nothing.
    """
    lazily_plain = functools.cache(plain)
    for kind, group in (("values", actual.values), ("gradients", actual.gradients)):
        for name, tensor in group.items():
            exact = getattr(truth, kind)[name]
            label = f"gradient of {name}" if kind == "gradients" else name
            if actual.dtype in HALF_DTYPES:
                plain_result = lazily_plain()
                least = plain_result.typical_errors.get(name, 0.0)
                assert_no_worse_than(label, tensor, exact, getattr(plain_result, kind)[name], floor=floor, least=least)
            else:
                assert_within(label, tensor, exact, BOUNDS[actual.dtype][kind == "gradients"], floor=floor)


def assert_within(name: str, actual: Tensor, exact: Tensor, bound: float, *, floor: float = 0.0) -> None:
    """``actual`` is within ``bound`` of ``exact``: of its norm, and for single elements of its largest element."""
    error = _error(name, actual, exact)
    if not error.numel():
        return
    norm, largest = max(float(exact.norm()), floor), max(float(exact.abs().max()), floor)
    assert float(error.norm()) <= bound * norm, (
        f"{name}: relative error {float(error.norm()) / max(norm, 1e-300):.2e}, bound {bound:.0e}"
    )
    assert float(error.max()) <= ELEMENT * bound * largest, (
        f"{name}: worst element off by {float(error.max()) / max(largest, 1e-300):.2e} of the largest"
    )


def assert_no_worse_than(
    name: str, actual: Tensor, exact: Tensor, plain: Tensor, *, floor: float = 0.0, least: float = 0.0
) -> None:
    """The error of ``actual`` is at most that of ``plain``, give or take :data:`HALF_FACTORS` and roundings.

    ``least`` is what the error of ``plain`` is taken for where by luck it is less.
    """
    error, allowed = _error(name, actual, exact), _error(name, plain, exact)
    if not error.numel():
        return
    rounding = torch.finfo(actual.dtype).eps if actual.dtype in HALF_DTYPES else BOUNDS[torch.float32][0]
    for what, factor, measure in zip(
        ("norm", "worst element"), HALF_FACTORS, (torch.linalg.vector_norm, torch.amax), strict=True
    ):
        bound = factor * max(float(measure(allowed)), least) + rounding * max(float(measure(exact.abs())), floor)
        assert float(measure(error)) <= bound, (
            f"{name}: error {float(measure(error)):.3e} ({what}), plain PyTorch {float(measure(allowed)):.3e}, "
            f"bound {bound:.3e}"
        )


def _error(name: str, actual: Tensor, exact: Tensor) -> Tensor:
    assert actual.shape == exact.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    assert bool(torch.isfinite(actual).all()), f"{name}: not finite"
    return (actual.double() - exact).abs()


# ---------------------------------------------------------------------------- matrix


FLAGS = ("bias", "pos_weight", "unknown")


def every_option() -> Iterator[dict[str, Any]]:
    """The full product of the discrete options."""
    for norm, dtype, rest in itertools.product(NORMS, DTYPES, _turning_options()):
        yield {"norm": norm, "dtype": dtype, **rest}


def _turning_options() -> list[dict[str, Any]]:
    return [
        {"pairing": pairing, "reduction": reduction, **dict(zip(FLAGS, flags, strict=True))}
        for pairing, reduction, *flags in itertools.product(PAIRINGS, REDUCTIONS, *[(False, True)] * 3)
    ]


def loss_matrix(backend: Backend) -> list[Case]:
    """Every combination of options at one or two shapes, then every shape in every dtype and norm.

    Over the shapes the other options are dealt from a shuffled deck; test_kit.py checks what that covers.
    """
    cases = [
        Case(batch, width, classes, **options)
        for batch, width, classes in backend.full_product_shapes
        for options in every_option()
    ]
    dealer, deck = random.Random(0), []
    for shape, dtype, norm in itertools.product(itertools.product(BATCHES, WIDTHS, CLASSES), DTYPES, NORMS):
        if not deck:
            deck = _turning_options()
            dealer.shuffle(deck)
        cases.append(Case(*shape, norm=norm, dtype=dtype, **deck.pop()))
    return list(dict.fromkeys(backend.limit(case) for case in cases))


# ----------------------------------------------------------------------------- guards


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Unchanged:
    """A context in which no tensor given to it may be written to."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def __enter__(self) -> None:
        self.before = {name: (tensor.detach().clone(), tensor._version) for name, tensor in self.tensors.items()}

    def __exit__(self, *exception: object) -> None:
        for name, (copy, version) in self.before.items():
            tensor = self.tensors[name]
            assert tensor._version == version, f"{name} was written to in place"
            assert torch.equal(torch.nan_to_num(tensor.detach()), torch.nan_to_num(copy)), f"{name} changed"


def same_bits(first: Result, second: Result) -> bool:
    return all(
        torch.equal(getattr(first, kind)[name], tensor)
        for kind in ("values", "gradients")
        for name, tensor in getattr(second, kind).items()
    )
