"""The statistics that are shown: bands by resampling, and calibrators on a million rows.

Peers that are not part of the environment (betacal) are measured where they are installed and left out elsewhere.
"""

from __future__ import annotations

import os
import sys

from researchkit.settings import environment

os.environ.update(environment())

import numpy as np
from measuring import case
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from researchkit.calibration.band import curve_band
from researchkit.calibration.calibrators import Beta, Isotonic, Platt

OVERLAP, RESAMPLES = 10, 1000


def world(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bold forecasts and what happened."""
    rng = np.random.default_rng(seed)
    chance = rng.uniform(0.2, 0.8, n)
    return 1 / (1 + (1 / chance - 1) ** 2), (rng.random(n) < chance).astype(float)


def plain_band(p: np.ndarray, y: np.ndarray, at: np.ndarray, resamples: int) -> np.ndarray:
    """The loop that everybody writes: gather stretches, fit, read off, a thousand times."""
    rng, stretch = np.random.default_rng(1), 3 * OVERLAP
    many = -(-p.size // stretch)
    rates = np.empty((resamples, at.size))
    for r in range(resamples):
        rows = (rng.integers(0, many, many)[:, None] * stretch + np.arange(stretch)).ravel()
        rows = rows[rows < p.size]
        rates[r] = IsotonicRegression(out_of_bounds="clip").fit(p[rows], y[rows]).predict(at)
    return np.quantile(rates, [0.05, 0.95], axis=0)


def main() -> None:
    """One band, three calibrators."""
    p, y = world(100_000)
    ours = curve_band(p, y, overlap=OVERLAP, resamples=RESAMPLES)
    at = ours["p"].to_numpy()
    theirs = plain_band(p, y, at, 200)
    gap = np.abs(np.stack([ours["low"].to_numpy(), ours["high"].to_numpy()]) - theirs)
    print(f"band: mean gap {gap.mean():.5f}, width {np.mean(theirs[1] - theirs[0]):.5f}", file=sys.stderr)
    case(
        "PAV band from resampled stretches",
        ours=lambda: curve_band(p, y, overlap=OVERLAP, resamples=RESAMPLES),
        peer=lambda: plain_band(p, y, at, RESAMPLES // 10),
        versus="a tenth of the plain loop: 100 of the 1,000 resamples, scikit-learn's isotonic regression",
        size="100,000 forecasts, 1,000 resamples, 200 cells",
        rounds=3,
    )
    p, y = world(1_000_000)
    s = np.log(p) - np.log1p(-p)
    case(
        "isotonic, fit and predict",
        ours=lambda: Isotonic().fit(p, y).predict(p),
        peer=lambda: IsotonicRegression(out_of_bounds="clip").fit(p, y).predict(p),
        versus="scikit-learn",
        size="1,000,000 rows",
        rounds=3,
    )
    case(
        "Platt without smoothing, fit and predict",
        ours=lambda: Platt(smooth=False).fit(p, y).predict(p),
        peer=lambda: LogisticRegression(C=np.inf).fit(s[:, None], y).predict_proba(s[:, None])[:, 1],
        versus="scikit-learn's logistic regression on the log-odds",
        size="1,000,000 rows",
        rounds=3,
    )
    try:
        from betacal import BetaCalibration
    except ImportError:
        return
    case(
        "beta without smoothing, fit and predict",
        ours=lambda: Beta(smooth=False).fit(p, y).predict(p),
        peer=lambda: BetaCalibration("abm").fit(p.reshape(-1, 1), y).predict(p),
        versus="betacal",
        size="1,000,000 rows",
        rounds=3,
    )


if __name__ == "__main__":
    main()
