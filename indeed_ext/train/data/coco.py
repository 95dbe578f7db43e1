"""MS-COCO from its instances files, read by pycocotools."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from ..errors import DataError
from .images import ImageData, Listing, make_listing


class CocoData(ImageData):
    """MS-COCO, or any set in its format: the labels of an image are the classes of its boxes. Crowds count.

    Images without any box are left out of the training, and kept in the test.

    Args:
        root: folder that the other paths begin in.
        train_images: folder of the training images.
        train_annotations: their instances file.
        test_images: folder of the test images; COCO's test labels being secret, its validation part.
        test_annotations: their instances file.
        options: those of every :class:`ImageData`.
    """

    def __init__(
        self,
        root: str,
        train_images: str = "train2014",
        train_annotations: str = "annotations/instances_train2014.json",
        test_images: str = "val2014",
        test_annotations: str = "annotations/instances_val2014.json",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        folder = Path(root)
        names, train = read_instances(folder / train_annotations, folder / train_images)
        test_names, test = read_instances(folder / test_annotations, folder / test_images)
        if names != test_names:
            raise DataError(f"{folder / test_annotations}: its classes are not those of {train_annotations}")
        self.use(names, train.with_labels(1), test)


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
