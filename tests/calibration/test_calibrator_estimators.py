"""scikit-learn's own estimator checks, twice.

The calibrators declare what `IsotonicRegression` declares: one column, 1-d. That alone makes scikit-learn skip most of
its checks, so they also run on a thin subclass that takes a matrix of any reals, squashes the row sums to (0, 1) and
codes the targets as 0 and 1; everything behind that door is the real thing.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data

from researchkit.calibration.calibrators import Beta, Identity, Isotonic, Platt
from researchkit.calibration.temperature import Temperature
from researchkit.calibration.vennabers import VennAbers

KINDS = [Identity, Platt, Beta, Isotonic, Temperature, VennAbers]


class Squashed:
    """The door that lets arbitrary matrices and targets through."""

    def fit(self, X, y=None, sample_weight=None):
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        X, y = validate_data(self, X, y)
        width = self.n_features_in_
        super().fit(self._squash(X), (y > y.min()).astype(float), sample_weight)
        self.n_features_in_ = width
        return self

    def predict(self, X):
        check_is_fitted(self)
        return super().predict(self._squash(validate_data(self, X, reset=False)))

    def _squash(self, X):
        return 1 / (1 + np.exp(-np.clip(X.sum(axis=1), -30, 30)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array, tags.input_tags.two_d_array = False, True
        return tags


class SquashedIdentity(Squashed, Identity):
    pass


class SquashedPlatt(Squashed, Platt):
    pass


class SquashedBeta(Squashed, Beta):
    pass


class SquashedIsotonic(Squashed, Isotonic):
    pass


class SquashedTemperature(Squashed, Temperature):
    pass


class SquashedVennAbers(Squashed, VennAbers):
    pass


BEHIND = [
    SquashedIdentity,
    SquashedPlatt,
    SquashedBeta,
    SquashedIsotonic,
    SquashedTemperature,
    SquashedVennAbers,
]


def _failures(estimator):
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    return {r["check_name"]: repr(r["exception"])[:300] for r in results if r["status"] == "failed"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Can't test estimator")
def test_sklearn_checks_for_a_one_column_estimator(kind):
    assert _failures(kind()) == {}


@pytest.mark.parametrize("kind", BEHIND)
def test_sklearn_checks_behind_the_door(kind):
    assert _failures(kind()) == {}  # none is expected to fail
