"""Reading image files, and what a network is given of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from ..errors import DataError

#: Names of image files end in one of these.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")


def read_image(path: str | Path) -> Tensor:
    """The picture at ``path`` as RGB, uint8 ``[3, H, W]``.

    Raises:
        DataError: it is not there or not an image.
    """
    try:
        with Image.open(path) as image:
            return pil_to_tensor(image.convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"there is no image {path}") from None
    except (OSError, ValueError, SyntaxError) as error:  # PIL raises all of these for broken files
        raise DataError(f"cannot read the image {path}: {error}") from None


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(images - mean) / std`` by channel, of images ``[B, channels, H, W]`` in [0, 1]."""
    if all(value == 0 for value in mean) and all(value == 1 for value in std):
        return images
    shift, scale = (images.new_tensor(values)[:, None, None] for values in (mean, std))
    return (images - shift) / scale
