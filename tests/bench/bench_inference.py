"""A thousand strategies against one baseline: Hansen's test by matrix products, beside `arch`."""

from __future__ import annotations

import os

from researchkit.settings import environment

os.environ.update(environment())

import numpy as np
from arch.bootstrap import SPA, optimal_block_length
from measuring import case

from researchkit.inference.superior import spa, stepm


def differences(strategies: int, sessions: int = 2_520) -> np.ndarray:
    """Ten years of correlated strategies, one of which has an edge."""
    rng = np.random.default_rng(0)
    d = 0.007 * (rng.normal(size=(sessions, 1)) + rng.normal(size=(sessions, strategies)))
    d[:, 5] += 0.0005
    return d


def peer(d: np.ndarray, block: int, count: int, seed: int = 1) -> np.ndarray:
    """The same test as `arch` computes it, from losses."""
    test = SPA(np.zeros(len(d)), -d, block_size=block, reps=count, seed=seed)
    test.compute()
    return test.pvalues.to_numpy()


def main() -> None:
    """Small, and at the size that is promised; the block is given to both."""
    for strategies, count, rounds in ((100, 1_000, 3), (1_000, 10_000, 1)):
        d = differences(strategies)
        for name, work in (("SPA, three p-values", spa), ("StepM, a p-value for each strategy", stepm)):
            if work is stepm and strategies == 1_000:
                continue
            case(
                name,
                ours=lambda work=work, d=d, count=count: work(d, block=10, count=count, seed=1),
                peer=lambda d=d, count=count: peer(d, 10, count),
                versus="SPA of arch 8.0, which does not studentise",
                size=f"{strategies:,} strategies × 2,520 sessions × {count:,} resamples",
                rounds=rounds,
            )


def chosen(strategies: int = 100, count: int = 1_000) -> None:
    """As it is called by default: the block is estimated from every column first."""
    d = differences(strategies)
    case(
        "SPA with the block chosen from the data",
        ours=lambda: spa(d, count=count, seed=1),
        peer=lambda: peer(d, round(float(optimal_block_length(d)["stationary"].clip(5, 252).max())), count),
        versus="optimal_block_length and SPA of arch 8.0",
        size=f"{strategies:,} strategies × 2,520 sessions × {count:,} resamples",
        rounds=3,
    )


if __name__ == "__main__":
    main()
    chosen()
