"""Tiny folders of the real formats: what the data modules read, with pictures of noise."""

from __future__ import annotations

import json
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


def voc(root: Path, trainval: Listing, test: Listing) -> None:
    """VOCdevkit/VOC2007 with the images of two sets; a name ending in ? is of an object marked difficult."""
    folder = root / "VOCdevkit" / "VOC2007"
    for part in ("Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for name, listing in (("trainval", trainval), ("test", test)):
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{image}\n" for image, _ in listing))
        for seed, (image, labels) in enumerate(listing):
            picture(folder / "JPEGImages" / f"{image}.jpg", seed)
            objects = "".join(
                f"<object><name>{label.rstrip('?')}</name><difficult>{int(label.endswith('?'))}</difficult></object>"
                for label in labels
            )
            (folder / "Annotations" / f"{image}.xml").write_text(f"<annotation>{objects}</annotation>")


def coco(root: Path, part: str, listing: Listing, names: dict[int, str]) -> None:
    """annotations/instances_PART.json and PART/, with classes ``names`` by id."""
    numbers = {name: number for number, name in names.items()}
    images, boxes = [], []
    for number, (image, labels) in enumerate(listing, start=10):
        picture(root / part / image, number)
        images.append({"id": number, "file_name": image, "width": 40, "height": 32})
        for label in labels:
            box = {"id": len(boxes) + 1, "image_id": number, "category_id": numbers[label], "bbox": [1, 1, 9, 9]}
            boxes.append({**box, "area": 81, "iscrowd": 0})
    (root / "annotations").mkdir(exist_ok=True)
    categories = [{"id": number, "name": name} for number, name in names.items()]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))


def table(path: Path, listing: Listing) -> None:
    """A CSV of the images, and the images beside it."""
    lines = ["file,labels", *(f"{image},{';'.join(labels)}" for image, labels in listing)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    for seed, (image, _) in enumerate(listing):
        picture(path.parent / image, seed)


def features(path: Path, samples: int = 32, width: int = 6, classes: int = 4) -> None:
    """Non-negative features and labels as .npz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(samples)
    labels = random.random((samples, classes)) < 0.5
    labels[np.arange(classes), np.arange(classes)] = True
    np.savez(path, features=random.random((samples, width), dtype=np.float32), labels=labels.astype(np.int8))


def some_images(prefix: str, names: Sequence[str], count: int = 16) -> list[tuple[str, list[str]]]:
    """A listing in which every image shows one or two of ``names``."""
    shown = [[names[index % len(names)], names[(index + 1) % len(names)]][: 1 + index % 2] for index in range(count)]
    return [(f"{prefix}{index:03d}", labels) for index, labels in enumerate(shown)]
