"""Settings of the joint estimator that reach its parts."""

from __future__ import annotations

import pytest

import isac_toolbox as isac
from helpers.scenes import SMALL
from isac_toolbox.estimators.search import PathSearch


def test_the_false_alarm_rate_reaches_coarse_stage_and_births(monkeypatch):
    rates = set()
    original = PathSearch.threshold

    def watched(self, noise_level, false_alarm_rate):
        rates.add(false_alarm_rate)
        return original(self, noise_level, false_alarm_rate)

    monkeypatch.setattr(PathSearch, "threshold", watched)
    isac.EMTurboBiSVBI(false_alarm_rate=3e-4).estimate(SMALL.simulate(0).observation)
    assert rates == {3e-4}


@pytest.mark.parametrize(("rate", "error"), [(0.0, ValueError), (1.0, ValueError), (True, TypeError)])
def test_bad_false_alarm_rates_are_refused(rate, error):
    with pytest.raises(error, match="false_alarm_rate must"):
        isac.EMTurboBiSVBI(false_alarm_rate=rate)
