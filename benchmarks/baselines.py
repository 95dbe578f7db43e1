"""The implementations that are compared, as callables on the inputs of a case.

eager        plain PyTorch of :mod:`benchmarks.eager`, with autograd
compile      the same loss under ``torch.compile(fullgraph=True)``, each shape compiled for itself; it measured faster
             than ``indeed_ext.reference`` under torch.compile. Mining stays eager: the matchings loop on data, and
             compiled anchor mining measured no faster than eager.
three_gemms  the three bare matrix products of the loss on ready buffers and on all features, with 2B rows for a partner
             vector. It is no lower bound: kernels that skip zeros can take less.
copy         of the separate steps: one copy of the tensors they read and write
cpu, ...     every backend of indeed_ext with kernels for the device of the case
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
from .cases import Case, Inputs, Shape

EAGER, COMPILE, THREE_GEMMS, COPY = "eager", "compile", "three_gemms", "copy"
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
    """Name of an implementation, and whether mining is part of it (``mined``), not (``given``), or neither (empty)."""

    name: str
    pairs: str = ""

    def __str__(self) -> str:
        return f"{self.name}, pairs given" if self.pairs == "given" else self.name


def run_step(
    function: Callable[[], Tensor | tuple[Tensor, ...]],
    leaves: tuple[Tensor, ...],
    mode: str,
    grad_outputs: list[Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """The results without gradients in the forward mode, (*results, *gradients of the leaves) else."""
    if mode == FORWARD:
        with torch.no_grad():
            return _as_tuple(function())
    results = _as_tuple(function())
    return *(each.detach() for each in results), *torch.autograd.grad(results, leaves, grad_outputs)


def _as_tuple(results: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (results,) if isinstance(results, Tensor) else results


# ----------------------------------------------------------------------------- loss


def losses(case: Case, compiled: Loss | None = None) -> dict[str, Loss]:
    """Every loss with pairs given, the eager one first; torch.compile takes part where one is handed."""
    result: dict[str, Loss] = {EAGER: partial(eager.indeed_loss, norm=case.norm)}
    if compiled is not None:
        result[COMPILE] = compiled
    for backend in compiled_backends(case.device):
        result[backend] = partial(fused, backend=backend, norm=case.norm)
    return result


def fused(
    features: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, pairs: Tensor | None = None, **settings
) -> Tensor:
    """The package's loss with the arguments in the order of the baselines."""
    return indeed_ext.fused_indeed_loss(features, weight, labels, bias=bias, pairs=pairs, **settings)


def loss_step(loss: Loss, inputs: Inputs) -> tuple[Tensor, ...]:
    """(loss, *gradients) with pairs given."""
    return run_step(partial(loss, *inputs.leaves, inputs.labels, inputs.pairs), inputs.leaves, TRAINING)


def loss_calls(case: Case, inputs: Inputs, chosen: Mapping[str, Loss], mode: str = TRAINING) -> dict[Key, Call]:
    """The chosen of :func:`losses`, mining included and with pairs given, and the three GEMMs."""
    tensors = (*inputs.leaves, inputs.labels)
    calls: dict[Key, Call] = {}
    for name, loss in chosen.items():
        if case.strategy:
            calls[Key(name, "mined")] = partial(run_step, _mining(loss, name, case, inputs), inputs.leaves, mode)
        calls[Key(name, "given")] = partial(run_step, partial(loss, *tensors, inputs.pairs), inputs.leaves, mode)
    calls[Key(THREE_GEMMS)] = three_gemms(case, mode)
    return calls


def _mining(loss: Loss, name: str, case: Case, inputs: Inputs) -> Callable[[], Tensor]:
    tensors = (*inputs.leaves, inputs.labels)
    if name not in (EAGER, COMPILE):
        return partial(loss, *tensors, strategy=case.strategy)
    return lambda: loss(*tensors, eager.mine_pairs(inputs.labels, case.strategy))


def compile_failure(loss: Loss, inputs: Inputs) -> str:
    """Why a compiled loss does not run here (no C++ compiler, as a rule), in one line; empty where it does."""
    try:
        loss_step(loss, inputs)
    except Exception as error:  # whatever the compiler stack raises, the others are still worth measuring
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ""


def compiled_loss(case: Case, dynamic: bool = False) -> Loss:
    """The compiled eager loss of a case, or one for any shape; pairings that give a partner vector share it."""
    return _compiled_loss(None if dynamic else case.shape, case.norm, case.strategy is None, case.dtype, case.device)


@lru_cache(maxsize=1)
def _compiled_loss(shape: Shape | None, norm: str, pair_list: bool, dtype: torch.dtype, device: str) -> Loss:
    # Graphs of former cases would be tried first at every call, and there is a limit to their number.
    torch._dynamo.reset()
    return partial(torch.compile(eager.indeed_loss, dynamic=shape is None, fullgraph=True), norm=norm)


def three_gemms(case: Case, mode: str = TRAINING) -> Call:
    """The bare matrix products of the loss; the forward has the first of them only."""
    shape, rows = case.shape, case.shape.batch + case.rows
    like = {"dtype": case.dtype, "device": case.device}
    stacked, weight = torch.randn(rows, shape.width, **like), torch.randn(shape.classes, shape.width, **like)
    logits = torch.empty(rows, shape.classes, **like)
    grad_stacked, grad_weight = torch.empty_like(stacked), torch.empty_like(weight)

    def run() -> None:
        torch.mm(stacked, weight.T, out=logits)
        if mode == TRAINING:
            torch.mm(logits, weight, out=grad_stacked)
            torch.mm(logits.T, stacked, out=grad_weight)

    return run


# ------------------------------------------------------------------- separate steps


def mining_call(name: str, labels: Tensor, strategy: str, num_classes: int) -> Call:
    """Mining from float labels, packing included; a backend also takes packed ones."""
    if name == EAGER:
        return partial(eager.mine_pairs, labels, strategy)
    return partial(indeed_ext.mine_pairs, labels, strategy=strategy, num_classes=num_classes, backend=name)


def identical_disparate_calls(case: Case, inputs: Inputs, mode: str) -> dict[str, Call]:
    """identical_disparate of every implementation."""

    def plain(features: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        return eager.identical_disparate(features, pairs, case.norm)[1:]

    upstream = [torch.randn(case.rows, case.shape.width).to(inputs.features) for _ in range(2)]
    own = partial(indeed_ext.identical_disparate, norm=case.norm)
    return _step_calls(case, mode, plain, own, (inputs.features,), (inputs.pairs,), upstream)


def six_way_bce_calls(case: Case, inputs: Inputs, mode: str) -> dict[str, Call]:
    """six_way_bce of every implementation."""

    def plain(original: Tensor, identical: Tensor, disparate: Tensor, labels: Tensor, pairs: Tensor) -> Tensor:
        if pairs.dim() == 2:
            original = original[pairs.T.reshape(-1)]
        return eager.cross_entropy(torch.cat([original, identical, disparate]), eager.targets(labels, pairs))

    counts = (case.shape.batch, case.rows, case.rows)
    logits = (torch.randn(rows, case.shape.classes).to(inputs.features).detach().requires_grad_() for rows in counts)
    return _step_calls(case, mode, plain, indeed_ext.six_way_bce, tuple(logits), (inputs.labels, inputs.pairs))


def _step_calls(
    case: Case,
    mode: str,
    plain: Callable[..., object],
    own: Callable[..., object],
    leaves: tuple[Tensor, ...],
    others: tuple[Tensor, ...],
    upstream: list[Tensor] | None = None,
) -> dict[str, Call]:
    torch._dynamo.reset()
    functions = {EAGER: plain, COMPILE: torch.compile(plain, dynamic=False, fullgraph=True)}
    functions |= {backend: partial(own, backend=backend) for backend in compiled_backends(case.device)}
    calls: dict[str, Call] = {
        name: partial(run_step, partial(function, *leaves, *others), leaves, mode, upstream)
        for name, function in functions.items()
    }
    sources = [*(leaf.detach() for leaf in leaves), *(upstream or ())] * (1 if mode == FORWARD else 2)
    targets = [torch.empty_like(tensor) for tensor in sources]
    return {**calls, COPY: lambda: [target.copy_(source) for target, source in zip(targets, sources, strict=True)]}
