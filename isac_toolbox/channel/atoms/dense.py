"""Separable algebra of path atoms: Gram, correlation and Fisher matrix without any N*M*L array.

An atom is a delay response times an array response. With the statistics ``R`` (N, K, K) and ``Z``
(K, N, M) of a block every inner product splits into a product over subcarriers and one over antennas
(docs/theory.md, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._threads import in_threads, stretches
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, UniformPlanarArray
from isac_toolbox.channel.atoms.frames import Frames, MovingAtoms
from isac_toolbox.channel.atoms.planar import PlanarAtoms, delay_moments, match_separable, over_times
from isac_toolbox.channel.atoms.receiver import Receiver, tone_step_hz
from isac_toolbox.channel.atoms.scene import PathParameters, Paths
from isac_toolbox.channel.atoms.tables import BlockTables
from isac_toolbox.channel.atoms.whitening import Whitening

__all__ = [
    "DenseAtoms",
    "Measurements",
    "PathAtoms",
    "Statistics",
    "dottest",
    "fisher_blocks",
    "make_atoms",
    "through",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Cost cap: subcarriers that one thread takes at once.
_SUBCARRIERS_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sufficient statistics of a block.

    Attributes
    ----------
    symbol_gram : ndarray of complex, shape (N, K, K)
        ``R_n[k, j] = sum_t E[conj(u_knt) u_jnt]``.
    cross_correlation : ndarray of complex, shape (K, N, M)
        ``Z_kn = sum_t y_nt E[conj(u_knt)]``.
    energy : float
        ``|Y|^2`` over the symbols used.
    n_observations : int
        Number of complex samples used.
    missing : ndarray of complex, shape (N, M, K, K), optional
        ``D_nm``, where single samples are missing: what the symbol Gram ``R_n`` of the mean over elements has
        more than that of element m.
    completion : ndarray of complex, shape (K, N, M), optional
        Channel that ``Z`` was completed with (:meth:`completed`).
    frames : Frames, optional
        The same over time, of blocks that move; ``R`` and ``Z`` are then of symbols turned back.
    """

    symbol_gram: ComplexArray
    cross_correlation: ComplexArray
    energy: float
    n_observations: int
    missing: ComplexArray | None = None
    completion: ComplexArray | None = None
    frames: Frames | None = None

    def __add__(self, other: Statistics) -> Statistics:
        """Statistics of two parts of a block together, neither of them completed."""
        parts = [part.missing for part in (self, other) if part.missing is not None]
        frames = [part.frames for part in (self, other) if part.frames is not None]
        return Statistics(
            self.symbol_gram + other.symbol_gram,
            self.cross_correlation + other.cross_correlation,
            self.energy + other.energy,
            self.n_observations + other.n_observations,
            sum(parts[1:], start=parts[0]) if parts else None,
            frames=sum(frames[1:], start=frames[0]) if frames else None,
        )

    def stored_as(self, dtype: str) -> Statistics:
        """The same with the correlation, and with it the block's tables, kept in another precision."""
        return replace(
            self,
            cross_correlation=self.cross_correlation.astype(dtype, copy=False),
            frames=None if self.frames is None else self.frames.stored_as(dtype),
        )

    def over_elements(self, factors: ComplexArray, whitening: Whitening | None = None) -> Statistics:
        """The same of samples divided by factors (M,) near one, before a whitening; the energy stays."""

        def divided(correlation: ComplexArray) -> ComplexArray:
            if whitening is None:
                return correlation / factors
            return whitening.apply(whitening.undo(correlation) / factors)

        frames = self.frames
        if frames is not None:
            frames = replace(frames, cross_correlation=divided(frames.cross_correlation))
        return replace(self, cross_correlation=divided(self.cross_correlation), frames=frames)

    def gram(self, atoms: PathAtoms) -> ComplexArray:
        """Return the Gram of path atoms, shape (L, L)."""
        if isinstance(atoms, MovingAtoms) and self.frames is not None:
            return atoms.gram_over_time(self.frames)
        return atoms.gram(self.symbol_gram)

    def full_gram(self, atoms: PathAtoms) -> ComplexArray:
        """Return the Gram of all types of atoms, shape (types, types, L, L)."""
        if isinstance(atoms, MovingAtoms) and self.frames is not None:
            return atoms.full_gram_over_time(self.frames)
        return atoms.full_gram(self.symbol_gram)

    def correlate(self, atoms: PathAtoms, derivatives: bool = False) -> ComplexArray:
        """Return inner products of atoms with the block: shape (L,), or (types, L) with derivatives."""
        if isinstance(atoms, MovingAtoms) and self.frames is not None:
            return atoms.correlate_over_time(self.frames, derivatives)
        return atoms.correlate(self.cross_correlation, derivatives)

    def explained(self, atoms: PathAtoms, gains: ComplexArray) -> ComplexArray:
        """Return what paths are in ``Z``: ``sum_j R[k, j] H_j``, shape (K, N, M)."""
        if isinstance(atoms, MovingAtoms) and self.frames is not None:
            return atoms.explained(self.frames, gains)
        return through(self.symbol_gram, atoms.synthesise(gains, self.symbol_gram.shape[1]))

    def without(self, channel: ComplexArray) -> Statistics:
        """The same of a block that a known channel (K, N, M) is subtracted from; no sample may be missing."""
        explained = through(self.symbol_gram, channel)
        taken = float(np.real(np.vdot(channel, 2 * self.cross_correlation - explained)))
        return replace(self, cross_correlation=self.cross_correlation - explained, energy=self.energy - taken)

    def completed(self, channel: ComplexArray) -> Statistics:
        """The same with missing samples as a channel (K, N, M) predicts them.

        ``Z`` and energy become those of a block in which every element has the symbol Gram ``R_n``, in
        place of ``R_n - D_nm``, and whose residual at that channel is that of the samples that are there.
        """
        if self.missing is None:
            return self
        before = np.zeros_like(channel) if self.completion is None else self.completion
        old, new = (np.einsum("nmkj,jnm->knm", self.missing, h) for h in (before, channel))
        return replace(
            self,
            cross_correlation=(self.cross_correlation + (new - old)).astype(self.cross_correlation.dtype),
            energy=self.energy + float(np.vdot(channel, new).real - np.vdot(before, old).real),
            completion=channel,
        )

    @cached_property
    def user_energies(self) -> RealArray:
        """``sum_n R_n[k, k]`` of every user, shape (K,)."""
        return np.real(np.einsum("nkk->k", self.symbol_gram))

    @cached_property
    def users_decouple(self) -> bool:
        """Whether no two users ever send together, so that each has a problem of its own."""
        gram = self.symbol_gram if self.frames is None else self.frames.symbol_gram
        together = np.any(gram, axis=tuple(range(gram.ndim - 2)))
        return not np.any(together & ~np.eye(len(together), dtype=bool))

    def of_user(self, user: int) -> Statistics:
        """Statistics of one user, for users that decouple."""
        alone = slice(user, user + 1)
        return replace(
            self,
            symbol_gram=self.symbol_gram[:, alone, alone],
            cross_correlation=self.cross_correlation[alone],
            missing=None if self.missing is None else self.missing[:, :, alone, alone],
            completion=None if self.completion is None else self.completion[alone],
            frames=None if self.frames is None else self.frames.of_user(user),
        )


def through(symbol_gram: ComplexArray, channel: ComplexArray) -> ComplexArray:
    """Return ``sum_j R[k, j] H_j``, shape (R, N, M), of rows k of a Gram (N, R, K) and channels (K, N, M)."""
    shape = (symbol_gram.shape[1], *channel.shape[1:])
    out = np.empty(shape, np.result_type(symbol_gram, channel))

    def fill_in(part: slice) -> None:
        np.matmul(symbol_gram[part], channel[:, part].transpose(1, 0, 2), out=out[:, part].transpose(1, 0, 2))

    in_threads(fill_in, stretches(len(symbol_gram), _SUBCARRIERS_AT_ONCE), out.size)
    return out


@dataclass(frozen=True, eq=False)
class Measurements:
    """Statistics of a block and the receiver that took them.

    Attributes
    ----------
    statistics : Statistics
    receiver : Receiver
    shared_tables : BlockTables, optional
        Tables of these statistics, where they were made already for a larger block.
    window_m : (float, float), optional
        Lengths at which paths are looked for.
    """

    statistics: Statistics
    receiver: Receiver
    shared_tables: BlockTables | None = None
    window_m: tuple[float, float] | None = None

    @cached_property
    def tables(self) -> BlockTables | None:
        """Tables of the block in the path length; None where the receiver has none."""
        if self.shared_tables is not None:
            return self.shared_tables
        statistics = self.statistics
        return BlockTables.of(
            statistics.symbol_gram, statistics.cross_correlation, self.receiver, self.window_m
        )

    @cached_property
    def length_periods_m(self) -> RealArray:
        """Path length by which paths of every user look the same on its tones, shape (K,)."""
        sent = np.einsum("nkk->kn", self.statistics.symbol_gram).real > 0
        step_hz = {used.tobytes(): 0.0 for used in sent}
        for used in {used.tobytes(): used for used in sent}.values():
            step_hz[used.tobytes()] = tone_step_hz(self.receiver.frequencies_hz, used)
        return SPEED_OF_LIGHT_M_S / np.array([step_hz[used.tobytes()] for used in sent])

    def of_user(self, user: int) -> Measurements:
        """Measurements of one user, for users that decouple; the block's tables are shared."""
        tables = None if self.tables is None else self.tables.of_user(user)
        return Measurements(self.statistics.of_user(user), self.receiver, tables, self.window_m)

    def completed(self, channel: ComplexArray) -> Measurements:
        """The same with missing samples as a channel (K, N, M) predicts them; all the same where none is."""
        if self.statistics.missing is None:
            return self
        statistics = self.statistics.completed(channel)
        tables = self.tables
        if tables is not None:
            tables = tables.with_correlation(statistics.cross_correlation)
        return Measurements(statistics, self.receiver, tables, self.window_m)


class PathAtoms(Protocol):
    """Atoms of some paths: type 0 the path itself, 1 its derivative in length, 2.. the D spatial ones."""

    @property
    def user(self) -> NDArray[np.int64]:
        """User of every path, shape (L,)."""
        ...

    @property
    def delay(self) -> ComplexArray:
        """Delay factors, shape (N, L)."""
        ...

    @property
    def wavenumbers_per_m(self) -> RealArray:
        """Phase per metre on every subcarrier, shape (N,)."""
        ...

    @property
    def steering(self) -> ComplexArray:
        """Array factors at the carrier with their D derivatives, shape (1 + D, L, M)."""
        ...

    @property
    def n_types(self) -> int:
        """Number of atom types, 2 + D."""
        ...

    def gram(self, symbol_gram: ComplexArray) -> ComplexArray:
        """Gram of the path atoms, shape (L, L)."""
        ...

    def full_gram(self, symbol_gram: ComplexArray) -> ComplexArray:
        """Gram of all atom types, shape (2 + D, 2 + D, L, L)."""
        ...

    def correlate(self, cross_correlation: ComplexArray, derivatives: bool = False) -> ComplexArray:
        """Inner products with ``Z`` (K, N, M): shape (L,), or (2 + D, L) with derivatives."""
        ...

    def synthesise(self, gains: ComplexArray, n_users: int) -> ComplexArray:
        """Channel ``H_k = sum over the user's paths of x b a^T``, shape (K, N, M)."""
        ...

    def respond(self, rows: ComplexArray) -> ComplexArray:
        """Inner products ``sum_m y_num b_ni a_mi`` of rows (N, U, M) with every path, shape (N, U, L)."""
        ...

    def match(self, gains: ComplexArray, users: NDArray[np.int64]) -> ComplexArray:
        """``sum_m conj(h_unm) b_ni a_mi`` of users' channels with every path, shape (N, U, L)."""
        ...

    def on_subcarriers(self, part: slice) -> PathAtoms:
        """The atoms on some subcarriers."""
        ...

    def take(self, index: NDArray[np.int64]) -> PathAtoms:
        """The atoms of some paths."""
        ...


@dataclass(frozen=True, eq=False)
class DenseAtoms:
    """Atoms with array responses of any form: spherical, of arbitrary arrays, of elements left out, whitened.

    Attributes
    ----------
    user : ndarray of int, shape (L,)
    delay : ndarray of complex, shape (N, L)
    wavenumbers_per_m : ndarray, shape (N,)
    steering : ndarray of complex, shape (1 + D, L, M)
    element_mask : ndarray of bool, shape (M,), optional
        Elements that inner products of atoms run over; all if not given.
    """

    user: NDArray[np.int64]
    delay: ComplexArray
    wavenumbers_per_m: RealArray
    steering: ComplexArray
    element_mask: NDArray[np.bool_] | None = None

    @property
    def _measured(self) -> ComplexArray:
        """Responses on the elements that take part in inner products, shape (1 + D, L, M')."""
        return self.steering if self.element_mask is None else self.steering[..., self.element_mask]

    @property
    def n_types(self) -> int:
        """Number of atom types, 2 + D."""
        return 1 + self.steering.shape[0]

    def gram(self, symbol_gram: ComplexArray) -> ComplexArray:
        """Gram of the path atoms, shape (L, L)."""
        a = self._measured[0]
        return (a.conj() @ a.T) * self._delay_moments(symbol_gram, 1)[0]

    def full_gram(self, symbol_gram: ComplexArray) -> ComplexArray:
        """Gram of all atom types, shape (2 + D, 2 + D, L, L)."""
        return self.assembled(self._delay_moments(symbol_gram, 3), self.n_types)

    def delay_orders(self, n_types: int) -> int:
        """Return how many moments over subcarriers the Gram of the first atom types needs."""
        return 3 if n_types > 1 else 1

    def assembled(self, delay_moments: ComplexArray, n_types: int) -> ComplexArray:
        """Return the Gram of all atom types, or of type 0, from moments over subcarriers (3 or 1, L, L)."""
        spatial = self._measured if n_types > 1 else self._measured[:1]
        n_spatial, n_paths, n_antennas = spatial.shape
        flat = spatial.reshape(-1, n_antennas)
        space = (flat.conj() @ flat.T).reshape(n_spatial, n_paths, n_spatial, n_paths).transpose(0, 2, 1, 3)
        if n_types == 1:
            return space * delay_moments[0]
        zeroth, first, second = delay_moments
        delay = np.array([[zeroth, -1j * first], [1j * first, second]])
        in_delay = np.array([0, 1] + [0] * (n_spatial - 1))
        in_space = np.array([0, *range(n_spatial)])
        return delay[np.ix_(in_delay, in_delay)] * space[np.ix_(in_space, in_space)]

    def _delay_moments(self, symbol_gram: ComplexArray, orders: int) -> ComplexArray:
        return delay_moments(self.delay, self.user, self.wavenumbers_per_m, symbol_gram, orders)

    def correlate(self, cross_correlation: ComplexArray, derivatives: bool = False) -> ComplexArray:
        """Inner products with ``Z`` (K, N, M): shape (L,), or (2 + D, L) with derivatives."""
        steering = self.steering if derivatives else self.steering[:1]
        projected = self.project(cross_correlation, steering)
        conjugate = self.delay.conj()
        values = np.einsum("nl,sln->sl", conjugate, projected, optimize=True)
        if not derivatives:
            return values[0]
        in_length = np.einsum(
            "n,nl,ln->l", 1j * self.wavenumbers_per_m, conjugate, projected[0], optimize=True
        )
        return np.concatenate([values[:1], in_length[None], values[1:]])

    def correlate_over_time(self, cross_correlation: ComplexArray, turns: ComplexArray) -> ComplexArray:
        """Return inner products with ``Z`` (K, N, Q, M) summed over times with weights (1 or 2, Q, L).

        With two weights those of all types come under the first, and of the paths under the second at the
        end, shape (3 + D, L); with one those of the paths, (L,).
        """
        derivatives = len(turns) > 1
        conjugate, n_sub = self.delay.conj(), len(self.delay)
        left = [conjugate, 1j * self.wavenumbers_per_m[:, None] * conjugate][: 1 + derivatives]
        over_delay = np.empty((len(turns), len(left), self.user.size, self.steering.shape[2]), complex)
        for k in np.unique(self.user):
            index = np.flatnonzero(self.user == k)
            rows = np.concatenate([side[:, index].T for side in left])
            projected = rows @ cross_correlation[k].reshape(n_sub, -1)
            over_delay[:, :, index] = over_times(projected, turns[:, :, index])
        steering = self.steering.conj()
        paths = np.einsum("lm,valm->val", steering[0], over_delay)
        if not derivatives:
            return np.asarray(paths[0, 0])
        in_space = np.einsum("slm,lm->sl", steering[1:], over_delay[0, 0])
        return np.concatenate([paths[0], in_space, paths[1, :1]])

    def project(self, cross_correlation: ComplexArray, steering: ComplexArray) -> ComplexArray:
        """``a_i^H Z_{k_i n}`` for responses (S, L, M), shape (S, L, N)."""
        out = np.empty((*steering.shape[:2], self.delay.shape[0]), dtype=self.delay.dtype)
        for k in np.unique(self.user):
            index = np.flatnonzero(self.user == k)
            out[:, index] = np.matmul(steering[:, index].conj(), cross_correlation[k].T)
        return out

    def synthesise(self, gains: ComplexArray, n_users: int) -> ComplexArray:
        """Channel ``H_k = sum over the user's paths of x b a^T``, shape (K, N, M)."""
        weighted = self.delay * gains
        channel = np.zeros((n_users, self.delay.shape[0], self.steering.shape[2]), dtype=self.delay.dtype)
        for k in np.unique(self.user):
            index = np.flatnonzero(self.user == k)
            channel[k] = weighted[:, index] @ self.steering[0, index]
        return channel

    def respond(self, rows: ComplexArray) -> ComplexArray:
        """Inner products ``sum_m y_num b_ni a_mi`` of rows (N, U, M) with every path, shape (N, U, L)."""
        return np.matmul(rows, self.steering[0].T) * self.delay[:, None, :]

    def match(self, gains: ComplexArray, users: NDArray[np.int64]) -> ComplexArray:
        """``sum_m conj(h_unm) b_ni a_mi`` of users' channels with every path, shape (N, U, L)."""
        a = self._measured[0]
        return match_separable(self.delay, self.user, a.conj() @ a.T, gains, users)

    def on_subcarriers(self, part: slice) -> DenseAtoms:
        """Return the atoms on some subcarriers."""
        return replace(self, delay=self.delay[part], wavenumbers_per_m=self.wavenumbers_per_m[part])

    def over_cells(self, delay: ComplexArray) -> DenseAtoms:
        """The atoms over resource elements, subcarrier after subcarrier, of given delay factors."""
        repeats = len(delay) // len(self.delay)
        return replace(self, delay=delay, wavenumbers_per_m=np.repeat(self.wavenumbers_per_m, repeats))

    def take(self, index: NDArray[np.int64]) -> DenseAtoms:
        """The atoms of some paths."""
        return DenseAtoms(
            self.user[index],
            self.delay[:, index],
            self.wavenumbers_per_m,
            self.steering[:, index],
            self.element_mask,
        )


def make_atoms(parameters: PathParameters, paths: Paths, receiver: Receiver) -> PathAtoms:
    """Atoms ``b_n(L) = exp(-j 2 pi f_n L / c)`` times the array response, turning where the scene moves."""
    still = _still_atoms(parameters, paths, receiver)
    return still if parameters.doppler_hz is None else MovingAtoms(still, parameters.doppler_hz)


def _still_atoms(parameters: PathParameters, paths: Paths, receiver: Receiver) -> PlanarAtoms | DenseAtoms:
    wavenumbers = receiver.wavenumbers_per_m
    delay = receiver.delay_factors(parameters.length_m)
    array, cosines, response = receiver.array, parameters.cosines, parameters.steering
    if response is None and isinstance(array, UniformPlanarArray):
        planar = PlanarAtoms(paths.user, delay, wavenumbers, cosines, array, receiver.squint_m)
        if receiver.element_mask is None and receiver.is_plain:
            return planar
        response = planar.steering
    elif response is None:
        response = array.response_with_derivatives(*cosines)
    return DenseAtoms(paths.user, delay, wavenumbers, receiver.heard(response), receiver.element_mask)


def dottest(
    atoms: PathAtoms, n_users: int, seed: int = 0, rtol: float = 1e-9, raiseerror: bool = True
) -> bool:
    """Check that correlation is the adjoint of synthesis: ``<synthesise(x), Z> = <x, correlate(Z)>``.

    Two methods that are each plausible but belong to different models (another sign of the phase, another
    order of the antennas, another user) fail it.

    Parameters
    ----------
    atoms : PathAtoms
    n_users : int
        Number of users K of the block, more than the last user of the atoms.
    seed : int
        Of the random gains ``x`` (L,) and correlations ``Z`` (K, N, M), all of them complex.
    rtol : float
        Largest difference of the two inner products, relative to their bound ``|synthesise(x)| |Z|``.
    raiseerror : bool
        Whether to raise, or to return False, where they differ.

    Returns
    -------
    bool
        Whether they agree.

    Raises
    ------
    AssertionError
        If they do not agree, unless ``raiseerror`` is False.

    Notes
    -----
    Source: ``pylops.utils.dottest`` of PyLops (M. Ravasi and I. Vasconcelos, SoftwareX 11, 2020).

    Examples
    --------
    >>> import numpy as np
    >>> from isac_toolbox.channel.atoms.dense import DenseAtoms, dottest
    >>> wavenumbers, steering = np.array([0.1, 0.2]), np.array([[[1, 1j, -1]]])
    >>> atoms = DenseAtoms(np.array([0]), np.exp(-1j * wavenumbers)[:, None], wavenumbers, steering)
    >>> dottest(atoms, n_users=1)
    True
    """
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> ComplexArray:
        return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))

    gains = draw(atoms.user.size)
    cross_correlation = draw(n_users, atoms.wavenumbers_per_m.size, atoms.steering.shape[2])
    channel = atoms.synthesise(gains, n_users)
    forward, backward = (
        np.vdot(channel, cross_correlation),
        np.vdot(gains, atoms.correlate(cross_correlation)),
    )
    bound = float(np.linalg.norm(channel) * np.linalg.norm(cross_correlation))
    passed = bool(abs(forward - backward) <= rtol * bound)
    if raiseerror and not passed:
        raise AssertionError(
            f"synthesise and correlate are not adjoint: <synthesise(x), Z> = {forward:.6g}, "
            f"<x, correlate(Z)> = {backward:.6g}"
        )
    return passed


def fisher_blocks(
    gram: ComplexArray, gains: ComplexArray, jacobian: RealArray
) -> tuple[ComplexArray, ComplexArray, RealArray]:
    """Inner products of the channel's derivatives in gains and in the scene's unknowns.

    Parameters
    ----------
    gram : ndarray of complex, shape (2 + D, 2 + D, L, L)
    gains : ndarray of complex, shape (L,)
    jacobian : ndarray, shape (1 + D, L, P)

    Returns
    -------
    gain_gain : ndarray of complex, shape (L, L)
    gain_scene : ndarray of complex, shape (L, P)
    scene_scene : ndarray, shape (P, P)
        Real part only.

    Notes
    -----
    Half the Fisher matrix per unit noise precision (docs/theory.md, section 6).
    """
    n_types, n_paths, n_parameters = jacobian.shape
    flat = jacobian.reshape(n_types * n_paths, n_parameters)
    derivative = gram[1:, 1:] * (gains.conj()[:, None] * gains)
    square = derivative.real.transpose(0, 2, 1, 3).reshape(n_types * n_paths, n_types * n_paths)
    cross = (gram[0, 1:] * gains).transpose(1, 0, 2).reshape(n_paths, n_types * n_paths)
    return gram[0, 0], cross @ flat, flat.T @ square @ flat
