"""Means with their 95% intervals.

All intervals are Wilson's score interval (Wilson 1927), which keeps its coverage for small samples
and near 0 and 1, where the textbook normal interval does not (Brown, Cai and DasGupta 2001).
If the observations are not one simple random sample, their number is replaced by the effective
sample size: the size at which a simple sample would have the variance that was estimated for the
actual design (Korn and Graubard 1998; Franco, Little, Louis and Slud 2019 compare such intervals
and recommend Wilson's). ``tests/domain/test_intervals.py`` checks the coverage by simulation.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

Z = 1.959963984540054
"""The normal distribution's 97.5% quantile: all intervals here are 95%."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured share or mean between 0 and 1, with its 95% interval."""

    value: float
    low: float
    high: float
    n: int
    """The number of observations."""


def proportion(successes: int, n: int) -> Estimate:
    """The share of ``successes`` among ``n`` independent trials. Raises ValueError if n is 0."""
    return _wilson(successes / n if n else math.nan, n, n)


def stratified_mean(
    values: npt.ArrayLike, strata: npt.ArrayLike, influences: npt.ArrayLike | None = None
) -> Estimate:
    """The mean of the means within strata: every stratum has the same weight.

    values: ``(n,)``, from 0 to 1. strata: ``(n,)``, any labels. With correctly classified images
    as values and classes as strata, this is mean per-class recall.
    influences: ``(n,)``, if an observation affects the values of others too: its own
    value plus that effect, on the scale of its stratum's mean. The variance is then that of the
    influences (the infinitesimal jackknife; Efron 1982, chapter 6).

    The variance is that of stratified sampling with the given strata (Cochran 1977, section 5.3).
    A stratum with one observation has no variance estimate of its own: all of these are pooled
    as if they were one stratum, which can only overstate it (collapsed strata, section 5A.12).
    Raises ValueError if there are no values.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        raise ValueError("no observations")
    moved = values if influences is None else np.asarray(influences, np.float64)
    _, which = np.unique(np.asarray(strata), return_inverse=True)
    sizes = np.bincount(which).astype(np.float64)
    means = np.bincount(which, values) / sizes
    centres = np.bincount(which, moved) / sizes
    squares = np.bincount(which, (moved - centres[which]) ** 2)
    several = sizes > 1
    total = (squares[several] / (sizes[several] - 1) / sizes[several]).sum()
    if np.count_nonzero(~several) > 1:
        single = means[~several], centres[~several]
        total += len(single[0]) * max(part.var(ddof=1) for part in single)
    elif not several.all():  # nothing to collapse it with: assume the worst case
        total += 0.25
    variance = float(total) / len(sizes) ** 2
    return _effective(float(means.mean()), variance, _equal_weights(sizes), len(values))


def clustered_mean(values: npt.ArrayLike, clusters: npt.ArrayLike) -> Estimate:
    """The plain mean of values that come in clusters, such as the captions of one image.

    values: ``(n,)``, from 0 to 1. clusters: ``(n,)``, any labels. The variance is that of a ratio
    of cluster totals (Cochran 1977, section 9A.1). Raises ValueError if there are no values.
    """
    values = np.asarray(values, np.float64)
    _, which = np.unique(np.asarray(clusters), return_inverse=True)
    if not len(values):
        raise ValueError("no observations")
    mean = float(values.mean())
    count = int(which.max()) + 1
    totals = np.bincount(which, values - mean)
    variance = 0.0
    if count > 1:
        variance = float((totals**2).sum()) * count / (count - 1) / len(values) ** 2
    return _effective(mean, variance, float(count), len(values))


def ratio_of_means(parts: npt.ArrayLike, wholes: npt.ArrayLike) -> Estimate:
    """The mean of ``parts`` as a share of the mean of ``wholes``, observed in pairs.

    parts, wholes: ``(n,)``, with 0 <= part <= whole and not all wholes 0. The variance is that of
    a ratio (Cochran 1977, section 2.11). Raises ValueError if there are no values, or all are 0.
    """
    x, y = np.asarray(wholes, np.float64), np.asarray(parts, np.float64)
    if not x.sum() > 0:
        raise ValueError("no observations")
    n, ratio = len(x), float(y.sum() / x.sum())
    variance = float(((y - ratio * x) ** 2).sum()) * n / max(n - 1, 1) / float(x.sum()) ** 2
    return _effective(ratio, variance if n > 1 else 0.0, float(n), n)


def mean_of_influences(value: float, influences: npt.ArrayLike) -> Estimate:
    """A statistic between 0 and 1 of ``n`` independent observations, from their influences on it.

    influences: ``(n,)``, the derivative of the statistic by each observation's weight. The
    variance is the sum of their squares (the infinitesimal jackknife; Efron 1982, chapter 6).
    Raises ValueError if there are no observations.
    """
    moved = np.asarray(influences, np.float64)
    n = len(moved)
    if not n:
        raise ValueError("no observations")
    variance = float(((moved - moved.mean()) ** 2).sum()) * n / max(n - 1, 1)
    return _effective(value, variance if n > 1 else 0.0, float(n), n)


def _equal_weights(sizes: Floats) -> float:
    """The size of a simple sample with the same precision, if all variances were equal."""
    return float(len(sizes) ** 2 / (1.0 / sizes).sum())


def _effective(mean: float, variance: float, least: float, n: int) -> Estimate:
    """Wilson's interval at the effective sample size.

    If nothing varies, the variance is no guide (ten right out of ten do not prove certainty),
    and the size implied by the design alone is used. It also limits what an accidentally small
    variance can claim, to four times that size.
    """
    if variance <= 0 or mean <= 0 or mean >= 1:
        return _wilson(mean, least, n)
    return _wilson(mean, min(mean * (1 - mean) / variance, 4 * least), n)


def _wilson(share: float, size: float, n: int) -> Estimate:
    if not n:
        raise ValueError("no observations")
    shift = Z * Z / size
    centre = (share + shift / 2) / (1 + shift)
    spread = Z / (1 + shift) * math.sqrt(share * (1 - share) / size + shift / (4 * size))
    low, high = max(0.0, centre - spread), min(1.0, centre + spread)
    return Estimate(share, min(low, share), max(high, share), n)
