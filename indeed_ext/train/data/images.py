"""Image files with several labels each: reading, scaling and augmenting, for VOC, COCO and lists of the user's own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from .base import Batch, MultilabelData, check_at_least, check_tests
from .loading import EpochDataset, check_batch, training_loader
from .reading import read_image

Test = Literal["entire", "single"]

#: What timm's networks expect unless they say otherwise.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Listing:
    """Which images there are and what they show.

    Attributes:
        paths: K files.
        labels: ``[K, C]`` bool.
    """

    paths: tuple[Path, ...]
    labels: Tensor

    def subset(self, indices: Tensor) -> Listing:
        """The images at ``indices``, int64 ``[k]``."""
        return Listing(tuple(self.paths[index] for index in indices.tolist()), self.labels[indices])

    def with_labels(self, at_least: int, at_most: int | None = None) -> Listing:
        """The images that have so many labels."""
        count = self.labels.sum(1)
        return self.subset(((count >= at_least) & (count <= (at_most or self.labels.shape[1]))).nonzero().flatten())


def resize_to(image_size: int) -> v2.Transform:
    """Scales an evaluated image to a square; its shape is given up so that nothing is cut off."""
    return v2.Resize((image_size, image_size), antialias=True)


class ImageFiles(EpochDataset):
    """(image uint8 ``[3, S, S]``, labels bool ``[C]``) of a listing; what is random follows seed, epoch and index."""

    def __init__(self, listing: Listing, image_size: int, augment: bool = False, seed: int = 0) -> None:
        self.listing, self.augment, self.seed = listing, augment, seed
        self.transform = resize_to(image_size)
        if augment:
            cutout = v2.RandomErasing(p=0.5, scale=(0.02, 0.2))
            crop = v2.RandomResizedCrop(image_size, scale=(0.5, 1.0), antialias=True)
            self.transform = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.RandAugment(), cutout])

    def __len__(self) -> int:
        return len(self.listing.paths)

    def __getitem__(self, index: int) -> Batch:
        image = read_image(self.listing.paths[index])
        if not self.augment:
            return self.transform(image), self.listing.labels[index]
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's default generator
            torch.manual_seed(hash((self.seed, self.epoch, index)) % 2**63)
            return self.transform(image), self.listing.labels[index]


class ImageData(MultilabelData):
    """Image files; subclasses give the listings in ``__init__``, through :meth:`use`.

    Args:
        image_size: side of the square to which images are scaled.
        batch_size: images in a training step.
        workers: processes that read images; 0 reads in the training process.
        augment: random crops, flips, RandAugment and Cutout on the training images.
        tests: entire (all test images), single (those with one label), or both; the first one counts.
        holdout: share of the training images kept for validation, where no others are given; 0 for none.
        split_seed: which ones; keep it to compare runs.
        mean: of the channels, of images in [0, 1]; ImageNet's unless given.
        std: their standard deviations.
    """

    in_channels = 3
    train: Listing
    validation: Listing
    test: Listing

    @abstractmethod
    def __init__(
        self,
        image_size: int = 448,
        batch_size: int = 64,
        workers: int = 4,
        augment: bool = True,
        tests: list[Test] | None = None,
        holdout: float = 0.1,
        split_seed: int = 0,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
    ) -> None:
        super().__init__(batch_size)
        check_at_least("image_size", image_size, 1)
        check_at_least("workers", workers, 0)
        if not 0 <= holdout < 1:
            raise ValueError(f"holdout: expected a share in [0, 1), got {holdout}")
        self.tests = check_tests(tests or ["entire"], get_args(Test))
        self.image_size, self.workers, self.augment = image_size, workers, augment
        self.holdout, self.split_seed = holdout, split_seed
        self.mean, self.std = mean or IMAGENET_MEAN, std or IMAGENET_STD
        if len(self.mean) != self.in_channels or len(self.std) != self.in_channels:
            raise ValueError(f"mean, std: expected {self.in_channels} numbers each, got {self.mean} and {self.std}")

    def use(self, class_names: Sequence[str], train: Listing, test: Listing, validation: Listing | None = None) -> None:
        """Take these; without validation images, some of the training images are held out for it."""
        self.class_names = tuple(class_names)
        if validation is None:
            train, validation = hold_out(train, self.holdout, self.split_seed)
        self.train, self.validation, self.test = train, validation, test
        check_batch(self, len(self.train.paths))

    def setup(self, stage: str) -> None:
        """Nothing: the listings were read when this was made, so that what is missing shows before the run begins."""

    @property
    def input_size(self) -> tuple[int, ...]:
        """(height, width) that images are scaled to."""
        return (self.image_size, self.image_size)

    def train_labels(self) -> Tensor:
        """Labels ``[K, C]`` of the training images."""
        return self.train.labels

    def train_dataloader(self) -> DataLoader:
        """The training images in a new order in every epoch, whole batches only."""
        return training_loader(self, ImageFiles(self.train, self.image_size, self.augment, self.seed), self.workers)

    def val_dataloader(self) -> list[DataLoader]:
        """The validation images, if there are any."""
        return [self._loader(self.validation)] if self.validation.paths else []

    def test_dataloader(self) -> list[DataLoader]:
        """A loader for each of ``tests``."""
        chosen = {"entire": self.test, "single": self.test.with_labels(1, 1)}
        return [self._loader(chosen[test]) for test in self.tests]

    def _loader(self, listing: Listing) -> DataLoader:
        return DataLoader(ImageFiles(listing, self.image_size), self.batch_size, num_workers=self.workers)


def hold_out(listing: Listing, share: float, seed: int) -> tuple[Listing, Listing]:
    """(rest, held out): a share of the images chosen at random, the same for the same seed."""
    order = torch.randperm(len(listing.paths), generator=torch.Generator().manual_seed(seed))
    count = round(share * len(order))
    return listing.subset(order[count:].sort().values), listing.subset(order[:count].sort().values)


def make_listing(paths: Sequence[Path], names: Sequence[Sequence[str]], class_names: Sequence[str]) -> Listing:
    """A listing from the names of what every image shows; all are in ``class_names``."""
    column = {name: index for index, name in enumerate(class_names)}
    labels = torch.zeros(len(paths), len(class_names), dtype=torch.bool)
    for row, shown in enumerate(names):
        labels[row, [column[name] for name in shown]] = True
    return Listing(tuple(paths), labels)
