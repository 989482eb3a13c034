"""Uncertainty of SSVI on regression, beside a Gaussian process and an ensemble of dense networks.

Data: scikit-learn's diabetes patients (442), its Friedman function with noise of standard deviation 1
(200), and a sine with a gap in the inputs (200), of which the test set covers the gap and both sides
beyond. Inputs and targets are standardised; figures are in these units, and the likelihood is of the whole
predictive density: a normal one for the process, a mixture of the normal densities of all networks for the
others. Networks have 64 - 64 units and return mean and log-variance. SSVI keeps a fifth of the weights and
averages 30 draws. The ensemble are five networks from other starts, the process has a squared-exponential
kernel with a length for each input, and noise. `inside` is the part of the test targets in the central 90 %
of the predictive density. `spread` is the standard deviation of the means of the drawn networks on the test
set, `far` the same for inputs at three times the distance from the centre.

python benchmarks/nn/regression.py [--seeds 41,42,43] > benchmarks/nn/regression.txt
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.datasets import load_diabetes, make_friedman1
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from torch import Tensor

from isac_toolbox.nn import SSVI, SSVISettings, TensorLoader, models
from isac_toolbox.nn.training import train

EPOCHS, N_DRAWS, DENSITY = 100, 30, 0.2
Arrays = tuple[np.ndarray, np.ndarray]


def negative_log_likelihood(output: Tensor, target: Tensor) -> Tensor:
    """Mean of a normal density with the mean and the log-variance of the output."""
    mean, log_variance = output[:, 0], output[:, 1].clamp(-8.0, 8.0)
    return (
        0.5 * (log_variance + (target - mean).square() / log_variance.exp() + math.log(2.0 * math.pi)).mean()
    )


def diabetes(rng: np.random.Generator) -> tuple[Arrays, Arrays]:
    """Progression of the illness from ten measurements; a quarter is the test set."""
    x, y = load_diabetes(return_X_y=True)
    order = rng.permutation(len(y))
    return (x[order[110:]], y[order[110:]]), (x[order[:110]], y[order[:110]])


def friedman(rng: np.random.Generator) -> tuple[Arrays, Arrays]:
    """A smooth function of five of ten inputs."""
    x, y = make_friedman1(700, noise=1.0, random_state=int(rng.integers(2**31)))
    return (x[:200], y[:200]), (x[200:], y[200:])


def gap(rng: np.random.Generator) -> tuple[Arrays, Arrays]:
    """A sine that is not seen between -0.7 and 0.7, nor beyond 2."""
    x = rng.uniform(0.7, 2.0, 200) * rng.choice([-1.0, 1.0], 200)
    wide = rng.uniform(-3.0, 3.0, 300)
    return tuple((v[:, None], np.sin(2.0 * v) + 0.1 * rng.standard_normal(v.size)) for v in (x, wide))


DATA: dict[str, Callable[[np.random.Generator], tuple[Arrays, Arrays]]] = {
    "diabetes": diabetes,
    "friedman": friedman,
    "gap": gap,
}


def standardised(train_set: Arrays, test_set: Arrays) -> tuple[Arrays, Arrays]:
    """Return both sets with the moments of the training set removed."""
    (x, y), (x_test, y_test) = train_set, test_set
    return tuple(
        ((a - x.mean(0)) / x.std(0), (b - y.mean()) / y.std()) for a, b in ((x, y), (x_test, y_test))
    )


def outputs_of_ssvi(settings: SSVISettings, data: Arrays, seed: int) -> Callable[[np.ndarray], Tensor]:
    """Return a function of inputs to means and log-variances, (n_networks, n, 2)."""
    loader = TensorLoader(*(torch.tensor(v, dtype=torch.float32) for v in data), batch_size=64, seed=seed)
    torch.manual_seed(seed)
    model = models.mlp(data[0].shape[1], (64, 64), 2)
    fitted = SSVI(model, settings=settings, loss=negative_log_likelihood, seed=seed)
    fitted.fit(loader, epochs=EPOCHS, progress=False)
    return lambda x: fitted.predict(torch.tensor(x, dtype=torch.float32), n_samples=N_DRAWS)


def outputs_of_ensemble(data: Arrays, seed: int) -> Callable[[np.ndarray], Tensor]:
    """Return a function as ``outputs_of_ssvi`` does, of five dense networks."""
    loader = TensorLoader(*(torch.tensor(v, dtype=torch.float32) for v in data), batch_size=64, seed=seed)
    networks = []
    for member in range(5):
        torch.manual_seed(100 * seed + member)
        model = models.mlp(data[0].shape[1], (64, 64), 2)
        networks.append(
            train(
                model,
                loader,
                epochs=EPOCHS // 2,
                loss=negative_log_likelihood,
                weight_decay=1e-2,
                seed=member,
            )
        )
    with torch.no_grad():
        return lambda x: torch.stack([m(torch.tensor(x, dtype=torch.float32)) for m in networks]).detach()


def of_process(data: Arrays, seed: int) -> Callable[[np.ndarray], Tensor]:
    """Return the same of a Gaussian process, whose variance has the noise in it."""
    kernel = ConstantKernel() * RBF(np.ones(data[0].shape[1])) + WhiteKernel(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        process = GaussianProcessRegressor(kernel, random_state=seed).fit(*data)

    def predicted(x: np.ndarray) -> Tensor:
        mean, deviation = process.predict(x, return_std=True)
        return torch.tensor(np.stack([mean, 2.0 * np.log(deviation)], 1), dtype=torch.float32)[None]

    return predicted


METHODS: dict[str, Callable[[Arrays, int], Callable[[np.ndarray], Tensor]]] = {
    "process": of_process,
    "ensemble": outputs_of_ensemble,
    "SSVI": lambda data, seed: outputs_of_ssvi(SSVISettings(density=DENSITY, learning_rate=0.01), data, seed),
    "SSVI, KL 1": lambda data, seed: outputs_of_ssvi(
        SSVISettings(density=DENSITY, learning_rate=0.01, kl_weight=1.0, prior_sd=0.5, noise="outputs"),
        data,
        seed,
    ),
}


def figures(predicted: Callable[[np.ndarray], Tensor], x: np.ndarray, y: np.ndarray) -> list[float]:
    """Return error, negative log-likelihood, part inside, spread, and spread far away."""
    found = predicted(x)
    mean, variance = found[..., 0], found[..., 1].clamp(-8.0, 8.0).exp()
    target = torch.tensor(y, dtype=torch.float32)
    normal = torch.distributions.Normal(mean, variance.sqrt())
    log_density = normal.log_prob(target).logsumexp(0) - math.log(len(mean))
    below = normal.cdf(target).mean(0)
    far = predicted(3.0 * x)
    return [
        float((mean.mean(0) - target).square().mean().sqrt()),
        -float(log_density.mean()),
        float(((below > 0.05) & (below < 0.95)).float().mean()),
        float(mean.std(0).mean()) if len(mean) > 1 else math.nan,
        float(far[..., 0].std(0).mean()) if len(mean) > 1 else math.nan,
    ]


def main() -> None:
    """Print a table of medians and worst values over the seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="41,42,43")
    seeds = [int(seed) for seed in parser.parse_args().seeds.split(",")]
    torch.set_num_threads(1)
    print(f"seeds {seeds}; median, and in brackets the worst")
    print(f"{'data':10}{'method':12}{'error':>14}{'NLL':>16}{'inside':>15}{'spread':>8}{'far':>8}{'s':>7}")
    for name, make in DATA.items():
        for method, fit in METHODS.items():
            rows, start = [], time.perf_counter()
            for seed in seeds:
                known, asked = standardised(*make(np.random.default_rng(seed)))
                rows.append(figures(fit(known, seed), *asked))
            error, nll, inside, spread, far = (np.array(column) for column in zip(*rows, strict=True))
            worst = inside[np.argmax(np.abs(inside - 0.9))]
            print(
                f"{name:10}{method:12}{np.median(error):7.3f} ({error.max():.3f})"
                f"{np.median(nll):8.3f} ({nll.max():.3f})"
                f"{np.median(inside):8.3f} ({worst:.3f}){np.median(spread):8.3f}{np.median(far):8.3f}"
                f"{(time.perf_counter() - start) / len(seeds):7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
