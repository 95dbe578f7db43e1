"""What the trainer asks of every data module."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

#: One batch as the network sees it: images [B, channels, H, W] float32 in [0, 1], labels [B, C] bool.
Batch = tuple[Tensor, Tensor]


class MultilabelData(LightningDataModule, ABC):
    """Images with several labels each; the loaders give uint8 images and bool labels.

    Attributes:
        class_names: the C names, in the order of the label columns.
        in_channels: channels of an image.
    """

    class_names: tuple[str, ...]
    in_channels: int

    @abstractmethod
    def setup(self, stage: str) -> None:
        """Find the images."""

    @property
    def num_classes(self) -> int:
        """C, the number of label columns."""
        return len(self.class_names)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Images become float32 in [0, 1] here, so that a device is sent a quarter of the bytes."""
        images, labels = batch
        return images.to(torch.float32) / 255, labels
