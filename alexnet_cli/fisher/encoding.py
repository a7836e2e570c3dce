"""The Fisher vector of a picture: how its descriptors would change the mixture that all pictures were drawn from.

Perronnin, Sánchez & Mensink, "Improving the Fisher kernel for large-scale image classification" (ECCV 2010). With
the posteriors γ of T descriptors x under a mixture of weights w, means μ and standard deviations σ, per Gaussian k

    u = Σ γ (x − μ) / σ / (T √w)        v = Σ γ ((x − μ)² / σ² − 1) / (T √(2w))

which are the gradients of the mean log-likelihood by μ and σ times the inverse square root of an approximation of
the Fisher information. Then the signed square root, and division by the Euclidean length: of each region of the
picture for itself.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Pyramid = Literal["none", "bands", "full"]
"""Regions: the picture; and its three bands, 1×1 + 3×1 (CVPR 2011); and its quarters too (ECCV 2010)."""

GRIDS: dict[Pyramid, tuple[int, int]] = {"none": (1, 1), "bands": (3, 1), "full": (6, 2)}
"""Rows and columns of the cells of which each region is a union."""


@dataclass(frozen=True)
class Vocabulary:
    """D principal components of descriptors of length P, and a mixture of K Gaussians over these; float32."""

    centre: Tensor  # (P,)
    axes: Tensor  # (D, P)
    weights: Tensor  # (K,)
    means: Tensor  # (K, D)
    variances: Tensor  # (K, D)

    @property
    def length(self) -> int:
        """Of the Fisher vector of one region."""
        return 2 * self.means.numel()

    def projected(self, descriptors: Tensor) -> Tensor:
        """(T, P) → (T, D)."""
        return (descriptors - self.centre) @ self.axes.T

    def posteriors(self, points: Tensor) -> Tensor:
        """γ of (T, D) points, (T, K): from which Gaussian each would have come."""
        precisions = 1 / self.variances
        # log w − ½ Σ (log 2πσ² + (x − μ)² / σ²), less what is the same for all Gaussians.
        constants = self.weights.log() - 0.5 * (self.variances.log() + self.means**2 * precisions).sum(1)
        logs = torch.addmm(constants, points, (self.means * precisions).T)
        return torch.addmm(logs, points**2, precisions.T, alpha=-0.5).softmax(1)


def regions(pyramid: Pyramid) -> Tensor:
    """Which cells each region has, (regions, cells) float32 of 0 and 1; the whole picture first."""
    rows, columns = GRIDS[pyramid]
    cells = torch.arange(rows * columns)
    row, column = cells // columns, cells % columns
    found = [torch.ones(rows * columns)]
    if pyramid != "none":
        found += [(row * 3 // rows == band).float() for band in range(3)]
    if pyramid == "full":
        found += [((row * 2 // rows == y) & (column == x)).float() for y in range(2) for x in range(2)]
    return torch.stack(found)


def encoded(vocabulary: Vocabulary, descriptors: Tensor, middles: Tensor, pyramid: Pyramid = "none") -> Tensor:
    """The normalised Fisher vectors of a picture's regions, one after the other, (regions · 2KD,), of length 1.

    `descriptors` (T, P); `middles` (T, 2) in 0..1 say in which region each lies.
    """
    rows, columns = GRIDS[pyramid]
    cell = (middles[:, 0] * rows).long() * columns + (middles[:, 1] * columns).long()
    points = vocabulary.projected(descriptors)
    counts = torch.bincount(cell, minlength=rows * columns).double()
    sums = torch.stack([statistics(vocabulary, points[cell == number]) for number in range(rows * columns)])
    which = regions(pyramid).double()
    vectors = normalised(gradients(vocabulary, torch.einsum("rc,ckd->rkd", which, sums), which @ counts))
    return vectors.div(len(vectors) ** 0.5).flatten().float()


def statistics(vocabulary: Vocabulary, points: Tensor) -> Tensor:
    """Σγ, Σγx and Σγx² of (T, D) points, side by side: (K, 1 + 2D) float64. Those of two sets are their sum."""
    columns = torch.cat([torch.ones(len(points), 1), points, points**2], 1)
    return (vocabulary.posteriors(points).T @ columns).double()


def gradients(vocabulary: Vocabulary, sums: Tensor, counts: Tensor) -> Tensor:
    """The Fisher vectors, before they are normalised, of R sets by their `statistics` (R, K, 1 + 2D) and T (R,).

    (R, 2KD) float64: u of all Gaussians, then v.
    """
    weights, means, variances = (
        part.double() for part in (vocabulary.weights, vocabulary.means, vocabulary.variances)
    )
    size = means.shape[1]
    zeroth, first, second = torch.split(sums, [1, size, size], dim=-1)
    scale = counts.clamp_min(1)[:, None, None] * weights[:, None].sqrt()
    by_means = (first - means * zeroth) / variances.sqrt() / scale
    by_deviations = ((second - 2 * means * first + means**2 * zeroth) / variances - zeroth) / (2**0.5 * scale)
    return torch.stack([by_means, by_deviations], 1).flatten(1)


def normalised(vectors: Tensor) -> Tensor:
    """The signed square root of each number, and each row (R, N) of length 1; a row of zeros stays."""
    rooted = vectors.sign() * vectors.abs().sqrt()
    return torch.nn.functional.normalize(rooted, dim=1)
