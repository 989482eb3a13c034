"""Saved observations come back bit for bit; damaged or foreign files are refused, never unpickled."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import isac_toolbox as isac
from isac_toolbox import _npz

KEYS = [
    "received",
    "pilots",
    "pilot_mask",
    "array_shape",
    "array_spacing_wavelengths",
    "array_orientation_rad",
    "subcarrier_frequencies_hz",
    "bs_position_m",
    "user_positions_m",
    "user_position_std_m",
    "time_offset_std_s",
    "constellation",
    "region_m",
    "carrier_hz",
    "wavefront",
    "link",
    "noise_variance",
]


@st.composite
def observations(draw: st.DrawFn) -> isac.UplinkObservation:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    k, n, t = draw(st.integers(1, 2)), draw(st.integers(2, 4)), draw(st.integers(2, 4))
    shape = draw(st.sampled_from([(2, 1), (1, 2), (2, 2)]))
    m = shape[0] * shape[1]
    pilots = np.zeros((k, n, t), complex)
    pilots[:, :, 0] = rng.standard_normal((k, n)) + 1j
    mask = np.zeros((k, n, t) if draw(st.booleans()) else (n, t), bool)
    mask[..., 0] = True
    if mask.ndim == 3:
        mask[0, :, 1] = True  # user 0 stays silent where others send data
    special = draw(st.sampled_from([0.0, -0.0, 5e-324, 1e300]))
    received = rng.standard_normal((n, m, t)) + 1j * rng.standard_normal((n, m, t))
    received[0, 0, 0] = complex(special, -special)
    spherical = draw(st.booleans())
    return isac.UplinkObservation(
        received=received,
        pilots=pilots,
        pilot_mask=mask,
        array=isac.UniformPlanarArray(
            shape, draw(st.sampled_from([0.5, 1 / 3, (0.5, 0.7)])), *rng.uniform(-1, 1, 2)
        ),
        subcarrier_frequencies_hz=np.sort(rng.normal(0, 1e6, n)),
        bs_position_m=rng.normal(0, 5, 3),
        user_positions_m=rng.normal(50, 5, (k, 3)),
        user_position_std_m=rng.random(draw(st.sampled_from([(), (3,), (k, 3)]))),
        time_offset_std_s=1e-9 * rng.random(draw(st.sampled_from([(), (k,)]))),
        constellation=isac.qam_constellation(draw(st.sampled_from(["qpsk", "16qam"]))),
        region_m=[rng.uniform(-2, -1, 3), rng.uniform(1, 2, 3)],
        carrier_hz=1e9 / 3 if spherical or draw(st.booleans()) else None,
        wavefront="spherical" if spherical else "planar",
        noise_variance=draw(st.one_of(st.none(), st.floats(1e-12, 1e3))),
    )


def assert_same_bits(first: isac.UplinkObservation, second: isac.UplinkObservation) -> None:
    for field in fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        assert type(a) is type(b), field.name
        if isinstance(a, np.ndarray):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), field.name
            assert a.tobytes() == b.tobytes(), field.name
        else:
            assert a == b, field.name


@pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")
@given(observations())
@settings(max_examples=50, deadline=None)
def test_observations_come_back_bit_for_bit(tmp_path_factory, observation):
    path = observation.save(tmp_path_factory.mktemp("saved") / "block.npz")
    assert_same_bits(isac.UplinkObservation.load(path), observation)


def test_a_simulated_observation_comes_back(tmp_path):
    for name in ("urban_uplink", "traced_street_canyon"):
        observation = isac.Scenario.load(name).simulate(0).observation
        assert_same_bits(isac.UplinkObservation.load(observation.save(tmp_path / name)), observation)


def small_observation() -> isac.UplinkObservation:
    return (
        isac.Scenario(array_shape=(2, 2), n_subcarriers=4, n_users=2, n_scatterers=2, n_data_symbols=2)
        .simulate(0)
        .observation
    )


@pytest.fixture
def saved(tmp_path) -> Path:
    return small_observation().save(tmp_path / "block.npz")


@pytest.mark.parametrize(("name", "stored"), [("a", "a.npz"), ("a.b", "a.b.npz"), ("a.npz", "a.npz")])
def test_the_suffix_is_added(tmp_path, name, stored):
    path = small_observation().save(tmp_path / name)
    assert path == tmp_path / stored and path.is_file()
    assert [p.name for p in tmp_path.iterdir()] == [stored]
    assert small_observation().save(str(tmp_path / name)) == path


def test_documented_keys_and_nothing_pickled(saved):
    with np.load(saved, allow_pickle=False) as file:
        assert sorted(file.files) == sorted([*KEYS, "beam_squint", "format"])
        assert str(file["format"]) == "isac-toolbox uplink-observation 1"
        assert np.isnan(file["noise_variance"]) and file["carrier_hz"] == 3.5e9
        assert all(file[key].dtype != object for key in file.files)


def test_masks_come_back_and_are_optional(tmp_path):
    plain = small_observation()
    masked = replace(plain, element_mask=np.array([True, False, True, True]), sample_mask=np.arange(4) != 2)
    for observation in (plain, masked, replace(masked, element_mask=None)):
        assert_same_bits(isac.UplinkObservation.load(observation.save(tmp_path / "block")), observation)


# --- foreign and damaged files -----------------------------------------------------------------------


def test_blocks_saved_before_beam_squint_existed_load(saved):
    with np.load(saved) as file:
        arrays = {name: file[name] for name in file.files if name != "beam_squint"}
    np.savez(saved, **arrays)
    assert isac.UplinkObservation.load(saved).beam_squint is False


@pytest.mark.parametrize("key", KEYS)
def test_missing_keys_are_named(saved, key):
    with np.load(saved) as file:
        arrays = {name: file[name] for name in file.files if name != key}
    np.savez(saved, **arrays)
    with pytest.raises(ValueError, match=rf"\b{key}\b"):
        isac.UplinkObservation.load(saved)


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, flag: Path):
        self.flag = flag

    def __reduce__(self):
        return Path.touch, (self.flag,)


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "flag")))
    assert (tmp_path / "flag").exists()


@pytest.mark.parametrize("key", ["received", "carrier_hz", "wavefront", "format", "something_else"])
def test_pickled_objects_are_never_unpickled(saved, key):
    flag = saved.parent / "flag"
    with np.load(saved) as file:
        arrays = {name: file[name] for name in file.files}
    arrays[key] = np.array([Trap(flag)], dtype=object)
    np.savez(saved, **arrays)
    with pytest.raises(ValueError, match=key):
        isac.UplinkObservation.load(saved)
    assert not flag.exists()


def test_a_bare_pickle_is_never_unpickled(tmp_path):
    path, flag = tmp_path / "block.npz", tmp_path / "flag"
    path.write_bytes(pickle.dumps(Trap(flag)))
    with pytest.raises(ValueError, match=r"block\.npz is not an npz file"):
        isac.UplinkObservation.load(path)
    assert not flag.exists()


def test_object_arrays_are_not_written(tmp_path):
    with pytest.raises(TypeError, match="bad"):
        _npz.write(tmp_path / "x.npz", "thing", {"fine": [1.0], "bad": [object()]})
    assert not list(tmp_path.iterdir())


def test_truncated_files_are_refused(saved):
    content = saved.read_bytes()
    for length in range(0, len(content), len(content) // 40):
        saved.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"block\.npz"):
            isac.UplinkObservation.load(saved)


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_altered_bytes_are_refused_or_harmless(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("altered")
    observation = small_observation()
    path = observation.save(folder / "block.npz")
    content = bytearray(path.read_bytes())
    for where, value in changes:
        content[int(where * len(content))] = value
    path.write_bytes(content)
    try:
        loaded = isac.UplinkObservation.load(path)
    except (ValueError, TypeError):
        return
    assert_same_bits(loaded, observation)


@pytest.mark.parametrize("content", [b"", b"PK", b"hello", b"\x93NUMPY", bytes(100)])
def test_files_that_are_no_npz(tmp_path, content):
    path = tmp_path / "block.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"block\.npz is not an npz file"):
        isac.UplinkObservation.load(path)


def test_single_arrays_and_other_archives_are_refused(tmp_path):
    np.save(tmp_path / "array.npy", np.ones(3))
    with pytest.raises(ValueError, match="single array"):
        isac.UplinkObservation.load(tmp_path / "array.npy")
    with zipfile.ZipFile(tmp_path / "notes.npz", "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(ValueError, match="received"):
        isac.UplinkObservation.load(tmp_path / "notes.npz")
    with pytest.raises(ValueError, match="is not an npz file"):
        isac.UplinkObservation.load(tmp_path)


@pytest.mark.parametrize("content", [b"n_users = 2\n", b"received,pilots\n1,2\n", b"\x89PNG\r\n", b""])
def test_a_file_that_is_no_npz_is_said_how_it_starts(tmp_path, content):
    """Not that it might be pickled, which is what NumPy thinks of all that it does not know."""
    path = tmp_path / "block.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"block\.npz is not an npz file: it starts with b'") as caught:
        isac.UplinkObservation.load(path)
    assert "pickle" not in str(caught.value) and repr(content[:8]) in str(caught.value)


@pytest.mark.parametrize("member", ["received", "array_shape", "carrier_hz", "beam_squint", "readme.txt"])
@pytest.mark.parametrize("content", [b"hello", b""])
def test_members_that_are_no_arrays_are_named(saved, member, content):
    kept = saved.with_name("changed.npz")
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(kept, "w") as target:
        for name in source.namelist():
            if name.removesuffix(".npy") != member:
                target.writestr(name, source.read(name))
        target.writestr(member, content)
    with pytest.raises(ValueError, match=rf"changed\.npz: (cannot read key )?{member}"):
        isac.UplinkObservation.load(kept)


def test_capital_letters_name_an_npz_file(tmp_path):
    observation = small_observation()
    path = observation.save(tmp_path / "BLOCK.NPZ")
    assert path == tmp_path / "BLOCK.NPZ" and path.exists()
    assert_same_bits(isac.UplinkObservation.load(path), observation)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        isac.UplinkObservation.load(tmp_path / "nothing.npz")


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("received", np.zeros((4, 4, 4)), ValueError),
        ("received", np.full((4, 4, 4), np.nan), ValueError),
        ("received", np.ones((4, 3, 4)), ValueError),
        ("pilot_mask", np.zeros((4, 4)), TypeError),
        ("array_shape", [2, 2, 2], ValueError),
        ("array_spacing_wavelengths", [0.5], ValueError),
        ("array_orientation_rad", 0.0, ValueError),
        ("constellation", [1.0, -1.0, 1j], ValueError),
        ("wavefront", "cylindrical", ValueError),
        ("carrier_hz", -1.0, ValueError),
        ("carrier_hz", [1.0, 2.0], (ValueError, TypeError)),
        ("carrier_hz", "fast", (ValueError, TypeError)),
        ("noise_variance", 1j, (ValueError, TypeError)),
        ("element_mask", [True, False], ValueError),
        ("sample_mask", 1.0, TypeError),
    ],
)
def test_stored_values_are_validated(saved, key, value, error):
    with np.load(saved) as file:
        arrays = {name: file[name] for name in file.files}
    arrays[key] = np.asarray(value)
    np.savez(saved, **arrays)
    with pytest.raises(error, match=key):
        isac.UplinkObservation.load(saved)


@pytest.mark.parametrize("found", ["isac-toolbox estimation-result 1", "isac-toolbox uplink-observation 2"])
def test_files_of_another_format_are_refused(saved, tmp_path, found):
    with np.load(saved) as archive:
        data = dict(archive)
    np.savez(tmp_path / "other.npz", **{**data, "format": found})
    with pytest.raises(
        ValueError, match=r"other.npz has format 'isac-toolbox .*', not 'isac-toolbox uplink-ob"
    ):
        isac.UplinkObservation.load(tmp_path / "other.npz")
    del data["format"]  # as one made by hand may be
    np.savez(tmp_path / "hand.npz", **data)
    isac.UplinkObservation.load(tmp_path / "hand.npz")


@pytest.mark.parametrize("squint", ["False", 1, [True], np.nan])
def test_beam_squint_is_true_or_false(saved, tmp_path, squint):
    with np.load(saved) as archive:
        data = dict(archive)
    np.savez(tmp_path / "other.npz", **{**data, "beam_squint": squint})
    with pytest.raises(ValueError, match="beam_squint must be a single True or False"):
        isac.UplinkObservation.load(tmp_path / "other.npz")
