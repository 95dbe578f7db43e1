"""The network and the training step, against the reference loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("lightning")

from lightning.pytorch import Callback, LightningModule, Trainer

from indeed_ext import mine_pairs, reference
from indeed_ext.train.backbones import SimpleCNN, create_network, replace_classifier
from indeed_ext.train.module import IndeedModule

BATCH, CLASSES = 16, 10


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [
        (torch.rand(BATCH, 1, 24, 24, generator=generator), torch.rand(BATCH, CLASSES, generator=generator) < 0.4)
        for _ in range(count)
    ]


class Batches:
    """A loader of given batches (Lightning takes a list for several loaders)."""

    def __init__(self, count: int) -> None:
        self.batches = batches(count)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(self.batches)


class Recorder(Callback):
    """Weights before, and loss and logged values after, every step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        self.losses: list[float] = []
        self.logged: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        self.weights.append({name: value.detach().clone() for name, value in pl_module.network.state_dict().items()})

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *rest: Any) -> None:
        self.losses.append(outputs["loss"].item())
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def train(steps: int = 3, **settings: Any) -> tuple[IndeedModule, Recorder]:
    torch.manual_seed(3)
    module = IndeedModule(CLASSES, 1, **settings)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.01)
    recorder = Recorder()
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, callbacks=recorder, log_every_n_steps=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, Batches(steps), Batches(1))
    return module, recorder


def plain(weights: dict[str, torch.Tensor]) -> SimpleCNN:
    network = SimpleCNN(CLASSES)
    network.load_state_dict(weights)
    return network


@pytest.mark.parametrize("size", [(24, 24), (84, 84), (30, 27)])
def test_simple_cnn_has_non_negative_features_for_any_canvas(size: tuple[int, int]) -> None:
    network = SimpleCNN(CLASSES, in_channels=3, hidden=32)
    images = torch.randn(2, 3, *size)
    features = network.forward_head(network.forward_features(images), pre_logits=True)
    assert features.shape == (2, 32)
    assert features.min() == 0
    assert features.max() > 0
    assert torch.equal(network(images), network.get_classifier()(features))
    kinds = [type(layer) for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert kinds == [nn.Conv2d] * 3 + [nn.Linear] * 2


def test_replacing_the_classifier_changes_neither_weights_nor_names() -> None:
    network = SimpleCNN(CLASSES)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    head = nn.Linear(network.get_classifier().in_features, CLASSES)
    replace_classifier(network, head)
    assert network.get_classifier() is head
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_unknown_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown backbone 'vgg0'; the backbones are: simple_cnn"):
        create_network("vgg0", CLASSES, 1)


def test_baseline_is_binary_cross_entropy_of_the_plain_network() -> None:
    module, recorder = train(method="baseline")
    assert type(module.network.get_classifier()) is nn.Linear
    for loss, logged, weights, (images, labels) in zip(
        recorder.losses, recorder.logged, recorder.weights, batches(3), strict=True
    ):
        logits = plain(weights)(images)
        expected = F.binary_cross_entropy_with_logits(logits, labels.float()) * CLASSES
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        assert logged["loss_original"] == pytest.approx(loss)
        assert "partner_share" not in logged


@pytest.mark.parametrize(
    ("settings", "norm", "shares"),
    [
        ({"method": "l2", "lam": 0.5}, "l2", (1, 1)),
        ({"method": "minmax", "strategy": "matching"}, "minmax", (1, 1)),
        ({"method": "identical-only"}, "minmax", (1, 0)),
        ({"method": "disparate-only", "norm": "l2", "strategy": "balanced"}, "l2", (0, 1)),
    ],
)
def test_loss_of_a_step_is_that_of_the_reference(settings: dict[str, Any], norm: str, shares: tuple[int, int]) -> None:
    module, recorder = train(**settings)
    lam = settings.get("lam", 1.0)
    for step, (images, labels) in enumerate(batches(3)):
        network = plain(recorder.weights[step])
        features = network.forward_head(network.forward_features(images), pre_logits=True)
        partner = mine_pairs(labels, strategy=module.strategy, seed=module.seed + (step << 32))
        expected, parts = reference.fused_indeed_loss(
            features, network.classifier.weight, labels, bias=network.classifier.bias, pairs=partner, norm=norm,
            lam=tuple(float(lam * share) for share in shares), return_components=True,
        )  # fmt: skip
        logged = recorder.logged[step]
        assert recorder.losses[step] == pytest.approx(expected.item(), rel=1e-5)
        assert [logged[f"loss_{name}"] for name in ("original", "identical", "disparate")] == pytest.approx(
            parts.tolist(), rel=1e-5
        )
        assert logged["partner_share"] == pytest.approx((partner != torch.arange(BATCH)).float().mean().item())
        assert logged["lr"] == pytest.approx(0.01)


def test_lam_rises_linearly_over_its_share_of_the_steps() -> None:
    _, recorder = train(steps=10, lam=0.8, lam_warmup=0.5)
    expected = [0.8 * min(step / 5, 1) for step in range(10)]
    assert [logged["lam"] for logged in recorder.logged] == pytest.approx(expected)


def test_methods_begin_with_the_same_weights() -> None:
    start = [train(steps=1, method=method)[1].weights[0] for method in ("baseline", "minmax")]
    assert all(torch.equal(value, start[1][name]) for name, value in start[0].items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "bce"}, "method: expected one of baseline, l2, minmax, identical-only, disparate-only, got 'bce'"),
        ({"strategy": "nearest"}, "strategy: expected one of anchor, matching, balanced, got 'nearest'"),
        ({"method": "identical-only", "norm": "l1"}, "norm: expected one of l2, minmax, None, got 'l1'"),
        ({"method": "l2", "norm": "minmax"}, "norm: method 'l2' fixes it"),
        ({"lam": -1.0}, "lam: expected a number of at least 0, got -1"),
        ({"lam": float("nan")}, "lam: expected a number of at least 0, got nan"),
        ({"lam_warmup": 1.5}, r"lam_warmup: expected a share in \[0, 1\], got 1.5"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IndeedModule(CLASSES, 1, **settings)
