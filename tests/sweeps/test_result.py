"""What a sweep returns: pooled figures, columns, exports."""

from __future__ import annotations

import csv
import dataclasses
import sys

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.sweeps import TINY


@pytest.fixture(scope="module")
def scenario():
    return isac.Scenario.load("urban_uplink").replace(**TINY)


@pytest.fixture(scope="module")
def result(scenario):
    return isac.sweep(scenario, {"array_shape": [(4, 4), (2, 8)], "snr_db": [0]}, ["nomp", "genie"], trials=3)


def test_summary_pools_over_trials(result):
    summary = result.summary()
    assert [(e.point["array_shape"], e.estimator) for e in summary] == [
        ([4, 4], "nomp"),
        ([4, 4], "genie"),
        ([2, 8], "nomp"),
        ([2, 8], "genie"),
    ]
    rows = [r for r in result.rows if r.point["array_shape"] == [4, 4] and r.estimator == "nomp"]
    own, metrics = summary[0], [row.metrics for row in rows]
    nmse = np.array([m.nmse for m in metrics])
    assert own.nmse_db == pytest.approx(10 * np.log10(nmse.mean()))
    raised = 10 * np.log10(nmse.mean() + nmse.std(ddof=1) / np.sqrt(3))
    assert own.nmse_db + own.nmse_std_error_db == pytest.approx(raised)
    hits = sum(m.hits for m in metrics)
    assert own.hits == hits and own.misses == sum(m.misses for m in metrics) and own.trials == 3
    assert own.rmse_m == pytest.approx(np.sqrt(sum(m.squared_error_m2 for m in metrics) / hits))
    assert own.symbol_error_rate == sum(m.symbol_errors for m in metrics) / own.symbols
    assert own.user_rmse_m == pytest.approx(np.sqrt(np.mean([m.user_rmse_m**2 for m in metrics])))
    bins = np.sum([m.bit_bins for m in metrics], axis=0)
    expected = np.abs(bins[:, 1] - bins[:, 2]).sum() / bins[:, 0].sum()
    assert own.bit_calibration_error == pytest.approx(expected)
    assert summary[1].nmse_db == -np.inf and summary[1].rmse_m == 0 and summary[1].converged == 1


def test_seconds_leave_out_first_uses(result):
    first = result.rows[0]
    rows = [dataclasses.replace(first, seconds=s, cold=s > 5) for s in (1.0, 2.0, 9.0)]
    assert dataclasses.replace(result, rows=tuple(rows)).summary()[0].seconds == 1.5
    assert dataclasses.replace(result, rows=tuple(rows[2:])).summary()[0].seconds == 9


def test_columns_csv_and_pandas(result, tmp_path):
    columns = result.columns
    assert columns["array_shape"][0] == (4, 4) and columns["snr_db"].dtype == float
    assert {len(array) for array in columns.values()} == {12}
    with result.to_csv(tmp_path / "rows.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12 and list(lines[0]) == list(columns)
    assert [float(line["nmse_db"]) for line in lines] == columns["nmse_db"].tolist()
    assert lines[0]["array_shape"] == "[4, 4]" and lines[0]["estimator"] == "nomp"
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = result.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and list(frame.columns) == list(columns)
    assert frame.groupby("estimator").nmse.mean()["genie"] == 0


def test_pandas_is_not_needed_otherwise(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        result.to_pandas()


def test_result_describes_itself(result):
    text = repr(result)
    assert "2 points" in text and "12 rows" in text and "0 failed" in text and "nomp, genie" in text
    assert not dataclasses.replace(result, rows=()).summary()
