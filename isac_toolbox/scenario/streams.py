"""Independent streams of random numbers of a simulation, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

__all__ = ["Streams"]

#: What a later block of a track has anew; of all else every block draws what the first one drew.
_OF_BLOCK = ("symbols", "noise", "oscillators", "interference")
#: What a receiver keeps in all scenes.
_OF_RECEIVER = (
    "element_responses",
    "array_rotation",
    "element_places",
    "dead_elements",
    "noise_levels",
    "front_end",
)


@dataclass(frozen=True, eq=False)
class Streams:
    """Generators of all that is drawn, each of which goes on where it was left.

    The order of the fields is part of what a seed means: a new one goes to the end.
    """

    scene: np.random.Generator
    user_places: np.random.Generator
    clocks: np.random.Generator
    symbols: np.random.Generator
    noise: np.random.Generator
    bodies: np.random.Generator
    clusters: np.random.Generator
    tail: np.random.Generator
    motion: np.random.Generator
    oscillators: np.random.Generator
    tail_motion: np.random.Generator
    drift: np.random.Generator
    element_responses: np.random.Generator
    array_rotation: np.random.Generator
    element_places: np.random.Generator
    dead_elements: np.random.Generator
    noise_levels: np.random.Generator
    interferer_places: np.random.Generator
    interference: np.random.Generator
    transmitters: np.random.Generator
    front_end: np.random.Generator

    @classmethod
    def of(
        cls,
        seed: int | np.random.SeedSequence,
        block: int = 0,
        receiver_seed: int | np.random.SeedSequence | None = None,
    ) -> Streams:
        """Return all streams of a seed from their beginning, for a block of a track.

        Those of the receiver's own errors are of another seed, where one is given.

        Raises
        ------
        TypeError, ValueError
            If a seed is neither a non-negative integer nor a SeedSequence.
        """
        names = [field.name for field in fields(cls)]
        seeds = dict(zip(names, _spawn(seed, len(names)), strict=True))
        if receiver_seed is not None:
            others = dict(zip(names, _spawn(receiver_seed, len(names), "receiver_seed"), strict=True))
            seeds.update({name: others[name] for name in _OF_RECEIVER})
        for name in _OF_BLOCK if block else ():
            own = seeds[name]
            seeds[name] = np.random.SeedSequence(own.entropy, spawn_key=(*own.spawn_key, block))
        return cls(**{name: np.random.default_rng(own) for name, own in seeds.items()})

    @property
    def receiver(self) -> Sequence[np.random.Generator]:
        """The six of which :func:`~isac_toolbox.channel.imperfections.draw_imperfections` draws."""
        return (
            self.element_responses,
            self.array_rotation,
            self.element_places,
            self.dead_elements,
            self.noise_levels,
            self.interferer_places,
        )


def _spawn(
    seed: int | np.random.SeedSequence, count: int, name: str = "seed"
) -> list[np.random.SeedSequence]:
    """Seeds of the streams; a SeedSequence is not used up."""
    if isinstance(seed, np.random.SeedSequence):
        return [np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, i)) for i in range(count)]
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"{name} must be an integer or a SeedSequence, got {seed!r}")
    if seed < 0:
        raise ValueError(f"{name} must be non-negative, got {seed}")
    return np.random.SeedSequence(int(seed)).spawn(count)
