"""The statistics of a table by arm, on plain arrays: clustered intervals and pass@k.

Samples of one task are alike, so n rollouts are fewer than n independent draws; what was drawn
independently are the tasks. All intervals here therefore treat a task as one cluster.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
"""The 97.5 % point of the standard normal distribution."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


def clustered_error(values: Floats, clusters: NDArray[np.int64]) -> float | None:
    """The standard error of `values.mean()` when values of one cluster are correlated.

        SE² = G/(G−1) · (1/n²) · Σ_g ( Σ_{i∈g} (x_i − x̄) )²

    for n values in G clusters: the cluster-robust variance of a mean (Miller 2024, "Adding Error
    Bars to Evals", arXiv:2411.00640), with the usual correction for few clusters
    (Cameron and Miller 2015, "A Practitioner's Guide to Cluster-Robust Inference").
    With equally many values in each cluster it is the standard error of the cluster means.
    `None` with fewer than two clusters: then nothing can be said.
    """
    groups, member = np.unique(clusters, return_inverse=True)
    if len(groups) < 2:
        return None
    sums = np.bincount(member, weights=values - values.mean(), minlength=len(groups))
    correction = len(groups) / (len(groups) - 1)
    return float(math.sqrt(correction * np.square(sums).sum()) / len(values))


def mean_interval(values: Floats, clusters: NDArray[np.int64]) -> Interval | None:
    """The mean ± t(0.975, G−1) · SE over G clusters; `None` with fewer than two clusters.

    Where every value is 0, or every value is 1, the formula would claim to know the truth exactly.
    Then it is Wilson's interval for G draws that all agree: 12 tasks out of 12 solved give
    [0.757, 1] (Bowyer et al. 2025, arXiv:2503.01747, on why not to trust ±0). Other rewards
    without any spread have no interval.
    """
    error = clustered_error(values, clusters)
    if error is None:
        return None
    count = len(np.unique(clusters))
    mean = float(values.mean())
    if np.ptp(values) == 0.0:
        return wilson(mean, count) if mean in (0.0, 1.0) else None
    reach = student_t_975(count - 1) * error
    return Interval(mean - reach, mean + reach)


def wilson(share: float, n: int) -> Interval:
    """Wilson's score interval of a share of `n` independent draws."""
    z2 = Z_95**2
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if share == 0.0 else center - reach
    return Interval(low, 1.0 if share == 1.0 else center + reach)


def student_t_975(freedom: int) -> float:
    """The 97.5 % point of Student's t, to 0.2 % or better.

    Exact for 1 and 2 degrees of freedom, else the expansion 26.7.5 of Abramowitz and Stegun.
    """
    if freedom == 1:
        return math.tan(0.475 * math.pi)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    x, v = Z_95, float(freedom)
    terms = (
        x,
        (x**3 + x) / (4 * v),
        (5 * x**5 + 16 * x**3 + 3 * x) / (96 * v**2),
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / (384 * v**3),
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / (92160 * v**4),
    )
    return sum(terms)


def pass_at_k(n: int, passed: int, k: int) -> float:
    """The chance that at least one of `k` samples passes, from `passed` of `n`, without bias.

    1 − C(n−c, k)/C(n, k), for n ≥ k (Chen et al. 2021, arXiv:2107.03374, equation 1).
    """
    if not 0 <= passed <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs n >= {k} and 0 <= passed <= n, got {passed} of {n}")
    return 1.0 - math.comb(n - passed, k) / math.comb(n, k)


def percentiles(values: Floats) -> tuple[float, float]:
    """The median and the 95th percentile, interpolated."""
    p50, p95 = np.percentile(values, [50.0, 95.0])
    return float(p50), float(p95)
