"""Gaussian posterior on a working set, and what the rest sees (docs/theory.md, section 5).

The model is ``y = Phi x + noise`` of precision ``gamma``. Only the Gram matrix ``G = Phi^H Phi`` and the
correlation ``zeta = Phi^H y`` are needed, so the same functions serve separable atoms, matrices and
operators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import LinAlgError, lapack

from isac_toolbox._validation import check_positive
from isac_toolbox.inference._posterior_kernels import hermitian_inverse, scaled_precision
from isac_toolbox.inference.messages import PRECISION_FLOOR, GaussianMessage

#: Guard: smallest expected residual and smallest projected energy, as fractions of the energy.
ENERGY_FLOOR = 1e-12
# Guard: diagonal loadings tried in turn on the scaled precision matrix, whose diagonal is one.
_LOADINGS = (0.0, 1e-14, 1e-12, 1e-10, 1e-8)


@dataclass(frozen=True)
class GaussianPosterior:
    """Posterior ``N(mean, covariance)`` of the coefficients of a working set.

    Attributes
    ----------
    mean : ndarray, shape (n,)
        ``mu``.
    gram : ndarray, shape (n, n)
        ``G`` on the working set.
    noise_precision : float
        ``gamma``.
    prior_precision : ndarray, shape (n,)
        ``rho``.
    scale, factor : ndarray, shape (n,), (n, n)
        ``Sigma = diag(scale) (factor factor^H)^-1 diag(scale)``, ``factor`` lower triangular.
    """

    mean: np.ndarray
    gram: np.ndarray
    noise_precision: float
    prior_precision: np.ndarray
    scale: np.ndarray
    factor: np.ndarray

    @cached_property
    def log_det(self) -> float:
        """``ln det Sigma``."""
        return 2.0 * float(np.sum(np.log(self.scale / self.factor.diagonal().real)))

    @cached_property
    def covariance(self) -> np.ndarray:
        """``Sigma``, Hermitian, (n, n); computed when first asked for."""
        if not self.factor.size:
            return self.factor
        lower, _ = _lapack("potri", self.factor)(self.factor, lower=True)
        full = np.empty(lower.shape, lower.dtype)
        hermitian_inverse(lower.T, self.scale, full)
        return full

    def whiten(self, columns: np.ndarray) -> np.ndarray:
        """Return ``W B`` with ``W^H W = Sigma``, for ``B`` (n, p): ``B^H Sigma B = (W B)^H W B``."""
        scaled = self.scale[:, None] * columns
        if not scaled.size:
            return scaled
        solved, _ = _lapack("trtrs", self.factor)(self.factor, scaled, lower=True)
        return np.asarray(solved)

    @cached_property
    def variance(self) -> np.ndarray:
        """Marginal variances, (n,)."""
        return np.diagonal(self.covariance).real

    @cached_property
    def gram_covariance_diagonal(self) -> np.ndarray:
        """Diagonal of ``G Sigma``, (n,).

        ``gamma (G Sigma)_ii = 1 - rho_i Sigma_ii``: each side cancels where the other does not, so each entry
        takes the accurate one.
        """
        share = self.prior_precision * self.variance
        product = np.real(np.einsum("ij,ij->i", self.gram, self.covariance.conj()))
        diagonal = np.where(share > 0.5, product, (1.0 - share) / self.noise_precision)
        return np.maximum(diagonal, 0.0)

    def message(self) -> GaussianMessage:
        """Return the extrinsic message of every coefficient: the marginal with its own prior divided out.

        ``1/v_i = 1/Sigma_ii - rho_i = gamma (G Sigma)_ii / Sigma_ii``, ``r_i = v_i mu_i / Sigma_ii``.
        """
        share = np.maximum(self.noise_precision * self.gram_covariance_diagonal, PRECISION_FLOOR)
        return GaussianMessage(self.mean / share, self.variance / share)


def working_set_posterior(
    gram: np.ndarray,
    correlation: np.ndarray,
    noise_precision: float,
    prior_precision: np.ndarray,
) -> GaussianPosterior:
    """Return the posterior ``Sigma = (gamma G + diag rho)^-1``, ``mu = gamma Sigma zeta``.

    The precision matrix is scaled to a unit diagonal before its Cholesky factorisation, so prior precisions
    may span many orders of magnitude. A matrix singular to working precision gets the smallest diagonal
    loading that factorises.

    Parameters
    ----------
    gram : ndarray, shape (n, n)
        Hermitian, real or complex; n may be zero.
    correlation : ndarray, shape (n,)
        ``zeta = Phi^H y``.
    noise_precision : float
        ``gamma``, positive.
    prior_precision : ndarray, shape (n,)
        ``rho``, non-negative.

    Returns
    -------
    GaussianPosterior

    Raises
    ------
    ValueError
        If shapes disagree, ``gamma`` is not positive or a ``rho`` negative.
    numpy.linalg.LinAlgError
        If the precision matrix is not positive definite, or not finite.

    Notes
    -----
    Source: docs/theory.md, section 5.
    """
    gamma = check_positive("noise_precision", noise_precision)
    gram, correlation = np.asarray(gram), np.asarray(correlation)
    rho = np.asarray(prior_precision, dtype=np.float64)
    n = correlation.size
    if gram.shape != (n, n) or correlation.shape != (n,) or rho.shape != (n,):
        raise ValueError(
            "gram, correlation and prior_precision must have shapes (n, n), (n,) and (n,), got "
            f"{gram.shape}, {correlation.shape} and {rho.shape}"
        )
    if np.any(rho < 0.0):
        raise ValueError(f"prior_precision must be non-negative, got a minimum of {rho.min()!r}")
    return unchecked_posterior(gram, correlation, gamma, rho)


def unchecked_posterior(
    gram: np.ndarray, correlation: np.ndarray, gamma: float, rho: np.ndarray
) -> GaussianPosterior:
    """Return the same for arguments known to be of the right kind, in loops.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the precision matrix is not positive definite, or not finite.
    """
    transposed, scale = np.zeros(gram.shape, gram.dtype), np.empty(rho.size)
    own = rho if rho.flags.writeable else rho.copy()  # kernels are compiled anew for what is read-only
    if not scaled_precision(gram, gamma, own, transposed, scale):
        raise LinAlgError("the precision matrix has a diagonal entry that is not positive and finite")
    factor = _cholesky(transposed.T)
    mean = _solve(factor, (scale * gamma) * correlation)
    mean *= scale
    if not np.isfinite(factor.diagonal().real.sum()):
        raise LinAlgError("the precision matrix has NaN or infinite entries")
    return GaussianPosterior(mean, gram, gamma, rho, scale, factor)


_ROUTINES: dict[tuple[str, str], Callable[..., tuple[np.ndarray, int]]] = {
    (name, kind): getattr(lapack, prefix + name)
    for name in ("potrf", "potri", "potrs", "trtrs")
    for prefix, kind in (("d", "f"), ("d", "i"), ("z", "c"))
}


def _lapack(name: str, matrix: np.ndarray) -> Callable[..., tuple[np.ndarray, int]]:
    """LAPACK routine for a matrix in double precision, real or complex."""
    return _ROUTINES[name, matrix.dtype.kind]


def _cholesky(matrix: np.ndarray) -> np.ndarray:
    """Lower Cholesky factor of a Hermitian matrix of unit diagonal, loaded as little as it needs.

    Only the lower triangle is read, the upper one is zero.
    """
    if matrix.size == 0:
        return matrix
    potrf = _lapack("potrf", matrix)
    for loading in _LOADINGS:
        loaded = matrix + loading * np.eye(matrix.shape[0]) if loading else matrix
        factor, info = potrf(loaded, lower=True, clean=False)
        if info == 0:
            return factor
    raise LinAlgError("the precision matrix is not positive definite")


def _solve(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve ``factor factor^H x = right``."""
    if not factor.size:
        return right
    solution, _ = _lapack("potrs", factor)(factor, right, lower=True)
    return np.asarray(solution)


def expected_residual(
    energy: float, gram: np.ndarray, correlation: np.ndarray, posterior: GaussianPosterior
) -> float:
    """Return the expected squared residual ``|y|^2 - 2 Re mu^H zeta + mu^H G mu + tr(G Sigma)``.

    The first three terms cancel to about ``1e-16 |y|^2``; their sum is floored at ``ENERGY_FLOOR |y|^2``. At
    a signal-to-noise ratio beyond 100 dB, add ``sum(gram_covariance_diagonal)`` to an explicit residual
    instead.

    Parameters
    ----------
    energy : float
        ``|y|^2``.
    gram : ndarray, shape (n, n)
        ``G`` on the working set.
    correlation : ndarray, shape (n,)
        ``zeta`` on the working set.
    posterior : GaussianPosterior
        Posterior on the working set.

    Returns
    -------
    float
        Positive for a positive energy.
    """
    mean = posterior.mean
    fit = float(np.real(np.vdot(mean, 2.0 * correlation - gram @ mean)))
    uncertainty = float(np.sum(posterior.gram_covariance_diagonal))
    return max(energy - fit, ENERGY_FLOOR * energy) + uncertainty


def update_noise_precision(
    n_observations: float,
    expected_residual: float,
    prior: tuple[float, float] = (1e-6, 1e-6),
    is_complex: bool = True,
) -> float:
    """Return the mean of the Gamma posterior of the noise precision, ``(a + N) / (b + residual)``.

    Parameters
    ----------
    n_observations : float
        ``N``, number of complex (or real) observations.
    expected_residual : float
        Expected squared residual.
    prior : (float, float)
        Gamma shape and rate ``(a, b)``.
    is_complex : bool
        For real observations both ``N`` and the residual are halved.

    Returns
    -------
    float
        ``gamma``.

    Raises
    ------
    ValueError
        If the rate would not be positive.
    """
    half = 1.0 if is_complex else 0.5
    rate = prior[1] + half * expected_residual
    if not rate > 0.0:
        raise ValueError(f"expected_residual must be positive, got {expected_residual!r}")
    return (prior[0] + half * n_observations) / rate
