"""The gate in worlds where the truth is known: noise must not move, resized baselines must have nothing left."""

from dataclasses import dataclass

import numpy as np
import pytest

from researchkit.experiments.registration import Rule
from researchkit.experiments.verdict import Condition, decide
from researchkit.inference.difference import compare
from researchkit.inference.selection import naive_gate

PASSED = {n: Condition(n, True, "given") for n in Rule().needs[2:]}


def _world(rng, *, edge=0.0, ideas=1, sessions=1260, history=300):
    """Draw a baseline and challengers that differ by noise of 4 % a year and an edge."""
    n = history + sessions
    base = 0.0003 + 0.008 * rng.standard_t(5, n) / np.sqrt(5 / 3)
    noise = 0.04 / np.sqrt(252) * rng.normal(size=(ideas, n))
    return base, {f"idea {k}": base + noise[k] + edge / 252 for k in range(ideas)}, history


def _decide(base, ideas, start, **more):
    found = {n: compare(r, base, start=start) for n, r in ideas.items()}
    tested = dict.fromkeys(found, PASSED)
    return decide(found, rule=Rule(), number=1, streams=10, tested=tested, **more)


def test_noise_does_not_move_and_the_naive_gate_lies():
    rng = np.random.default_rng(20)
    moved = fired = 0
    for _ in range(120):
        base, ideas, start = _world(rng, ideas=3)
        moved += any(v.verdict == "moved" for v in _decide(base, ideas, start))
        fired += any(naive_gate(r[start:], base[start:]).fired for r in ideas.values())
    assert moved <= 9  # 3 % of 120 is 3.6; 9 is beyond the 99 % quantile
    assert fired > 60  # the negative control: the harness can see trouble


def test_a_large_true_edge_moves_when_every_condition_holds():
    rng = np.random.default_rng(21)
    verdicts = [_decide(*_world(rng, edge=0.12))[0] for _ in range(10)]
    assert sum(v.verdict == "moved" for v in verdicts) >= 9
    assert all(v.claims[0][1] for v in verdicts if v.verdict == "moved")


def test_nothing_moves_while_a_condition_has_no_test():
    base, ideas, start = _world(np.random.default_rng(22), edge=0.2)
    found = {n: compare(r, base, start=start) for n, r in ideas.items()}
    verdict = decide(found, rule=Rule(), number=1, streams=1)[0]
    failed = [c.name for c in verdict.conditions if not c.held]
    assert verdict.verdict == "undecided"
    assert failed == ["calibration equivalence", "tail scenario veto"]


@pytest.mark.parametrize("size", [0.5, 1.3, 4.0])
def test_the_baseline_resized_is_nothing(size):
    base, _, start = _world(np.random.default_rng(23))
    verdict = _decide(base, {"leverage": size * base}, start)[0]
    assert verdict.numbers.p_adjusted == 1.0
    assert "the baseline resized" in verdict.reason
    assert not any(shown for _, shown in verdict.claims)


def test_a_clear_loser_is_not_moved_and_late_data_only_screen():
    rng = np.random.default_rng(24)
    base, ideas, start = _world(rng, edge=-0.15)
    assert _decide(base, ideas, start)[0].verdict == "not moved"
    assert _decide(base, ideas, start, late="the seal was opened before")[0].verdict == "not screened"
    base, ideas, start = _world(rng, edge=0.2)
    assert _decide(base, ideas, start, late="the seal was opened before")[0].verdict == "screened"


@dataclass(frozen=True)
class _Made:
    mean_annual: float
    se_annual: float
    p_one_sided: float
    n: int = 1260
    resized: bool = False

    def upper_bound(self, level):
        return self.mean_annual + 2 * self.se_annual


def test_p_is_adjusted_over_the_registered_and_alpha_over_the_programme():
    made = {f"k{i}": _Made(0.02, 0.01, 0.02) for i in range(3)}
    first = decide(made, rule=Rule(), number=1, streams=1)
    assert [v.numbers.p_adjusted for v in first] == [0.06, 0.06, 0.06]
    budgets = [decide(made, rule=Rule(), number=j, streams=1)[0].numbers.alpha for j in range(1, 2000)]
    assert sum(budgets) < 0.05
