"""Calls that hold nothing out of the ordinary go straight to C++: which ones, and that nobody can tell."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import kit
import pytest
import torch
from kit import Case
from torch import Tensor
from torch.overrides import TorchFunctionMode

from indeed_ext import _extension, functional, fused_indeed_loss, operators, pack_labels

pytestmark = pytest.mark.skipif(
    operators.plain_loss is None, reason=f"the library of csrc/autograd is not loaded: {_extension.AUTOGRAD_ERROR}"
)


class _Subclass(torch.Tensor):
    pass


class _Watching(TorchFunctionMode):
    def __torch_function__(self, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


def _arguments(**changes: Any) -> dict[str, Any]:
    inputs = Case(9, 12, 40, pairing="anchor", dtype=torch.float32).build()
    leaves = {name: leaf.requires_grad_() for name, leaf in inputs.leaves.items()}
    return {**leaves, "labels": inputs.labels, "seed": 3} | changes


_PLAIN: dict[str, Callable[[], dict[str, Any]]] = {
    "as it is": dict,
    "backend cpu": lambda: {"backend": "cpu"},
    "no seed": lambda: {"seed": None},
    "seed as a tensor": lambda: {"seed": torch.tensor(3)},
    "negative seed": lambda: {"seed": -(2**63)},
    "bool labels": lambda: {"labels": _arguments()["labels"] > 0},
    "labels of int32": lambda: {"labels": _arguments()["labels"].int()},
    "pairs": lambda: {"pairs": torch.arange(9).flip(0)},
    "pair list": lambda: {"pairs": torch.tensor([[0, 1], [3, 2]])},
    "other options": lambda: {"strategy": "balanced", "norm": "minmax", "lam": 2, "eps": 0.1, "reduction": "sum"},
    "no bias": lambda: {"bias": None},
    "parameters": lambda: {"weight": torch.nn.Parameter(torch.randn(40, 12))},
    "strided": lambda: {"features": torch.randn(12, 9).t()},
    "float64": lambda: {name: leaf.double() for name, leaf in _arguments().items() if isinstance(leaf, Tensor)},
}
_OTHER: dict[str, Callable[[], dict[str, Any]]] = {
    "reference": lambda: {"backend": "reference"},
    "packed labels": lambda: {"labels": pack_labels(_arguments()["labels"])},
    "words of bits and of known ones": lambda: {"labels": pack_labels(_arguments()["labels"], with_known=True)},
    "pos_weight": lambda: {"pos_weight": torch.rand(40)},
    "one value a row": lambda: {"reduction": "none"},
    "lam as a tensor": lambda: {"lam": torch.tensor(0.5)},
    "two values of lam": lambda: {"lam": (0.5, 1.0)},
    "generator": lambda: {"seed": None, "generator": torch.Generator()},
    "pairs of int32": lambda: {"pairs": torch.arange(9, dtype=torch.int32)},
    "a subclass": lambda: {"features": torch.randn(9, 12).as_subclass(_Subclass)},
}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call so far was plain."""
    calls, plain_loss = [], operators.plain_loss

    def watched(*arguments: Any) -> Any:
        result = plain_loss(*arguments)
        calls.append(result is not None)
        return result

    monkeypatch.setattr(operators, "plain_loss", watched)
    return calls


def _results(arguments: dict[str, Any]) -> tuple[Tensor, ...]:
    for generator in (torch.default_generator, arguments.get("generator") or torch.default_generator):
        generator.manual_seed(5)
    loss, components = fused_indeed_loss(**arguments, return_components=True)
    leaves = [leaf for leaf in arguments.values() if isinstance(leaf, Tensor) and leaf.requires_grad]
    upstream = torch.full_like(loss, 1.5)
    return loss.detach(), components, *torch.autograd.grad(loss, leaves, upstream)


@pytest.mark.parametrize("name", [*_PLAIN, *_OTHER])
def test_the_same_bits_as_any_other_way(name: str, served: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = _arguments(**(_PLAIN | _OTHER)[name]())
    actual = _results(arguments)
    assert served == [name in _PLAIN]
    monkeypatch.setattr(operators, "plain_loss", None)
    for one, other in zip(actual, _results(arguments), strict=True):
        assert torch.equal(one, other)


def test_whatever_watches_torch_sees_the_call(served: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = fused_indeed_loss(**_arguments())
    assert loss.dtype == torch.float32
    with _Watching():
        fused_indeed_loss(**_arguments())
    inputs = {name: value.detach() if isinstance(value, Tensor) else value for name, value in _arguments().items()}
    features = inputs.pop("features")
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda f: fused_indeed_loss(f, **inputs))(features)
    monkeypatch.setenv("INDEED_BACKEND", "reference")
    assert "FusedINDeeDLoss" not in fused_indeed_loss(**_arguments()).grad_fn.name()
    assert served == [False] * 4
    monkeypatch.setenv("INDEED_BACKEND", "")
    fused_indeed_loss(**_arguments())
    assert served[-1]


_SETTINGS = [
    dict(zip(("strategy", "norm", "lam", "eps", "reduction"), values, strict=True))
    for values in itertools.product(kit.STRATEGIES, kit.NORMS, (0.5, 0, 1.0), (1e-12, 0.3), ("mean", "sum"))
]


def test_settings_are_those_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept from one call to the next, and by several threads at once."""
    arguments = _arguments()

    def value(settings: dict[str, Any]) -> Tensor:
        return fused_indeed_loss(**arguments, **settings).detach()

    many = _SETTINGS * 20
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(value, many))
    monkeypatch.setattr(operators, "plain_loss", None)
    expected = {str(settings): value(settings) for settings in _SETTINGS}
    assert len({float(loss) for loss in expected.values()}) > len(_SETTINGS) / 2
    assert all(torch.equal(loss, expected[str(settings)]) for loss, settings in zip(actual, many, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "l3"},
        {"lam": -1.0},
        {"eps": float("nan")},
        {"strategy": "best"},
        {"reduction": "median"},
        {"labels": torch.full((9, 40), 7)},
        {"pairs": torch.full((9,), 9)},
        {"pairs": torch.zeros(3, 3, dtype=torch.int64)},
        {"seed": 2**63},
        {"seed": torch.tensor(1.5)},
        {"weight": torch.randn(40, 11)},
        {"bias": torch.randn(39)},
        {"features": torch.randn(9, 12).int()},
        {"labels": torch.zeros(8, 40)},
        {"features": None},
        {"strategy": None},
    ],
    ids=str,
)
def test_refused_in_the_same_words(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal() -> tuple[type[BaseException], str]:
        with pytest.raises((TypeError, ValueError)) as error:
            fused_indeed_loss(**_arguments(**changes))
        return type(error.value), str(error.value)

    plain = refusal()
    monkeypatch.setattr(operators, "plain_loss", None)
    assert plain == refusal()


def test_arguments_of_the_function_in_c() -> None:
    with pytest.raises(TypeError, match="15 arguments, got 2"):
        operators.plain_loss(functional._kept_loss_settings, 1)
    assert operators.plain_loss(*[None] * 15) is None
