"""The training step: a network whose classifier is an :class:`~indeed_ext.INDeeDHead`, or plain cross-entropy."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor

from .. import INDeeDHead, mine_pairs, pack_labels
from .backbones import create_network, pooled_features, replace_classifier
from .data.base import Batch
from .evaluation import Evaluation

Method = Literal["baseline", "l2", "minmax", "identical-only", "disparate-only"]
Norm = Literal["l2", "minmax"]
Strategy = Literal["anchor", "matching", "balanced"]

#: The share of ``lam`` that the identical and the disparate term get; the baseline has neither.
TERM_WEIGHTS = {"l2": (1.0, 1.0), "minmax": (1.0, 1.0), "identical-only": (1.0, 0.0), "disparate-only": (0.0, 1.0)}
PARTS = ("original", "identical", "disparate")


class IndeedModule(LightningModule):
    """Trains a network with INDeeD or, for comparison, with plain binary cross-entropy.

    Args:
        num_classes: C; taken from the data.
        in_channels: channels of an image; taken from the data.
        backbone: the network: simple_cnn, linear (on precomputed features), or any name of timm.list_models(),
            as vgg16, resnet50, tresnet_m, tresnet_xl.
        method: baseline is plain binary cross-entropy; l2 and minmax are INDeeD with that norm of the identical map,
            eqs. (3) and (4); identical-only and disparate-only leave the other term out (Tables 4 and 5).
        norm: the norm of identical-only and disparate-only, minmax unless given; the other methods fix theirs.
        lam: weight of the identical and the disparate term, eq. (6).
        lam_warmup: share of the training steps, in [0, 1], over which lam rises linearly from 0.
        strategy: how partners are chosen: anchor gives every sample one of its compatible partners; matching and
            balanced pair them disjointly.
        pretrained: begin with timm's pre-trained weights of the backbone, which are downloaded.
    """

    thresholds: Tensor

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        backbone: str = "simple_cnn",
        method: Method = "minmax",
        norm: Norm | None = None,
        lam: float = 1.0,
        lam_warmup: float = 0.0,
        strategy: Strategy = "anchor",
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        _check_choice("method", method, get_args(Method))
        _check_choice("strategy", strategy, get_args(Strategy))
        _check_choice("norm", norm, (*get_args(Norm), None))
        if norm is not None and method not in ("identical-only", "disparate-only"):
            raise ValueError(f"norm: method {method!r} fixes it, so it cannot be set to {norm!r}")
        if not 0 <= lam < float("inf"):
            raise ValueError(f"lam: expected a number of at least 0, got {lam}")
        if not 0 <= lam_warmup <= 1:
            raise ValueError(f"lam_warmup: expected a share in [0, 1], got {lam_warmup}")
        self.save_hyperparameters(logger=False)  # config.yaml of the run folder has them
        self.method, self.strategy, self.lam, self.lam_warmup = method, strategy, lam, lam_warmup
        # channels_last is the layout that convolutions are fastest in, on the CPU by a factor of 1.5.
        network = create_network(backbone, num_classes, in_channels, pretrained)
        self.network = network.to(memory_format=torch.channels_last)
        if method != "baseline":
            classifier = self.network.get_classifier()
            norm = method if method in ("l2", "minmax") else norm or "minmax"
            head = INDeeDHead(classifier.in_features, num_classes, bias=classifier.bias is not None, norm=norm)
            replace_classifier(self.network, head)
        self.evaluation = Evaluation()
        self.tests: list[Evaluation] = []  # one for each test set
        # The probability from which on a class is called present, tuned on the validation images.
        self.register_buffer("thresholds", torch.full((num_classes,), 0.5))
        self.seed = torch.initial_seed()  # what seed_everything or torch.manual_seed set

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, in_channels, H, W]``: the plain network, made non-negative at its end."""
        return self.network.get_classifier()(pooled_features(self.network, images))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch: binary cross-entropy summed over classes, averaged over samples, plus INDeeD's terms."""
        images, labels = batch
        features = pooled_features(self.network, images)
        head = self.network.get_classifier()
        if self.method == "baseline":
            logits = head(features)
            loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="sum") / len(labels)
            self.log_step({"loss": loss.detach(), "loss_original": loss.detach()})
            return loss
        lam = self.current_lam()
        # A seed made of the step alone: a resumed run mines the pairs that the uninterrupted one would have.
        seed = (self.seed + (self.global_step << 32)) % 2**63
        bits = pack_labels(labels, with_known=True)
        partner = mine_pairs(bits, strategy=self.strategy, seed=seed, num_classes=labels.shape[1])
        weights = tuple(lam * share for share in TERM_WEIGHTS[self.method])
        loss, parts = head(features, bits, pairs=partner, lam=weights, return_components=True)
        found = partner != torch.arange(len(partner), device=partner.device)
        logged = {f"loss_{name}": part for name, part in zip(PARTS, parts, strict=True)}
        self.log_step({"loss": loss.detach(), **logged, "partner_share": found.float().mean(), "lam": lam})
        return loss

    def log_step(self, values: dict[str, Tensor | float]) -> None:
        """Log the values of a step, on those steps alone that the trainer writes down: each costs a millisecond."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by Lightning's logger connector
        if every and (self.global_step + 1) % every == 0:
            self.log("loss", values.pop("loss"), prog_bar=True)
            self.log_dict({**values, "lr": self.trainer.optimizers[0].param_groups[0]["lr"]})

    def on_train_start(self) -> None:
        """Find out how many steps the warm-up takes, now that their total is known."""
        self.warmup_steps = self.lam_warmup * self.trainer.estimated_stepping_batches

    def current_lam(self) -> float:
        """``lam`` at this step: linear from 0 over the warm-up, constant after."""
        return self.lam * min(self.global_step / self.warmup_steps, 1.0) if self.warmup_steps else self.lam

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the scores of a validation batch."""
        images, labels = batch
        self.evaluation.update(self(images), labels)

    def on_validation_epoch_end(self) -> None:
        """Log the measures of the validation images, and tune the thresholds on them."""
        report = self.evaluation.report([str(index) for index in range(len(self.thresholds))])
        self.log("val_mAP", report.mean_average_precision, prog_bar=True)
        self.log_dict({"val_diagonal": report.mean_diagonal, "val_off_diagonal": report.mean_off_diagonal})
        self.thresholds.copy_(self.evaluation.thresholds())
        self.evaluation.reset()

    def on_test_epoch_start(self) -> None:
        """Forget scores of an earlier test; those of this one stay for :meth:`Evaluation.report`."""
        self.tests = [Evaluation() for _ in self.trainer.test_dataloaders or ()]

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the scores of a batch of a test set."""
        images, labels = batch
        self.tests[dataloader_idx].update(self(images), labels)

    def plain_state_dict(self) -> dict[str, Any]:
        """The weights under the names they have in the plain network of :func:`~.backbones.create_network`."""
        return {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")
