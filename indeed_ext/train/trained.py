"""A trained network as a run leaves it: ``model.safetensors``, which says in its metadata all that using it takes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torchvision.transforms import v2

from .backbones import Network, create_network, pooled_features
from .data.reading import normalise, read_image
from .errors import DataError


@dataclass(frozen=True)
class About:
    """The settings that using a trained network takes.

    Attributes:
        backbone: its name.
        classes: C names.
        in_channels: channels of an image, or width of precomputed features.
        image_size: (height, width) that images are scaled to; () where it takes features.
        mean, std: by channel, of images in [0, 1].
        thresholds: ``[C]``, the probability from which on a class is called present.
    """

    backbone: str
    classes: list[str]
    in_channels: int
    image_size: list[int]
    mean: list[float]
    std: list[float]
    thresholds: list[float]


class Classifier(nn.Module):
    """The whole way from images in [0, 1] to probabilities, without any part of the loss."""

    def __init__(self, network: Network, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities ``[B, C]`` of images ``[B, in_channels, H, W]`` in [0, 1]."""
        features = pooled_features(self.network, normalise(images, self.mean, self.std))
        return self.network.get_classifier()(features).sigmoid()


def save_trained(weights: dict[str, Tensor], about: About, path: Path) -> None:
    """Write the plain network's weights, with what is to be known about them as metadata."""
    metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in asdict(about).items()}
    # save_file would make a file that nobody else may read.
    path.write_bytes(save(weights, metadata))


def load_trained(path: Path) -> tuple[Classifier, About]:
    """The network in evaluation mode, of a ``model.safetensors`` or of the run folder that holds one.

    Raises:
        DataError: there is none, or it is no such file.
    """
    path = path / "model.safetensors" if path.is_dir() else path
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dictionary)
        values = {field.name: metadata[field.name] for field in fields(About)}
        about = About(**{name: value if name == "backbone" else json.loads(value) for name, value in values.items()})
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except (SafetensorError, OSError, KeyError, ValueError):
        raise DataError(f"{path} is not a network that `indeed fit` wrote") from None
    network = create_network(about.backbone, len(about.classes), about.in_channels)
    network.load_state_dict(weights)
    return Classifier(network, about.mean, about.std).eval(), about


def load_image(path: Path, about: About) -> Tensor:
    """The picture at ``path`` as the network takes it: float32 ``[in_channels, H, W]`` in [0, 1].

    Raises:
        DataError: it cannot be read, or the network takes features.
    """
    if not about.image_size:
        raise DataError("this network takes features, not images")
    image = v2.functional.resize(read_image(path), about.image_size, antialias=True)
    if about.in_channels == 1:
        image = v2.functional.rgb_to_grayscale(image)
    return image.to(torch.float32) / 255
