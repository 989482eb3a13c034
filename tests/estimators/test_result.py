"""Results come back from a file bit for bit; other files are refused."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.scenes import SMALL
from isac_toolbox.estimators import Ambiguity, Candidates
from isac_toolbox.estimators.result import SceneInformation
from isac_toolbox.inference.turbo import History, IterationRecord

SCALARS = ("estimator", "noise_variance", "converged", "n_iter", "status")


def results() -> dict[str, isac.EstimationResult]:
    simulation = SMALL.simulate(0)
    city = isac.Scenario.load("traced_munich").simulate(0).observation
    return {
        "bisvbi": isac.EMTurboBiSVBI().estimate(simulation.observation),
        "city": isac.EMTurboBiSVBI(max_iter=2).estimate(city),
        "nomp": isac.NOMP().estimate(simulation.observation),
        "least_squares": isac.LeastSquares().estimate(simulation.observation),
        "genie": isac.GenieLMMSE(truth=simulation.truth).estimate(simulation.observation),
    }


@pytest.fixture(scope="module")
def all_results():
    return results()


def same_bits(first, second) -> bool:
    a, b = np.asarray(first), np.asarray(second)
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@pytest.mark.parametrize("name", ["bisvbi", "city", "nomp", "least_squares", "genie"])
def test_results_come_back_bit_for_bit(all_results, tmp_path, name):
    result = all_results[name]
    path = result.save(tmp_path / "result")
    assert path == tmp_path / "result.npz"
    back = isac.EstimationResult.load(path)
    for field in fields(result):
        value, other = getattr(result, field.name), getattr(back, field.name)
        if field.name == "history":
            assert len(other) == len(value)
            for record, again in zip(value, other, strict=True):
                for column in fields(IterationRecord):
                    assert same_bits(getattr(record, column.name), getattr(again, column.name))
        elif field.name in ("candidates", "unlocated_paths") or isinstance(value, SceneInformation):
            for inner in fields(value):
                assert same_bits(getattr(value, inner.name), getattr(other, inner.name)), inner.name
        elif field.name == "misfit":
            assert other == value and (value is None) == (name not in ("bisvbi", "city", "nomp"))
        elif field.name in ("warnings", "ambiguities"):
            assert other == value == ()
        elif field.name in SCALARS:
            assert type(other) is type(value) and other == value, field.name
        else:
            assert same_bits(value, other), field.name
    assert back.history.n_active.dtype == result.history.n_active.dtype


def test_documented_keys_and_nothing_pickled(all_results, tmp_path):
    path = all_results["bisvbi"].save(tmp_path / "result.npz")
    with np.load(path, allow_pickle=False) as file:
        assert str(file["format"]) == "isac-toolbox estimation-result 1"
        assert file["history"].shape == (all_results["bisvbi"].n_iter, 4)
        for name in ("candidates", "unlocated_paths"):
            part = getattr(all_results["bisvbi"], name)
            given = [f.name for f in fields(part) if getattr(part, f.name) is not None]
            inner = {f"{name}.{key}" for key in given}
            assert inner <= set(file.files)
        result = all_results["bisvbi"]
        given = {f.name for f in fields(result) if getattr(result, f.name) is not None}
        plain = given - {"candidates", "unlocated_paths", "information"}
        assert plain <= set(file.files)
        assert all(file[key].dtype != object for key in file.files)


def test_warnings_and_ambiguities_come_back(all_results, tmp_path):
    clock = Ambiguity("clock", 2, np.array([[3e-9], [-5e-9]]), np.array([0.75, 0.25]))
    place = Ambiguity("scatterer", 0, np.arange(9.0).reshape(3, 3), np.array([0.5, 0.3, 0.2]))
    told = replace(all_results["nomp"], warnings=("all is late", "ü"), ambiguities=(clock, place))
    back = isac.EstimationResult.load(told.save(tmp_path / "told"))
    assert back.warnings == told.warnings
    for entry, again in zip(told.ambiguities, back.ambiguities, strict=True):
        assert (again.kind, again.index, str(again)) == (entry.kind, entry.index, str(entry))
        assert same_bits(again.alternatives, entry.alternatives) and same_bits(again.weights, entry.weights)
    assert str(clock) == "clock of user 2: 3.0 ns (0.75), -5.0 ns (0.25)"
    assert place.in_words(first=1).startswith("place of scatterer 1: (0.00, 1.00, 2.00) m (0.50), (3.00,")
    without = dict(np.load(tmp_path / "told.npz").items())
    for name in ("warnings", "ambiguities", "misfit", "misfit_parts"):  # as files of earlier versions
        del without[name]
    np.savez(tmp_path / "old.npz", **without)
    old = isac.EstimationResult.load(tmp_path / "old.npz")
    assert old.warnings == () and old.misfit is None


def test_a_result_without_iterations_can_be_stored(all_results, tmp_path):
    empty = replace(all_results["bisvbi"], history=History(), n_iter=0)
    back = isac.EstimationResult.load(empty.save(tmp_path / "empty"))
    assert len(back.history) == 0 and back.history.objective.shape == (0,)


@pytest.mark.parametrize("key", ["channel", "llr", "history", "candidates.scatterer_probability", "status"])
def test_missing_keys_are_named(all_results, tmp_path, key):
    path = all_results["nomp"].save(tmp_path / "result.npz")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != key}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        isac.EstimationResult.load(path)


def test_other_files_are_refused(all_results, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        isac.EstimationResult.load(tmp_path / "nothing.npz")
    block = SMALL.simulate(0).observation.save(tmp_path / "block")
    with pytest.raises(ValueError, match="estimation-result"):
        isac.EstimationResult.load(block)
    with pytest.raises(ValueError, match="uplink-observation"):
        isac.UplinkObservation.load(all_results["nomp"].save(tmp_path / "result"))
    bare = tmp_path / "bare.npz"
    bare.write_bytes(pickle.dumps({"channel": 1}))
    with pytest.raises(ValueError, match="not an npz file"):
        isac.EstimationResult.load(bare)
    content = (tmp_path / "result.npz").read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        bare.write_bytes(content[:length])
        with pytest.raises(ValueError, match="bare"):
            isac.EstimationResult.load(bare)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", np.array(["a", "b"])),
        ("n_iter", np.arange(3)),
        ("history", np.zeros((2, 3))),
        ("history", np.zeros(4)),
        ("noise_variance", np.array("loud")),
    ],
)
def test_altered_values_are_refused_as_bad_files(all_results, tmp_path, key, value):
    path = all_results["nomp"].save(tmp_path / "result.npz")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays[key] = value
    np.savez(path, **arrays)
    with pytest.raises((ValueError, TypeError)):
        isac.EstimationResult.load(path)


@pytest.mark.parametrize("key", ["channel_variance", "scatterer_probability", "llr", "status", "misfit"])
def test_shapes_that_do_not_fit_name_file_and_key(all_results, tmp_path, key):
    path = all_results["nomp"].save(tmp_path / "result.npz")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays[key] = np.zeros((2, 2, 2, 2, 2))
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=rf"result\.npz: {key} must have shape .* got \(2, 2, 2, 2, 2\)"):
        isac.EstimationResult.load(path)


def test_results_are_frozen(all_results):
    with pytest.raises(AttributeError):
        all_results["nomp"].status = "fine"
    with pytest.raises(AttributeError):
        all_results["nomp"].candidates.scatterer_probability = 0
    assert isinstance(all_results["nomp"].candidates, Candidates)
