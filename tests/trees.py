"""Tiny folders of the real formats: what the data modules read, with pictures of noise."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

#: (file name, labels) of an image set.
Listing = Sequence[tuple[str, Sequence[str]]]


def picture(path: Path, seed: int, size: tuple[int, int] = (40, 32)) -> None:
    """Noise as an image file of ``size`` (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def mnist(root: Path, train: int = 100, test: int = 20) -> None:
    """The IDX files of torchvision.datasets.MNIST; the classes take turns."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", train), ("t10k", test)):
        images = np.random.default_rng(count).integers(1, 256, (count, 28, 28), dtype=np.uint8)
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())


def cifar10(root: Path, monkeypatch: object, per_batch: int = 20) -> None:
    """The pickled batches of torchvision.datasets.CIFAR10, whose checksums are not those of the real ones."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [f"data_batch_{index}" for index in range(1, 6)] + ["test_batch"]
    for seed, name in enumerate(names):
        data = np.random.default_rng(seed).integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        batch = {"data": data, "labels": [index % 10 for index in range(per_batch)]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"kind {index}" for index in range(10)]}))
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: (folder / "test_batch").is_file())
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *rest: True)


def class_folders(root: Path, classes: Sequence[str] = ("ant", "bee", "cat", "dog"), per_class: int = 12) -> None:
    """root/train/CLASS/*.png and root/test/CLASS/*.png."""
    for part in ("train", "test"):
        for number, name in enumerate(classes):
            for index in range(per_class):
                picture(root / part / name / f"{index}.png", 1000 * number + index, (20, 16))
