"""Mean picture and principal components of RGB over the training pixels, exact and the same everywhere.

Shards give integer sums; here they are added, turned into a covariance with fractions, and only its nine
numbers become floating point. The eigenproblem is a Jacobi iteration in plain Python, because LAPACK's last
digits and signs differ between machines.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from alexnet_cli import paper

Matrix = list[list[float]]
SIZE = paper.IMAGE_SIZE


@dataclass(frozen=True)
class Sums:
    """Exact integers over some pictures: `squares` uint64 (3, size, size) of their central squares.

    `pixels`, `rgb` (3) and `products` of channels 3×3 count every pixel, also those outside the squares.
    """

    pictures: int
    pixels: int
    squares: np.ndarray
    rgb: tuple[int, ...]
    products: tuple[tuple[int, ...], ...]

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.pictures + other.pictures,
            self.pixels + other.pixels,
            self.squares + other.squares,
            added(self.rgb, other.rgb),
            tuple(added(*rows) for rows in zip(self.products, other.products, strict=True)),
        )


def added(ours: tuple[int, ...], theirs: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(ours, theirs, strict=True))


def no_sums(size: int = SIZE) -> Sums:
    return Sums(0, 0, np.zeros((3, size, size), dtype=np.uint64), (0,) * 3, ((0,) * 3,) * 3)


@dataclass(frozen=True)
class Statistics:
    """Of 0..255 pixels: `mean` float32 (3, size, size), variances in descending order, vectors in columns.

    `mean` is that of the central squares, the others are of every pixel.
    """

    mean: np.ndarray
    rgb_mean: tuple[float, ...]
    covariance: Matrix
    eigenvalues: list[float]
    eigenvectors: Matrix


def statistics(sums: Sums) -> Statistics:
    covariance = exact_covariance(sums)
    eigenvalues, eigenvectors = principal_components(covariance)
    return Statistics(
        mean=(sums.squares.astype(np.float64) / sums.pictures).astype(np.float32),
        rgb_mean=tuple(float(Fraction(total, sums.pixels)) for total in sums.rgb),
        covariance=covariance,
        eigenvalues=eigenvalues,
        eigenvectors=eigenvectors,
    )


def exact_covariance(sums: Sums) -> Matrix:
    """Give Σxxᵀ/N − (Σx/N)(Σx/N)ᵀ over all N pixels, each entry rounded once."""
    n, totals = sums.pixels, sums.rgb
    return [
        [float(Fraction(n * sums.products[i][j] - totals[i] * totals[j], n * n)) for j in range(3)]
        for i in range(3)
    ]


def principal_components(matrix: Matrix) -> tuple[list[float], Matrix]:
    """Give eigenvalues of a symmetric 3×3 matrix, descending, and unit eigenvectors in columns.

    Each vector's largest component is positive. Grey data has two eigenvalues that are zero but for
    rounding: what is below 1e-12 of the largest, negative ones too, is given as 0.
    """
    values, vectors = jacobi(matrix)
    order = sorted(range(3), key=lambda k: -values[k])
    columns = [upright([vectors[row][k] for row in range(3)]) for k in order]
    floor = 1e-12 * max(values)
    eigenvalues = [values[k] if values[k] > floor else 0.0 for k in order]
    return eigenvalues, [[column[row] for column in columns] for row in range(3)]


def upright(vector: list[float]) -> list[float]:
    sign = math.copysign(1.0, max(vector, key=abs))
    return [sign * component for component in vector]


def jacobi(matrix: Matrix) -> tuple[list[float], Matrix]:
    """Rotate the off-diagonal entries away, in a fixed order (Golub and Van Loan, §8.5)."""
    a = [row[:] for row in matrix]
    v = [[float(i == j) for j in range(3)] for i in range(3)]
    for _ in range(30):  # convergence is quadratic: six sweeps are usual
        for p, q in ((0, 1), (0, 2), (1, 2)):
            rotate(a, v, p, q)
    return [a[k][k] for k in range(3)], v


def rotate(a: Matrix, v: Matrix, p: int, q: int) -> None:
    if a[p][q] == 0.0:
        return
    tau = (a[q][q] - a[p][p]) / (2.0 * a[p][q])
    t = math.copysign(1.0, tau) / (abs(tau) + math.sqrt(1.0 + tau * tau))
    c = 1.0 / math.sqrt(1.0 + t * t)
    s = t * c
    for k in range(3):
        a[k][p], a[k][q] = c * a[k][p] - s * a[k][q], s * a[k][p] + c * a[k][q]
    for k in range(3):
        a[p][k], a[q][k] = c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]
        v[k][p], v[k][q] = c * v[k][p] - s * v[k][q], s * v[k][p] + c * v[k][q]
    a[p][q] = a[q][p] = 0.0
