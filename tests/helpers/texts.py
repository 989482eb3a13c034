"""What people, and worse, may type: TOML values, scenario files and command lines, for property tests."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from hypothesis import strategies as st
from pydantic.fields import FieldInfo

import isac_toolbox as isac

#: Letters of a command line: no NUL, which no system passes on.
LETTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
#: Sizes that keep a block to a few milliseconds.
SIZES: dict[str, Any] = {
    "array_shape": (2, 2),
    "n_subcarriers": 4,
    "n_users": 2,
    "n_scatterers": 2,
    "n_data_symbols": 2,
}
#: Largest value of fields that make a block large.
_MOST = {"n_subcarriers": 8, "n_data_symbols": 6, "n_pilot_symbols": 6, "rays_per_scatterer": 4}
_MOST |= {"adc_bits": 16, "adc_oversampling": 64}
_FEW = 3
#: Fields that need times of the symbols.
_MOVING = {"user_speed_m_s", "scatterer_speed_m_s", "frequency_offset_std_hz", "phase_noise_std_rad"}

numbers = st.one_of(
    st.integers(-3, 40),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1e-320, 1e-150, 1e154, 1e300, -1e300, float("nan"), float("inf"), 2**63]),
)
values = st.recursive(
    st.one_of(numbers, st.booleans(), st.text(LETTERS, max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text("abc", min_size=1), inner, max_size=2)
    ),
    max_leaves=8,
)


def toml_of(value: Any) -> str:
    """A value as TOML, tables and all."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_of(k)} = {toml_of(v)}" for k, v in value.items()) + "}"
    return repr(value)


def _fitting(annotation: Any, name: str, bounds: tuple[float, float]) -> st.SearchStrategy[Any]:
    """Values of a field's type within its bounds; not all of them are allowed."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return st.sampled_from(inside)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(_fitting(a, name, bounds) for a in inside if a is not type(None)))
    if origin is tuple:
        if inside[-1] is Ellipsis:
            return st.lists(_fitting(inside[0], name, bounds), max_size=4).map(sorted)
        return st.tuples(*(_fitting(a, name, bounds) for a in inside))
    if origin is typing.Annotated:
        return _fitting(inside[0], name, _bounds(inside[1:], bounds))
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        low = 0 if bounds[0] < 0 else int(bounds[0])
        return st.integers(low, int(min(bounds[1], _MOST.get(name, _FEW))))
    if annotation is float:
        return st.floats(*bounds)
    return st.text(LETTERS, max_size=8)


def _bounds(metadata: Any, bounds: tuple[float, float] = (-1e3, 1e3)) -> tuple[float, float]:
    """Bounds of a number that pydantic's metadata state, within the given ones."""
    low, high = bounds
    for limit in metadata:
        for part in getattr(limit, "metadata", None) or [limit]:
            low = max(low, *(float(getattr(part, name, low)) for name in ("ge", "gt")))
            high = min(high, *(float(getattr(part, name, high)) for name in ("le", "lt")))
    return low, high


def _field(name: str, info: FieldInfo) -> st.SearchStrategy[Any]:
    return _fitting(info.annotation, name, _bounds(info.metadata))


FIELDS = {name: _field(name, info) for name, info in isac.Scenario.model_fields.items()}
names = st.one_of(st.sampled_from(sorted(FIELDS)), st.text("abn_.-", min_size=1, max_size=6))


@st.composite
def plausible_fields(draw: st.DrawFn) -> dict[str, Any]:
    """Some fields of a scenario with values of the right type; small, but not always allowed together."""
    chosen = draw(st.sets(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=6))
    found = {name: draw(FIELDS[name]) for name in sorted(chosen)}
    if chosen & _MOVING:
        found.setdefault("symbol_period_s", 1e-4)
    return found


#: Fields of a scenario, most of them plausible, some with anything at all.
fields = st.builds(
    lambda plausible, wild: {**SIZES, **plausible, **wild},
    plausible_fields(),
    st.one_of(st.just({}), st.just({}), st.dictionaries(names, values, max_size=2)),
)


def toml_file(content: Mapping[str, Any]) -> str:
    """A file with these keys; those that are no bare keys in quotes."""
    return "".join(f"{json.dumps(name)} = {toml_of(value)}\n" for name, value in content.items())


def parts_of(value: Any) -> Iterator[Any]:
    """All numbers and texts in a JSON value."""
    if isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from parts_of(inner)
    else:
        yield value
