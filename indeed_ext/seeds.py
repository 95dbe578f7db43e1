"""Seeds of pair mining: drawn from torch's generators, or a sequence that a module holds."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .validation import Labels


def draw_seed(seed: int | Tensor | None, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """``seed`` as a 0-d int64 tensor on ``device``; one from the generator of the device where none is given."""
    if seed is None:
        place = device if generator is None else generator.device
        seed = torch.randint(2**63 - 1, (), generator=generator, device=place)
    elif not isinstance(seed, Tensor):
        seed = torch.full((), seed, dtype=torch.int64, device=device)
    return seed if seed.device == device else seed.to(device, non_blocking=True)


@dataclass
class _FirstRun:
    labels: weakref.ref[Tensor]
    seeds: list[Tensor] = field(default_factory=list)
    repeated: bool = False


class SeedSequence:
    """The seeds of successive calls of a module, ``held``, ``held + 1`` and so on.

    A forward that ``torch.utils.checkpoint`` runs again, within a backward, gets the seed of its first run. The two
    runs are told by their labels, the one argument of the loss that both share.
    """

    def __init__(self) -> None:
        self._first_runs: dict[int, _FirstRun] = {}

    def next(self, held: Tensor, labels: Labels) -> Tensor:
        """The seed of this call; advances ``held`` in place unless the call is a repetition.

        Raises:
            RuntimeError: a repetition whose first run cannot be told.
        """
        words = labels[0] if isinstance(labels, tuple) else labels
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            return self._repeat(words)
        seed = held.clone()
        held += 1
        if not torch.compiler.is_compiling() and _may_be_repeated():
            self._remember(words, seed)
        return seed

    def __reduce__(self) -> tuple[type[SeedSequence], tuple[()]]:
        """A copy has no first runs."""
        return SeedSequence, ()

    def _remember(self, words: Tensor, seed: Tensor) -> None:
        self._first_runs = {at: run for at, run in self._first_runs.items() if run.labels() is not None}
        run = self._first_runs.get(words.data_ptr())
        if run is None or run.repeated:
            run = self._first_runs[words.data_ptr()] = _FirstRun(weakref.ref(words))
        run.seeds.append(seed)

    def _repeat(self, words: Tensor) -> Tensor:
        run = self._first_runs.get(words.data_ptr())
        if run is None or run.labels() is None or len(run.seeds) != 1:
            raise RuntimeError(
                "seed: a forward is run again (torch.utils.checkpoint), and which one is told by its labels: pass "
                "labels into the checkpointed function, a tensor of their own for each call, or give each call its seed"
            )
        run.repeated = True
        return run.seeds[0]


def _may_be_repeated() -> bool:
    """Whether this forward runs under torch.utils.checkpoint: without gradients, or with hooks on saved tensors."""
    return not torch.is_grad_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
