"""The search for a temperature finds one that holds, however low it is, and keeps nothing that does not."""

import math

import pytest
import torch

from isac_toolbox.nn.objective import Objective
from isac_toolbox.nn.turbo_vbi.temperature import TemperatureSearch
from isac_toolbox.nn.turbo_vbi.watch import Verdict, Watch


class Layers:
    """A compressor whose state is what the last call of the engine was given."""

    class settings:
        temperature = 0.1

    def __init__(self):
        self.called_at, self.averages, self.trained = math.nan, 1, 0

    def posterior_state(self):
        return {"called_at": self.called_at, "curvatures": self.averages, "trained": self.trained}

    def load_posterior(self, state):
        self.called_at, self.averages, self.trained = (
            state[k] for k in ("called_at", "curvatures", "trained")
        )

    def prior_state(self):
        return {"called_at": self.called_at}

    def load_priors(self, state):
        self.called_at = state["called_at"]

    def _update_priors(self, temperature, size):
        self.called_at = temperature

    def support(self):
        return {"": torch.ones(4, dtype=torch.bool)}


class Trials:
    """Networks that lose in proportion to the temperature over ``highest``."""

    n_weights = 4
    watch = Watch(Objective(), [], [], max_loss_drop=0.01)

    def __init__(self, highest):
        self.compressor, self.highest = Layers(), highest

    def verdict(self, support):
        return Verdict(0.05 * self.compressor.called_at / self.highest, 0.0)


def search_with(highest, n_updates=20):
    found = TemperatureSearch(Trials(highest))
    found.start(n_updates)
    return found


@pytest.mark.parametrize("highest", [0.02, 3e-3, 1e-4])
def test_the_first_update_bisects_the_highest_temperature_that_holds(highest):
    search = search_with(highest)
    search.update(search.temperature, 100)
    assert search.found
    assert highest / 2.0**0.5 <= search.good["called_at"] <= highest * (1 + 1e-9)
    assert search.compressor.called_at == search.good["called_at"]  # the engine's state is that one


@pytest.mark.parametrize("highest", [1e-7, 1e-9])
def test_a_temperature_that_no_first_update_reaches_is_found_by_later_ones(highest):
    """The temperature used to fall to a fifth at most, and every update failed from there on."""
    search = search_with(highest)
    for _ in range(6):
        search.compressor.trained += 1
        search.compressor.averages += 1
        before = search.compressor.averages
        search.update(search.temperature, 100)
        if search.found:
            break
        assert search.compressor.trained == 0  # what the noise has spoilt is taken back,
        assert search.compressor.averages == before  # what was learned of the curvature stays
    assert search.found and search.good["called_at"] <= highest * (1 + 1e-9)


def test_a_fall_of_what_holds_is_followed_within_a_few_updates():
    search = search_with(0.02)
    for _ in range(3):
        search.update(search.temperature, 100)
    search.trials.highest = 2e-4
    for _ in range(7):
        search.update(search.temperature, 100)
        if search.n_failures == 0:
            break
        assert search.compressor.called_at == search.good["called_at"]
    assert search.n_failures == 0 and search.good["called_at"] <= 2e-4


def test_the_temperature_rises_to_its_end_with_the_last_update_where_all_hold():
    search = search_with(math.inf, n_updates=10)
    for _ in range(10):
        search.update(search.temperature, 100)
    assert search.temperature == pytest.approx(3.0 * 0.1)
    assert search.good["called_at"] < search.temperature + 1e-12


def test_a_search_that_goes_on_from_its_state_goes_on_alike():
    whole, first = search_with(4e-3), search_with(4e-3)
    for search in (whole, first):
        for _ in range(4):
            search.update(search.temperature, 100)
    second = search_with(4e-3)
    second.restore(first.state())
    second.compressor.load_posterior(first.compressor.posterior_state())
    for _ in range(8):
        whole.update(whole.temperature, 100)
        second.update(second.temperature, 100)
    assert whole.state() == second.state()
