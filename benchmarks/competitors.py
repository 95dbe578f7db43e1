"""The competitors, as callables on the inputs of a case.

eager     plain PyTorch of :mod:`benchmarks.eager`, with autograd
compile   the same loss under ``torch.compile(fullgraph=True)``, each shape compiled for itself; it measured faster than
          ``indeed_ext.reference`` under torch.compile. Mining stays eager: the matchings loop on data, and compiled
          anchor mining measured no faster than eager.
floor     what cannot be avoided. Of the loss: the three bare matrix products on ready buffers, with 2B rows for a
          partner vector. Of the separate steps: one copy of what they read and write.
cpu, ...  every backend of indeed_ext with kernels for the device of the case
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

import indeed_ext
from indeed_ext import backends

from . import eager
from .cases import Case, Inputs

EAGER, COMPILE, FLOOR = "eager", "compile", "floor"
FORWARD, TRAINING = "forward", "forward+backward"
MODES = (FORWARD, TRAINING)

Call = Callable[[], object]
#: The loss of features, weight, bias, labels, pairs.
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def compiled_backends(device: str) -> list[str]:
    """Backends with kernels of their own for tensors on ``device``."""
    return [name for name in indeed_ext.available_backends() if _serves(name, torch.device(device))]


def _serves(backend: str, device: torch.device) -> bool:
    try:
        return backends.select(backend, device) is not None
    except ValueError:
        return False


@dataclass(frozen=True)
class Key:
    """Who is measured, and whether mining is part of it (``mined``), not (``given``), or not a question (empty)."""

    name: str
    pairs: str = ""

    def __str__(self) -> str:
        return f"{self.name}, pairs given" if self.pairs == "given" else self.name


def run_step(loss: Callable[[], Tensor], leaves: tuple[Tensor, ...], mode: str) -> tuple[Tensor, ...]:
    """(loss,) without gradients in the forward mode, (loss, *gradients of the leaves) else."""
    if mode == FORWARD:
        with torch.no_grad():
            return (loss(),)
    value = loss()
    return value.detach(), *torch.autograd.grad(value, leaves)


# ----------------------------------------------------------------------------- loss


def losses(case: Case, compiled: Loss | None = None) -> dict[str, Loss]:
    """Every competitor's loss with pairs given, the eager one first; torch.compile takes part where one is handed."""
    result: dict[str, Loss] = {EAGER: partial(eager.indeed_loss, norm=case.norm)}
    if compiled is not None:
        result[COMPILE] = compiled
    for backend in compiled_backends(case.device):
        result[backend] = partial(_fused_given, backend=backend, norm=case.norm)
    return result


def loss_calls(case: Case, inputs: Inputs, competing: Mapping[str, Loss], mode: str = TRAINING) -> dict[Key, Call]:
    """The competitors of :func:`losses`, mining included and with pairs given, and the floor."""
    tensors = (*inputs.leaves, inputs.labels)
    calls: dict[Key, Call] = {}
    for name, loss in competing.items():
        if case.strategy:
            mined = _mining(loss, name, case, inputs)
            calls[Key(name, "mined")] = partial(run_step, mined, inputs.leaves, mode)
        calls[Key(name, "given")] = partial(run_step, partial(loss, *tensors, inputs.pairs), inputs.leaves, mode)
    calls[Key(FLOOR)] = floor_call(case, mode)
    return calls


def _mining(loss: Loss, name: str, case: Case, inputs: Inputs) -> Callable[[], Tensor]:
    tensors = (*inputs.leaves, inputs.labels)
    if name not in (EAGER, COMPILE):
        return partial(fused, *tensors, backend=name, norm=case.norm, strategy=case.strategy)
    return lambda: loss(*tensors, eager.mine_pairs(inputs.labels, case.strategy))


def fused(features: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, **settings) -> Tensor:
    """The package's loss with the arguments in the order of the other competitors."""
    return indeed_ext.fused_indeed_loss(features, weight, labels, bias=bias, **settings)


def _fused_given(
    features: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, pairs: Tensor, *, backend: str, norm: str
) -> Tensor:
    return fused(features, weight, bias, labels, pairs=pairs, backend=backend, norm=norm)


def compile_failure(loss: Loss, inputs: Inputs) -> str:
    """Why a compiled loss does not run here (no C++ compiler, as a rule), in one line; empty where it does."""
    try:
        run_step(partial(loss, *inputs.leaves, inputs.labels, inputs.pairs), inputs.leaves, TRAINING)
    except Exception as error:  # whatever the compiler stack raises, the other competitors are still worth measuring
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ""


def compiled_loss(case: Case) -> Loss:
    """The compiled eager loss of a case; pairings that give a partner vector share it."""
    return _compiled_loss(case.shape, case.norm, case.strategy is None, case.dtype, case.device)


@lru_cache(maxsize=1)
def _compiled_loss(shape: object, norm: str, pair_list: bool, dtype: object, device: str) -> Loss:
    # Graphs of former cases would be tried first at every call, and there is a limit to their number.
    torch._dynamo.reset()
    return partial(torch.compile(eager.indeed_loss, dynamic=False, fullgraph=True), norm=norm)


def dynamic_compiled_loss(norm: str) -> Loss:
    """The compiled eager loss for any shape: one compilation for a whole curve."""
    _compiled_loss.cache_clear()
    torch._dynamo.reset()
    return partial(torch.compile(eager.indeed_loss, dynamic=True, fullgraph=True), norm=norm)


def floor_call(case: Case, mode: str = TRAINING) -> Call:
    """The bare matrix products of the loss; the forward has the first of them only."""
    shape, rows = case.shape, case.shape.batch + case.rows
    like = {"dtype": case.dtype, "device": case.device}
    stacked, weight = torch.randn(rows, shape.width, **like), torch.randn(shape.classes, shape.width, **like)
    logits = torch.empty(rows, shape.classes, **like)
    grad_stacked, grad_weight = torch.empty_like(stacked), torch.empty_like(weight)

    def forward() -> None:
        torch.mm(stacked, weight.T, out=logits)

    def training() -> None:
        torch.mm(stacked, weight.T, out=logits)
        torch.mm(logits, weight, out=grad_stacked)
        torch.mm(logits.T, stacked, out=grad_weight)

    return forward if mode == FORWARD else training


# ------------------------------------------------------------------- separate steps


def mining_calls(labels: Tensor, strategy: str) -> dict[Key, Call]:
    """Mining from float labels, packing included."""
    calls: dict[Key, Call] = {Key(EAGER): partial(eager.mine_pairs, labels, strategy)}
    for backend in compiled_backends(labels.device.type):
        calls[Key(backend)] = partial(indeed_ext.mine_pairs, labels, strategy=strategy, backend=backend)
    return calls


def block_calls(case: Case, inputs: Inputs, mode: str) -> dict[Key, Call]:
    """identical_disparate."""

    def plain(features: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        return eager.identical_disparate(features, pairs, case.norm)[1:]

    torch._dynamo.reset()
    functions = {EAGER: plain, COMPILE: torch.compile(plain, dynamic=False, fullgraph=True)}
    for backend in compiled_backends(case.device):
        functions[backend] = partial(indeed_ext.identical_disparate, norm=case.norm, backend=backend)
    upstream = [torch.randn(case.rows, case.shape.width).to(inputs.features) for _ in range(2)]

    def call(function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Call:
        def run() -> tuple[Tensor, ...]:
            if mode == FORWARD:
                with torch.no_grad():
                    return tuple(function(inputs.features, inputs.pairs))
            results = function(inputs.features, inputs.pairs)
            return *(each.detach() for each in results), *torch.autograd.grad(results, inputs.features, upstream)

        return run

    calls = {Key(name): call(function) for name, function in functions.items()}
    calls[Key(FLOOR)] = _copies([inputs.features.detach(), *upstream], mode)
    return calls


def six_way_calls(case: Case, inputs: Inputs, mode: str) -> dict[Key, Call]:
    """six_way_bce."""
    shape = case.shape
    counts = (shape.batch, case.rows, case.rows)
    logits = tuple(torch.randn(rows, shape.classes).to(inputs.features).detach().requires_grad_() for rows in counts)

    def plain(original: Tensor, identical: Tensor, disparate: Tensor, labels: Tensor, pairs: Tensor) -> Tensor:
        if pairs.dim() == 2:
            original = original[pairs.T.reshape(-1)]
        return eager.cross_entropy(torch.cat([original, identical, disparate]), eager.targets(labels, pairs))

    torch._dynamo.reset()
    functions = {EAGER: plain, COMPILE: torch.compile(plain, dynamic=False, fullgraph=True)}
    for backend in compiled_backends(case.device):
        functions[backend] = partial(indeed_ext.six_way_bce, backend=backend)
    calls: dict[Key, Call] = {
        Key(name): partial(run_step, partial(function, *logits, inputs.labels, inputs.pairs), logits, mode)
        for name, function in functions.items()
    }
    calls[Key(FLOOR)] = _copies([each.detach() for each in logits], mode)
    return calls


def _copies(tensors: list[Tensor], mode: str) -> Call:
    targets = [torch.empty_like(tensor) for tensor in tensors]
    passes = 1 if mode == FORWARD else 2

    def run() -> None:
        for _ in range(passes):
            for target, tensor in zip(targets, tensors, strict=True):
                target.copy_(tensor)

    return run
