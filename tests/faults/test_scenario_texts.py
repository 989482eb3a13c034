"""Scenario files of any content: refused by name, or blocks that are estimated, in bounded memory."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import isac_toolbox as isac
from helpers import texts
from helpers.examples import examples
from helpers.faults import memory_of_at_most, tally

_MEMORY = 2**31
FINITE = ("channel", "channel_variance", "symbol_mean", "llr", "user_positions_m", "time_offsets_s")


def load_or_refuse(path, row):
    """The scenario of a file; None where it is refused, with the file's name."""
    with memory_of_at_most(_MEMORY):
        try:
            return isac.Scenario.load(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            tally(row, "refused by name")
    return None


@given(st.one_of(st.text(texts.LETTERS, max_size=60), st.binary(max_size=60)))
@example("[a]" * 3)
@example("a.b." * 9 + "c = 1")
@example("n_users = 0x" + "f" * 400)
@example("description = '''\n")
@examples(50)
def test_any_text(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("text") / "own.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if load_or_refuse(path, "scenario file of any text") is not None:
        tally("scenario file of any text", "a valid one")


@given(texts.fields)
@example({**texts.SIZES, "spacing_wavelengths": 900.0, "snr_db": 100.0})
@example({**texts.SIZES, "time_offset_std_s": 200.0, "n_clusters": 3})
@example({**texts.SIZES, "n_scatterers": 0, "coupling": 1.0, "symbol_period_s": 1e-4})
@example({**texts.SIZES, "n_subcarriers": 10**30})
@example({**texts.SIZES, "iq_image_db": 0.0, "n_data_symbols": 0, "power_control": False})
@example({**texts.SIZES, "region_m": [[0, 0, 0], [1e300, 1e300, 1e300]]})
@example({**texts.SIZES, "element_gain_std": 600.0})
@example({**texts.SIZES, "coupling": 1e-203})
@examples(50)
def test_any_fields(tmp_path_factory, content):
    """What is loaded is simulated, estimated and bounded, or said to be impossible; no NaN goes unsaid."""
    row, path = "scenario file of any fields", tmp_path_factory.mktemp("fields") / "own.toml"
    path.write_text(texts.toml_file(content), encoding="utf-8")
    scenario = load_or_refuse(path, row)
    if scenario is None:
        return
    with memory_of_at_most(_MEMORY), warnings.catch_warnings():
        warnings.simplefilter("ignore", isac.channel.ImplausibleValueWarning)
        try:
            simulation = scenario.simulate(0)
        except (ValueError, MemoryError) as error:
            assert any(name in str(error) for name in (*texts.FIELDS, "rays", "received", "channel")), error
            tally(row, "no such block, in words")
            return
        for estimator in (isac.LeastSquares(), isac.EMTurboBiSVBI(max_seconds=3.0)):
            result = estimator.estimate(simulation.observation)
            for name in FINITE:
                value = getattr(result, name)
                assert value is None or np.all(np.isfinite(value)) or result.status == "numerical failure"
        try:
            bound = isac.bounds.hybrid_crb(simulation)
            assert not np.isnan(bound.channel_nmse)
        except ValueError as error:
            assert "simulation" in str(error)
    tally(row, f"estimated: {result.status}")


@pytest.mark.parametrize("factor", [1, 10**6, 10**40])
def test_blocks_beyond_the_machine_are_refused_before_they_are_drawn(factor, monkeypatch):
    from isac_toolbox.scenario import sizes

    scenario = isac.Scenario(**texts.SIZES).replace(n_subcarriers=10**6 * factor)
    monkeypatch.setattr(sizes, "machine_bytes", lambda: 2.0**28)
    monkeypatch.setattr(np.random, "default_rng", lambda *_: pytest.fail("something was drawn"))
    with pytest.raises(MemoryError, match=r"n_subcarriers = 10+, .* this machine has 0\.25 GiB"):
        scenario.simulate(0)
    with pytest.raises(MemoryError, match="n_subcarriers"):
        scenario.simulate_track(2, 0.1)


def test_the_memory_of_a_block_is_predicted():
    """To a factor of three, as tracemalloc sees it."""
    import tracemalloc

    from isac_toolbox.scenario.sizes import block_bytes

    scenario = isac.Scenario(array_shape=(16, 16), n_subcarriers=256, n_users=4, n_data_symbols=20)
    tracemalloc.start()
    scenario.simulate(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / 3 < block_bytes(scenario) < 3 * peak
