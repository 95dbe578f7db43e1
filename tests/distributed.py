"""What one process of a distributed test does; apart from the tests, so that a spawned process can import it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from indeed_ext import INDeeDHead

Batch = tuple[Tensor, Tensor, Tensor]  # images, labels, pairs


def model(backend: str) -> nn.Module:
    """A backbone and a head, the same in every process."""
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"backbone": nn.Sequential(nn.Linear(8, 6), nn.ReLU()), "head": INDeeDHead(6, 5, backend=backend)}
    ).double()


class Step(nn.Module):
    """The loss inside the wrapped forward."""

    def __init__(self, parts: nn.Module) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, images: Tensor, labels: Tensor, pairs: Tensor) -> Tensor:
        return self.parts["head"](self.parts["backbone"](images), labels, pairs=pairs)


def wrap_ddp(step: nn.Module) -> nn.Module:
    return DistributedDataParallel(step)


def wrap_fsdp(step: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    fully_shard(step.parts["head"])
    return fully_shard(step)


WRAPPERS = {"DDP": wrap_ddp, "FSDP": wrap_fsdp}


def run(scenarios: dict[str, tuple[str, list[Batch]]], backend: str, folder: Path) -> dict[str, dict[str, Tensor]]:
    """For each scenario (wrapper, one batch per process) the gradients that the processes agree on."""
    processes = max(len(batches) for _, batches in scenarios.values())
    mp.spawn(_process, (processes, scenarios, backend, str(folder)), nprocs=processes)
    return torch.load(folder / "gradients.pt")


def _process(
    rank: int, processes: int, scenarios: dict[str, tuple[str, list[Batch]]], backend: str, folder: str
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=processes)
    results = {}
    for name, (wrapper, batches) in scenarios.items():
        step = WRAPPERS[wrapper](Step(model(backend)))
        step(*batches[rank]).backward()
        results[name] = {key.removeprefix("module."): _whole(each.grad) for key, each in step.named_parameters()}
    if rank == 0:
        torch.save(results, Path(folder) / "gradients.pt")
    dist.barrier()
    dist.destroy_process_group()


def _whole(gradient: Any) -> Tensor:
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
