"""ML-Digits-N: composites of the 1,797 handwritten digits that scikit-learn carries, so nothing is downloaded."""

from __future__ import annotations

import torch

from .composites import CompositeData, Pool

#: Grey levels of scikit-learn's digits run from 0 to 16.
MAX_GREY = 16
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1


class DigitsData(CompositeData):
    """Composites of N different handwritten digits of 8 x 8 pixels on a canvas of 24 x 24.

    Of the 1,797 digits 70 % make the training composites, 10 % are for validation and 20 % for the test,
    stratified by class. Validation and test show one digit at a time, in each of the nine cells.
    """

    class_names = tuple("0123456789")
    in_channels = 1

    def load_pools(self) -> tuple[Pool, Pool, Pool]:
        """Training, validation and test digits; none is in two of them."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images = torch.from_numpy(digits.images * (255 / MAX_GREY)).round().to(torch.uint8).unsqueeze(1)
        pool = Pool(images, torch.from_numpy(digits.target).long())
        rest, test = train_test_split(
            range(len(images)), test_size=TEST_SHARE, stratify=digits.target, random_state=self.split_seed
        )
        train, validation = train_test_split(
            rest,
            test_size=VALIDATION_SHARE / (1 - TEST_SHARE),
            stratify=digits.target[rest],
            random_state=self.split_seed,
        )
        train, validation, test = (pool.subset(torch.tensor(sorted(part))) for part in (train, validation, test))
        return train, validation, test
