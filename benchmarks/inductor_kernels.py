"""The kernels that torch.compile makes of the plain loss, without running them and without a GPU.

The forward and the backward are traced on tensors that hold nothing. Inductor is then told that they lie on a GPU, and
lowers, fuses and schedules them as it does there; what its scheduler would turn into code is listed in place of that.
Inductor has no public functions for this, so that another torch may refuse.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from . import eager
from .card import FMA, TORCH, WGMMA, Card, Kernel, Part, product
from .cases import LABEL_DTYPE, Step

_DEVICE = torch.device("cuda:0")


class Unavailable(Exception):
    """Why Inductor's kernels cannot be had here, in one line."""


class _Listed(Exception):
    """Ends a compilation when its kernels are listed."""


def plain_step(
    features: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, pairs: Tensor | None, norm: str
) -> Tensor:
    """What is compiled: the plain loss, after mining partners where none are given."""
    if pairs is None:
        pairs = eager.mine_pairs(labels, "anchor")
    return eager.indeed_loss(features, weight, bias, labels, pairs, norm)


def fake_arguments(step: Step) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Features, weight, bias, labels and pairs for :func:`plain_step`, within a mode that allocates nothing."""
    shape = step.case.shape

    def leaf(*sizes: int) -> Tensor:
        return torch.empty(*sizes, dtype=step.case.dtype, requires_grad=True)

    labels = torch.empty(shape.batch, shape.classes, dtype=LABEL_DTYPE)
    pairs = None if step.mined else torch.empty(shape.batch, dtype=torch.int64)
    return leaf(shape.batch, shape.width), leaf(shape.classes, shape.width), leaf(shape.classes), labels, pairs


def kernels(step: Step, card: Card) -> list[Kernel]:
    """Those of forward and backward, in order.

    Raises:
        Unavailable: this torch does it differently.
    """
    try:
        return _kernels(step, card)
    except Exception as error:  # private functions of torch may fail in any way
        raise Unavailable(" ".join(f"{type(error).__name__}: {error}".split())[:200]) from error


def _kernels(step: Step, card: Card) -> list[Kernel]:
    from torch._functorch import config as functorch_config
    from torch._inductor import compile_fx, config
    from torch._inductor.graph import GraphLowering
    from torch._subclasses.fake_tensor import FakeTensorMode

    found: list[Kernel] = []

    def listed(graph: Any) -> None:
        graph._update_scheduler()
        found.extend(filter(None, (_kernel(node, card) for node in graph.scheduler.nodes)))
        raise _Listed

    def compile_for_gpu(graph: Any, inputs: list[Any], **options: Any) -> Any:
        moved, gpu_inputs = _moved(graph, inputs)
        try:
            with _assumed_gpu(card):
                compile_fx.compile_fx_inner(moved, gpu_inputs, **options)
        except Exception as error:
            if not _is_listed(error):
                raise
        return _boxed(graph)

    torch._dynamo.reset()
    with (
        FakeTensorMode(),
        mock.patch.object(GraphLowering, "compile_to_module", listed),
        config.patch(fx_graph_cache=False, fx_graph_remote_cache=False),
        functorch_config.patch(enable_autograd_cache=False),
    ):
        arguments = fake_arguments(step)
        backend = functools.partial(compile_fx.compile_fx, inner_compile=compile_for_gpu)
        compiled: Any = torch.compile(plain_step, backend=backend, fullgraph=True, dynamic=False)
        loss = compiled(*arguments, step.case.norm)
        torch.autograd.grad(loss, arguments[:3])
    if not found:
        raise RuntimeError("nothing was compiled")
    return found


def _boxed(graph: nn.Module) -> Any:
    from functorch.compile import make_boxed_func

    return make_boxed_func(graph.forward)


def _moved(graph: Any, inputs: list[Any]) -> tuple[Any, list[Any]]:
    """A copy of a traced graph, and its inputs, on the GPU that is assumed."""
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    graph = copy.deepcopy(graph)
    for node in graph.graph.nodes:
        node.args = tuple(_DEVICE if isinstance(each, torch.device) else each for each in node.args)
        if isinstance(node.kwargs.get("device"), torch.device):
            node.kwargs = {**node.kwargs, "device": _DEVICE}
    graph.recompile()
    mode = next(each.fake_mode for each in inputs if isinstance(each, FakeTensor))
    with mode:
        moved = [
            torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device=_DEVICE)
            if isinstance(each, Tensor)
            else each
            for each in inputs
        ]
    FakeTensorProp(graph, mode).propagate_dont_convert_inputs(*moved)
    return graph, moved


@contextlib.contextmanager
def _assumed_gpu(card: Card) -> Iterator[None]:
    """What Inductor asks of a device is answered for the card."""
    properties = SimpleNamespace(
        name=card.name, major=9, minor=0, multi_processor_count=card.multiprocessors, warp_size=32,
        max_threads_per_multi_processor=2048, max_threads_per_block=1024, regs_per_multiprocessor=65536,
        shared_memory_per_block=48 << 10, shared_memory_per_block_optin=227 << 10, total_memory=80 << 30,
        L2_cache_size=card.cache_bytes, gcnArchName="",
    )  # fmt: skip
    answers: dict[str, Any] = {
        "is_available": True, "device_count": 1, "current_device": 0, "get_device_capability": (9, 0),
        "get_device_properties": properties, "_get_device_properties": properties, "_lazy_init": None,
        "_exchange_device": 0, "_maybe_exchange_device": 0, "get_rng_state": torch.zeros(1), "set_rng_state": None,
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, mock.Mock(return_value=answer), create=True))
        stack.enter_context(mock.patch("torch._inductor.scheduler.has_triton", return_value=True))
        yield


def _is_listed(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, _Listed):
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
    return error is not None


def _kernel(node: Any, card: Card) -> Kernel | None:
    """A node of the scheduler: None where it launches nothing."""
    kind, moved = type(node).__name__, float(node.get_read_write_buffers_sizes())
    if kind == "NopKernelSchedulerNode":
        return None
    if kind == "ExternKernelSchedulerNode":
        return _extern_kernel(node.node, moved, card)
    name = "+".join(dict.fromkeys(origin for each in node.get_nodes() for origin in _origins(each)))
    _, (rows, reduced) = node.group
    rows, reduced = int(rows), int(math.prod(reduced) if isinstance(reduced, tuple) else reduced)
    # A program takes a row of a reduction, in steps of 4 KiB, or 4 KiB of a pointwise kernel.
    row = Part(max(rows, 1), 2 + moved / max(rows, 1) / 4096)
    return Kernel(name, (row if reduced > 1 else _by_size(moved),), moved, 0.0, launcher=TORCH)


def _by_size(moved: float) -> Part:
    return Part(max(1, int(moved) // 4096), 3)


def _origins(node: Any) -> list[str]:
    return sorted({str(origin.target).removeprefix("aten.").partition(".")[0] for origin in node.node.origins})


def _extern_kernel(node: Any, moved: float, card: Card) -> Kernel:
    name = getattr(node, "python_kernel_name", None) or type(node).__name__
    operation = name.rpartition(".")[2]
    if operation not in ("mm", "addmm"):
        return Kernel(name, (_by_size(moved),), moved, 0.0, launcher=TORCH)
    first, second = node.inputs[-2:]
    rows, summed = map(int, first.get_size())
    columns = int(second.get_size()[1])
    dtype = first.get_dtype()
    unit = FMA if dtype == torch.float32 else WGMMA
    return product(operation, (rows, columns, summed), (dtype.itemsize, dtype.itemsize), unit, card)
