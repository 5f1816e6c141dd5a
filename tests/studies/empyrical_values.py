"""Print what empyrical-reloaded says of the named series, as the dictionary that the page of results holds.

    python -m venv /tmp/e && /tmp/e/bin/pip install empyrical-reloaded
    /tmp/e/bin/python tests/studies/empyrical_values.py

It runs in an environment of its own: the library is no requirement of this project.
"""

from __future__ import annotations

from pprint import pprint

import empyrical as e
import numpy as np


def series() -> tuple[np.ndarray, np.ndarray]:
    """The series "20260101": 1,260 daily returns with fat tails, and a market."""
    rng = np.random.default_rng(20260101)
    net = 0.0004 + 0.01 * rng.standard_t(5, 1260) / (5 / 3) ** 0.5
    return net, 0.0003 + 0.012 * rng.standard_normal(1260)


def values() -> dict[str, float]:
    """Each figure under empyrical's own name."""
    net, index = series()
    one = ("annual_return", "annual_volatility", "sharpe_ratio", "sortino_ratio", "downside_risk", "max_drawdown",
           "calmar_ratio", "omega_ratio", "stability_of_timeseries", "tail_ratio", "value_at_risk",
           "conditional_value_at_risk", "cum_returns_final")  # fmt: skip
    two = ("alpha", "beta", "excess_sharpe")
    found = {name: getattr(e, name)(net) for name in one} | {
        name: getattr(e, name)(net, index) for name in two
    }
    return {name: float(value) for name, value in found.items()}


if __name__ == "__main__":
    pprint({"version": e.__version__} | values(), sort_dicts=False)
