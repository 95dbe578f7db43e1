"""Bad input: an error of the right kind that names the argument, with nothing computed, changed or drawn."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import kit
import pytest
import torch
from kit import Backend
from torch import Tensor

from indeed_ext import (
    INDeeDHead,
    INDeeDLoss,
    fused_indeed_loss,
    identical_disparate,
    mine_pairs,
    pack_labels,
    six_way_bce,
)

B, N, C = 4, 6, 5
NAN, INF = float("nan"), float("inf")

Arguments = dict[str, Any]
#: (what is wrong, the argument at fault, the error, what to put in its place: a value, or a function of the good one)
Fault = tuple[str, str, type[Exception], Any]


def _labels() -> Tensor:
    return torch.tensor([[1, 0, 1, 0, 0], [1, 1, 0, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 1]])


def _good(function: Callable[..., Any]) -> Arguments:
    logits = {name: torch.randn(B, C) for name in ("logits", "identical_logits", "disparate_logits")}
    pairs = torch.tensor([1, 0, 3, 2])
    return {
        fused_indeed_loss: {
            "features": torch.rand(B, N),
            "weight": torch.randn(C, N),
            "labels": _labels(),
            "bias": torch.randn(C),
            "pairs": pairs,
            "pos_weight": torch.ones(C),
            "seed": 3,
        },
        six_way_bce: {**logits, "labels": _labels(), "pairs": pairs, "pos_weight": torch.ones(C)},
        identical_disparate: {"features": torch.rand(B, N), "pairs": pairs},
        mine_pairs: {"labels": _labels(), "seed": 3},
        pack_labels: {"labels": _labels()},
    }[function]


def _with_value(value: float, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    def change(labels: Tensor) -> Tensor:
        changed = labels.to(dtype)
        changed[2, 1] = value
        return changed

    return change


def _expanded(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


# ---------------------------------------------------------------------- the faults


def _float_faults(name: str, rank: int, *, first: bool) -> Iterator[Fault]:
    """Of a floating tensor; ``first`` is the one that decides type and device of the others."""
    yield "a list", name, TypeError, Tensor.tolist
    yield "None", name, TypeError, _expanded(None)
    yield "an integer tensor", name, TypeError, Tensor.int
    yield "a complex tensor", name, TypeError, lambda good: good.to(torch.complex64)
    yield "a sparse tensor", name, TypeError, Tensor.to_sparse
    yield "one dimension more", name, ValueError, lambda good: good[None]
    yield "one dimension less", name, ValueError, lambda good: good[0]
    yield "a column more", name, ValueError, lambda good: torch.cat([good, good[..., :1]], -1)
    if not first:
        yield "another dtype", name, TypeError, Tensor.double
        yield "another half type", name, TypeError, Tensor.bfloat16
        yield "another device", name, ValueError, lambda good: good.to("meta")
    if rank == 2:
        yield "a row less", name, ValueError, lambda good: good[:-1]


def _label_faults(*, num_classes: bool, batch: bool) -> Iterator[Fault]:
    yield "a list", "labels", TypeError, Tensor.tolist
    yield "None", "labels", TypeError, _expanded(None)
    yield "a complex tensor", "labels", TypeError, lambda good: good.to(torch.complex64)
    yield "one dimension", "labels", ValueError, lambda good: good[0]
    yield "three dimensions", "labels", ValueError, lambda good: good[None]
    for value in (2, -2, 100):
        yield f"the value {value}", "labels", ValueError, _with_value(value, torch.int64)
        yield f"the int8 value {value}", "labels", ValueError, _with_value(value, torch.int8)
    yield "the int64 value 2**32 + 1", "labels", ValueError, _with_value(2**32 + 1, torch.int64)
    yield "the uint8 value 2", "labels", ValueError, _with_value(2, torch.uint8)
    yield "the uint8 value 255", "labels", ValueError, _with_value(255, torch.uint8)
    for value in (0.5, -0.5, 1.001, NAN, INF, -INF):
        yield f"the float32 value {value}", "labels", ValueError, _with_value(value, torch.float32)
        yield f"the float64 value {value}", "labels", ValueError, _with_value(value, torch.float64)
    yield "the float16 value 0.5", "labels", ValueError, _with_value(0.5, torch.float16)
    yield "the bfloat16 value nan", "labels", ValueError, _with_value(NAN, torch.bfloat16)
    if num_classes:
        yield "a column more", "labels", ValueError, lambda good: torch.cat([good, good[:, :1]], 1)
        yield "two words for five classes", "labels", ValueError, lambda good: good[:, :2].int()
        yield "words of int64", "labels", ValueError, lambda good: pack_labels(good).long()
        yield "stray bits", "labels", ValueError, lambda good: pack_labels(good) | 1 << C
        yield "a stray sign bit", "labels", ValueError, lambda good: pack_labels(good) | torch.tensor(-(2**31)).int()
    if batch:
        yield "a row less", "labels", ValueError, lambda good: good[:-1]
        yield "a row of words less", "labels", ValueError, lambda good: pack_labels(good)[:-1]
        yield "another device", "labels", ValueError, lambda good: good.to("meta")


def _word_faults() -> Iterator[Fault]:
    """Of the tuple (present, known)."""

    def words(change: Callable[[Tensor], Any]) -> Callable[[Tensor], tuple[Any, Any]]:
        def change_known(good: Tensor) -> tuple[Any, Any]:
            present, known = pack_labels(good, with_known=True)
            return present, change(known)

        return change_known

    yield "one word tensor in a tuple", "labels", ValueError, lambda good: (pack_labels(good),)
    yield "three word tensors", "labels", ValueError, lambda good: (pack_labels(good),) * 3
    yield "known words of int64", "labels", TypeError, words(Tensor.long)
    yield "known words of another width", "labels", ValueError, words(lambda known: known.repeat(1, 2))
    yield "known words a row short", "labels", ValueError, words(lambda known: known[:-1])
    yield "known words None", "labels", TypeError, words(lambda known: None)
    yield "known words elsewhere", "labels", ValueError, words(lambda known: known.to("meta"))


def _pair_faults() -> Iterator[Fault]:
    yield "a list", "pairs", TypeError, Tensor.tolist
    yield "floats", "pairs", TypeError, Tensor.float
    yield "bools", "pairs", TypeError, Tensor.bool
    yield "a 0-d tensor", "pairs", ValueError, lambda good: good[0]
    yield "a vector too short", "pairs", ValueError, lambda good: good[:-1]
    yield "three columns", "pairs", ValueError, _expanded(torch.zeros(2, 3, dtype=torch.int64))
    yield "one column", "pairs", ValueError, _expanded(torch.zeros(2, 1, dtype=torch.int64))
    yield "three dimensions", "pairs", ValueError, _expanded(torch.zeros(2, 2, 2, dtype=torch.int64))
    yield "another device", "pairs", ValueError, lambda good: good.to("meta")
    for index in (-1, B, 2**31, 2**32, 2**40, -(2**63), 2**63 - 1):
        yield f"partner {index}", "pairs", ValueError, _expanded(torch.tensor([1, 0, index, 2]))


def _pair_list_faults() -> Iterator[Fault]:
    for index in (-1, B, 2**32):
        yield f"a pair with {index} first", "pairs", ValueError, _expanded(torch.tensor([[0, 1], [index, 2]]))
        yield f"a pair with {index} second", "pairs", ValueError, _expanded(torch.tensor([[0, 1], [2, index]]))


def _choice_faults(*names: str) -> Iterator[Fault]:
    for name in names:
        for value, error in (("no such", ValueError), ("", ValueError), (None, TypeError), (1, TypeError)):
            yield repr(value), name, error, value


def _lam_faults() -> Iterator[Fault]:
    for value in (-1, -0.5, NAN, INF, (1.0, -0.1), (NAN, 1.0), (1.0,), (1.0, 1.0, 1.0)):
        yield repr(value), "lam", ValueError, value
    for value in ("1", None, [1.0, 1.0], True, (1.0, "1"), 1j):
        yield repr(value), "lam", TypeError, value
    yield "a tensor of one element", "lam", ValueError, torch.ones(1)
    yield "a tensor that requires grad", "lam", ValueError, torch.ones((), requires_grad=True)
    for value in (-1.0, NAN, INF):
        yield f"a tensor of {value}", "lam", ValueError, (1.0, torch.tensor(value))


def _pos_weight_faults() -> Iterator[Fault]:
    yield "a list", "pos_weight", TypeError, Tensor.tolist
    yield "a number", "pos_weight", TypeError, 2.0
    yield "an integer tensor", "pos_weight", TypeError, Tensor.int
    yield "one class less", "pos_weight", ValueError, lambda good: good[1:]
    yield "0 dimensions", "pos_weight", ValueError, lambda good: good[0]
    yield "two dimensions", "pos_weight", ValueError, lambda good: good[None]
    yield "another device", "pos_weight", ValueError, lambda good: good.to("meta")
    yield "a gradient", "pos_weight", ValueError, lambda good: good.requires_grad_()


def _eps_faults() -> Iterator[Fault]:
    for value in (-1e-12, -1, NAN, INF):
        yield repr(value), "eps", ValueError, value
    for value in ("0", None, True):
        yield repr(value), "eps", TypeError, value


def _seed_faults() -> Iterator[Fault]:
    for value in (2**63, -(2**63) - 1):
        yield repr(value), "seed", ValueError, value
    for value in ("1", 1.0, True):
        yield repr(value), "seed", TypeError, value
    yield "a tensor of one element", "seed", ValueError, torch.tensor([1])
    yield "an int32 tensor", "seed", TypeError, torch.tensor(1, dtype=torch.int32)
    yield "a float tensor", "seed", TypeError, torch.tensor(1.0)


def _faults() -> dict[Callable[..., Any], list[Fault]]:
    return {
        fused_indeed_loss: [
            *_float_faults("features", 2, first=True),
            *_float_faults("weight", 2, first=False),
            *(fault for fault in _float_faults("bias", 1, first=False) if fault[0] != "None"),
            *_label_faults(num_classes=True, batch=True),
            *_word_faults(),
            *_pair_faults(),
            *_pair_list_faults(),
            *_choice_faults("norm", "strategy", "reduction"),
            *_lam_faults(),
            *_eps_faults(),
            *_pos_weight_faults(),
        ],
        six_way_bce: [
            *_float_faults("logits", 2, first=True),
            *_float_faults("identical_logits", 2, first=False),
            *_float_faults("disparate_logits", 2, first=False),
            *_label_faults(num_classes=True, batch=True),
            *_word_faults(),
            *_pair_faults(),
            ("None", "pairs", TypeError, _expanded(None)),
            *_choice_faults("reduction"),
            *_lam_faults(),
            *_pos_weight_faults(),
        ],
        identical_disparate: [
            *(fault for fault in _float_faults("features", 2, first=True) if fault[0] not in ("a column more",)),
            *_pair_faults(),
            *_pair_list_faults(),
            ("None", "pairs", TypeError, _expanded(None)),
            *_choice_faults("norm"),
            *_eps_faults(),
        ],
        mine_pairs: [
            *_label_faults(num_classes=False, batch=False),
            *_choice_faults("strategy"),
            *_seed_faults(),
            ("one more than labels has", "num_classes", ValueError, C + 1),
            ("zero", "num_classes", ValueError, 0),
            ("a string", "num_classes", TypeError, "5"),
        ],
        pack_labels: [
            *_label_faults(num_classes=False, batch=False),
            ("packed already", "labels", TypeError, lambda good: pack_labels(good, with_known=True)),
        ],
    }


_ALL = [(function, fault) for function, faults in _faults().items() for fault in faults]
_IDS = [f"{function.__name__}-{name}-{what}" for function, (what, name, _, _) in _ALL]


@pytest.mark.parametrize(("function", "fault"), _ALL, ids=_IDS)
def test_named_and_refused(backend: Backend, function: Callable[..., Any], fault: Fault) -> None:
    if backend.device != "cpu":
        pytest.skip("the cases hold CPU tensors, whose values are looked at")
    what, name, error, change = fault
    if not backend.sees_values and any(part in what for part in ("value", "stray", "partner ", "a pair with")):
        pytest.skip("values are not looked at, which would mean to wait for the device")
    arguments = _good(function)
    arguments[name] = change(arguments[name]) if callable(change) else change
    state = torch.get_rng_state()
    with kit.Unchanged(_dense(arguments)), pytest.raises(error, match=_names(*fault[:2])):
        function(**arguments, backend=backend.name)
    assert torch.equal(torch.get_rng_state(), state)


def _names(what: str, name: str) -> str:
    """The message begins with the argument; of two sizes that disagree, either may be the one at fault."""
    others = ("weight", "identical_logits", "labels", "pairs", "bias") if "more" in what or "less" in what else ()
    return rf"^({'|'.join((name, *others))})\b"


def _dense(arguments: Arguments) -> dict[str, Tensor]:
    return {
        name: value
        for name, value in arguments.items()
        if isinstance(value, Tensor) and value.layout == torch.strided and value.device.type != "meta"
    }


@pytest.mark.parametrize("function", _faults(), ids=lambda function: function.__name__)
def test_the_good_arguments_are_good(backend: Backend, function: Callable[..., Any]) -> None:
    """Or the errors above would prove nothing."""
    moved = {
        name: value.to(backend.device) if isinstance(value, Tensor) else value
        for name, value in _good(function).items()
    }
    function(**moved, backend=backend.name)


@pytest.mark.parametrize("function", _faults(), ids=lambda function: function.__name__)
@pytest.mark.parametrize("name", ["no such", "", "CPU", 3])
def test_unknown_backends(function: Callable[..., Any], name: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^backend"):
        function(**_good(function), backend=name)


@pytest.mark.compiled
@pytest.mark.parametrize("function", _faults(), ids=lambda function: function.__name__)
def test_tensors_on_a_device_the_backend_does_not_serve(backend: Backend, function: Callable[..., Any]) -> None:
    elsewhere = {
        name: value.to("meta") if isinstance(value, Tensor) else value for name, value in _good(function).items()
    }
    with pytest.raises(ValueError, match=r"^backend"):
        function(**elsewhere, backend=backend.name)


def test_mixed_types_are_refused_outside_autocast(backend: Backend) -> None:
    good = {name: value for name, value in _good(fused_indeed_loss).items() if name != "bias"}
    good["features"] = good["features"].bfloat16()
    good = {name: value.to(backend.device) if isinstance(value, Tensor) else value for name, value in good.items()}
    with pytest.raises(TypeError, match=r"^weight.*autocast"):
        fused_indeed_loss(**good, backend=backend.name)
    with torch.autocast(backend.device, dtype=torch.bfloat16):
        fused_indeed_loss(**good, backend=backend.name)


# --------------------------------------------------------------- second derivatives


def _to_differentiate(function: Callable[..., Any], backend: Backend) -> tuple[Any, Tensor]:
    good = {
        name: value.to(backend.device) if isinstance(value, Tensor) else value
        for name, value in _good(function).items()
    }
    leaf = next(iter(good.values())).requires_grad_()
    return functools.partial(function, **good, backend=backend.name), leaf


@pytest.mark.parametrize("reduction", kit.REDUCTIONS)
@pytest.mark.parametrize("function", [fused_indeed_loss, six_way_bce], ids=lambda function: function.__name__)
def test_second_derivatives_of_the_loss(backend: Backend, function: Callable[..., Any], reduction: str) -> None:
    call, leaf = _to_differentiate(function, backend)
    _check_second_derivatives(backend, call(reduction=reduction).sum(), leaf)


@pytest.mark.parametrize("norm", kit.NORMS)
def test_second_derivatives_of_the_blocks(backend: Backend, norm: str) -> None:
    call, leaf = _to_differentiate(identical_disparate, backend)
    identical, disparate = call(norm=norm)
    _check_second_derivatives(backend, (identical.square() + disparate.exp()).sum(), leaf)


def _check_second_derivatives(backend: Backend, loss: Tensor, leaf: Tensor) -> None:
    """The reference gives them; the kernels say that they do not, and where to get them."""
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    if not backend.compiled:
        gradient.square().sum().backward()
        assert leaf.grad.any()
        return
    with pytest.raises(RuntimeError, match=r"second derivatives.*reference"):
        gradient.square().sum().backward()


# -------------------------------------------------------------------------- modules

_MODULE_FAULTS = [*_choice_faults("norm", "strategy", "reduction"), *_lam_faults(), *_eps_faults(), *_seed_faults()]


@pytest.mark.parametrize("fault", _MODULE_FAULTS, ids=[f"{name}-{what}" for what, name, _, _ in _MODULE_FAULTS])
@pytest.mark.parametrize("make", [INDeeDLoss, functools.partial(INDeeDHead, N, C)], ids=["INDeeDLoss", "INDeeDHead"])
def test_modules_refuse_when_made(make: Callable[..., Any], fault: Fault) -> None:
    _, name, error, value = fault
    with pytest.raises(error, match=f"^{name}"):
        make(**{name: value})
