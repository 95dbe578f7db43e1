"""Image sets in their real formats: which images, which labels, and what is said of broken ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

import trees
from safetensors.torch import save_file

from indeed_ext.train.data.base import MultilabelData
from indeed_ext.train.data.coco import CocoData
from indeed_ext.train.data.features import FeaturesData
from indeed_ext.train.data.images import Listing
from indeed_ext.train.data.table import CsvData
from indeed_ext.train.data.voc import CLASS_NAMES, VocData
from indeed_ext.train.errors import DataError

SMALL = {"image_size": 24, "batch_size": 2, "workers": 0}
TRAINVAL = [("1", ["dog"]), ("2", ["dog", "cat"]), ("3", ["person", "person"]), ("4", ["car", "bus?"])]
TEST = [("5", ["dog?"]), ("6", ["cat", "dog"]), ("7", ["sheep", "sheep"])]
#: The ids of COCO have holes, and need not be in alphabetical order.
COCO_NAMES = {1: "person", 3: "car", 90: "ant"}
COCO_TRAIN = [("a.jpg", ["ant", "car"]), ("b.jpg", []), ("c.jpg", ["person", "person"]), ("d.jpg", ["car"])]
COCO_TEST = [("e.jpg", ["ant"]), ("f.jpg", ["ant", "person"]), ("g.jpg", [])]


def contents(listing: Listing, names: tuple[str, ...]) -> dict[str, set[str]]:
    rows = zip(listing.paths, listing.labels, strict=True)
    return {path.name: {names[index] for index in row.nonzero().flatten()} for path, row in rows}


def test_voc_counts_difficult_objects_as_present(tmp_path: Path) -> None:
    trees.voc(tmp_path, TRAINVAL, TEST)
    data = VocData(str(tmp_path), holdout=0, tests=["single", "entire"], **SMALL)
    assert contents(data.train, CLASS_NAMES) == {
        "1.jpg": {"dog"}, "2.jpg": {"dog", "cat"}, "3.jpg": {"person"}, "4.jpg": {"car", "bus"},
    }  # fmt: skip
    assert data.val_dataloader() == []
    single, entire = data.test_dataloader()
    assert contents(single.dataset.listing, CLASS_NAMES) == {"5.jpg": {"dog"}, "7.jpg": {"sheep"}}
    assert set(contents(entire.dataset.listing, CLASS_NAMES)) == {"5.jpg", "6.jpg", "7.jpg"}
    assert data.num_classes == 20


def test_voc_split_trains_on_images_of_several_labels(tmp_path: Path) -> None:
    trees.voc(tmp_path, TRAINVAL, TEST)
    data = VocData(str(tmp_path), scheme="split", holdout=0, **SMALL)
    assert set(contents(data.train, CLASS_NAMES)) == {"2.jpg", "4.jpg"}


def test_coco_classes_are_in_the_order_of_their_ids(tmp_path: Path) -> None:
    trees.coco(tmp_path, "train2014", COCO_TRAIN, COCO_NAMES)
    trees.coco(tmp_path, "val2014", COCO_TEST, COCO_NAMES)
    data = CocoData(str(tmp_path), holdout=0, tests=["entire", "single"], **SMALL)
    assert data.class_names == ("person", "car", "ant")
    shown = contents(data.train, data.class_names)
    assert shown == {"a.jpg": {"ant", "car"}, "c.jpg": {"person"}, "d.jpg": {"car"}}  # b shows nothing
    entire, single = (contents(loader.dataset.listing, data.class_names) for loader in data.test_dataloader())
    assert entire == {"e.jpg": {"ant"}, "f.jpg": {"ant", "person"}, "g.jpg": set()}
    assert single == {"e.jpg": {"ant"}}


def test_csv_lists_images_beside_it(tmp_path: Path) -> None:
    trees.table(tmp_path / "train.csv", [("x/1.png", ["b", "a"]), ("2.png", []), ("3.png", ["c"])])
    trees.table(tmp_path / "test.csv", [("4.png", ["a"])])
    data = CsvData(str(tmp_path / "train.csv"), str(tmp_path / "test.csv"), holdout=0, **SMALL)
    assert data.class_names == ("a", "b", "c")
    assert contents(data.train, data.class_names) == {"1.png": {"a", "b"}, "2.png": set(), "3.png": {"c"}}
    chosen = CsvData(
        str(tmp_path / "train.csv"), str(tmp_path / "test.csv"), str(tmp_path / "test.csv"), classes=list("cba"),
        **SMALL,
    )  # fmt: skip
    assert chosen.class_names == ("c", "b", "a")
    assert contents(chosen.validation, chosen.class_names) == {"4.png": {"a"}}


def test_an_epoch_of_images_follows_seed_and_epoch(tmp_path: Path) -> None:
    listing = [(f"{index}.png", ["a"]) for index in range(6)]
    trees.table(tmp_path / "train.csv", listing)
    path = str(tmp_path / "train.csv")

    def epoch(number: int, seed: int = 0) -> torch.Tensor:
        torch.manual_seed(seed)
        loader = CsvData(path, path, holdout=0, **SMALL).train_dataloader()
        loader.sampler.set_epoch(number)
        torch.rand(number)  # the default generator is somewhere else in every epoch
        return torch.cat([images for images, _ in loader])

    first = epoch(1)
    assert first.shape == (6, 3, 24, 24)
    assert first.dtype == torch.uint8
    assert torch.equal(first, epoch(1))
    assert not torch.equal(first, epoch(2))
    assert not torch.equal(first, epoch(1, seed=1))


def test_held_out_images_are_not_trained_on(tmp_path: Path) -> None:
    trees.table(tmp_path / "train.csv", [(f"{index}.png", ["a"]) for index in range(10)])
    path = str(tmp_path / "train.csv")
    data = CsvData(path, path, holdout=0.3, **SMALL)
    train, validation = set(data.train.paths), set(data.validation.paths)
    assert (len(train), len(validation)) == (7, 3)
    assert not train & validation


def test_images_are_normalised_by_channel(tmp_path: Path) -> None:
    trees.table(tmp_path / "train.csv", [(f"{index}.png", ["a"]) for index in range(2)])
    path = str(tmp_path / "train.csv")
    mean, std = (0.5, 0.25, 0.0), (0.5, 1.0, 2.0)
    data = CsvData(path, path, holdout=0, mean=mean, std=std, **SMALL)
    images, labels = next(iter(data.test_dataloader()[0]))
    seen, _ = data.on_after_batch_transfer((images, labels), 0)
    for channel in range(3):
        expected = (images[:, channel] / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(seen[:, channel], expected)


def test_features_of_both_formats(tmp_path: Path) -> None:
    trees.features(tmp_path / "train.npz")
    arrays = dict(np.load(tmp_path / "train.npz"))
    save_file({name: torch.from_numpy(value) for name, value in arrays.items()}, tmp_path / "test.safetensors")
    data = FeaturesData(str(tmp_path / "train.npz"), str(tmp_path / "test.safetensors"), batch_size=8)
    assert (data.in_channels, data.class_names) == (6, ("0", "1", "2", "3"))
    features, labels = data.on_after_batch_transfer(next(iter(data.test_dataloader()[0])), 0)
    assert torch.equal(features, torch.from_numpy(arrays["features"][:8]))
    assert torch.equal(labels, torch.from_numpy(arrays["labels"][:8]).bool())


# ------------------------------------------------------------------------------- errors


def voc_without(part: str) -> Callable[[Path], MultilabelData]:
    def make(root: Path) -> MultilabelData:
        trees.voc(root, TRAINVAL, TEST)
        (root / "VOCdevkit" / "VOC2007" / part).unlink()
        return VocData(str(root), **SMALL)

    return make


def voc_of_a_yeti(root: Path) -> MultilabelData:
    trees.voc(root, [*TRAINVAL, ("8", ["yeti"])], TEST)
    return VocData(str(root), **SMALL)


def coco_with(annotations: str) -> Callable[[Path], MultilabelData]:
    def make(root: Path) -> MultilabelData:
        trees.coco(root, "train2014", COCO_TRAIN, COCO_NAMES)
        trees.coco(root, "val2014", COCO_TEST, COCO_NAMES)
        file = root / "annotations" / "instances_train2014.json"
        file.write_text(annotations or file.read_text().replace('"category_id": 90', '"category_id": 91'))
        return CocoData(str(root), **SMALL)

    return make


def csv_of(text: str, **options: object) -> Callable[[Path], MultilabelData]:
    def make(root: Path) -> MultilabelData:
        trees.table(root / "train.csv", [("1.png", ["a"]), ("2.png", ["b"])])
        (root / "train.csv").write_text(text)
        return CsvData(str(root / "train.csv"), str(root / "train.csv"), **SMALL, **options)

    return make


def features_of(**arrays: np.ndarray) -> Callable[[Path], MultilabelData]:
    def make(root: Path) -> MultilabelData:
        np.savez(root / "train.npz", **arrays)
        return FeaturesData(str(root / "train.npz"), str(root / "train.npz"), batch_size=2)

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: VocData(str(root), **SMALL), "cannot read .*trainval.txt: No such file"),
        (voc_without("Annotations/2.xml"), "cannot read .*Annotations/2.xml"),
        (voc_of_a_yeti, "8.xml: unknown class 'yeti'; the classes are: aeroplane"),
        (lambda root: CocoData(str(root), **SMALL), "there is no folder .*train2014"),
        (coco_with("[]"), "instances_train2014.json is not an instances file of COCO"),
        (coco_with("{"), "instances_train2014.json is not an instances file of COCO"),
        (coco_with(""), "a.jpg has a box of the unknown class 91"),
        (lambda root: CsvData(str(root / "t.csv"), str(root / "t.csv"), **SMALL), "cannot read .*t.csv: No such file"),
        (csv_of("name,labels\n"), "expected the columns file,labels, got name,labels"),
        (csv_of("file,labels\n"), "train.csv lists no images"),
        (csv_of("file,labels\n1.png,a\n2.png,a,b\n"), "train.csv, line 3: expected 2 columns, got 3"),
        (csv_of("file,labels\n,a\n"), "train.csv, line 2: no file name"),
        (csv_of("file,labels\n1.png,a;;b\n"), "train.csv, line 2: an empty label in 'a;;b'"),
        (csv_of("file,labels\n1.png,a\n\n3.png,a\n"), "train.csv, line 4: there is no image .*3.png"),
        (csv_of("file,labels\n1.png,a\n2.png,z\n", classes=["a"]), "line 3: unknown class 'z'; the classes are: a"),
        (csv_of("file,labels\n1.png,a\n"), "batch_size: 2 is more than the 1 training samples"),
        (features_of(features=np.ones((4, 3))), "expected the arrays features and labels"),
        (features_of(features=-np.ones((4, 3)), labels=np.ones((4, 2))), "features must be finite, non-negative"),
        (features_of(features=np.ones((4, 3)), labels=2 * np.ones((4, 2))), "labels must be 0 or 1"),
        (features_of(features=np.ones((4, 3)), labels=np.ones((3, 2))), r"expected \[K, n\] and \[K, C\]"),
    ],
)
def test_missing_or_broken_data_are_named(make: Callable[[Path], MultilabelData], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        make(tmp_path)
