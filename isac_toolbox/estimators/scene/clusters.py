"""Clusters around paths: echoes at a path's delay from directions around its own, with learned powers.

docs/theory.md, section 5.8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, AntennaArray, UniformPlanarArray
from isac_toolbox.channel.atoms.dense import Statistics, through
from isac_toolbox.estimators.scene.diffuse import Left, crossing_of, posterior_of
from isac_toolbox.estimators.scene.fit import Fit
from isac_toolbox.estimators.search import PathSearch

__all__ = ["ClusterShape", "Clusters", "crowding"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Tuned: standard deviation of the directions of a cluster in resolution cells; 0.3 to 0.6 are as good.
_SPREAD_CELLS = 0.35
# Cost cap: eigenvalues of a cluster's covariance over the array, relative to the largest, that are left out.
_LEAST_EIGENVALUE = 0.003
# Tuned: rounds of EM when clusters begin; twice as many make the powers sparse and the channel worse.
_FIRST_ROUNDS = 6
# Tuned: rounds of EM in every iteration after that.
_ROUNDS = 1
# Prior: power of a cluster relative to that of its path, before any is learned.
_START_SHARE = 0.1
# Guard: resolution cells within which a path of an iteration is that of the one before.
_SAME_CELLS = 0.5
# Tuned: squared coherence above which two paths are neighbours.
_OVERLAP = 0.1
# Tuned: share of paths with neighbours from which on clusters are tried; it is 0 to 0.3 in blocks of points.
_NEAR = 0.2
# Tuned: share of them below which clusters are given up.
_LOOSE = 0.1
# Tuned: neighbours of a path in a crowd,
_CROWD = 3
# Tuned: and share of paths in one that needs no evidence; below 0.1 in blocks of points, but 0.3 in a city.
_CROWDED = 0.25
# Mathematics: energy over the noise that a parameter must explain to make the channel better (Mallows's C_p).
_WORTH = 2.0
# Tuned: evidence that all later rounds bring, at most, relative to the last; 0.9 to 1.3 are measured.
_ALL_LATER = 2.0
# Guard: power relative to the noise below which nothing is left of a path or cluster.
_LEAST_POWER = 1e-6


@dataclass(frozen=True, eq=False)
class ClusterShape:
    """What clusters look like on an array: factors of the covariance of a cluster straight ahead.

    Attributes
    ----------
    factors : ndarray, shape (R, M)
        ``C = factors.T @ factors``, of unit diagonal but for what the smallest eigenvalues leave out.
    """

    factors: RealArray

    @classmethod
    def of(cls, array: AntennaArray) -> ClusterShape:
        """Return the shape of clusters whose directions are Gaussian, in units of the array's resolution."""
        spreads = np.where(array.sees_cosines, _SPREAD_CELLS * array.cosine_cells, 0.0)
        if isinstance(array, UniformPlanarArray):
            along = [
                _roots_of(np.outer(slopes, spread)) for slopes, spread in zip(array.phase_slopes, spreads)
            ]
            factors = np.einsum("ai,bj->abij", *along).reshape(-1, array.n_elements)
            energy = np.sum(factors**2, axis=1)
            return cls(factors[energy > _LEAST_EIGENVALUE * energy.max()])
        phases = np.stack([array.phases(1.0, 0.0), array.phases(0.0, 1.0)], axis=1)
        return cls(_roots_of(phases * spreads))

    def around(self, steering: ComplexArray) -> ComplexArray:
        """Return atoms of paths with responses (L, M) and of their clusters, shape (L, 1 + R, M)."""
        steering = steering[:, None]
        return np.concatenate([steering, steering * self.factors], axis=1)


def crowding(fit: Fit) -> tuple[float, float]:
    """Return the shares of a fit's paths with a neighbour and with three of them, told apart by direction.

    Atoms of neighbours, of one user, overlap, and their array responses less than their delay responses.
    """
    delay, steering, user = fit.atoms.delay, fit.atoms.steering[0], fit.paths.user
    if not user.size:
        return 0.0, 0.0
    over_delay = np.abs(delay.conj().T @ delay) ** 2 / delay.shape[0] ** 2
    over_array = np.abs(steering.conj() @ steering.T) ** 2 / steering.shape[1] ** 2
    near = (over_delay * over_array > _OVERLAP) & (over_array < over_delay)
    near &= (user[:, None] == user) & ~np.eye(user.size, dtype=bool)
    count = near.sum(axis=1)
    return float(np.mean(count > 0)), float(np.mean(count >= _CROWD))


def _roots_of(turns: RealArray) -> RealArray:
    """Factors (R, M) of the covariance of responses that a Gaussian direction turns by (M, D) phases."""
    distance = np.sum((turns[:, None] - turns) ** 2, axis=2)
    values, vectors = np.linalg.eigh(np.exp(-distance / 2))
    kept = values > _LEAST_EIGENVALUE * values[-1]
    return np.asarray((vectors[:, kept] * np.sqrt(values[kept])).T)


@dataclass(frozen=True, eq=False)
class Clusters:
    """Paths and what surrounds them in direction, under their powers: a Wiener filter beside the fit.

    A path ``l`` of user ``k`` has at its delay, beside its own amplitude of power ``g_l``, a channel over the
    array of covariance ``q_l C`` turned towards its direction; both are estimated together.

    Attributes
    ----------
    user : ndarray of int, shape (L,)
    lengths_m : ndarray, shape (L,)
    cosines : ndarray, shape (2, L)
    delay : ndarray of complex, shape (N, L)
    steering : ndarray of complex, shape (L, M)
    over_array : ndarray of complex, shape (L, M)
        What paths and clusters together are over the array; zero before the first round.
    path_power, cluster_power : ndarray, shape (L,)
        Mean powers of a channel entry from paths and from their clusters.
    mean : ndarray of complex, shape (K, N, M)
        What the filter has more than the paths of the fit.
    variance : ndarray, shape (K, N)
        Posterior variance of an entry of the channel.
    noise_variance : float
        Of a scaled sample, with clusters out of it.
    n_determined : float
        Complex parameters that the samples determine beside the paths of the fit.
    symbol_energies : ndarray, shape (K, N)
    shape : ClusterShape
    log_evidence : float
        Of the powers before the last round, from below (the variational bound), without constants.
    """

    user: IntArray
    lengths_m: RealArray
    cosines: RealArray
    delay: ComplexArray
    steering: ComplexArray
    over_array: ComplexArray
    path_power: RealArray
    cluster_power: RealArray
    mean: ComplexArray
    variance: RealArray
    noise_variance: float
    n_determined: float
    symbol_energies: RealArray
    shape: ClusterShape
    log_evidence: float

    @classmethod
    def start(cls, fit: Fit, statistics: Statistics, shape: ClusterShape, noise_variance: float) -> Clusters:
        """Learn the clusters around the paths of a fit from the statistics."""
        return cls.begun(fit, statistics, shape, noise_variance).settled(fit, statistics)

    @classmethod
    def begun(cls, fit: Fit, statistics: Statistics, shape: ClusterShape, noise_variance: float) -> Clusters:
        """Return clusters around the paths of a fit before anything is learned of them."""
        power = np.abs(fit.posterior.mean) ** 2
        return cls._around(fit, statistics, shape, power, _START_SHARE * power, noise_variance)

    def settled(self, fit: Fit, statistics: Statistics) -> Clusters:
        """Learn clusters that were begun from the statistics."""
        return self._settled(fit, statistics, _FIRST_ROUNDS)

    @property
    def whole(self) -> ComplexArray:
        """The channel of paths and clusters together, shape (K, N, M)."""
        whole = np.zeros((len(self.mean), len(self.delay), self.mean.shape[2]), complex)
        for k in range(len(whole)):
            own = np.flatnonzero(self.user == k)
            whole[k] = self.delay[:, own] @ self.over_array[own]
        return whole

    @classmethod
    def _around(
        cls,
        fit: Fit,
        statistics: Statistics,
        shape: ClusterShape,
        path: RealArray,
        cluster: RealArray,
        noise_variance: float,
    ) -> Clusters:
        n_users, n_tones, _ = statistics.cross_correlation.shape
        return cls(
            fit.paths.user,
            fit.parameters.length_m,
            fit.parameters.cosines,
            fit.atoms.delay,
            fit.atoms.steering[0],
            np.zeros_like(fit.atoms.steering[0]),
            path,
            cluster,
            np.zeros_like(statistics.cross_correlation),
            np.zeros((n_users, n_tones)),
            noise_variance,
            0.0,
            np.real(np.einsum("nkk->kn", statistics.symbol_gram)),
            shape,
            0.0,
        )

    @classmethod
    def shown(
        cls, fit: Fit, statistics: Statistics, shape: ClusterShape, noise_variance: float
    ) -> Clusters | None:
        """Return clusters where paths of a fit stand in them; None where they explain the samples no better.

        Where most are rays of clusters, they leave nothing for clusters to explain but noise between them, so
        evidence is not asked; clusters have to make the channel better in any case.
        """
        near, crowded = crowding(fit)
        if near < _NEAR:
            return None
        if crowded > _CROWDED:
            clusters = cls.start(fit, statistics, shape, noise_variance)
            return clusters if clusters.pays(fit, statistics) else None
        return cls._preferred(fit, statistics, shape, noise_variance)

    @classmethod
    def _preferred(
        cls, fit: Fit, statistics: Statistics, shape: ClusterShape, noise_variance: float
    ) -> Clusters | None:
        """The clusters of a fit; None where evidence does not pay for powers, a nat each, or C_p for them."""
        bare = replace(shape, factors=shape.factors[:0])
        begun = [cls.begun(fit, statistics, each, noise_variance) for each in (shape, bare)]
        rounds = (start._rounds(fit, statistics, _FIRST_ROUNDS) for start in begun)
        ahead = -np.inf
        for n_done, (clusters, alone) in enumerate(zip(*rounds, strict=True), 1):
            before, ahead = ahead, clusters.log_evidence - alone.log_evidence - len(fit.paths)
            if ahead + min(_FIRST_ROUNDS - n_done, _ALL_LATER) * (ahead - before) <= 0:
                return None
        return clusters if clusters.pays(fit, statistics) else None

    def pays(self, fit: Fit, statistics: Statistics) -> bool:
        """Return whether clusters make the channel better than the paths of their fit have it.

        By Mallows's C_p: they explain energy, but every parameter that the samples determine of them adds its
        noise.
        """
        left, paths = Left.of(fit, statistics), _channel_of(fit, len(self.mean))
        without, beside = (left.energy_beside(channel, 0.0) for channel in (paths, paths + self.mean))
        return without - beside >= _WORTH * self.n_determined * self.noise_variance

    def stays(self, fit: Fit, statistics: Statistics) -> bool:
        """Return whether paths of a fit still stand in clusters; where few do, evidence decides."""
        near, _ = crowding(fit)
        if near >= _NEAR or near < _LOOSE:
            return near >= _NEAR
        return self._preferred(fit, statistics, self.shape, self.noise_variance) is not None

    def renewed(self, fit: Fit, statistics: Statistics, search: PathSearch) -> Clusters:
        """Renew the clusters for the paths of a fit: filter, powers and noise, in turn."""
        return self._carried_to(fit, statistics)._settled(fit, statistics, _ROUNDS)

    def filtered(self, fit: Fit, statistics: Statistics, search: PathSearch) -> Clusters:
        """Return the clusters of a fit under the present powers and noise."""
        carried = self._carried_to(fit, statistics)
        again = carried._settled(fit, statistics, 1)
        return replace(
            again,
            path_power=carried.path_power,
            cluster_power=carried.cluster_power,
            noise_variance=self.noise_variance,
        )

    def _carried_to(self, fit: Fit, statistics: Statistics) -> Clusters:
        """The same powers on the paths of another fit; new paths begin with what they have there."""
        power = np.abs(fit.posterior.mean) ** 2
        path, cluster = power.copy(), _START_SHARE * power
        cells = fit.problem.receiver.array.cosine_cells[:, None, None]
        apart = np.abs(fit.parameters.length_m[:, None] - self.lengths_m) / fit.problem.length_cell_m
        across = np.abs(fit.parameters.cosines[:, :, None] - self.cosines[:, None])
        with np.errstate(invalid="ignore"):
            apart = np.maximum(apart, np.nan_to_num(across / cells).max(axis=0))
        apart = np.where(fit.paths.user[:, None] == self.user, apart, np.inf)
        if self.user.size:
            nearest = np.argmin(apart, axis=1)
            same = apart[np.arange(nearest.size), nearest] < _SAME_CELLS
            path[same], cluster[same] = self.path_power[nearest[same]], self.cluster_power[nearest[same]]
        around = self._around(fit, statistics, self.shape, path, cluster, self.noise_variance)
        return replace(around, mean=self.mean)

    def _settled(self, fit: Fit, statistics: Statistics, n_rounds: int) -> Clusters:
        """Alternate between the channels of all users, the powers and the noise."""
        last = self
        for after_round in self._rounds(fit, statistics, n_rounds):
            last = after_round
        return last

    def _rounds(self, fit: Fit, statistics: Statistics, n_rounds: int) -> Iterator[Clusters]:
        """The clusters after every round."""
        left, fitted = Left.of(fit, statistics), _channel_of(fit, len(self.mean))
        heard = fit.problem.receiver.element_mask
        if heard is None:
            heard = np.ones(fitted.shape[2], bool)
        current, channel = self, fitted + self.mean
        users = [self._of_user(k, heard) for k in range(len(self.mean))]
        for _ in range(n_rounds):
            current, channel = current._round(left, channel, users, heard)
            yield replace(current, mean=channel - fitted)

    def _of_user(self, k: int, heard: BoolArray) -> _User:
        """What the filter needs of a user's paths, whatever their powers."""
        index = np.flatnonzero(self.user == k)
        delay, atoms = self.delay[:, index], self.shape.around(self.steering[index])
        back, measured = delay.conj().T.copy(), np.ascontiguousarray(atoms[..., heard])
        flat, n_atoms = measured.reshape(-1, measured.shape[2]), measured.shape[1]
        overlap = flat.conj() @ flat.T
        over_tones = (back * self.symbol_energies[k]) @ delay
        information = np.repeat(np.repeat(over_tones, n_atoms, axis=0), n_atoms, axis=1) * overlap
        return _User(index, delay, back, atoms, measured.conj(), overlap, information)

    def _round(
        self, left: Left, channel: ComplexArray, users: list[_User], heard: BoolArray
    ) -> tuple[Clusters, ComplexArray]:
        """One user after another: amplitudes given the others, then powers; last the noise."""
        statistics, n_observations = left.statistics, left.statistics.n_observations
        channel = np.where(heard, channel, 0)
        whole, variance = np.zeros_like(channel), np.zeros_like(self.variance)
        path, cluster = self.path_power.copy(), self.cluster_power.copy()
        over_array = np.zeros_like(self.over_array)
        determined = spread = cost = 0.0
        for k, user in enumerate(users):
            of_others = statistics.symbol_gram[:, k : k + 1].copy()
            of_others[:, 0, k] = 0
            own = statistics.cross_correlation[k] - through(of_others, channel)[0]
            found = self._filter(user, own[:, heard])
            index = user.index
            path[index], cluster[index] = found.path_power, found.cluster_power
            over_array[index], variance[k] = found.over_array, found.variance
            whole[k] = user.delay @ found.over_array
            channel[k] = whole[k] * heard
            determined += found.determined
            spread += found.spread
            cost += found.cost
        energy_left = left.energy_beside(channel, spread)
        noise = left.noise_of(self.noise_variance, energy_left)
        least = _LEAST_POWER * noise / max(float(self.symbol_energies.sum(axis=1).max()), 1e-300)
        again = replace(
            self,
            over_array=over_array,
            path_power=np.maximum(path, least),
            cluster_power=np.maximum(cluster, least),
            variance=variance,
            log_evidence=-n_observations * float(np.log(noise)) - energy_left / noise - cost,
            noise_variance=noise,
            n_determined=max(determined - self.user.size, 0.0),
        )
        return again, whole

    def _filter(self, user: _User, own: ComplexArray) -> _Filtered:
        """Amplitudes of a user's paths and clusters, from its correlation (N, M') without the others."""
        n_paths, n_atoms, n_heard = user.back_over_array.shape
        matched = np.matmul(user.back_over_array, (user.back @ own)[:, :, None])
        power = np.repeat(self.cluster_power[user.index, None], n_atoms, axis=1)
        power[:, 0] = self.path_power[user.index]
        amplitudes, covariance, shrunk = posterior_of(
            user.information / self.noise_variance,
            matched.reshape(-1, 1) / self.noise_variance,
            power.ravel(),
        )
        amplitudes = amplitudes.reshape(power.shape)
        variance = np.real(np.diagonal(covariance)).reshape(power.shape)
        second = np.abs(amplitudes) ** 2 + variance
        between = (covariance * user.overlap.T).reshape(n_paths, n_atoms, n_paths, n_atoms).sum(axis=(1, 3))
        return _Filtered(
            path_power=second[:, 0],
            cluster_power=second[:, 1:].mean(axis=1) if n_atoms > 1 else self.cluster_power[user.index],
            over_array=np.matmul(amplitudes[:, None], user.atoms)[:, 0],
            variance=np.real(np.sum((user.delay @ between) * user.back.T, axis=1)) / n_heard,
            determined=float(np.sum(1 - variance / power)),
            spread=float(np.real(np.vdot(user.information, covariance))),
            cost=shrunk + float(np.sum(second / power - 1)),
        )

    def crossing(self, gram: ComplexArray) -> ComplexArray:
        """Return what the clusters of the other users add to each user's correlation, (K, N, M)."""
        return crossing_of(self.mean, gram)

    @property
    def profile(self) -> RealArray:
        """The power of every user over its clusters, zero for those of others, shape (K, L)."""
        own = self.user == np.arange(len(self.mean))[:, None]
        shares = np.where(own, self.cluster_power, 0.0)
        total = np.maximum(shares.sum(axis=1), 1e-300)
        return np.asarray(shares * (self.power / total)[:, None])

    @property
    def power(self) -> RealArray:
        """Mean power of what a channel entry has more than that of the paths, shape (K,)."""
        return np.asarray(np.mean(np.abs(self.mean) ** 2, axis=(1, 2)) + self.entry_variance)

    @property
    def delays_s(self) -> RealArray:
        """Delays of the clusters, shape (L,)."""
        return self.lengths_m / SPEED_OF_LIGHT_M_S

    @property
    def entry_variance(self) -> RealArray:
        """Posterior variance of a channel entry, mean over subcarriers, shape (K,)."""
        return np.asarray(self.variance.mean(axis=1))

    def over_bins(self, search: PathSearch, signal: ComplexArray) -> ComplexArray:
        """Return ``sum_n conj(b_n) e_n`` of a signal (N, M) at the delays, shape (L, M)."""
        return np.asarray(self.delay.conj().T @ signal)

    def noise_at(self, fit: Fit) -> RealArray:
        """Variance of noise and clusters that each path of a fit sees, shape (L',)."""
        seen = np.full(len(fit.paths), self.noise_variance)
        for k, energy in enumerate(self.symbol_energies):
            own, index = np.flatnonzero(fit.paths.user == k), np.flatnonzero(self.user == k)
            delay, steering = fit.atoms.delay[:, own], fit.atoms.steering[0][own]
            over_delay = np.abs((delay.conj().T * energy) @ self.delay[:, index]) ** 2 / energy.sum()
            atoms = self.shape.around(self.steering[index])[:, 1:]
            over_array = np.abs(np.einsum("pm,lrm->plr", steering.conj(), atoms, optimize=True)) ** 2
            seen[own] += (over_delay * over_array.sum(axis=2)) @ self.cluster_power[index] / steering.shape[1]
        return seen

    def paths_noise(self, fit: Fit, active: BoolArray) -> float:
        """Noise variance for the paths: noise alone, as clusters are fitted around each."""
        return self.noise_variance

    def rises(self, search: PathSearch) -> None:
        """Nothing: paths inside clusters are born as elsewhere, since clusters stand around paths alone."""
        return None


@dataclass(frozen=True, eq=False)
class _User:
    """What does not change with the powers: which paths (l,), and their atoms.

    Over subcarriers ``delay`` (N, l) and its conjugate transpose, over the array with their clusters
    ``atoms`` (l, 1 + R, M) and conjugates on the elements heard, with overlaps; and the information of the
    amplitudes (l (1 + R), l (1 + R)), for noise of one.
    """

    index: IntArray
    delay: ComplexArray
    back: ComplexArray
    atoms: ComplexArray
    back_over_array: ComplexArray
    overlap: ComplexArray
    information: ComplexArray


@dataclass(frozen=True, eq=False)
class _Filtered:
    """What the filter finds of a user: powers (l,), paths over the array (l, M), variance (N,), and sums.

    Complex parameters determined, expected energy of what is uncertain, and nats that the posterior of the
    amplitudes is from their prior.
    """

    path_power: RealArray
    cluster_power: RealArray
    over_array: ComplexArray
    variance: RealArray
    determined: float
    spread: float
    cost: float


def _channel_of(fit: Fit, n_users: int) -> ComplexArray:
    """Channel (K, N, M) of the paths of a fit."""
    return fit.atoms.synthesise(fit.posterior.mean, n_users)
