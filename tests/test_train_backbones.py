"""Networks of timm: non-negative features, a step that lowers the loss, and weights that load into the plain model."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lightning")

import timm
from torch import nn

from indeed_ext import INDeeDHead
from indeed_ext.train.backbones import create_network, pooled_features
from indeed_ext.train.module import IndeedModule

CLASSES = 5


def images(count: int = 4, size: int = 48) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["resnet50", "tresnet_m"])
def test_networks_that_end_in_relu_are_the_plain_ones(name: str) -> None:
    network = create_network(name, CLASSES, 3).eval()
    assert type(network.get_classifier()) is nn.Linear
    with torch.no_grad():
        features = pooled_features(network, images(2))
        torch.testing.assert_close(network.get_classifier()(features), network(images(2)), rtol=1e-5, atol=1e-5)
    assert features.shape == (2, network.num_features)
    assert features.min() >= 0
    assert features.max() > 0


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_signed_features_are_made_non_negative(name: str) -> None:
    network = create_network(name, CLASSES, 3).eval()
    with torch.no_grad():
        picture = images(1, 224)
        signed = network.forward_head(network.forward_features(picture), pre_logits=True)
        features = pooled_features(network, picture)
    assert signed.min() < 0
    assert torch.equal(features, signed.clamp(min=0))


@pytest.mark.parametrize("name", ["vgg16", "tresnet_xl"])
def test_the_big_ones_are_there_with_a_linear_classifier(name: str) -> None:
    with torch.device("meta"):
        network = create_network(name, CLASSES, 3)
    assert isinstance(network.get_classifier(), nn.Linear)
    assert network.get_classifier().out_features == CLASSES


@pytest.mark.parametrize("name", ["resnet50", "tresnet_m"])
def test_steps_lower_the_loss_and_the_weights_load_into_timm(name: str) -> None:
    module = IndeedModule(CLASSES, 3, backbone=name, method="l2")
    assert isinstance(module.network.get_classifier(), INDeeDHead)
    optimizer = torch.optim.Adam(module.network.parameters(), lr=1e-3)
    labels = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 1, 1]]).bool()
    pairs = torch.tensor([1, 0, 3, 2])
    losses = []
    for _ in range(5):
        loss = module.network.get_classifier()(pooled_features(module.network, images()), labels, pairs=pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]

    plain = timm.create_model(name, num_classes=CLASSES)
    plain.load_state_dict(module.plain_state_dict(), strict=True)
    plain.eval()
    module.eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(images()), module(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("vgg0", False, "unknown backbone 'vgg0'; .* the names of timm.list_models"),
        ("simple_cnn", True, "pretrained: there are no weights for 'simple_cnn'"),
        ("levit_128s", False, "backbone 'levit_128s' has no linear classifier"),
    ],
)
def test_a_backbone_that_cannot_be_is_refused(name: str, pretrained: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_network(name, CLASSES, 3, pretrained)
