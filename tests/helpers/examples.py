"""How many examples a property is tried on: few on every run, thousands at night."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

_ORDINARY = settings.get_profile("default").max_examples

settings.register_profile(
    "nightly", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def examples(count: int) -> settings:
    """Settings of a property: ``count`` examples, always the same; those of the profile where one is chosen.

    ``make nightly`` chooses the profile ``nightly``.
    """
    most = settings().max_examples
    if most != _ORDINARY:
        return settings(max_examples=most, deadline=None)
    return settings(max_examples=count, deadline=None, derandomize=True, database=None)
