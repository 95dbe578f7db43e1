"""Partners of every backend: bit for bit those of the reference, and what mining promises about them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import kit
import literal
import pytest
import torch
from kit import Backend
from torch import Tensor

from indeed_ext import mine_pairs, pack_labels, reference

_BATCHES_OF_SETS = 20
_KINDS = (
    "sparse", "medium", "dense", "unknown", "few distinct", "one class in all", "skewed", "all equal", "empty", "full",
)  # fmt: skip


def _size(dealer: random.Random) -> int:
    """Mostly small, sometimes a training batch, at times more."""
    low, high = dealer.choices(((0, 24), (25, 96), (97, 256), (257, 600)), (60, 25, 11, 4))[0]
    return dealer.randint(low, high)


def _label_set(kind: str, generator: torch.Generator, batch: int, classes: int) -> Tensor:
    if kind in ("empty", "full"):
        return torch.full((batch, classes), int(kind == "full"))
    densities = {"sparse": 1 / classes, "dense": 0.6}
    labels = kit.random_labels(
        generator, batch, classes, unknown=kind == "unknown", density=densities.get(kind, min(0.5, 3 / classes))
    )
    if kind == "few distinct":
        return labels[torch.randint(min(4, batch), (batch,), generator=generator)] if batch else labels
    if kind == "one class in all":
        labels[:, 0] = 1
    if kind == "skewed":
        chance = 1 / (1 + torch.arange(classes, dtype=torch.float64))
        return (torch.rand(batch, classes, generator=generator, dtype=torch.float64) < chance).long()
    if kind == "all equal" and batch:
        return labels[:1].repeat(batch, 1)
    return labels


def _label_sets(part: int, count: int) -> Iterator[tuple[str, Tensor, int]]:
    """(description, labels, seed): any size up to (600, 200), any density, any 64-bit seed."""
    dealer, generator = random.Random(part), torch.Generator().manual_seed(part)
    for turn in range(count):
        kind = _KINDS[turn % len(_KINDS)]
        batch, classes = _size(dealer), dealer.randint(1, 200)
        if turn == 0:
            batch, classes = 600 - part, 200 - part
        seed = dealer.choice((dealer.getrandbits(63), -dealer.getrandbits(63), dealer.randint(-3, 3)))
        yield f"{kind} {batch}x{classes}, seed {seed}", _label_set(kind, generator, batch, classes), seed


def _check_promises(partner: Tensor, labels: Tensor, strategy: str) -> None:
    """Compatible partners or oneself; a matching is also symmetric and maximal."""
    indices = torch.arange(len(partner))
    compatible = reference.compatible_pairs(labels == 1)
    alone = partner == indices
    assert (alone | compatible[indices, partner]).all()
    if strategy == "anchor":
        assert torch.equal(alone, ~compatible.any(1))
    else:
        assert torch.equal(partner[partner], indices)
        assert not compatible[alone][:, alone].any()


@pytest.mark.parametrize("part", range(_BATCHES_OF_SETS))
@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_partners_are_those_of_the_reference(backend: Backend, strategy: str, part: int) -> None:
    """1,000 random label sets for each strategy."""
    for name, labels, seed in _label_sets(part, backend.label_sets // _BATCHES_OF_SETS):
        labels = labels[: backend.max_batch, : backend.max_classes]
        given = labels.to(backend.device)
        with kit.Unchanged({"labels": given}):
            partner = mine_pairs(given, strategy=strategy, seed=seed, backend=backend.name).cpu()
        assert partner.dtype == torch.int64
        assert torch.equal(partner, reference.mine_pairs(labels, strategy=strategy, seed=seed)), name
        _check_promises(partner, labels, strategy)


@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_partners_are_those_of_the_definition(backend: Backend, strategy: str) -> None:
    """Sequential greedy over sorted edges, and the anchor rule, in plain Python."""
    for name, labels, seed in _label_sets(100, 40):
        labels = labels[:20, :7]
        present = [{c for c, label in enumerate(row) if label == 1} for row in labels.tolist()]
        partner = mine_pairs(labels.to(backend.device), strategy=strategy, seed=seed, backend=backend.name)
        assert partner.tolist() == literal.mine_pairs(present, strategy, seed), name


@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_a_large_batch(backend: Backend, strategy: str) -> None:
    batch = min(2200, backend.max_batch)
    labels = kit.random_labels(torch.Generator().manual_seed(1), batch, 80)
    partner = mine_pairs(labels.to(backend.device), strategy=strategy, seed=7, backend=backend.name).cpu()
    _check_promises(partner, labels, strategy)
    assert torch.equal(partner, reference.mine_pairs(labels, strategy=strategy, seed=7))


# ----------------------------------------------------------------- the random choice


def _chi_square_bound(freedom: float, deviations: float = 4.0) -> float:
    """The chi-square value that a fair draw passes with a probability of about 3e-5 (Wilson and Hilferty)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + deviations * math.sqrt(spread)) ** 3


def _draws(backend: Backend, labels: Tensor, strategy: str, count: int) -> Tensor:
    """Partners of ``count`` successive seeds, as modules use them: ``[count, B]``."""
    words = pack_labels(labels.to(backend.device), backend=backend.name)
    classes = labels.shape[1]
    return torch.stack(
        [
            mine_pairs(words, strategy=strategy, seed=seed, num_classes=classes, backend=backend.name)
            for seed in range(count)
        ]
    ).cpu()


def _common_and_rare_pairs() -> dict[str, Tensor]:
    common = kit.random_labels(torch.Generator().manual_seed(3), 9, 4, density=0.5)
    rare = torch.zeros(400, 2, dtype=torch.int64)  # 5 compatible partners in 400: probes miss in two of three draws
    rare[:, 0] = 1
    rare[[17, 80, 81, 255, 399], 1] = 1
    return {"common": common, "rare": rare}


@pytest.mark.parametrize("density", ["common", "rare"])
def test_anchor_partners_are_uniform(backend: Backend, density: str) -> None:
    """Chi-square over every sample's candidates; the rare case is drawn by rank where 32 probes miss."""
    labels = _common_and_rare_pairs()[density]
    if len(labels) > backend.max_batch and backend.compiled:
        pytest.skip(f"{backend.name} is slow here: batches up to {backend.max_batch}, this needs {len(labels)}")
    count = 4 * backend.label_sets if density == "common" else 300
    draws = _draws(backend, labels, "anchor", count)
    compatible = reference.compatible_pairs(labels == 1)
    statistic, freedom = 0.0, 0
    for i, candidates in enumerate(compatible):
        options = candidates.nonzero().flatten()
        if len(options) < 2 or count / len(options) < 5:
            continue
        observed = torch.bincount(draws[:, i], minlength=len(labels))[options]
        assert observed.sum() == count
        expected = count / len(options)
        statistic += float((observed - expected).square().sum() / expected)
        freedom += len(options) - 1
    assert freedom >= 20
    assert statistic < _chi_square_bound(freedom)


def test_the_bound_on_chi_square_is_of_use() -> None:
    """It agrees with tabulated quantiles, and a draw that prefers one of ten candidates by a quarter fails it."""
    assert _chi_square_bound(10, 2.3263) == pytest.approx(23.209, rel=5e-3)
    assert _chi_square_bound(100, 2.3263) == pytest.approx(135.807, rel=2e-3)
    count = 4000
    shares = torch.tensor([1.25] + [8.75 / 9] * 9) / 10
    generator = torch.Generator().manual_seed(0)
    observed = torch.bincount(torch.multinomial(shares, count, replacement=True, generator=generator), minlength=10)
    per_sample = float((observed - count / 10).square().sum() / (count / 10))
    assert 9 * per_sample > _chi_square_bound(9 * 9)


@pytest.mark.parametrize("strategy", ["matching", "balanced"])
def test_matchings_are_random(backend: Backend, strategy: str) -> None:
    """Interchangeable samples (all pairs compatible) meet each other equally often."""
    labels = torch.cat([torch.ones(8, 1), torch.eye(8)], 1).long()
    count = min(1400, 3 * backend.label_sets)
    draws = _draws(backend, labels, strategy, count)
    observed = torch.stack([torch.bincount(draws[:, i], minlength=8) for i in range(8)])
    assert not observed.diagonal().any()
    expected = count / 7
    upper = observed[torch.triu_indices(8, 8, 1).unbind()]
    # 28 counts with 7 fixed row sums (the eighth follows): 20 degrees of freedom.
    assert float((upper - expected).square().sum() / expected) < _chi_square_bound(20)


def test_balanced_leaves_fewer_alone(backend: Backend) -> None:
    """Averaged over batches with few pairs, against the plain matching."""
    generator = torch.Generator().manual_seed(2)
    batch = min(128, backend.max_batch * 3)
    alone = dict.fromkeys(("matching", "balanced"), 0)
    for seed in range(min(40, backend.label_sets)):
        labels = kit.random_labels(generator, batch, 20, density=0.08)
        for strategy in alone:
            partner = mine_pairs(labels.to(backend.device), strategy=strategy, seed=seed, backend=backend.name)
            alone[strategy] += int((partner.cpu() == torch.arange(batch)).sum())
    assert alone["balanced"] < alone["matching"]


# -------------------------------------------------------------------- seeds and forms


@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_seeds(backend: Backend, strategy: str) -> None:
    labels = kit.random_labels(torch.Generator().manual_seed(4), 33, 9).to(backend.device)

    def mine(**options: object) -> Tensor:
        return mine_pairs(labels, strategy=strategy, backend=backend.name, **options)

    seed = torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(5))
    expected = mine(seed=int(seed))
    assert torch.equal(mine(seed=seed), expected)
    assert torch.equal(mine(seed=seed.to(backend.device)), expected)
    assert torch.equal(mine(generator=torch.Generator().manual_seed(5)), expected)
    torch.manual_seed(5)
    assert torch.equal(mine(), expected)
    assert not torch.equal(mine(), expected)
    generator = torch.Generator().manual_seed(5)
    state = torch.get_rng_state()
    first, second = mine(generator=generator), mine(generator=generator)
    assert torch.equal(first, expected)
    assert not torch.equal(second, expected)
    assert torch.equal(torch.get_rng_state(), state)
    for other in (int(seed) + 1, int(seed) ^ (1 << 33), -int(seed)):
        assert not torch.equal(mine(seed=other), expected), other


@pytest.mark.parametrize("seed", [0, 1, -1, 2**31, 2**32, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_extreme_seeds(backend: Backend, strategy: str, seed: int) -> None:
    labels = kit.random_labels(torch.Generator().manual_seed(4), 33, 9)
    partner = mine_pairs(labels.to(backend.device), strategy=strategy, seed=seed, backend=backend.name)
    assert torch.equal(partner.cpu(), reference.mine_pairs(labels, strategy=strategy, seed=seed))


@pytest.mark.parametrize("classes", [1, 2, 31, 32, 33, 64, 65])
@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_labels_of_every_form_agree(backend: Backend, strategy: str, classes: int) -> None:
    labels = kit.random_labels(torch.Generator().manual_seed(6), 20, classes, unknown=True)
    expected = reference.mine_pairs(labels, strategy=strategy, seed=3)
    given = labels.to(backend.device)
    forms = {str(dtype): given.to(dtype) for dtype in (torch.int8, torch.int32, torch.float32, torch.bfloat16)}
    forms |= {"bool": given == 1, "transposed": given.t().contiguous().t()}
    forms |= {"words": pack_labels(given), "both words": pack_labels(given, with_known=True)}
    for name, form in forms.items():
        partner = mine_pairs(form, strategy=strategy, seed=3, num_classes=classes, backend=backend.name)
        assert torch.equal(partner.cpu(), expected), name


@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_one_class_has_no_pairs(backend: Backend, strategy: str) -> None:
    """Samples that share the only class are equal."""
    labels = torch.tensor([[1], [0], [1], [1], [-1]], device=backend.device)
    assert mine_pairs(labels, strategy=strategy, seed=1, backend=backend.name).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_small_batches(backend: Backend, strategy: str) -> None:
    for rows, expected in (([], []), ([[1, 1]], [0]), ([[1, 0], [1, 1]], [1, 0]), ([[1, 0], [0, 1]], [0, 1])):
        labels = torch.tensor(rows, dtype=torch.int64, device=backend.device).view(-1, 2)
        assert mine_pairs(labels, strategy=strategy, seed=1, backend=backend.name).tolist() == expected
