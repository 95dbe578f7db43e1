"""Features made elsewhere, to train a classifier on them alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ..errors import DataError
from .base import Batch, MultilabelData
from .loading import EpochDataset, check_batch, training_loader


class FeatureDataset(TensorDataset, EpochDataset):
    """Features and labels."""


class FeaturesData(MultilabelData):
    """Precomputed features, for ``--model.backbone linear``.

    A file is ``.npz`` or ``.safetensors`` with ``features`` ``[K, n]``, non-negative, and ``labels`` ``[K, C]`` of 0
    and 1.

    Args:
        train_file: the training samples.
        test_file: the test samples.
        validation_file: the validation samples; null for none.
        classes: C names; null: the numbers of the columns.
        batch_size: samples in a training step.
    """

    def __init__(
        self,
        train_file: str,
        test_file: str,
        validation_file: str | None = None,
        classes: list[str] | None = None,
        batch_size: int = 256,
    ) -> None:
        super().__init__(batch_size)
        files = {"train": train_file, "test": test_file, "validation": validation_file}
        self.parts = {part: read_features(Path(file)) for part, file in files.items() if file is not None}
        features, labels = self.parts["train"].tensors
        for part, other in self.parts.items():
            widths = tuple(tensor.shape[1] for tensor in other.tensors)
            if widths != (features.shape[1], labels.shape[1]):
                expected = f"{features.shape[1]} features and {labels.shape[1]} labels"
                raise DataError(f"{files[part]}: expected {expected}, got {widths[0]} and {widths[1]}")
        check_batch(self, len(features))
        self.class_names = tuple(classes or map(str, range(labels.shape[1])))
        if len(self.class_names) != labels.shape[1]:
            raise DataError(f"classes: {len(self.class_names)} names for {labels.shape[1]} columns of labels")
        self.in_channels = features.shape[1]

    def setup(self, stage: str) -> None:
        """Nothing: the files were read when this was made."""

    @property
    def input_size(self) -> tuple[int, ...]:
        """(): features have no sides."""
        return ()

    def train_labels(self) -> Tensor:
        """Labels ``[K, C]`` of the training samples."""
        return self.parts["train"].tensors[1]

    def train_dataloader(self) -> DataLoader:
        """The training samples in a new order in every epoch, whole batches only."""
        return training_loader(self, self.parts["train"])

    def val_dataloader(self) -> list[DataLoader]:
        """The validation samples, if there are any."""
        return [DataLoader(self.parts[part], self.batch_size) for part in ("validation",) if part in self.parts]

    def test_dataloader(self) -> list[DataLoader]:
        """The test samples."""
        return [DataLoader(self.parts["test"], self.batch_size)]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Features are used as they are, in float32."""
        features, labels = batch
        return features.to(torch.float32), labels


def read_features(path: Path) -> FeatureDataset:
    """Features ``[K, n]`` in the type they have, and labels bool ``[K, C]``.

    Raises:
        DataError: the file is missing or in no known format, or its arrays are not what they should be.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            arrays = load_file(path)
        else:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: torch.from_numpy(file[name]) for name in file.files if name in ("features", "labels")}
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except Exception as error:  # the two libraries raise types of their own
        raise DataError(f"cannot read {path} as .npz or .safetensors: {error}") from None
    if not {"features", "labels"} <= arrays.keys():
        raise DataError(f"{path}: expected the arrays features and labels")
    features, labels = arrays["features"], arrays["labels"]
    if features.ndim != 2 or labels.ndim != 2 or len(features) != len(labels):
        raise DataError(f"{path}: expected [K, n] and [K, C], got {list(features.shape)} and {list(labels.shape)}")
    if not features.is_floating_point() or not torch.isfinite(features).all() or (features < 0).any():
        raise DataError(f"{path}: features must be finite, non-negative floating-point numbers")
    if not ((labels == 0) | (labels == 1)).all():
        raise DataError(f"{path}: labels must be 0 or 1")
    return FeatureDataset(features, labels.bool())
