"""PASCAL VOC 2007 from its XML annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from ..errors import DataError
from .images import ImageData, Listing, make_listing

# fmt: off
CLASS_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


class VocData(ImageData):
    """PASCAL VOC 2007. An object marked difficult counts as present, as in the paper's numbers of images.

    Args:
        root: folder that holds VOCdevkit/VOC2007, as torchvision.datasets.VOCDetection unpacks it.
        scheme: all trains on all of trainval (5,011 images), split on those with several labels alone.
        options: those of every :class:`ImageData`.
    """

    def __init__(
        self,
        root: str,
        scheme: Literal["all", "split"] = "all",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        folder = Path(root) / "VOCdevkit" / "VOC2007"
        train, test = (read_image_set(folder, name) for name in ("trainval", "test"))
        self.use(CLASS_NAMES, train.with_labels(2) if scheme == "split" else train, test)


def read_image_set(folder: Path, name: str) -> Listing:
    """The images of ``ImageSets/Main/NAME.txt``, with the labels of their annotations.

    Raises:
        DataError: a file is missing or is no annotation, or an object is of an unknown class.
    """
    listed = folder / "ImageSets" / "Main" / f"{name}.txt"
    try:
        identifiers = listed.read_text(encoding="utf-8").split()
    except OSError as error:
        raise DataError(f"cannot read {listed}: {error.strerror}") from None
    shown = [read_annotation(folder / "Annotations" / f"{identifier}.xml") for identifier in identifiers]
    paths = [folder / "JPEGImages" / f"{identifier}.jpg" for identifier in identifiers]
    return make_listing(paths, shown, CLASS_NAMES)


def read_annotation(path: Path) -> list[str]:
    """The classes of the objects of an annotation file.

    Raises:
        DataError: it is missing, or is not XML, or an object is of an unknown class.
    """
    try:
        names = [item.findtext("name", "").strip() for item in ElementTree.parse(path).iterfind("object")]
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    for name in names:
        if name not in CLASS_NAMES:
            raise DataError(f"{path}: unknown class {name!r}; the classes are: {', '.join(CLASS_NAMES)}")
    return names
