"""Files that are whole but hold what no version wrote: refused by name, or something that can be used."""

from __future__ import annotations

import json
import sqlite3
import warnings
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import isac_toolbox as isac
from helpers import texts
from helpers.examples import examples
from helpers.faults import DOCUMENTED, fingerprint, memory_of_at_most, tally

BLOCK = isac.Scenario(**texts.SIZES)
_MEMORY = 2**31


def arrays_of(kind: str, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Any numbers, flags or texts."""
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore", invalid="ignore"):
        return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 30)).astype(kind)


KINDS = st.sampled_from(["f8", "f4", "f2", "c16", "i8", "i1", "u8", "?", "U5", "S3", "M8[s]"])
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
STRANGE = st.one_of(
    st.builds(arrays_of, KINDS, st.integers(0, 99), SHAPES),
    st.sampled_from([np.nan, np.inf, -1, 2**62, "", "x", True]).map(np.asarray),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A block, a result, an environment and a sweep, with what reads them."""
    folder = tmp_path_factory.mktemp("whole")
    observation = BLOCK.simulate(0).observation
    result = isac.EMTurboBiSVBI(max_iter=3).estimate(observation)
    traced = folder / "traced.npz"
    rays = {"bs_position_m": np.zeros(3), "ue_position_m": np.array([[50.0, 5.0, 1.5]])}
    rays |= {"path_ue": np.zeros(2, int), "path_depth": np.array([0, 1]), "path_gain": np.array([1.0, 0.3j])}
    rays |= {"path_delay_s": np.array([1.675e-7, 1.8e-7])}
    np.savez(traced, **rays, path_first_bounce_m=np.array([[np.nan] * 3, [30.0, 10.0, 3.0]]))
    store = folder / "sweep.db"
    isac.sweep(BLOCK, {"snr_db": [0, 10]}, ["ls"], trials=2, store=store)
    return {
        "observation": (observation.save(folder / "block.npz"), isac.UplinkObservation.load),
        "result": (result.save(folder / "result.npz"), isac.EstimationResult.load),
        "environment": (traced, isac.load_traced),
        "sweep": (store, isac.load_sweep),
    }


def read(path, load, row):
    """What is read with little memory; None where it is refused, by name."""
    with memory_of_at_most(_MEMORY), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = load(path)
        except DOCUMENTED as error:
            assert path.stem in str(error), repr(error)
            tally(row, "refused by name")
            return None
    tally(row, "another one, as good")
    return found


@pytest.mark.parametrize("kind", ["observation", "result", "environment"])
def test_arrays_of_any_kind_and_shape(kind, files, tmp_path_factory):
    whole, load = files[kind]
    with np.load(whole) as archive:
        arrays = dict(archive)
    names = st.one_of(st.sampled_from(sorted(arrays)), st.sampled_from(["own", "a.b", "../up"]))

    @given(st.dictionaries(names, STRANGE, min_size=1, max_size=3), st.sets(st.sampled_from(sorted(arrays))))
    @examples(50)
    def check(strange, missing):
        path = tmp_path_factory.mktemp("strange") / whole.name
        kept = {name: value for name, value in arrays.items() if name not in missing or len(missing) > 2}
        np.savez(path, **kept | strange)
        found = read(path, load, f"{kind}, arrays of any kind")
        if found is not None and hasattr(found, "save"):
            again = load(found.save(path.with_name("again.npz")))
            assert fingerprint(again) == fingerprint(found)

    check()


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(texts.LETTERS)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(texts.LETTERS), inner, max_size=3)
    ),
    max_leaves=6,
)
CELLS = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.binary(max_size=6),
    st.text(texts.LETTERS, max_size=6),
    JSON.map(json.dumps),
)


def test_stores_with_any_cell(files, tmp_path_factory):
    """Without checksums, as a stranger's store may be."""
    whole, load = files["sweep"]
    with closing(sqlite3.connect(whole)) as connection:
        tables = {
            table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            for table in ("settings", "estimators", "trials")
        }
    places = st.sampled_from([(table, column) for table, columns in tables.items() for column in columns])

    @given(places, CELLS, st.integers(0, 9), st.booleans())
    @examples(50)
    def check(place, cell, at, one):
        path = tmp_path_factory.mktemp("strange") / whole.name
        path.write_bytes(whole.read_bytes())
        table, column = place
        which = f"WHERE rowid IN (SELECT rowid FROM {table} LIMIT 1 OFFSET {at})" if one else ""
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE checks")
            try:
                connection.execute(f"UPDATE {table} SET {column} = ? {which}", (cell,))
            except (sqlite3.IntegrityError, OverflowError):
                return  # no store can hold that
            connection.commit()
        found = read(path, lambda given: load(given), "sweep, cells of any value")
        if found is not None:
            assert len(found.rows) == len(load(whole).rows)
            found.summary()

    check()
