"""The kernels of the plain loss run eagerly: every operator that makes a tensor, forward and backward, is one.

Traced on tensors that hold nothing. Some operators launch more than one kernel (searchsorted, sums of many numbers), so
that this is the least.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .card import FMA, WGMMA, Card, Kernel, pointwise, product
from .cases import Step
from .inductor_kernels import fake_arguments, plain_step

#: Operators that launch nothing, beside views.
_FREE = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "detach",
    "_unsafe_view",
    "lift_fresh",
}


class _Recorder(TorchDispatchMode):
    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card, self.kernels = card, list[Kernel]()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        name = operator.overloadpacket.__name__
        made = _tensors(result)
        if made and name not in _FREE and not _is_view(operator):
            self.kernels.append(self._kernel(name, _tensors((args, kwargs)), made))
        return result

    def _kernel(self, name: str, given: list[Tensor], made: list[Tensor]) -> Kernel:
        if name in ("mm", "addmm"):
            first, second = given[-2:]
            element, unit = first.itemsize, FMA if first.dtype == torch.float32 else WGMMA
            sizes = (first.shape[0], second.shape[1], first.shape[1])
            return product(name, sizes, (element, element), unit, self.card)
        return pointwise(name, _bytes(given), _bytes(made))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensors: list[Tensor]) -> float:
    return float(sum(each.numel() * each.itemsize for each in tensors))


def _is_view(operator: Any) -> bool:
    """Its result shares the memory of an argument that it does not write to."""
    returned = operator._schema.returns
    return any(each.alias_info is not None and not each.alias_info.is_write for each in returned)


def kernels(step: Step, card: Card) -> list[Kernel]:
    """Those of forward and backward, in order."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        arguments = fake_arguments(step)
        with _Recorder(card) as recorder:
            torch.autograd.grad(plain_step(*arguments, step.case.norm), arguments[:3])
    return recorder.kernels
