"""Image files with several labels each: reading, scaling and augmenting, for VOC, COCO and lists of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision.transforms import v2

from .base import DataError, MultilabelData, check_tests
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
    """What every evaluated image goes through: scaled to a square, its shape given up so that nothing is cut off."""
    return v2.Resize((image_size, image_size), antialias=True)


class ImageFiles(Dataset):
    """(image uint8 ``[3, S, S]``, labels bool ``[C]``) of a listing; what is random follows seed, epoch and index."""

    def __init__(self, listing: Listing, image_size: int, augment: bool = False, seed: int = 0) -> None:
        self.listing, self.augment, self.seed, self.epoch = listing, augment, seed, 0
        self.transform = resize_to(image_size)
        if augment:
            cutout = v2.RandomErasing(p=0.5, scale=(0.02, 0.2))
            crop = v2.RandomResizedCrop(image_size, scale=(0.5, 1.0), antialias=True)
            self.transform = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.RandAugment(), cutout])

    def __len__(self) -> int:
        return len(self.listing.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = read_image(self.listing.paths[index])
        if not self.augment:
            return self.transform(image), self.listing.labels[index]
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's default generator
            torch.manual_seed(hash((self.seed, self.epoch, index)) % 2**63)
            return self.transform(image), self.listing.labels[index]


class EpochSampler(DistributedSampler):
    """torch's sampler, which tells the images of its epoch; the trainer tells the sampler."""

    def set_epoch(self, epoch: int) -> None:
        """Begin ``epoch``: its order, and its augmentations."""
        super().set_epoch(epoch)
        self.dataset.epoch = epoch


class ImageData(MultilabelData):
    """Image files; subclasses give the listings in ``__init__``, through :meth:`use`.

    Tests: ``entire`` takes all test images, ``single`` those that show one class.
    """

    in_channels = 3
    train: Listing
    validation: Listing
    test: Listing

    def __init__(
        self,
        image_size: int,
        batch_size: int,
        workers: int,
        augment: bool,
        tests: list[Test] | None,
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("image_size", image_size, 1),
            ("batch_size", batch_size, 1),
            ("workers", workers, 0),
        ):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        self.tests = check_tests(tests or ["entire"], get_args(Test))
        self.image_size, self.batch_size, self.workers, self.augment = image_size, batch_size, workers, augment
        self.mean, self.std = mean or IMAGENET_MEAN, std or IMAGENET_STD
        if len(self.mean) != self.in_channels or len(self.std) != self.in_channels:
            raise ValueError(f"mean, std: expected {self.in_channels} numbers each, got {self.mean} and {self.std}")
        self.seed = torch.initial_seed()  # what seed_everything or torch.manual_seed set

    def use(self, class_names: Sequence[str], train: Listing, validation: Listing, test: Listing) -> None:
        """Take these; an empty validation listing means none."""
        self.class_names = tuple(class_names)
        self.train, self.validation, self.test = train, validation, test
        if len(train.paths) < self.batch_size:
            raise DataError(f"batch_size: {self.batch_size} is more than the {len(train.paths)} training images")

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
        images = ImageFiles(self.train, self.image_size, self.augment, self.seed)
        replicas, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        sampler = EpochSampler(images, replicas, rank, shuffle=True, seed=self.seed % 2**31, drop_last=True)
        return DataLoader(images, self.batch_size, sampler=sampler, num_workers=self.workers, drop_last=True)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The validation images; an empty list where there are none."""
        return self._loader(self.validation) if self.validation.paths else []

    def test_dataloader(self) -> DataLoader | list[DataLoader]:
        """A loader for each of ``tests``; a list where there are several."""
        chosen = {"entire": self.test, "single": self.test.with_labels(1, 1)}
        loaders = [self._loader(chosen[test]) for test in self.tests]
        return loaders[0] if len(loaders) == 1 else loaders

    def _loader(self, listing: Listing) -> DataLoader:
        return DataLoader(ImageFiles(listing, self.image_size), self.batch_size, num_workers=self.workers)


def hold_out(listing: Listing, share: float, seed: int) -> tuple[Listing, Listing]:
    """(rest, held out): a share of the images chosen at random, the same for the same seed.

    Raises:
        ValueError: the share is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"holdout: expected a share in [0, 1), got {share}")
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
