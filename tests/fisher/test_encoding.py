"""Fisher vectors beside the same written otherwise: in float64 from the paper's formulas, and scikit-image's."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alexnet_cli.fisher.encoding import (
    GRIDS,
    Pyramid,
    Vocabulary,
    encoded,
    gradients,
    normalised,
    regions,
    statistics,
)

P, D, K, T = 9, 5, 4, 300
Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    rng = np.random.default_rng(3)
    axes = np.linalg.qr(rng.standard_normal((P, P)))[0][:D]
    weights = rng.uniform(0.5, 2, K)
    arrays = (
        rng.normal(20, 5, P),
        axes,
        weights / weights.sum(),
        rng.normal(0, 6, (K, D)),
        rng.uniform(0.5, 30, (K, D)),
    )
    return Vocabulary(*(torch.from_numpy(array.astype(np.float32)) for array in arrays))


@pytest.fixture(scope="module")
def descriptors() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(4).normal(20, 6, (T, P)).astype(np.float32))


@pytest.fixture(scope="module")
def middles() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).uniform(0, 1, (T, 2)).astype(np.float32))


def doubles(vocabulary: Vocabulary) -> list[Floats]:
    return [part.double().numpy() for part in vars(vocabulary).values()]


def log_likelihoods(points: Floats, weights: Floats, means: Floats, deviations: Floats) -> Floats:
    """(T, K): the logarithm of each weight times its Gaussian's density, by the definition."""
    found = np.empty((len(points), len(weights)))
    for k in range(len(weights)):
        z = (points - means[k]) / deviations[k]
        densities = np.exp(-(z**2) / 2) / (np.sqrt(2 * np.pi) * deviations[k])
        found[:, k] = np.log(weights[k]) + np.log(densities).sum(1)
    return found


def by_the_paper(points: Floats, weights: Floats, means: Floats, variances: Floats) -> tuple[Floats, Floats]:
    """Equations 16 and 17 of Sánchez et al. (IJCV 2013), picture point by point: u and v, (K, D) each."""
    deviations = np.sqrt(variances)
    logs = log_likelihoods(points, weights, means, deviations)
    u, v = np.zeros_like(means), np.zeros_like(means)
    for point, log in zip(points, logs, strict=True):
        posterior = np.exp(log) / np.exp(log).sum()
        for k in range(len(weights)):
            z = (point - means[k]) / deviations[k]
            u[k] += posterior[k] * z / np.sqrt(weights[k])
            v[k] += posterior[k] * (z**2 - 1) / np.sqrt(2 * weights[k])
    return u / len(points), v / len(points)


def raw(vocabulary: Vocabulary, descriptors: torch.Tensor) -> Floats:
    """The Fisher vector as it is before it is normalised."""
    sums = statistics(vocabulary, vocabulary.projected(descriptors))
    return gradients(vocabulary, sums[None], torch.tensor([float(len(descriptors))]))[0].numpy()


def test_it_is_the_papers_in_float64(vocabulary: Vocabulary, descriptors: torch.Tensor) -> None:
    centre, axes, *mixture = doubles(vocabulary)
    points = (descriptors.double().numpy() - centre) @ axes.T
    expected = np.concatenate([part.ravel() for part in by_the_paper(points, *mixture)])
    assert np.abs(expected).max() > 0.1
    assert raw(vocabulary, descriptors) == pytest.approx(expected, abs=2e-5)


def test_it_is_the_gradient_of_the_likelihood(vocabulary: Vocabulary, descriptors: torch.Tensor) -> None:
    """By differences: by μ times σ/√w, by σ times σ/√(2w), which is how Fisher's information scales them."""
    centre, axes, weights, means, variances = doubles(vocabulary)
    points, deviations, step = (descriptors.double().numpy() - centre) @ axes.T, np.sqrt(variances), 1e-5

    def likelihood(moved_means: Floats, moved_deviations: Floats) -> float:
        logs = log_likelihoods(points, weights, moved_means, moved_deviations)
        return float(np.log(np.exp(logs).sum(1)).mean())

    found = raw(vocabulary, descriptors).reshape(2, K, D)
    for k in range(K):
        for d in range(D):
            nudge = np.zeros((K, D))
            nudge[k, d] = step
            by_mean = likelihood(means + nudge, deviations) - likelihood(means - nudge, deviations)
            by_deviation = likelihood(means, deviations + nudge) - likelihood(means, deviations - nudge)
            scale = deviations[k, d] / np.sqrt(weights[k]) / (2 * step)
            assert found[0, k, d] == pytest.approx(by_mean * scale, abs=3e-5)
            assert found[1, k, d] == pytest.approx(by_deviation * scale / np.sqrt(2), abs=3e-5)


def test_it_is_scikit_images(vocabulary: Vocabulary, descriptors: torch.Tensor) -> None:
    feature = pytest.importorskip("skimage.feature")
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(K, covariance_type="diag")
    _, _, mixture.weights_, mixture.means_, mixture.covariances_ = doubles(vocabulary)
    mixture.precisions_cholesky_ = 1 / np.sqrt(mixture.covariances_)
    points = vocabulary.projected(descriptors).double().numpy()
    _, u, v = np.split(feature.fisher_vector(points, mixture), [K, K + K * D])  # first the gradient by the weights
    # Theirs by σ has the other sign, against the paper and the likelihood; a linear classifier learns the same.
    assert raw(vocabulary, descriptors) == pytest.approx(np.concatenate([u, -v]), abs=2e-5)


def test_posteriors_are_scikit_learns(vocabulary: Vocabulary, descriptors: torch.Tensor) -> None:
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(K, covariance_type="diag")
    _, _, mixture.weights_, mixture.means_, mixture.covariances_ = doubles(vocabulary)
    mixture.precisions_cholesky_ = 1 / np.sqrt(mixture.covariances_)
    points = vocabulary.projected(descriptors)
    found = vocabulary.posteriors(points)
    assert found.sum(1).numpy() == pytest.approx(1, abs=1e-5)
    assert found.numpy() == pytest.approx(mixture.predict_proba(points.double().numpy()), abs=1e-5)


def test_where_all_descriptors_come_from_the_mixture_nothing_is_to_be_changed(vocabulary: Vocabulary) -> None:
    rng = np.random.default_rng(6)
    centre, axes, weights, means, variances = doubles(vocabulary)
    which = rng.choice(K, 200_000, p=weights)
    points = rng.normal(means[which], np.sqrt(variances[which]))
    found = raw(vocabulary, torch.from_numpy(points @ axes + centre).float())
    assert np.abs(found).max() < 0.01


def test_the_signed_square_root_then_length_1() -> None:
    vectors = torch.tensor([[4.0, -9.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    found = normalised(vectors)
    assert found[0].numpy() == pytest.approx(np.array([2, -3, 0, 1]) / np.sqrt(14))
    assert not found[1].any()


@pytest.mark.parametrize("pyramid", GRIDS)
def test_each_region_is_the_vector_of_its_own_descriptors(
    vocabulary: Vocabulary, descriptors: torch.Tensor, middles: torch.Tensor, pyramid: Pyramid
) -> None:
    y, x = middles.T
    everywhere = torch.ones(T, dtype=torch.bool)
    bands = [y < 1 / 3, (y >= 1 / 3) & (y < 2 / 3), y >= 2 / 3]
    quarters = [(y < 0.5) & (x < 0.5), (y < 0.5) & (x >= 0.5), (y >= 0.5) & (x < 0.5), (y >= 0.5) & (x >= 0.5)]
    inside = {"none": [everywhere], "bands": [everywhere, *bands], "full": [everywhere, *bands, *quarters]}[
        pyramid
    ]
    found = encoded(vocabulary, descriptors, middles, pyramid)
    assert found.dtype == torch.float32 and float(found.norm()) == pytest.approx(1, abs=1e-6)
    parts = found.reshape(len(inside), vocabulary.length) * len(inside) ** 0.5
    for part, mask in zip(parts, inside, strict=True):
        alone = encoded(vocabulary, descriptors[mask], middles[mask])
        assert part.numpy() == pytest.approx(alone.numpy(), abs=2e-4)


def test_bands_and_quarters_cover_the_picture_once() -> None:
    for pyramid, count in (("none", 1), ("bands", 4), ("full", 8)):
        which = regions(pyramid)
        assert len(which) == count and which[0].all()
        assert count < 4 or (which[1:4].sum(0) == 1).all()
        assert count < 8 or (which[4:].sum(0) == 1).all()


def test_a_region_without_descriptors_is_zeros(vocabulary: Vocabulary, descriptors: torch.Tensor) -> None:
    above = torch.full((T, 2), 0.1)
    found = encoded(vocabulary, descriptors, above, "bands").reshape(4, -1)
    assert found[:2].any(1).all() and not found[2:].any()
