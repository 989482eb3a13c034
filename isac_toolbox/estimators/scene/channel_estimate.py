"""The channel that an estimator found, with its error, its diffuse part and the elements that hear it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.frames import MovingAtoms
from isac_toolbox.estimators.result import ElementInformation
from isac_toolbox.estimators.scene.clusters import Clusters
from isac_toolbox.estimators.scene.diffuse import Diffuse
from isac_toolbox.estimators.scene.fit import Fit, scene_blocks, scene_covariance
from isac_toolbox.estimators.symbols.coupling import Coupling
from isac_toolbox.estimators.symbols.elements import ElementErrors
from isac_toolbox.estimators.symbols.images import Images

__all__ = [
    "ChannelEstimate",
    "CouplingEstimate",
    "DiffuseEstimate",
    "ElementEstimate",
    "ImageEstimate",
    "channel_variance",
    "mean_channel",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Cost cap: products of pairs of paths and subcarriers that are held at once.
_MOST_PRODUCTS = 2**15


@dataclass(frozen=True, eq=False)
class ChannelEstimate:
    """Channel with its error, and the noise, in the units of the observation.

    Attributes
    ----------
    mean : ndarray of complex, shape (K, N, M)
    variance : ndarray, shape (K, N, M)
    noise_variance : float
        Per sample.
    """

    mean: ComplexArray
    variance: RealArray
    noise_variance: float

    @classmethod
    def of_fit(
        cls,
        fit: Fit,
        n_users: int,
        diffuse: Diffuse | Clusters | None = None,
        mean: ComplexArray | None = None,
    ) -> ChannelEstimate:
        """Return the channel of a fit's paths and of a diffuse part, in the units of the scaled block.

        ``mean`` (K, N, M) is what :func:`mean_channel` returns, where it is there already. The diffuse part
        takes up the error that the paths have because of it, so that of the paths is the noise's alone; that
        of clusters contains it.
        """
        receiver, power = fit.problem.receiver, 1.0
        mean = mean_channel(fit, n_users, diffuse) if mean is None else mean
        if receiver.whitening is not None:
            power *= receiver.whitening.power(receiver.element_mask)
        if diffuse is None:
            variance = channel_variance(fit, scene_covariance(fit), n_users)
            return cls(mean, variance, power / fit.problem.noise_precision)
        quiet = replace(fit.problem, noise_precision=1 / diffuse.noise_variance)
        variance = np.zeros(mean.shape)
        if isinstance(diffuse, Diffuse):
            alone = replace(fit.under(quiet, fit.posterior.prior_precision), excess=None)
            variance = channel_variance(alone, scene_covariance(alone), n_users)
        unheard = fit.problem.receiver.element_mask
        own = np.repeat(diffuse.variance[:, :, None], mean.shape[2], axis=2)
        if unheard is not None:
            own[..., ~unheard] = diffuse.power[:, None, None]
        noise_variance = power * diffuse.noise_variance
        if receiver.whitening is not None:
            covariance = receiver.whitening.covariance
            for k, doubt in enumerate(diffuse.entry_variance / np.maximum(diffuse.power, 1e-300)):
                known = receiver.whitening.share_of_white(min(float(doubt), 1.0))
                own[k] *= np.real(np.diag(covariance @ known))
        return cls(mean, variance + own, noise_variance)

    def in_units(self, scale: float) -> ChannelEstimate:
        """Return the channel with amplitudes so many times as large; its arrays are changed."""
        np.multiply(self.mean, scale, out=self.mean)
        np.multiply(self.variance, scale**2, out=self.variance)
        return ChannelEstimate(self.mean, self.variance, self.noise_variance * scale**2)

    def behind(self, fit: Fit) -> ChannelEstimate:
        """Return the channel with the error that what elements hear of each other has, if anything.

        Its energy, for as many complex parameters as samples tell, spread like that of the channel.
        """
        coupling = fit.problem.coupling
        if coupling is None:
            return self
        explained = float(np.real(np.vdot(fit.posterior.mean, fit.gram @ fit.posterior.mean)))
        error = coupling.n_determined / max(fit.problem.noise_precision * explained, 1e-300)
        return replace(self, variance=self.variance + error * np.abs(self.mean) ** 2)

    def without(self, silent: NDArray[np.int64]) -> ChannelEstimate:
        """Return the channel with nothing on elements that are silent; that they are is taken for sure."""
        mean = self.mean.copy()
        mean[..., silent] = 0
        return replace(self, mean=mean)


@dataclass(frozen=True, eq=False)
class DiffuseEstimate:
    """The diffuse part, in the names and units of :class:`EstimationResult`."""

    diffuse_power: RealArray
    diffuse_profile: RealArray
    diffuse_delays_s: RealArray

    @classmethod
    def of(cls, diffuse: Diffuse | Clusters, scale: float) -> DiffuseEstimate:
        """Return a diffuse part; ``scale`` undoes the normalisation of amplitudes."""
        return cls(diffuse.power * scale**2, diffuse.profile * scale**2, diffuse.delays_s)


@dataclass(frozen=True, eq=False)
class ElementEstimate:
    """Responses of the elements, in the names of :class:`EstimationResult`."""

    element_response: ComplexArray
    element_response_std: RealArray
    element_information: ElementInformation

    @classmethod
    def of(cls, elements: ElementErrors, information: ElementInformation) -> ElementEstimate:
        """Return what was learned of the elements, and what the samples say of them."""
        deviation = np.abs(elements.response) * np.sqrt(np.sum(elements.log_stds**2, axis=0))
        return cls(elements.response, deviation, information)

    def applied(self, channel: ChannelEstimate) -> ChannelEstimate:
        """Return a channel of samples that were divided by the responses with them in it."""
        power = np.abs(self.element_response) ** 2
        error = np.abs(channel.mean) ** 2 * self.element_response_std**2
        return ChannelEstimate(
            channel.mean * self.element_response, channel.variance * power + error, channel.noise_variance
        )

    def without(self, silent: NDArray[np.int64]) -> ElementEstimate:
        """Return the same with a response of zero where elements are silent."""
        response = self.element_response.copy()
        response[silent] = 0
        return replace(self, element_response=response)


@dataclass(frozen=True, eq=False)
class CouplingEstimate:
    """What elements hear of each other, in the names of :class:`EstimationResult`."""

    coupling_matrix: ComplexArray
    coupling_matrix_std: RealArray

    @classmethod
    def of(cls, coupling: Coupling) -> CouplingEstimate:
        """Return what was learned."""
        deviation = coupling.kinds.matrix(coupling.stds.astype(complex)).real
        np.fill_diagonal(deviation, 0.0)
        return cls(coupling.matrix, deviation)


@dataclass(frozen=True, eq=False)
class ImageEstimate:
    """Images that mixers add, in the names of :class:`EstimationResult`."""

    iq_images: ComplexArray
    iq_image_std: RealArray
    user_iq_images: ComplexArray
    user_iq_image_std: RealArray

    @classmethod
    def of(cls, images: Images) -> ImageEstimate:
        """Return what was learned."""
        return cls(images.values, images.stds, images.user_values, images.user_stds)


def mean_channel(fit: Fit, n_users: int, diffuse: Diffuse | Clusters | None = None) -> ComplexArray:
    """Return the mean channel of a fit's paths and of a diffuse part of the scaled block, (K, N, M)."""
    mean = fit.problem.receiver.stated(fit.atoms.synthesise(fit.posterior.mean, n_users))
    return mean if diffuse is None else mean + fit.problem.receiver.stated(diffuse.mean)


def channel_variance(fit: Fit, covariance: RealArray, n_users: int) -> RealArray:
    """Return the posterior variance of every channel entry, shape (K, N, M) (docs/theory.md, section 5).

    The channel's error is ``Phi (dx - gamma Sigma B dtheta) + sum_i x_i phi_i' J_i dtheta`` with
    ``dx ~ CN(0, Sigma)`` and ``dtheta ~ N(0, C)``; its covariance lives on the path and derivative atoms
    of each user.
    """
    atoms, posterior = fit.atoms, fit.posterior
    if isinstance(atoms, MovingAtoms):
        atoms = atoms.still
    n_types, n_paths = atoms.n_types, len(fit.paths)
    gain_scene, _, _ = scene_blocks(fit)
    in_scene = np.empty((n_types, n_paths, covariance.shape[0]), complex)
    in_scene[0] = -fit.problem.noise_precision * (posterior.covariance @ gain_scene)
    in_scene[1:] = posterior.mean[:, None] * fit.parameters.jacobian[: n_types - 1]
    variance = np.zeros((n_users, atoms.delay.shape[0], atoms.steering.shape[2]))
    for k in np.unique(atoms.user):
        index = np.flatnonzero(atoms.user == k)
        rows = in_scene[:, index].reshape(n_types * index.size, -1)
        joint: ComplexArray = np.asarray((rows @ covariance) @ rows.conj().T, dtype=complex)
        joint[: index.size, : index.size] += posterior.covariance[np.ix_(index, index)]
        joint = joint.reshape(n_types, index.size, n_types, index.size)
        steering = fit.problem.receiver.stated(atoms.steering[:, index])
        variance[k] = _summed_power(joint, atoms.delay[:, index], steering, atoms.wavenumbers_per_m)
    return variance


def _summed_power(
    joint: ComplexArray, delay: ComplexArray, steering: ComplexArray, wavenumbers_per_m: RealArray
) -> RealArray:
    """``diag(Psi C Psi^H)`` as an (N, M) array for a user's path and derivative atoms ``Psi``.

    A pair of paths contributes ``b_ni conj(b_nj)`` times a quadratic in ``w_n`` whose coefficients depend on
    the antenna, so the sum over the pairs i <= j is one real matrix product.
    """
    n_types, n_paths = joint.shape[:2]
    i, j = np.triu_indices(n_paths)
    arrays = np.concatenate([steering[:1], steering])
    phase = np.where(np.arange(n_types) == 1, -1j, 1)
    weights = joint[:, i, :, j] * np.multiply.outer(phase, phase.conj())
    weights[i != j] *= 2
    left, right = arrays[:, i].transpose(1, 0, 2), arrays[:, j].conj().transpose(1, 0, 2)
    plain = np.arange(n_types) != 1
    over_plain = np.matmul(weights[:, :, plain], right[:, plain])
    in_length = weights[:, :, 1, None] * right[:, 1, None]
    coefficients = np.stack(
        [
            np.sum(left[:, plain] * over_plain[:, plain], axis=1),
            left[:, 1] * over_plain[:, 1] + np.sum(left[:, plain] * in_length[:, plain], axis=1),
            left[:, 1] * in_length[:, 1],
        ]
    )
    of_elements = np.concatenate([coefficients.real, -coefficients.imag], axis=1)
    power = np.empty((len(delay), steering.shape[2]))
    step = max(_MOST_PRODUCTS // max(i.size, 1), 1)
    for part in (slice(first, first + step) for first in range(0, len(delay), step)):
        pairs = delay[part, i] * delay[part, j].conj()
        powers = wavenumbers_per_m[part, None] ** np.arange(3)[:, None, None] * pairs
        of_tones = np.concatenate([powers.real, powers.imag], axis=2)
        np.sum(np.matmul(of_tones, of_elements), axis=0, out=power[part])
    return np.maximum(power, 0.0, out=power)
