"""Settings objects: the same runs as single keywords, presets that work, bad values named."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from torch import nn

from isac_toolbox.nn import SSVI, CompressionSettings, DenseVI, SSVISettings, TurboVBICompressor
from isac_toolbox.nn.models import mlp
from isac_toolbox.nn.training import accuracy

KINDS = {TurboVBICompressor: CompressionSettings, SSVI: SSVISettings}
PRESETS = {
    CompressionSettings: ("chain", "independent", "conv", "aggressive"),
    SSVISettings: ("authors", "structured", "conv", "uncertainty"),
}


@pytest.mark.parametrize("method", KINDS)
def test_keywords_change_single_fields_of_the_settings(method):
    kind, net = KINDS[method], nn.Linear(4, 3)
    assert method(net).settings == kind()
    given = kind.preset("conv")
    assert method(net, settings=given).settings == given
    changed = method(net, settings=given, learning_rate=0.03)
    assert changed.settings == replace(given, learning_rate=0.03)
    assert method(net, learning_rate=0.03).settings == kind(learning_rate=0.03)


def test_the_first_arguments_of_ssvi_may_be_given_by_place():
    given = SSVISettings(density=0.3, update_interval=7)
    assert SSVI(nn.Linear(4, 3), settings=given).settings == given
    by_place = SSVI(nn.Linear(4, 3), 0.2, "magnitude", "random", settings=given).settings
    assert by_place == replace(given, density=0.2, removal="magnitude", addition="random")


def test_the_same_settings_give_the_same_network(digits, trained):
    keywords = {"temperature": 0.3, "warmup_epochs": 1, "support": "independent", "gate": {"fc1": 0.2}}
    pairs = [
        (TurboVBICompressor(trained, settings=CompressionSettings(**keywords), seed=3), digits),
        (TurboVBICompressor(trained, **keywords, seed=3), digits),
    ]
    states = [c.fit(d[0], epochs=2, progress=False).model.state_dict() for c, d in pairs]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("kind", PRESETS)
def test_settings_are_frozen(kind):
    settings = kind()
    with pytest.raises(FrozenInstanceError):
        settings.learning_rate = 1.0


@pytest.mark.parametrize(("method", "name"), [(TurboVBICompressor, "temprature"), (SSVI, "densty")])
def test_unknown_names_are_refused(method, name):
    with pytest.raises(TypeError, match=rf"{method.__name__} has no setting \['{name}'\], only"):
        method(nn.Linear(2, 2), **{name: 1.0})
    with pytest.raises(TypeError, match="settings must be of"):
        method(nn.Linear(2, 2), settings={"learning_rate": 1.0})
    with pytest.raises(ValueError, match="preset must be one of"):
        KINDS[method].preset("best")


@pytest.mark.parametrize(
    ("kind", "name", "value", "error"),
    [
        (CompressionSettings, "learn_support", "no", TypeError),
        (CompressionSettings, "moment_matching", 1, TypeError),
        (CompressionSettings, "temperature_factors", [2.0], TypeError),
        (CompressionSettings, "temperature_factors", {"fc1": -1.0}, ValueError),
        (CompressionSettings, "independent_layers", "fc1", TypeError),
        (CompressionSettings, "temperature_start", -0.1, ValueError),
        (SSVISettings, "posterior", "yes", TypeError),
        (SSVISettings, "kl_weight", False, TypeError),
    ],
)
def test_bad_values_are_named(kind, name, value, error):
    with pytest.raises(error, match=name):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("method", "whole"), [(TurboVBICompressor, "warmup_epochs"), (SSVI, "update_interval")]
)
def test_numbers_of_numpy_survive_a_checkpoint(method, whole, digits, tmp_path):
    given = {"learning_rate": np.float64(0.02), whole: np.int64(1)}
    part = {"epochs": 2, "progress": False, "checkpoint": tmp_path / "fit.pt"}
    fitted = method(mlp(64, (8,), 10), **given)
    assert type(fitted.settings.learning_rate) is float
    fitted.fit(digits[0], **part, callback=lambda record: True)
    again = method(mlp(64, (8,), 10), **given).fit(digits[0], **part, resume=True)
    assert len(again.history) == 2


# ---- presets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS[CompressionSettings])
def test_presets_compress_a_trained_network(name, digits, trained):
    compressor = TurboVBICompressor(trained, settings=CompressionSettings.preset(name))
    compressor.fit(digits[0], epochs=40, progress=False)
    compressor.finetune(digits[0], epochs=10, teacher=trained, progress=False)
    assert compressor.report().density < 0.85
    assert accuracy(compressor.export(), digits[2]) >= accuracy(trained, digits[2]) - 0.03


@pytest.mark.parametrize("name", PRESETS[SSVISettings])
def test_presets_train_a_network_with_normalisation_layers(name, digits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())
        net = nn.Sequential(*first, nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    settings = replace(SSVISettings.preset(name), density=0.2, update_interval=20)
    ssvi = SSVI(net, settings=settings).fit(digits[0], epochs=15, progress=False)
    assert ssvi.evaluate(digits[2])["accuracy"] > 0.9
    assert ssvi.n_updates > 0


def test_the_authors_settings_are_not_for_networks_without_normalisation_layers(digits):
    """What `initial_mean_sd` says of the authors' start; a dense reference learns at once."""
    short = {"epochs": 3, "progress": False}
    authors = SSVI(mlp(64, (64, 32), 10), settings=SSVISettings.preset("authors")).fit(digits[0], **short)
    assert authors.evaluate(digits[2])["accuracy"] < 0.3
    assert DenseVI(mlp(64, (64, 32), 10)).fit(digits[0], **short).evaluate(digits[2])["accuracy"] > 0.8
