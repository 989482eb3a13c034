"""
Sparse recovery with structure
==============================

The engine serves any linear model: :func:`~isac_toolbox.inference.sparse_recover` knows no antenna. Bursts of
active coefficients, a random matrix, and the same data with and without the knowledge that neighbours are
active together.
"""

import matplotlib.pyplot as plt
import numpy as np

from isac_toolbox.inference import GatedChain, sparse_recover

rng = np.random.default_rng(3)
n, m = 400, 120
x = np.zeros(n)
for start in (40, 180, 310):
    x[start : start + 18] = rng.standard_normal(18)
A = rng.standard_normal((m, n)) / np.sqrt(m)
y = A @ x + 0.05 * rng.standard_normal(m)

supports = {"independent": None, "gated chain": GatedChain([n], gate=0.99, p_first=0.05, p01=0.02, p11=0.9)}
fig, axes = plt.subplots(2, 1, figsize=(7.5, 4.6), sharex=True, layout="constrained")
for ax, (name, support) in zip(axes, supports.items()):
    result = sparse_recover(A, y, support)
    error = np.sum((result.mean - x) ** 2) / np.sum(x**2)
    ax.plot(x, color="#8A8A8A", lw=3, alpha=0.6, label="truth")
    ax.plot(result.mean, color="#0072B2", lw=1, label="posterior mean")
    ax.fill_between(np.arange(n), -3, 3 * (2 * result.probability - 1), color="#E69F00", alpha=0.15, lw=0)
    ax.set_title(f"{name}: NMSE {10 * np.log10(error):.1f} dB, noise variance {result.noise_variance:.4f}")
axes[0].legend(loc="upper right", ncols=2)
axes[1].set_xlabel("coefficient (shaded: probability of being active)")

# %%
# Fifty-four active coefficients are too many for 120 observations when each stands alone. The noise variance
# (0.0025 in truth), the amplitudes and the chain's transition probabilities are learned; the numbers given to
# the chain are a start.
