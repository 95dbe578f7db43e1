"""The base of every data module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from .reading import normalise

#: One batch as the network sees it: images [B, channels, H, W] float32, labels [B, C] bool.
Batch = tuple[Tensor, Tensor]


class MultilabelData(LightningDataModule, ABC):
    """Images with several labels each; the loaders give uint8 images and bool labels.

    Attributes:
        class_names: the C names, in the order of the label columns.
        in_channels: channels of an image.
        batch_size: images in a training step.
        seed: what seed_everything or torch.manual_seed set.
        tests: names of the test sets, one for each loader of ``test_dataloader``; the first is the one that counts.
        mean, std: of the channels, once an image is in [0, 1]; the network sees (image - mean) / std.
    """

    class_names: tuple[str, ...]
    in_channels: int
    tests: tuple[str, ...] = ("test",)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        check_at_least("batch_size", batch_size, 1)
        self.batch_size = batch_size
        self.seed = torch.initial_seed()

    @abstractmethod
    def setup(self, stage: str) -> None:
        """Find the images."""

    @property
    @abstractmethod
    def input_size(self) -> tuple[int, ...]:
        """(height, width) of an image as the network gets it, once this is set up; () for features."""

    @abstractmethod
    def train_labels(self) -> Tensor:
        """Labels ``[K, C]`` of the training images, bool: which classes keep company."""

    @property
    def num_classes(self) -> int:
        """C, the number of label columns."""
        return len(self.class_names)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Images become float32 here, so that a device is sent a quarter of the bytes."""
        images, labels = batch
        return normalise(images.to(torch.float32) / 255, self.mean, self.std), labels


def check_at_least(name: str, value: int, least: int) -> None:
    """ValueError if ``value`` is below ``least``."""
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")


def check_tests(tests: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The names of the test sets as a tuple.

    Raises:
        ValueError: one is not known, or named twice, or there is none.
    """
    if not tests or len(set(tests)) != len(tests) or not set(tests) <= set(known):
        raise ValueError(f"tests: expected one or more of {', '.join(known)}, each once, got {list(tests)}")
    return tuple(tests)
