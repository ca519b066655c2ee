"""A user's mistakes: the one exception that carries them, and the type check that every config runs.

gin accepts `steps = 'three'` without a word, and dataclasses do not look at their annotations, so each config dataclass
calls `check(self)` first thing in `__post_init__` and then states its ranges with `require`.
"""

import dataclasses
import math
import types
import typing


class UserError(Exception):
    """A mistake of the user, in one line: what is wrong, where, and what would be right."""


def require(condition: bool, message: str) -> None:
    """Raises UserError(message) unless the condition holds."""
    if not condition:
        raise UserError(message)


def where(config: typing.Any, name: str) -> str:
    """A field of a config as messages name it and gin files bind it: 'pretrain.Run.rows'."""
    cls = type(config)
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__qualname__}.{name}"


def at_least(least: float, config: typing.Any, *names: str) -> None:
    """Raises UserError unless the named fields of a config, those that are not None, are `least` or more."""
    for name in names:
        value = getattr(config, name)
        require(value is None or value >= least, f"{where(config, name)} is {value}; it must be at least {least}")


def above(bound: float, config: typing.Any, *names: str) -> None:
    """The same, unless they are above `bound`."""
    for name in names:
        value = getattr(config, name)
        require(value is None or value > bound, f"{where(config, name)} is {value}; it must be above {bound}")


def between(least: float, most: float, config: typing.Any, *names: str) -> None:
    """The same, unless they lie between `least` and `most`, both allowed."""
    for name in names:
        value, said = getattr(config, name), where(config, name)
        require(value is None or least <= value <= most, f"{said} is {value}; it must be between {least} and {most}")


def not_empty(config: typing.Any, name: str, advice: str = "it needs one at least") -> None:
    """Raises UserError where the named tuple of a config is empty."""
    require(len(getattr(config, name)) > 0, f"{where(config, name)} is empty; {advice}")


def check(config: typing.Any) -> None:
    """Compares the fields of a dataclass instance with their annotations.

    Understands classes, `X | None`, `tuple[X, ...]`, `tuple[X, Y]`, `dict[K, V]`, `Literal[...]` and `Any`. An int
    passes for a float; a bool passes for neither, and no float is infinite or NaN. Raises UserError naming the field,
    its value and the wanted type.
    """
    wanted = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not _fits(value, wanted[field.name]):
            kind = _name(type(value)) if _finite(value) else "no finite number"
            said = f"{value!r} is {kind}, wanted {_name(wanted[field.name])}"
            raise UserError(f"{where(config, field.name)} = {said}{_called(value)}")


def _fits(value: typing.Any, wanted: typing.Any) -> bool:
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is typing.Any:
        return True
    if wanted is None or wanted is type(None):
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if origin is tuple and args:
        if not isinstance(value, tuple):
            return False
        if args[-1] is Ellipsis:
            return all(_fits(v, args[0]) for v in value)
        return len(value) == len(args) and all(map(_fits, value, args))
    if origin is dict and args:
        return isinstance(value, dict) and all(_fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items())
    if wanted in (int, float):
        return isinstance(value, (int, wanted)) and not isinstance(value, bool) and _finite(value)
    return isinstance(value, origin or wanted) and not isinstance(value, type)  # a class fits many a Protocol


def _called(value: typing.Any) -> str:
    """The advice where a reference to a class lacks the parentheses by which gin makes an instance."""
    held = value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else (value,)
    classes = [f"@{one.__module__.rpartition('.')[2]}.{one.__qualname__}()" for one in held if isinstance(one, type)]
    return f"; with parentheses, {', '.join(classes)}, it is an instance" if classes else ""


def _finite(value: typing.Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _name(wanted: typing.Any) -> str:
    if typing.get_origin(wanted) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(wanted)))
    return wanted.__name__ if isinstance(wanted, type) and not typing.get_args(wanted) else str(wanted)
