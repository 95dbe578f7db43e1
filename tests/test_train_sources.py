"""Composites of single-label sources: biased draws, MNIST, CIFAR-10 and class folders, in their real formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

import trees
from torchvision import datasets

from indeed_ext.train.data.composites import CompositeData, augment_images, draw_classes
from indeed_ext.train.data.digits import DigitsData
from indeed_ext.train.data.single_label import Cifar10Data, FolderData, MnistData
from indeed_ext.train.errors import DataError

COUNT = 20_000


def present(classes: torch.Tensor, num_classes: int = 10) -> torch.Tensor:
    return torch.zeros(len(classes), num_classes, dtype=torch.bool).scatter_(1, classes, True)


@pytest.mark.parametrize(("objects", "together"), [(2, 0.97), (4, 0.5), (2, 0.0), (2, 1.0)])
def test_companions_occur_together_as_often_as_asked(objects: int, together: float) -> None:
    sets = present(draw_classes(COUNT, objects, 10, together, torch.Generator().manual_seed(1)))
    assert (sets.sum(1) == objects).all()  # distinct classes
    even, odd = sets[:, ::2], sets[:, 1::2]
    share = (even & odd).sum() / even.sum()
    assert share == pytest.approx(together, abs=0.02)
    expected = COUNT * objects / 10
    assert (sets.sum(0) - expected).abs().max() < 6 * expected**0.5


@pytest.mark.parametrize("objects", [1, 3, 7, 9])
def test_any_number_of_objects_can_be_drawn_with_companions(objects: int) -> None:
    sets = present(draw_classes(500, objects, 10, 0.3, torch.Generator().manual_seed(2)))
    assert (sets.sum(1) == objects).all()


def test_the_biased_set_trains_on_companions_and_tests_without_favour() -> None:
    data = DigitsData(objects=2, epoch_size=512, together=0.97, tests=["single", "entire"])
    data.setup("fit")
    labels = data.train_labels()
    assert labels.shape == (512, 10)
    assert (labels[:, ::2] & labels[:, 1::2]).any(1).float().mean() > 0.9
    single, entire = (torch.cat([labels for _, labels in loader]) for loader in data.test_dataloader())
    assert (single.sum(1) == 1).all()
    assert (entire.sum(1) == 2).all()
    assert (entire[:, ::2] & entire[:, 1::2]).any(1).float().mean() < 0.2  # 1/9 by chance
    again = torch.cat([labels for _, labels in data.test_dataloader()[1]])
    assert torch.equal(entire, again)


def test_augmentation_follows_the_seed_alone_and_leaves_the_default_generator() -> None:
    images = torch.randint(0, 256, (6, 3, 48, 48), dtype=torch.uint8)
    state = torch.get_rng_state()
    first, again, other = (augment_images(images, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    cut = (first == 0).all(1).flatten(1).sum(1)  # the square of 8 x 8 at least
    assert (cut >= 49).all()


def test_mnist_files_are_read_as_torchvision_reads_them(tmp_path: Path) -> None:
    trees.mnist(tmp_path)
    data = MnistData(str(tmp_path), objects=7, epoch_size=64, batch_size=32)
    data.setup("fit")
    assert [len(pool.labels) for pool in data.pools] == [90, 10, 20]
    official = datasets.MNIST(str(tmp_path), train=False)
    assert torch.equal(data.pools[2].images[:, 0], official.data)
    assert torch.equal(data.pools[2].labels, official.targets)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (32, 1, 84, 84)
    assert (labels.sum(1) == 7).all()


def test_cifar_files_are_read_as_torchvision_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.cifar10(tmp_path, monkeypatch)
    data = Cifar10Data(str(tmp_path), objects=3, epoch_size=8, batch_size=4, augment=True)
    data.setup("fit")
    assert data.class_names == tuple(f"kind {index}" for index in range(10))
    picture, label = datasets.CIFAR10(str(tmp_path), train=False)[7]
    assert torch.equal(data.pools[2].images[7].permute(1, 2, 0), torch.as_tensor(np.array(picture)))
    assert data.pools[2].labels[7] == label
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 96, 96)
    assert images.dtype == torch.uint8


def test_class_folders_become_composites(tmp_path: Path) -> None:
    trees.class_folders(tmp_path)
    data = FolderData(str(tmp_path), image_size=10, objects=2, epoch_size=16, batch_size=8)
    data.setup("fit")
    assert data.class_names == ("ant", "bee", "cat", "dog")
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (8, 3, 30, 30)
    assert labels.shape == (8, 4)
    few = FolderData(str(tmp_path), image_size=10, objects=2, epoch_size=16, batch_size=8, test_size=8)
    few.setup("fit")
    assert torch.bincount(few.pools[2].labels).tolist() == [2, 2, 2, 2]


def broken_image(root: Path) -> None:
    trees.class_folders(root)
    (root / "train" / "bee" / "3.png").write_bytes(b"no picture")


def lonely_class(root: Path) -> None:
    trees.class_folders(root)
    (root / "test" / "dog").rename(root / "test" / "elk")


@pytest.mark.parametrize(
    ("kind", "make", "message"),
    [
        (MnistData, lambda root: None, r"no MNIST in .*; torchvision.datasets.MNIST\(.*download=True\) fetches it"),
        (Cifar10Data, lambda root: None, "no CIFAR10 in .*; torchvision.datasets.CIFAR10"),
        (FolderData, lambda root: None, "train: .*"),
        (FolderData, broken_image, r"cannot read the image .*bee/3.png"),
        (FolderData, lonely_class, "class 'dog' is in one of train/ and test/ only"),
    ],
)
def test_missing_or_broken_data_are_named(
    kind: type[CompositeData], make: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        kind(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"together": 1.5}, r"together: expected a probability in \[0, 1\], got 1.5"),
        ({"tests": ["single", "single"]}, "tests: expected one or more of single, entire, each once"),
        ({"tests": ["whole"]}, "tests: expected one or more of single, entire"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsData(**arguments)
