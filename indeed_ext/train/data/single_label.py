"""ML-MNIST-N, ML-CIFAR-10-N, and composites of the images of any single-label folder."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms import v2

from ..errors import DataError
from .composites import CompositeData, Pool
from .reading import read_image

#: Share of the training images that a set without a validation part holds out.
VALIDATION_SHARE = 0.1


class HeldOutComposites(CompositeData):
    """Composites of a set that has training and test images; a tenth of the former are for validation, by class.

    Args:
        root: folder of the images.
        test_size: so many of the test images, of every class the same share; null for all.
        options: those of every :class:`CompositeData`.
    """

    def __init__(self, root: str, test_size: int | None = None, **options: Any) -> None:
        self.root, self.test_size = Path(root), test_size
        self.sets = self.read()
        super().__init__(**options)

    @abstractmethod
    def read(self) -> tuple[Pool, Pool]:
        """Training and test images.

        Raises:
            DataError: they are not there.
        """

    def load_pools(self) -> tuple[Pool, Pool, Pool]:
        """Training, validation and test images; none is in two of them."""
        from sklearn.model_selection import train_test_split

        rest, test = self.sets
        try:
            train, validation = train_test_split(
                range(len(rest.labels)), test_size=VALIDATION_SHARE, stratify=rest.labels, random_state=self.split_seed
            )
        except ValueError as error:
            raise DataError(f"{self.root}: too few training images to hold a tenth out: {error}") from None
        if self.test_size is not None:
            by_class = test.labels.argsort(stable=True)
            test = test.subset(by_class[torch.linspace(0, len(by_class) - 1, self.test_size).long()])
        train, validation = (rest.subset(torch.tensor(sorted(part))) for part in (train, validation))
        return train, validation, test


class MnistData(HeldOutComposites):
    """ML-MNIST-N: MNIST digits on a canvas of 84 x 84, from the files of ``torchvision.datasets.MNIST``.

    Args:
        root: folder that holds MNIST/raw.
    """

    class_names = tuple("0123456789")
    in_channels = 1

    def read(self) -> tuple[Pool, Pool]:
        """The 60,000 and the 10,000 digits."""
        parts = [_torchvision(datasets.MNIST, self.root, train) for train in (True, False)]
        train, test = (Pool(part.data.unsqueeze(1), part.targets.long()) for part in parts)
        return train, test


class Cifar10Data(HeldOutComposites):
    """ML-CIFAR-10-N: CIFAR-10 images on a canvas of 96 x 96, from the files of ``torchvision.datasets.CIFAR10``.

    Args:
        root: folder that holds cifar-10-batches-py.
    """

    in_channels = 3

    def read(self) -> tuple[Pool, Pool]:
        """The 50,000 and the 10,000 images."""
        parts = [_torchvision(datasets.CIFAR10, self.root, train) for train in (True, False)]
        self.class_names = tuple(parts[0].classes)
        train, test = (
            Pool(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
            for part in parts
        )
        return train, test


class FolderData(HeldOutComposites):
    """Composites of the images of a single-label folder: ROOT/train/CLASS/IMAGE and ROOT/test/CLASS/IMAGE.

    Args:
        root: the folder; its class folders name the classes.
        image_size: side to which images are scaled; the canvas is three times as wide. All are held in memory.
        options: those of every :class:`HeldOutComposites`.
    """

    in_channels = 3

    def __init__(self, root: str, image_size: int = 32, **options: Any) -> None:
        self.image_size = image_size
        super().__init__(root, **options)

    def read(self) -> tuple[Pool, Pool]:
        """The images of the two parts, which must have the same classes."""
        parts = [self._folder(part) for part in ("train", "test")]
        names = [set(part.classes) for part in parts]
        if names[0] != names[1]:
            odd = sorted(names[0] ^ names[1])[0]
            raise DataError(f"{self.root}: class {odd!r} is in one of train/ and test/ only")
        self.class_names = tuple(parts[0].classes)
        train, test = (self._pool(part) for part in parts)
        return train, test

    def _folder(self, part: str) -> datasets.ImageFolder:
        try:
            return datasets.ImageFolder(str(self.root / part), loader=read_image)
        except FileNotFoundError as error:
            raise DataError(f"{self.root / part}: {error}") from None

    def _pool(self, folder: datasets.ImageFolder) -> Pool:
        resize = v2.Resize((self.image_size, self.image_size), antialias=True)
        images: list[Tensor] = [resize(read_image(path)) for path, _ in folder.samples]
        return Pool(torch.stack(images), torch.tensor(folder.targets))


def _torchvision(dataset: type, root: Path, train: bool) -> Any:
    try:
        return dataset(str(root), train=train, download=False)
    except RuntimeError:  # what torchvision raises where files are missing
        advice = f"torchvision.datasets.{dataset.__name__}({str(root)!r}, download=True) fetches it"
        raise DataError(f"no {dataset.__name__} in {root}; {advice}") from None
