"""Tables of the epochs of a fit."""

import csv

import pytest

from isac_toolbox.nn import SSVI, CSVLog, TurboVBICompressor

QUIET = {"progress": False}


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_fit_and_fine_tuning_write_one_table(tmp_path, digits, trained):
    log = CSVLog(tmp_path / "epochs.csv")
    compressor = TurboVBICompressor(trained, warmup_epochs=1, temperature=0.01)
    compressor.fit(digits[0], digits[1], epochs=3, callback=log, **QUIET)
    compressor.finetune(digits[0], epochs=2, callback=log, **QUIET)
    rows = rows_of(log.path)
    assert [row["phase"] for row in rows] == 3 * ["posterior"] + 2 * ["fine-tuning"]
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2, 3, 4]
    assert [float(row["loss"]) for row in rows[:3]] == [record.loss for record in compressor.history]
    assert rows[0]["neurons"].split() == [str(n) for n in compressor.history[0].neurons]
    assert float(rows[3]["density"]) == float(rows[4]["density"]) <= float(rows[2]["density"])


def test_rows_are_added_to_a_file_only_if_asked(tmp_path, digits, trained):
    path = tmp_path / "epochs.csv"
    for append, wanted in ((False, 1), (True, 2), (False, 1)):
        SSVI(trained, density=0.1).fit(digits[0], epochs=1, callback=CSVLog(path, append=append), **QUIET)
        assert len(rows_of(path)) == wanted
    compressor = TurboVBICompressor(trained, warmup_epochs=1, temperature=0.01)
    with pytest.raises(ValueError, match="has the columns"):
        compressor.fit(digits[0], epochs=2, callback=CSVLog(path, append=True), **QUIET)


def test_a_callback_stops_fine_tuning(digits, trained):
    compressor = TurboVBICompressor(trained, warmup_epochs=1, temperature=0.01)
    compressor.fit(digits[0], epochs=2, **QUIET)
    seen = []
    compressor.finetune(
        digits[0], epochs=5, callback=lambda r: seen.append(r.epoch) or len(seen) == 2, **QUIET
    )
    assert seen == [2, 3]
    compressor.finetune(digits[0], epochs=1, callback=lambda r: seen.append(r.epoch), **QUIET)
    assert seen == [2, 3, 4]


def test_bad_input_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        CSVLog(tmp_path / "none" / "epochs.csv")
    with pytest.raises(TypeError, match="must be the record of an epoch, got int"):
        CSVLog(tmp_path / "epochs.csv")(3)
