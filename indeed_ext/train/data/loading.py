"""Loaders whose order and augmentations follow seed and epoch, so that a resumed run sees what it would have seen."""

from __future__ import annotations

from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ..errors import DataError
from .base import Batch, MultilabelData


class EpochDataset(Dataset[Batch]):
    """Training samples, which may depend on the epoch."""

    epoch = 0


class EpochSampler(DistributedSampler):
    """torch's sampler, which tells the images of its epoch; the trainer tells the sampler."""

    dataset: EpochDataset

    def set_epoch(self, epoch: int) -> None:
        """Begin ``epoch``: its order, and its augmentations."""
        super().set_epoch(epoch)
        self.dataset.epoch = epoch


def check_batch(data: MultilabelData, samples: int) -> None:
    """DataError if the training samples do not make a batch."""
    if samples < data.batch_size:
        raise DataError(f"batch_size: {data.batch_size} is more than the {samples} training samples")


def training_loader(data: MultilabelData, samples: EpochDataset, workers: int = 0) -> DataLoader:
    """``samples`` in a new order in every epoch, whole batches only."""
    replicas, rank = (data.trainer.world_size, data.trainer.global_rank) if data.trainer else (1, 0)
    sampler = EpochSampler(samples, replicas, rank, shuffle=True, seed=data.seed % 2**31, drop_last=True)
    return DataLoader(samples, data.batch_size, sampler=sampler, num_workers=workers, drop_last=True)
