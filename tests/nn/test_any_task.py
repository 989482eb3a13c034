"""Losses, batches and networks that are no image classifiers: each case with its right value."""

import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

from isac_toolbox.nn import SSVI, TensorLoader, TurboVBICompressor, baselines
from isac_toolbox.nn._batches import dataset_size_of, unpack
from isac_toolbox.nn.baselines import Finetuning
from isac_toolbox.nn.models import mlp
from isac_toolbox.nn.objective import Objective, fingerprint
from isac_toolbox.nn.training import accuracy, recalibrate, train
from isac_toolbox.nn.turbo_vbi.prior import Curvature

RAW = {"max_loss_drop": None, "warmup_epochs": 1, "temperature": 0.02}


def data(n=96, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator)
    return x, (x[:, 0] > 0).long()


def net(width=6, out=2, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, out))


# ---- A: a setting reaches every phase --------------------------------------------------------------------


def test_finetuning_and_baselines_train_with_the_loss_of_the_fit():
    """A weight of zero on class 1: a network that forgets it never says 1; cross-entropy would."""
    x, y = data()
    loader = TensorLoader(x, y, batch_size=32)
    only_first = partial(F.cross_entropy, weight=torch.tensor([1.0, 0.0]))
    compressor = TurboVBICompressor(net(), loss=only_first, learning_rate=3e-2, **RAW)
    compressor.fit(loader, epochs=3, progress=False).finetune(loader, epochs=10, progress=False)
    assert not compressor.predict(x).argmax(1).any()
    for result in (
        baselines.magnitude(net(), loader, density=0.5, epochs=15, tuning=Finetuning(3e-2, loss=only_first)),
        baselines.sparse_variational_dropout(
            net(),
            loader,
            density=0.5,
            epochs=10,
            finetune_epochs=10,
            tuning=Finetuning(3e-2, loss=only_first),
        ),
    ):
        assert not result.model(x).argmax(1).any()


@pytest.mark.parametrize("shape", [(-1, 1), (-1,)], ids=["column", "flat"])
def test_regression_is_finetuned(shape):
    x, _ = data()
    target = x.sum(1).reshape(shape)
    model = nn.Sequential(net(out=1), nn.Flatten(0)) if shape == (-1,) else net(out=1)
    loader = TensorLoader(x, target, batch_size=32)
    compressor = TurboVBICompressor(model, loss=F.mse_loss, learning_rate=1e-2, **RAW)
    compressor.fit(loader, epochs=3, progress=False)
    before = float(F.mse_loss(compressor.predict(x), target))
    compressor.finetune(loader, epochs=30, progress=False)
    assert float(F.mse_loss(compressor.predict(x), target)) < 0.3 * before
    assert compressor.history[-1].accuracy != compressor.history[-1].accuracy  # NaN: it has none


@pytest.mark.parametrize(
    "change",
    [{"loss": F.mse_loss}, {"size": 50}, {"batch": 16}, {"teacher": True}, {"loss": lambda o, y: o.mean()}],
    ids=["loss", "size", "batch", "teacher", "function"],
)
@pytest.mark.parametrize("kind", ["compressor", "ssvi"])
def test_a_checkpoint_of_another_task_is_refused(kind, change, tmp_path):
    x, y = data()
    y = F.one_hot(y).float()
    if kind == "ssvi" and "teacher" in change:
        pytest.skip("it takes no teacher")

    def run(loss=F.cross_entropy, size=None, batch=32, teacher=False, **more):
        loader = TensorLoader(x, y, batch_size=batch)
        part = {"dataset_size": size, "checkpoint": tmp_path / "fit.pt", "epochs": 2, "progress": False}
        if kind == "ssvi":
            return SSVI(net(), 0.5, loss=loss).fit(loader, **part, **more)
        more |= {"teacher": net()} if teacher else {}
        return TurboVBICompressor(net(), loss=loss, **RAW).fit(loader, **part, **more)

    run()
    run(resume=True)
    with pytest.raises(ValueError, match="belongs to other settings"):
        run(resume=True, **change)


def test_fingerprints_tell_functions_and_their_constants_apart():
    def weighted(w):
        return lambda output, target: w * F.mse_loss(output, target)

    values = [F.mse_loss, F.l1_loss, weighted(1.0), weighted(2.0), nn.HuberLoss(), nn.HuberLoss(delta=2.0)]
    values += [nn.CrossEntropyLoss(weight=torch.ones(2)), nn.CrossEntropyLoss(weight=torch.zeros(2))]
    values += [partial(F.cross_entropy, label_smoothing=0.1), partial(F.cross_entropy, label_smoothing=0.2)]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint(weighted(2.0)) == fingerprint(weighted(2.0))
    assert fingerprint(net()) == fingerprint(net()) != fingerprint(net(seed=1))


# ---- B: the weight of a replaced layer -------------------------------------------------------------------


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.TransformerEncoderLayer(8, 2, 32, dropout=0.0, batch_first=True)
            self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoder(x.to(self.head.weight.dtype)).mean(1))


class TiedDecoder(nn.Module):
    """An encoder whose weight is read again to decode."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Linear(6, 12)

    def forward(self, x):
        return F.linear(torch.relu(self.encoder(x)), self.encoder.weight.t())


def sequences(n=48):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 5, 8, generator=generator), torch.randint(3, (n,), generator=generator)


@pytest.mark.filterwarnings("ignore:these layers keep all their weights")
def test_the_live_network_is_masked_on_fused_paths():
    x, y = sequences()
    compressor = TurboVBICompressor(Tagger(), **RAW)
    compressor.fit(TensorLoader(x, y, batch_size=16), epochs=2, progress=False)
    for layer in compressor.layers.values():
        layer.mask.copy_(torch.rand(layer.mask.shape, generator=torch.Generator().manual_seed(1)) < 0.3)
    plain = compressor.masked_model()
    with torch.no_grad():
        torch.testing.assert_close(compressor.model.eval()(x), plain(x), atol=1e-5, rtol=1e-5)
    inner = compressor.model.encoder.linear1
    assert torch.equal(inner.weight, plain.encoder.linear1.weight)
    drawn = compressor.predict(x, n_samples=1)
    assert float((drawn - compressor.predict(x)).abs().max()) > 1e-4  # noise reaches the inner layers
    fused = torch.backends.mha.get_fastpath_enabled()
    assert fused


@pytest.mark.filterwarnings("ignore:these layers keep all their weights")
def test_sparse_layers_have_weights():
    x, y = sequences()
    ssvi = SSVI(Tagger(), 0.3).fit(TensorLoader(x, y, batch_size=16), epochs=2, progress=False)
    plain = ssvi.mean_model()
    for name in ssvi.layers:
        assert torch.equal(ssvi.model.get_submodule(name).weight, plain.get_submodule(name).weight)
    with torch.no_grad():
        torch.testing.assert_close(ssvi.predict(x)[0], plain(x), atol=1e-5, rtol=1e-5)


def test_a_tied_decoder_computes_with_the_masked_weight():
    x, _ = data()
    compressor = TurboVBICompressor(TiedDecoder(), loss=F.mse_loss, **RAW)
    compressor.fit(TensorLoader(x, x, batch_size=32), epochs=2, progress=False)
    layer = compressor.layers["encoder"]
    layer.mask.copy_(torch.rand(layer.mask.shape, generator=torch.Generator().manual_seed(1)) < 0.4)
    weight = layer.mean.detach() * layer.mask
    wanted = F.linear(torch.relu(F.linear(x, weight, layer.bias)), weight.t())
    torch.testing.assert_close(compressor.predict(x), wanted.detach())
    ssvi = SSVI(TiedDecoder(), 0.5, loss=F.mse_loss).fit(
        TensorLoader(x, x, batch_size=32), epochs=2, progress=False
    )
    torch.testing.assert_close(ssvi.predict(x)[0], ssvi.mean_model()(x).detach())


def test_a_layer_that_shares_its_weight_with_an_embedding_is_kept_whole():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.inner = nn.Embedding(11, 8), nn.Linear(8, 8)
            self.head = nn.Linear(8, 11, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(torch.relu(self.inner(self.embedding(tokens)))).mean(1)

    with pytest.warns(UserWarning, match=r"head \(weight shared, 88\)"):
        compressor = TurboVBICompressor(Language(), **RAW)
    assert set(compressor.layers) == {"inner"}
    tokens = torch.randint(11, (40, 4), generator=torch.Generator().manual_seed(0))
    compressor.fit(TensorLoader(tokens, tokens[:, 0], batch_size=20), epochs=2, progress=False)
    assert compressor.predict(tokens).shape == (40, 11)


# ---- C: any loss, any shapes -----------------------------------------------------------------------------


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, ids, scale=None):
        out = self.body(ids if scale is None else ids * scale)
        return SimpleNamespace(logits=out, hidden=ids)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.second = net(), nn.Linear(6, 1)

    def forward(self, a, b):
        return self.body(a + b), self.second(b)


def two_heads(output, target):
    return F.cross_entropy(output[0], target) + output[1].square().mean()


class Stream(IterableDataset):
    def __iter__(self):
        x, y = data()
        yield from zip(x, y)


def cases():
    x, y = data()
    rows = [{"ids": a, "scale": torch.ones(6), "labels": b} for a, b in zip(x, y)]
    pairs = [((a, a), b) for a, b in zip(x, y)]
    triples = [(a, a, b) for a, b in zip(x, y)]
    one_hot, binary = F.one_hot(y).float(), y.float()
    labels = torch.stack([binary, 1.0 - binary], 1)
    return {
        "dict": (ByName(), DataLoader(rows, batch_size=32), F.cross_entropy, {}),
        "pairs": (Two(), DataLoader(pairs, batch_size=32), two_heads, {}),
        "triples": (Two(), DataLoader(triples, batch_size=32), two_heads, {}),
        "one-hot": (net(), TensorLoader(x, one_hot, batch_size=32), F.cross_entropy, {}),
        "multilabel": (net(), TensorLoader(x, labels, batch_size=32), nn.BCEWithLogitsLoss(), {}),
        "column": (
            net(out=1),
            TensorLoader(x, binary[:, None], batch_size=32),
            F.binary_cross_entropy_with_logits,
            {},
        ),
        "stream": (net(), DataLoader(Stream(), batch_size=32), F.cross_entropy, {"dataset_size": 96}),
    }


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("kind", ["compressor", "ssvi"])
def test_batches_and_outputs_of_any_form(name, kind):
    model, loader, loss, given = cases()[name]
    if kind == "ssvi":
        fitted = SSVI(model, 0.5, loss=loss).fit(loader, loader, epochs=3, progress=False, **given)
    else:
        fitted = TurboVBICompressor(model, loss=loss, learning_rate=1e-2, **RAW)
        fitted.fit(loader, loader, epochs=3, progress=False, **given)
        fitted.finetune(loader, epochs=2, progress=False)
    record, start = fitted.history[-1], Objective(loss).evaluate(model, loader)[0]
    assert record.val_loss == pytest.approx(Objective(loss).evaluate(fitted.model, loader)[0], rel=1.0)
    assert record.loss < 1.2 * start
    has_accuracy = name in ("dict", "stream")
    assert (record.val_accuracy == record.val_accuracy) == has_accuracy


def test_metrics_of_ones_own_and_probabilities_of_binary_labels():
    x, y = data()
    target = y.float()[:, None]

    def right(output, wanted):
        return ((output > 0) == (wanted > 0.5)).float().mean()

    loader = TensorLoader(x, target, batch_size=32)
    compressor = TurboVBICompressor(
        net(out=1), loss=F.binary_cross_entropy_with_logits, metric=right, learning_rate=3e-2, **RAW
    )
    compressor.fit(loader, loader, epochs=8, progress=False)
    assert compressor.history[-1].val_accuracy > 0.75
    p = compressor.predict_proba(x)
    torch.testing.assert_close(p, torch.sigmoid(compressor.predict(x)))
    assert float(((p > 0.5).float() == target).float().mean()) > 0.75
    with pytest.raises(ValueError, match=r"predict_proba needs logits .* returns \(96, 1\)"):
        TurboVBICompressor(net(out=1), loss=F.mse_loss, **RAW).predict_proba(x)
    with pytest.raises(ValueError, match=r"accuracy needs logits .* got outputs \(32, 1\)"):
        accuracy(compressor.model, loader)


@pytest.mark.parametrize(
    ("batch", "error", "text"),
    [
        (torch.zeros(3), TypeError, r"loader must give batches \(x, y\).*got Tensor"),
        ([torch.zeros(3)], ValueError, "got 1 part without a target"),
        ({"x": torch.zeros(3)}, ValueError, r"got a dict with the keys \['x'\]"),
        ((torch.zeros(3), torch.zeros(3), torch.zeros(3)), ValueError, r"Sequential takes 1 input"),
        ({"input": torch.zeros(3), "row": 1, "y": 0}, ValueError, r"gives inputs \['row'\] that Sequential"),
    ],
)
def test_a_batch_of_no_known_form_is_named(batch, error, text):
    with pytest.raises(error, match=text):
        unpack(batch, net())


def test_predictions_in_batches_are_those_of_one_pass():
    x, y = data()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.Flatten(), nn.Linear(8, 2))
    loader = TensorLoader(x, y, batch_size=32)
    ssvi = SSVI(conv, 0.5, initial_sigma=0.1).fit(loader, epochs=1, progress=False)
    for n_samples in (0, 3):
        whole = ssvi.predict(x, n_samples)
        torch.testing.assert_close(ssvi.predict(x, n_samples, batch_size=17), whole)
        assert torch.equal(ssvi.predict(x, n_samples), whole)


# ---- F: parameters without gradient ----------------------------------------------------------------------


class Skips(nn.Module):
    """Depth at random: the second block is left out every other call."""

    def __init__(self):
        super().__init__()
        self.body, self.extra, self.unused = net(), nn.Linear(6, 6), nn.Linear(6, 6)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.body(x if self.training and self.calls % 2 else x + self.extra(x))


def test_layers_without_gradient_are_left_alone_and_named_once():
    x, y = data()
    compressor = TurboVBICompressor(Skips(), learning_rate=1e-2, **RAW)
    before = compressor.layers["unused"].mean.detach().clone()
    with pytest.warns(UserWarning, match=r"no gradient has reached the layers \['unused'\]") as caught:
        compressor.fit(TensorLoader(x, y, batch_size=32), epochs=3, progress=False)
    assert sum("no gradient" in str(w.message) for w in caught) == 1
    assert bool(compressor.support()["unused"].all())
    assert torch.equal(compressor.layers["unused"].mean, before)
    assert compressor.curvatures["extra"].weight > 0.0


@pytest.mark.parametrize("method", ["compressor", "ssvi", "train"])
def test_frozen_layers_stay(method):
    x, y = data()
    loader, model = TensorLoader(x, y, batch_size=32), net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    if method == "train":
        train(model, loader, epochs=2)
        assert torch.equal(model[0].weight, before)
        return
    with pytest.warns(UserWarning, match=r"0 \(frozen, 96\)"):
        fitted = TurboVBICompressor(model, **RAW) if method == "compressor" else SSVI(model, 0.5)
    fitted.fit(loader, epochs=2, progress=False)
    assert set(fitted.layers) == {"2"}
    assert torch.equal(fitted.model[0].weight, before)


# ---- H: degenerate results are said ----------------------------------------------------------------------


class Own(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (Own(6, 6), r"0 \(Own, 36\)"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), r"0.parametrizations.weight"),
        (nn.GRU(6, 6), r"0 \(GRU, 216\)"),
        (nn.Embedding(7, 6), r"0 \(Embedding, 42\)"),
    ],
    ids=["subclass", "parametrised", "recurrent", "embedding"],
)
def test_layers_that_are_not_converted_are_named(layer, named):
    with pytest.warns(UserWarning, match=rf"keep all their weights, \d+% of the model's parameters.*{named}"):
        TurboVBICompressor(nn.Sequential(layer, nn.Linear(6, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TurboVBICompressor(net(), exclude=["0"])  # the user knows of this one


def test_lazy_layers_are_refused_by_name():
    with pytest.raises(ValueError, match=r"lazy layers without weights, \['0.weight', '0.bias'\]"):
        TurboVBICompressor(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)))


def test_a_network_without_weights_is_no_success():
    x, y = data()
    compressor = TurboVBICompressor(net(), temperature=1e4, warmup_epochs=0, max_loss_drop=None)
    with pytest.warns(UserWarning, match="no weight is left in any layer: the network is constant; a"):
        compressor.fit(TensorLoader(x, y, batch_size=32), epochs=3, progress=False)


# ---- I: what the user set stays --------------------------------------------------------------------------


def normed(n_features=6):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, n_features), nn.BatchNorm1d(n_features), nn.ReLU(), nn.Linear(6, 2))


def by_mode(model):
    model.train()
    model[1].eval()
    return model


def by_gradient(model):
    model[1].weight.requires_grad_(False)
    model[1].bias.requires_grad_(False)
    return model.eval()


def by_momentum(model):
    model[1].momentum = 0.0
    return model


@pytest.mark.parametrize("freeze", [by_mode, by_gradient, by_momentum])
@pytest.mark.parametrize("method", ["compressor", "ssvi", "train", "recalibrate"])
def test_frozen_normalisations_keep_their_moments(method, freeze):
    x, y = data()
    loader, model = TensorLoader(x, y, batch_size=32), freeze(normed())
    model[1].running_mean.fill_(7.0)
    if method == "compressor":
        compressor = TurboVBICompressor(model, **RAW).fit(loader, loader, epochs=2, progress=False)
        model = compressor.finetune(loader, epochs=1, progress=False).model
    elif method == "ssvi":
        model = SSVI(model, 0.9).fit(loader, epochs=2, progress=False).model
    elif method == "train":
        train(model, loader, epochs=1)
    else:
        recalibrate(model, loader)
    assert torch.equal(model[1].running_mean, torch.full((6,), 7.0))


def test_teachers_and_callers_keep_their_modes():
    x, y = data()
    loader, teacher = TensorLoader(x, y, batch_size=32), normed().train()
    teacher[1].eval()
    compressor = TurboVBICompressor(net(), **RAW)
    compressor.fit(loader, epochs=2, teacher=teacher, progress=False)
    compressor.finetune(loader, epochs=1, teacher=teacher, progress=False)
    train(net(), loader, epochs=1, teacher=teacher)
    assert teacher.training and not teacher[1].training and teacher[0].training
    mixed = normed().train()
    mixed[1].eval()
    Objective().evaluate(mixed, loader)
    accuracy(mixed, loader)
    assert mixed.training and not mixed[1].training


# ---- numbers of examples and of digits -------------------------------------------------------------------


def test_the_size_counts_what_an_epoch_shows():
    x, y = data(100)
    dataset = TensorDataset(x, y)
    assert dataset_size_of(DataLoader(dataset, batch_size=32), None) == 100
    assert dataset_size_of(DataLoader(dataset, batch_size=32, drop_last=True), None) == 96
    few = SubsetRandomSampler(range(20))
    assert dataset_size_of(DataLoader(dataset, batch_size=8, sampler=few), None) == 20
    again = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=500)
    assert dataset_size_of(DataLoader(dataset, batch_size=8, sampler=again), None) == 100
    groups = torch.utils.data.BatchSampler(SubsetRandomSampler(range(30)), 7, drop_last=True)
    assert dataset_size_of(DataLoader(dataset, batch_sampler=groups), None) == 28
    assert dataset_size_of([(x[:5], y[:5]), {"labels": y[:3], "x": x[:3]}], None) == 8


@pytest.mark.parametrize("number", [torch.bfloat16, torch.float16, torch.float64])
def test_averages_of_small_steps_lose_nothing(number):
    """A constant gradient: the average is that number in any format."""
    average = Curvature(torch.zeros(3, dtype=number), decay=0.998)
    for _ in range(2000):
        average.add(torch.full((3,), 0.5, dtype=number), torch.full((3,), 0.25, dtype=number))
    assert average.mean_gradient.double() == pytest.approx(0.5, rel=1e-4)
    assert average.mean_curvature.double() == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("number", [torch.bfloat16, torch.float64])
def test_other_number_formats_are_fitted(number):
    x, y = data()
    compressor = TurboVBICompressor(net().to(number), learning_rate=1e-2, **RAW)
    compressor.fit(TensorLoader(x.to(number), y, batch_size=32), epochs=3, progress=False)
    assert compressor.predict(x.to(number)).dtype == number
    assert compressor.history[-1].accuracy > 0.6


def test_default_draws_of_ssvi_differ(digits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ssvi = SSVI(mlp(64, (32,), 10), 0.2).fit(digits[0], epochs=20, progress=False)
    spread = ssvi.predict_proba(digits[2].x).sub(ssvi.predict_draws(digits[2].x, 5)).abs().mean()
    assert float(spread) > 3e-3


class Siamese(nn.Module):
    """Two inputs through one tower."""

    def __init__(self):
        super().__init__()
        self.tower, self.head = net(out=3), nn.Linear(3, 1)

    def forward(self, first, second):
        return self.head((self.tower(first) - self.tower(second)).abs()).squeeze(1)


def test_one_tower_for_two_inputs_is_compressed_and_exported():
    x, y = data()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(x), generator=generator)
    pairs = [(a, b, c) for a, b, c in zip(x.split(20), x[order].split(20), (y == y[order]).float().split(20))]
    binary = F.binary_cross_entropy_with_logits
    compressor = TurboVBICompressor(Siamese(), loss=binary, **RAW)
    compressor.fit(pairs, epochs=2, dataset_size=len(x), progress=False)
    assert {"head"} < set(compressor.layers)
    given = (x[:7], x[order][:7])
    torch.testing.assert_close(compressor.export()(*given), compressor.masked_model()(*given))
    ssvi = SSVI(Siamese(), loss=binary, density=0.5)
    ssvi.fit(pairs, epochs=2, dataset_size=len(x), progress=False)
    torch.testing.assert_close(ssvi.predict(given)[0], ssvi.mean_model()(*given).detach())
