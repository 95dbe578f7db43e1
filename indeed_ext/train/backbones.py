"""Networks, all with timm's conventions, so that the trainer treats its own and timm's alike.

Nothing here needs more than torch, so that a trained network can be used where no trainer is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn


class Network(nn.Module):
    """The methods that the trainer uses; timm's networks have them too, without this base."""

    classifier: nn.Linear

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map of images ``[B, in_channels, H, W]``."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``[B, C]``, or with ``pre_logits`` the features ``[B, n]``, from the last feature map."""
        return x if pre_logits else self.classifier(x)

    def get_classifier(self) -> nn.Linear:
        """The last layer."""
        return self.classifier

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, in_channels, H, W]``."""
        return self.forward_head(self.forward_features(x))


class SimpleCNN(Network):
    """The paper's simple network: three convolutions and two fully connected layers, the second the classifier.

    ReLU follows all but the classifier, so its features ``[B, hidden]`` are non-negative, as the identical map
    of eqs. (3) and (4) expects. It comes after the pooling, with which it commutes, where it has a quarter of the
    work. The last pooling leaves one position per cell of the canvas whatever the size of the image.

    Args:
        num_classes: C.
        in_channels: channels of an image.
        width: channels of the first convolution; the others have 2 and 4 times as many.
        hidden: n, the width of the features.
        grid: positions along each side that the last pooling leaves.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 1, width: int = 16, hidden: int = 256, grid: int = 3
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.ReLU(),
        )
        self.neck = nn.Sequential(
            nn.AdaptiveMaxPool2d(grid), nn.Flatten(), nn.Linear(4 * width * grid * grid, hidden), nn.ReLU()
        )
        self.classifier = nn.Linear(hidden, num_classes)
        # He's initialisation: with torch's default the first hundreds of steps change next to nothing.
        for layer in (*self.features, *self.neck):
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map, ``[B, 4 width, H / 4, W / 4]``, of images ``[B, in_channels, H, W]``."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``[B, C]``, or with ``pre_logits`` the features ``[B, hidden]``, from the last feature map."""
        return super().forward_head(self.neck(x), pre_logits)


class LinearNetwork(Network):
    """A linear classifier on features made elsewhere: the images of this network are features ``[B, in_channels]``."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """``x`` itself."""
        return x


#: Own networks by name; timm's join in :func:`create_network`.
NETWORKS: dict[str, Callable[..., Network]] = {"simple_cnn": SimpleCNN, "linear": LinearNetwork}


def create_network(name: str, num_classes: int, in_channels: int, pretrained: bool = False) -> Network:
    """The plain network, with an ``nn.Linear`` classifier and no part of the loss: what a trained run is loaded into.

    Args:
        name: an own network, or any of ``timm.list_models()``, which is then made by ``timm.create_model``.
        num_classes: C.
        in_channels: channels of an image.
        pretrained: with timm's pre-trained weights, which are downloaded.

    Raises:
        ValueError: there is no network of that name, or none with a linear classifier, or no such weights.
    """
    if name in NETWORKS:
        if pretrained:
            raise ValueError(f"pretrained: there are no weights for {name!r}, only for timm's networks")
        return NETWORKS[name](num_classes=num_classes, in_channels=in_channels)
    import timm

    if not timm.is_model(name):
        own = ", ".join(NETWORKS)
        raise ValueError(f"unknown backbone {name!r}; the backbones are: {own}, and the names of timm.list_models()")
    try:
        made = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels)
    except (RuntimeError, OSError) as error:
        raise ValueError(f"backbone {name!r}: {error}") from None
    network = cast(Network, made)
    if not (hasattr(network, "forward_head") and isinstance(network.get_classifier(), nn.Linear)):
        raise ValueError(f"backbone {name!r} has no linear classifier")
    return network


def pooled_features(network: Network, images: Tensor) -> Tensor:
    """The input of the classifier, ``[B, n]``, of images ``[B, in_channels, H, W]``: pooled and non-negative.

    Most convolutional networks (VGG, ResNet, TResNet) end in a ReLU, and for those the second one here changes
    nothing. For the others it belongs to the network: ``forward_head`` alone lacks it.
    """
    return network.forward_head(network.forward_features(images), pre_logits=True).relu()


def replace_classifier(network: Network, head: nn.Linear) -> None:
    """Put ``head`` in the classifier's place, with its weights: the network's state_dict stays the same."""
    classifier = network.get_classifier()
    head.load_state_dict(classifier.state_dict())
    name = next(name for name, module in network.named_modules() if module is classifier)
    network.set_submodule(name, head)
