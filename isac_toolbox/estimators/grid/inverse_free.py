"""Posterior of many gains without an inverse: majorised mean, factorised variances.

docs/theory.md, "Baselines on a grid".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import PathAtoms
from isac_toolbox.inference.messages import GaussianMessage

__all__ = ["FactorisedPosterior", "MajorisedMean", "separable_gram"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
BoolArray = NDArray[np.bool_]

# Guard: relative rounding of the curvature met by a step.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class FactorisedPosterior:
    """Independent posteriors of all gains, the best ones for the likelihood given each other's means.

    Attributes
    ----------
    mean : ndarray of complex, shape (n,)
        ``mu``.
    residual_correlation : ndarray of complex, shape (n,)
        ``zeta - G mu``.
    energy : ndarray, shape (n,)
        ``d_i = G_ii``.
    noise_precision : float
        ``gamma``.
    prior_precision : ndarray, shape (n,)
        ``rho``.
    """

    mean: ComplexArray
    residual_correlation: ComplexArray
    energy: RealArray
    noise_precision: float
    prior_precision: RealArray

    @property
    def variance(self) -> RealArray:
        """``1 / (gamma d_i + rho_i)``, shape (n,)."""
        return 1 / (self.noise_precision * self.energy + self.prior_precision)

    def message(self) -> GaussianMessage:
        """Return the matched filter with all other gains cancelled at their means, the prior left out.

        ``v_i = 1 / (gamma d_i)``, ``r_i = mu_i + (zeta - G mu)_i / d_i``.
        """
        extrinsic = self.mean + self.residual_correlation / self.energy
        return GaussianMessage(extrinsic, 1 / (self.noise_precision * self.energy))


@dataclass(eq=False)
class MajorisedMean:
    """Minimises ``-2 gamma Re x^H zeta + gamma x^H G x + x^H diag(rho) x`` by quadratic majorisers.

    Around a point ``y`` the Gram is replaced by the diagonal ``c diag(d)``, which gives ``x = gamma (c d y +
    zeta - G y) / (gamma c d + rho)``; ``y`` is the last mean extrapolated (momentum, started over when it
    points uphill). ``c`` bounds the largest eigenvalue of ``diag(d)^-1/2 G diag(d)^-1/2``: it is raised
    whenever a step meets more curvature, so that no step ever exceeds its majoriser.

    Attributes
    ----------
    apply_gram : callable
        ``x -> G x``.
    correlation : ndarray of complex, shape (n,)
        ``zeta``.
    energy : ndarray, shape (n,)
        ``d_i = G_ii``, positive.
    noise_precision : float
        ``gamma``.
    curvature : float
        ``c``, at least 1.

    Notes
    -----
    Duan, Yang, Fang, Li, IEEE Signal Process. Lett. 24(6), 2017 (inverse-free sparse Bayesian learning);
    Beck, Teboulle, SIAM J. Imaging Sci. 2(1), 2009 (momentum and backtracking); O'Donoghue, Candes, Found.
    Comput. Math. 15, 2015 (restart). docs/theory.md, "Baselines on a grid".
    """

    apply_gram: Callable[[ComplexArray], ComplexArray]
    correlation: ComplexArray
    energy: RealArray
    noise_precision: float
    curvature: float = 1.0

    def __call__(self, prior_precision: RealArray, start: ComplexArray, n_steps: int) -> FactorisedPosterior:
        """Posterior after ``n_steps`` steps from a start (n,).

        Raises
        ------
        FloatingPointError
            If a step is not finite.
        """
        x, gram_x = start, self.apply_gram(start)
        y, gram_y, momentum = x, gram_x, 1.0
        for _ in range(n_steps):
            new, gram_new = self._step(y, gram_y, prior_precision)
            if np.vdot(self.energy * (y - new), new - x).real > 0:
                momentum = 1.0
            following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            weight = (momentum - 1) / following
            y, gram_y = new + weight * (new - x), gram_new + weight * (gram_new - gram_x)
            x, gram_x, momentum = new, gram_new, following
        return FactorisedPosterior(
            x, self.correlation - gram_x, self.energy, self.noise_precision, prior_precision
        )

    def _step(
        self, y: ComplexArray, gram_y: ComplexArray, prior_precision: RealArray
    ) -> tuple[ComplexArray, ComplexArray]:
        """Minimum of the majoriser around ``y``, and ``G`` times it; ``curvature`` rises until it is one."""
        gamma, gradient = self.noise_precision, self.correlation - gram_y
        while True:
            bound = gamma * self.curvature * self.energy
            new = (bound * y + gamma * gradient) / (bound + prior_precision)
            gram_new = self.apply_gram(new)
            step = new - y
            squared = float(np.sum(self.energy * np.abs(step) ** 2))
            met = float(np.vdot(step, gram_new - gram_y).real)
            if not np.isfinite(met):
                raise FloatingPointError("a step of the mean is not finite")
            if met <= (1 + _ROUNDING) * self.curvature * squared + _ROUNDING * self._size(new, gram_new):
                return new, gram_new
            self.curvature = max(1.5 * self.curvature, met / squared)

    def _size(self, x: ComplexArray, gram_x: ComplexArray) -> float:
        return abs(float(np.vdot(x, gram_x).real))


def separable_gram(
    atoms: PathAtoms, symbol_gram: ComplexArray, squinted: bool = False, element_mask: BoolArray | None = None
) -> Callable[[ComplexArray], ComplexArray]:
    """Return ``x -> G x`` through the channel: synthesis, symbol Gram, correlation; the Gram is never formed.

    Parameters
    ----------
    atoms : PathAtoms
        Of L paths.
    symbol_gram : ndarray of complex, shape (N, K, K)
        ``R``.
    squinted : bool
        Whether the array responses depend on the subcarrier.
    element_mask : ndarray of bool, shape (M,), optional
        Elements in use; all if not given.

    Returns
    -------
    callable
        Of an array (L,), in ``O(L N M)``.
    """
    n_users = symbol_gram.shape[1]

    def apply_squinted(x: ComplexArray) -> ComplexArray:
        return atoms.correlate(_coupled(symbol_gram, atoms.synthesise(x, n_users)))

    if squinted:
        return apply_squinted
    of_user = [np.flatnonzero(atoms.user == k) for k in range(n_users)]
    delays = [atoms.delay[:, index] for index in of_user]
    responses = [atoms.steering[0, index] for index in of_user]

    def apply(x: ComplexArray) -> ComplexArray:
        channel = np.stack(
            [(b * x[index]) @ a for index, b, a in zip(of_user, delays, responses, strict=True)]
        )
        explained = _coupled(symbol_gram, channel)
        if element_mask is not None:
            explained[..., ~element_mask] = 0
        product = np.empty(x.shape, complex)
        for k, index in enumerate(of_user):
            product[index] = np.einsum("nl,nl->l", delays[k].conj(), explained[k] @ responses[k].conj().T)
        return product

    return apply


def _coupled(symbol_gram: ComplexArray, channel: ComplexArray) -> ComplexArray:
    """``sum_j R_n[k, j] h_jn``, shape (K, N, M)."""
    return np.matmul(symbol_gram, channel.transpose(1, 0, 2)).transpose(1, 0, 2)
