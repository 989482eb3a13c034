"""Scenarios: everything a simulation needs, validated, and the simulation itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from isac_toolbox._validation import check_integer, check_positive
from isac_toolbox.channel.environment import Environment
from isac_toolbox.channel.process import ConstantVelocity
from isac_toolbox.scenario.block import simulate_block, simulate_blocks
from isac_toolbox.scenario.files import find_traced, read_scenario, readable, scenario_names, toml_text
from isac_toolbox.scenario.settings import ScenarioSettings
from isac_toolbox.scenario.truth import Simulation, Truth

__all__ = ["Scenario", "Simulation", "Truth", "scenario_names"]


class Scenario(ScenarioSettings):
    """Validated description of a simulation (docs/theory.md, section 1).

    Load a ready one with :meth:`load`, change fields with :meth:`replace`, draw with :meth:`simulate`.
    Fields are listed with their meaning in ``scenarios/urban_uplink.toml``.

    Examples
    --------
    >>> import isac_toolbox as isac
    >>> scenario = isac.Scenario.load("low_snr").replace(n_users=2, n_pilot_symbols=2)
    >>> scenario.simulate(seed=3).truth.channel.shape
    (2, 64, 64)
    """

    @classmethod
    def load(cls, name_or_path: str | Path) -> Scenario:
        """Load a scenario by name (see :func:`scenario_names`) or from a TOML file.

        A relative path ``traced`` in a file is sought beside that file, then in the current folder, then
        among the shipped environments.

        Raises
        ------
        ValueError
            For an unknown name (the known ones are listed), an unknown key or a bad value (named).
        """
        values, source, folder = read_scenario(name_or_path)
        scenario = cls._validated(values, source)
        traced = None if scenario.traced is None else find_traced(scenario.traced, folder, source)
        return scenario if traced == scenario.traced else scenario.replace(traced=traced)

    @classmethod
    def _validated(cls, values: dict[str, Any], source: str) -> Scenario:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"{source}: {readable(error, list(cls.model_fields))}") from None

    def replace(self, **changes: Any) -> Scenario:
        """Return a copy with some fields changed, validated anew."""
        return self._validated({**self.model_dump(), **changes}, "scenario")

    def dump(self, path: str | Path) -> Path:
        """Write the scenario as TOML and return the path."""
        target = Path(path)
        target.write_text(toml_text(self.model_dump()), encoding="utf-8")
        return target

    def simulate(
        self,
        seed: int | np.random.SeedSequence = 0,
        *,
        environment: Environment | None = None,
        users: Sequence[int] | None = None,
        receiver_seed: int | np.random.SeedSequence | None = None,
    ) -> Simulation:
        """Draw one uplink block.

        Parameters
        ----------
        seed : int or SeedSequence
            The same seed gives the same bits. Environment, users, clocks, symbols, noise, bodies,
            clusters, the diffuse tail, motion, oscillators, the motion of the tail, and every error of
            receivers and transmitters have independent streams, so that a change of SNR keeps the scene.
        environment : Environment, optional
            A fixed or traced environment instead of a drawn one.
        users : sequence of int, optional
            Users of a traced or given environment; drawn by seed among those with a path if not given.
        receiver_seed : int or SeedSequence, optional
            Of the receiver's own errors: its elements, how it stands, levels of its noise, images. Blocks of
            the same ``receiver_seed`` are of one receiver in different scenes; ``seed`` if not given.

        Raises
        ------
        TypeError, ValueError
            For a bad seed, environment or choice of users.
        MemoryError
            If this machine cannot hold the block.

        Warns
        -----
        ImplausibleValueWarning
            Where inter-carrier interference, which is left out, would exceed the noise.

        Notes
        -----
        With motion every path turns at the constant Doppler shift that it has at the reference time
        (docs/theory.md, section 1.7).
        """
        return simulate_block(self, seed, environment, users, receiver_seed)

    def simulate_track(
        self,
        n_blocks: int,
        interval_s: float,
        seed: int | np.random.SeedSequence = 0,
        *,
        process: ConstantVelocity | None = None,
        environment: Environment | None = None,
        users: Sequence[int] | None = None,
    ) -> list[Simulation]:
        """Draw successive uplink blocks of one scene that goes on from block to block.

        Parameters
        ----------
        n_blocks : int
            Number of blocks B.
        interval_s : float
            From one block's reference time to the next one's.
        seed : int or SeedSequence
            As in :meth:`simulate`, whose block is the first of the track. Accelerations, clocks and carriers
            have a stream of their own; symbols, noise and phases one for every block.
        process : ConstantVelocity, optional
            How velocities, clocks and carriers change; they stay as they are if not given. Only scatterers
            that move are accelerated, and nobody leaves the horizontal plane.
        environment, users : optional
            As in :meth:`simulate`.

        Returns
        -------
        list of Simulation
            Scatterers and users have the same order in every truth, and who sees what stays as it is.
            Without a numerology or symbol period the observations do not say when they were received.

        Raises
        ------
        TypeError, ValueError
            For bad numbers, seed, environment or choice of users.

        Warns
        -----
        ImplausibleValueWarning
            As in :meth:`simulate`.

        Notes
        -----
        Amplitudes fall with a path's length, and phases turn with it. The errors of the users' nominal
        positions are those of the first block throughout, as those of a satellite receiver stay for a while:
        what each block says of the user's place is not independent of what the others say. Paths of more
        bounces, rays and a diffuse tail keep delays and directions; all but the tail turn as their Doppler
        shifts say (docs/theory.md, section 11.1).
        """
        check_integer("n_blocks", n_blocks, 1)
        check_positive("interval_s", interval_s)
        if process is not None and not isinstance(process, ConstantVelocity):
            raise TypeError(f"process must be a ConstantVelocity, got {type(process).__name__}")
        return simulate_blocks(self, n_blocks, interval_s, seed, process, environment, users)
