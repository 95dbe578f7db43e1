"""MS-COCO from its instances files, read by pycocotools."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from .base import DataError
from .images import ImageData, Listing, Test, hold_out, make_listing


class CocoData(ImageData):
    """MS-COCO, or any set in its format: the labels of an image are the classes of its boxes. Crowds count.

    Images without any box are left out of the training, and kept in the test.

    Args:
        root: folder that the other paths begin in.
        train_images, test_images: folders of the images.
        train_annotations, test_annotations: their instances files; COCO's test labels being secret, its
            validation part serves as the test.
        image_size: side of the square to which images are scaled.
        batch_size: images in a training step.
        workers: processes that read images; 0 reads in the training process.
        augment: random crops, flips, RandAugment and Cutout on the training images.
        tests: entire (all test images), single (those with one label), or both; the first one counts.
        holdout: share of the training images kept for validation; 0 for none.
        split_seed: which ones; keep it to compare runs.
        mean, std: by channel, of images in [0, 1]; ImageNet's unless given.
    """

    def __init__(
        self,
        root: str,
        train_images: str = "train2014",
        train_annotations: str = "annotations/instances_train2014.json",
        test_images: str = "val2014",
        test_annotations: str = "annotations/instances_val2014.json",
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
        super().__init__(image_size, batch_size, workers, augment, tests, mean, std)
        folder = Path(root)
        names, train = read_instances(folder / train_annotations, folder / train_images)
        test_names, test = read_instances(folder / test_annotations, folder / test_images)
        if names != test_names:
            raise DataError(f"{folder / test_annotations}: its classes are not those of {train_annotations}")
        train, validation = hold_out(train.with_labels(1), holdout, split_seed)
        self.use(names, train, validation, test)


def read_instances(annotations: Path, images: Path) -> tuple[tuple[str, ...], Listing]:
    """(class names in the order of their ids, images).

    Raises:
        DataError: the file is missing or not in COCO's format, or a box is of an unknown class or image.
    """
    from pycocotools.coco import COCO

    if not images.is_dir():
        raise DataError(f"there is no folder {images}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it says what it does
            coco = COCO(str(annotations))
        categories = {entry["id"]: entry["name"] for entry in coco.loadCats(sorted(coco.getCatIds()))}
        entries = coco.loadImgs(sorted(coco.getImgIds()))
        paths = [images / entry["file_name"] for entry in entries]
        shown: list[set[int]] = [
            {box["category_id"] for box in coco.imgToAnns.get(entry["id"], ())} for entry in entries
        ]
    except OSError as error:
        raise DataError(f"cannot read {annotations}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise DataError(f"{annotations} is not an instances file of COCO: {error!r}") from None
    for path, identifiers in zip(paths, shown, strict=True):
        unknown = identifiers - categories.keys()
        if unknown:
            raise DataError(f"{annotations}: {path.name} has a box of the unknown class {min(unknown)}")
    names = [[categories[identifier] for identifier in identifiers] for identifiers in shown]
    return tuple(categories.values()), make_listing(paths, names, tuple(categories.values()))
