"""A fit with default settings: it loses no more than asked, whatever it is given."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from isac_toolbox.nn import CompressionSettings, TensorLoader, TurboVBICompressor
from isac_toolbox.nn.models import mlp
from isac_toolbox.nn.objective import Objective
from isac_toolbox.nn.training import accuracy, train
from isac_toolbox.nn.turbo_vbi.watch import Quality, Verdict, Watch, hold_back, is_trained


def fresh(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return mlp(64, (64, 32), 10)


def states(compressor):
    return list(compressor.model.state_dict().values())


# ---- default settings ----------------------------------------------------------------------------------


def test_an_untrained_network_is_trained_first_and_loses_at_most_a_point(digits):
    compressor = TurboVBICompressor(fresh()).fit(digits[0], digits[1], epochs=20, progress=False)
    dense = train(fresh(), digits[0], epochs=20)
    assert accuracy(compressor.export(), digits[2]) >= accuracy(dense, digits[2]) - 0.015
    reference, small = compressor.quality()
    assert small.metric >= reference.metric - 0.01
    assert compressor.report().density < 0.5
    assert len(compressor.history) == 20
    assert [r.phase for r in compressor.history] == ["posterior"] * 10 + ["settling"] * 10


def test_a_trained_network_is_not_trained_first(digits, trained):
    compressor = TurboVBICompressor(trained).fit(digits[0], digits[1], epochs=20, progress=False)
    reference, small = compressor.quality()
    assert reference.metric == pytest.approx(accuracy(trained, digits[1]))
    assert small.metric >= reference.metric - 0.01
    assert compressor.report().density < 0.8


def test_evidence_against_every_weight_leaves_the_network_as_it_was(digits, trained, monkeypatch):
    import isac_toolbox.inference as inference

    monkeypatch.setattr(
        inference.GatedChain, "extrinsic_log_odds", lambda self, L: np.full(self.n_coefficients, -1e4)
    )
    compressor = TurboVBICompressor(trained, warmup_epochs=1)
    compressor.fit(digits[0], digits[1], epochs=4, progress=False)
    reference, small = compressor.quality()
    assert small.metric >= reference.metric - 0.01
    assert all(bool(mask.any()) for mask in compressor.support().values())


def test_nothing_goes_where_nothing_may(digits, trained):
    settings = {"max_loss_drop": 1e-9, "temperature": 5.0, "warmup_epochs": 1}
    targets = TensorLoader(digits[1].x, trained(digits[1].x).detach(), batch_size=300, shuffle=False)
    compressor = TurboVBICompressor(trained, loss=F.mse_loss, **settings)
    with pytest.warns(UserWarning, match="every weight stays: with fewer the network loses"):
        compressor.fit(targets, targets, epochs=2, progress=False)
    x = digits[2].x
    torch.testing.assert_close(compressor.predict(x), trained(x))  # bit for bit the given network


def test_a_loss_alone_is_watched_where_there_is_no_metric():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 8, generator=generator)
    y = (x[:, :2].sum(1, keepdim=True) + 0.3 * torch.randn(600, 1, generator=generator)).detach()
    data = TensorLoader(x[:400], y[:400], batch_size=50), TensorLoader(x[400:], y[400:], shuffle=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    train(net, data[0], epochs=30, learning_rate=1e-2, loss=F.mse_loss)
    compressor = TurboVBICompressor(net, loss=F.mse_loss, learning_rate=3e-3)
    compressor.fit(*data, epochs=20, progress=False)
    reference, small = compressor.quality()
    assert small.loss <= 1.01 * reference.loss
    assert math.isnan(reference.metric) and math.isnan(compressor.history[0].accuracy)
    assert compressor.report().density < 0.95


def test_a_temperature_of_ones_own_is_taken_at_its_word():
    assert CompressionSettings().allowed_loss == 0.01
    assert CompressionSettings(temperature=0.3).allowed_loss is None
    assert CompressionSettings(support_temperature=0.3).allowed_loss is None
    assert CompressionSettings(temperature=0.3, max_loss_drop=0.02).allowed_loss == 0.02
    assert CompressionSettings(max_loss_drop=None).allowed_loss is None
    assert CompressionSettings.preset("conv").allowed_loss == 0.01
    assert CompressionSettings.preset("aggressive").allowed_loss is None
    for bad, error in (("none", ValueError), (-0.1, ValueError), (True, TypeError)):
        with pytest.raises(error, match="max_loss_drop"):
            CompressionSettings(max_loss_drop=bad)


@pytest.mark.parametrize("stop", [1, 5, 9, 12])
def test_resuming_a_guarded_fit_gives_the_same_network(stop, digits, tmp_path):
    def make():
        net = nn.Sequential(nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
        return TurboVBICompressor(net, learning_rate=5e-3, warmup_epochs=1)

    loader = TensorLoader(digits[0].x[:256], digits[0].y[:256], batch_size=64)
    part = {"epochs": 6, "progress": False, "checkpoint": tmp_path / "fit.pt"}
    torch.manual_seed(0)
    whole = make().fit(loader, digits[1], epochs=6, progress=False)
    counted = []
    torch.manual_seed(0)
    make().fit(loader, digits[1], **part, callback=lambda record: counted.append(1) or len(counted) == stop)
    torch.manual_seed(0)
    again = make().fit(loader, digits[1], **part, resume=True)
    assert len(whole.history) == len(again.history) == 6
    assert all(torch.equal(a, b) for a, b in zip(states(whole), states(again), strict=True))


class Patches(nn.Module):
    """A transformer over patches of 4 x 4 pixels, with normalisations before each part."""

    def __init__(self):
        super().__init__()
        self.enter, self.head = nn.Linear(16, 16), nn.Linear(16, 10)
        layer = nn.TransformerEncoderLayer(16, 2, 64, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.place = nn.Parameter(torch.zeros(4, 16))

    def forward(self, x):
        x = x.reshape(-1, 8, 8).unfold(1, 4, 4).unfold(2, 4, 4).flatten(1, 2).flatten(2)
        return self.head(self.encoder(self.enter(x) + self.place).mean(1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:these layers keep all")
def test_a_transformer_loses_most_weights_of_its_layers_and_little_accuracy(digits):
    """The noise of the start was too much for it, and no update of the engine was good from there on."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = Patches()
    train(net, digits[0], epochs=20, learning_rate=3e-3)
    compressor = TurboVBICompressor(net).fit(digits[0], digits[1], epochs=20, progress=False)
    reference, small = compressor.quality()
    assert small.metric >= reference.metric - 0.01
    assert compressor.report().density < 0.5


# ---- watched data --------------------------------------------------------------------------------------


def test_a_network_passes_on_held_back_examples_or_together_with_those_seen():
    alone = Verdict(mean=0.002, error=0.003)
    assert alone.bound() == pytest.approx(0.008)
    assert alone.bound(3.0) == pytest.approx(0.011)
    assert Verdict(0.002, 0.01, joint=-0.01, joint_error=0.005).bound() == pytest.approx(0.012)
    assert Verdict(0.002, 0.01, joint=0.02, joint_error=0.005).bound() == pytest.approx(0.022)
    assert Verdict(0.002, 0.01, joint=0.001, joint_error=0.005).bound(1.0) == pytest.approx(0.002)


@pytest.mark.parametrize(("allowed", "expected"), [(0.01, 0.05), (0.1, 0.25), (0.4, 0.4)])
def test_a_few_times_a_large_loss_is_not_any_loss(allowed, expected):
    assert Watch(Objective(), [], [], allowed).times(5.0) == pytest.approx(expected)


def test_what_is_lost_is_the_mean_over_examples_with_its_standard_error():
    sizes = np.array([32.0, 32.0, 32.0, 4.0])
    reference = Quality(np.ones(4), np.array([0.9, 0.8, 1.0, 1.0]), sizes)
    small = Quality(2.0 * np.ones(4), np.array([0.9, 0.7, 1.0, 0.5]), sizes)
    mean = (32 * 0.1 + 4 * 0.5) / 100
    weights = sizes / 100
    error = math.sqrt(float(np.sum(weights**2 * (np.array([0.0, 0.1, 0.0, 0.5]) - mean) ** 2)))
    assert small.lost(reference) == pytest.approx((mean, error))
    no_metric = [Quality(q.losses, np.full(4, np.nan), sizes) for q in (reference, small)]
    assert no_metric[1].lost(no_metric[0]) == pytest.approx((1.0, 0.0))  # twice the loss


def test_a_set_that_is_too_small_to_tell_needs_the_training_examples(digits, trained):
    """One wrong decision more of 64 is less than two points, but within the scatter."""
    few = [(digits[1].x[:64], digits[1].y[:64])]
    seen = [(digits[0].x, digits[0].y)]
    watch = Watch(Objective(), few, seen, 0.02)
    watch.refer_to(trained)
    assert watch.holds(trained)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        noisy = train(mlp(64, (64, 32), 10), digits[0], epochs=3, learning_rate=2e-3)
    assert not watch.holds(noisy)


@pytest.mark.parametrize("epochs", [0, 10])
def test_a_network_that_knows_something_is_told_from_one_that_does_not(epochs, digits):
    net = train(fresh(3), digits[0], epochs=epochs)
    assert is_trained(Objective(), net, digits[1]) == (epochs > 0)


def test_regression_and_dicts_are_told_as_well():
    x = torch.linspace(-1.0, 1.0, 80)[:, None]
    net = nn.Linear(1, 1)
    loader = [{"input": x, "y": 3.0 * x}]
    with torch.no_grad():
        net.weight.fill_(0.0)
        net.bias.fill_(0.0)
        assert not is_trained(Objective(F.mse_loss), net, loader)
        net.weight.fill_(3.0)
    assert is_trained(Objective(F.mse_loss), net, loader)


@pytest.mark.parametrize(
    "make",
    [
        lambda x, y: TensorLoader(x, y, batch_size=16),
        lambda x, y: DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True),
        lambda x, y: DataLoader(TensorDataset(x, y), batch_size=16, drop_last=True),
        lambda x, y: list(zip(x.split(16), y.split(16))),
    ],
    ids=["tensors", "shuffled", "drop-last", "list"],
)
def test_held_back_examples_are_not_trained_on(make):
    x = torch.arange(160.0)[:, None]
    kept, held = hold_back(make(x, x[:, 0].long()), nn.Linear(1, 2), seed=0)
    first, second = (torch.cat([b[0] for b in loader]).flatten().tolist() for loader in (kept, held))
    assert not set(first) & set(second)
    assert len(second) >= 0.1 * 160
    assert len(first) + len(second) >= 160 - 15


def test_a_loader_that_cannot_be_divided_is_watched_itself(digits):
    class Stream:
        dataset_size = 128

        def __iter__(self):
            yield from zip(digits[0].x[:128].split(64), digits[0].y[:128].split(64))

    stream = Stream()
    with pytest.warns(UserWarning, match=r"train_loader \(Stream\) cannot be divided"):
        kept, held = hold_back(stream, fresh(), seed=0)
    assert kept is stream and held[0].size == 64
