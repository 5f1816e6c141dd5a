"""Oracles and properties of the bootstrap, the tests that rest on it, and the sequential tools."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from arch.bootstrap import SPA, StepM
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit.inference.betting import bet_each_session, bet_on_average
from researchkit.inference.bootstrap import block_length, bootstrap, stationary_counts
from researchkit.inference.confidence import confidence_sequence, running_variance
from researchkit.inference.ledoit_wolf import sharpe_difference
from researchkit.inference.overfitting import overfitting
from researchkit.inference.selection import benjamini_hochberg, holm
from researchkit.inference.sharpe import long_run_variance, sharpe
from researchkit.inference.superior import raw_spa, spa, stationary_variance, stepm
from researchkit.inference.trials import deflate_best, effective_trials

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10_000)


def draw(seed: int, n: int = 300, k: int = 8) -> np.ndarray:
    return 0.01 * np.random.default_rng(seed).standard_t(5, (n, k))


@few
@given(seeds, st.integers(1, 60), st.floats(1, 30), st.integers(1, 40))
def test_counts_sum_to_the_sessions(seed, n, block, chunk):
    parts = stationary_counts(n, block=block, count=50, seed=seed, chunk=chunk)
    counts = np.concatenate([part.copy() for part in parts])
    assert counts.shape == (50, n)
    assert (counts >= 0).all()
    assert (counts == np.rint(counts)).all()
    assert (counts.sum(axis=1) == n).all()


def test_every_session_is_drawn_equally_often():
    counts = np.concatenate([c.copy() for c in stationary_counts(40, block=6, count=40_000, seed=1)])
    assert np.abs(counts.mean(axis=0) - 1).max() < 5 * counts.std() / math.sqrt(40_000)


def test_the_same_bits_on_one_thread_and_on_two():
    code = (
        "import numpy as np; from researchkit.inference.superior import spa, stepm\n"
        "d = 0.01 * np.random.default_rng(0).standard_t(4, (400, 60)); d[:, 3] += 0.002\n"
        "print(repr(spa(d, seed=2, count=500)), stepm(d, seed=2, count=500).p.tobytes().hex())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"OPENBLAS_NUM_THREADS": threads, "OPENBLAS_CORETYPE": kind},
            capture_output=True, text=True, check=True,
        ).stdout
        for threads, kind in (("1", "Haswell"), ("2", "Haswell"), ("1", "Nehalem"))
    }  # fmt: skip
    assert len(said) == 1


def test_spa_has_the_p_values_of_its_peer():
    d = draw(3, 400, 20) + np.linspace(-0.002, 0.0006, 20)
    peer = SPA(np.zeros(400), -d, block_size=7, reps=4000, seed=5)
    peer.compute()
    ours = raw_spa(d, block=7, seed=1, count=4000)
    for got, want in zip((ours.lower, ours.consistent, ours.upper), peer.pvalues, strict=True):
        assert abs(got - want) < 4 * math.sqrt(2 * max(want * (1 - want), 0.01) / 4000)


def test_stepm_finds_what_its_peer_finds():
    d = draw(9, 500, 12)
    d[:, [2, 5]] += 0.004
    scale = np.sqrt(stationary_variance(d, 6))  # the peer does not studentise: give it studentised data
    peer = StepM(np.zeros(500), -d / scale, block_size=6, reps=2000, seed=5)
    peer.compute()
    assert stepm(d, block=6, seed=1).better() == list(peer.superior_models) == [2, 5]


@few
@given(seeds)
def test_spa_does_not_see_size_or_order_of_columns(seed):
    d = draw(seed)
    order = np.random.default_rng(seed).permutation(8)
    a = spa(d, seed=1, block=5, count=199)
    b = spa(4.0 * d[:, order], seed=1, block=5, count=199)
    assert (a.lower, a.consistent, a.upper) == (b.lower, b.consistent, b.upper)
    assert order[b.best] == a.best
    assert a.lower <= a.consistent <= a.upper


@few
@given(seeds)
def test_stepwise_p_values_rise_as_statistics_fall(seed):
    found = stepm(draw(seed) + 0.001, seed=1, block=5, count=199)
    order = np.argsort(-found.statistic)
    assert (np.diff(found.p[order]) >= 0).all()
    assert found.p.min() == spa(draw(seed) + 0.001, seed=1, block=5, count=199).upper


@few
@given(seeds, st.floats(0.1, 10))
def test_the_sharpe_difference_agrees_with_two_ratios(seed, factor):
    d = draw(seed, 200, 2)
    found = sharpe_difference(factor * d[:, 0], d[:, 1], seed=1, count=99)
    one, two = (sharpe(d[:, k]).value * math.sqrt(200 / 199) for k in (0, 1))
    assert found.value == pytest.approx(one - two, abs=1e-9)
    assert found == sharpe_difference(factor * d[:, 0], d[:, 1], seed=1, count=99)


def test_an_error_of_one_block_length_is_the_spread_of_the_estimates():
    rng, found, errors = np.random.default_rng(2), [], []
    for _ in range(300):
        d = rng.standard_t(6, (400, 2))
        result = sharpe_difference(d[:, 0], d[:, 1], seed=1, count=99, block=5)
        found.append(result.value)
        errors.append(result.se)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.12)


@few
@given(seeds, st.integers(0, 8), st.integers(20, 200))
def test_the_variance_so_far_is_the_variance_of_what_was_so_far(seed, lag, t):
    x = draw(seed, 200, 1)[:, 0] + 5.0
    want = max(long_run_variance(x[:t], lag), float(x[:t].var()))
    assert running_variance(x, lag)[t - 1] == pytest.approx(want, rel=1e-7)


@few
@given(seeds, st.integers(70, 199))
def test_a_confidence_sequence_knows_only_the_past(seed, cut):
    x = draw(seed, 200, 1)[:, 0]
    y = np.r_[x[:cut], 50 * x[cut:]]
    a, b = confidence_sequence(x), confidence_sequence(y)
    assert (a.lower[:cut] == b.lower[:cut]).all()
    assert (a.upper[:cut] == b.upper[:cut]).all()


@few
@given(seeds, st.integers(1, 12), st.integers(5, 99))
def test_wealth_knows_only_the_past_and_is_exact(seed, horizon, cut):
    d = np.random.default_rng(seed).uniform(-1, 1, 100)
    other = np.r_[d[:cut], -d[cut:]]
    for bet in (lambda v: bet_each_session(v, horizon=horizon), bet_on_average):
        assert (bet(d).log_wealth[:cut] == bet(other).log_wealth[:cut]).all()
    assert 0 < bet_each_session(d, horizon=horizon).p <= 1


@pytest.mark.parametrize("bet", [bet_each_session, bet_on_average])
def test_expected_wealth_is_at_most_one_by_enumeration(bet):
    """All paths of eight fair rounds of two and of three outcomes: no approximation at all."""
    for values, chances in (((-1.0, 1.0), (0.5, 0.5)), ((-0.6, 0.1, 0.9), (0.3, 0.4, 0.3))):
        mean = sum(v * c for v, c in zip(values, chances, strict=True))
        rounds = 8 if len(values) == 2 else 6
        total = 0.0
        for path in np.ndindex(*[len(values)] * rounds):
            d = [max(values[i] - mean, -1.0) for i in path]
            total += math.prod(chances[i] for i in path) * math.exp(bet(d).log_wealth[-1])
        assert total <= 1 + 1e-9


def test_overfitting_by_the_plain_loop():
    x = draw(4, 80, 6)
    parts, want = np.split(x, 4), []
    for chosen in combinations(range(4), 2):
        inside = np.vstack([parts[b] for b in chosen])
        outside = np.vstack([parts[b] for b in range(4) if b not in chosen])
        a, b = (v.mean(axis=0) / v.std(axis=0, ddof=1) for v in (inside, outside))
        omega = (b <= b[a.argmax()]).sum() / 7
        want.append(math.log(omega / (1 - omega)))
    found = overfitting(x, blocks=4)
    assert found.logits == pytest.approx(want, abs=1e-9)
    assert found.pbo == np.mean(np.array(want) <= 0)


@few
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_benjamini_hochberg_is_scipys_and_never_stricter_than_holm(p):
    from scipy.stats import false_discovery_control

    assert benjamini_hochberg(p) == pytest.approx(false_discovery_control(p), abs=1e-12)
    assert (benjamini_hochberg(p) <= holm(p) + 1e-12).all()


@few
@given(seeds, st.integers(2, 12))
def test_effective_trials_lie_between_one_and_all(seed, k):
    found = effective_trials(draw(seed, 200, k))
    assert 1 <= found.used <= k
    assert 1 - 1e-9 <= found.rank <= k + 1e-9
    assert deflate_best(draw(seed, 200, k)).n_trials == found.used


@few
@given(seeds)
def test_an_interval_repeats_and_holds_its_estimate(seed):
    x = draw(seed, 60, 1)[:, 0]
    a, b = (bootstrap(x, np.mean, seed=seed, count=99) for _ in range(2))
    assert a == b
    assert a.lower <= a.upper
    assert block_length(x).low <= block_length(x).value <= block_length(x).high


@pytest.mark.parametrize(
    "call",
    [
        lambda x: spa(x, seed=1),
        lambda x: stepm(x, seed=1),
        lambda x: overfitting(x, blocks=4),
        lambda x: effective_trials(x),
        lambda x: sharpe_difference(x[:, 0], x[:, 1], seed=1),
        lambda x: confidence_sequence(x[:, 0]),
        lambda x: bet_each_session(x[:, 0]),
        lambda x: bet_on_average(x[:, 0]),
        lambda x: bootstrap(x[:, 0], np.mean, seed=1),
        lambda x: block_length(x),
    ],
)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name(call, bad):
    x = draw(1, 64, 3)
    x[40, 0] = bad
    with pytest.raises(ValueError, match="at row 40"):
        call(x)
