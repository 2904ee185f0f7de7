"""What a single value may be, written once: in the signature of the part that takes it.

    @checked
    def __init__(self, eta: Share, order: Annotated[int, Limit(1, 3, whole=True)], variance: Literal["small", "large"])

`| None` allows null, and `Sequence[Share]` limits each item. `checked` makes a constructor or a function raise
InvalidValue for an argument outside its limit; the command line reads the same annotations from the source.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from inspect import signature
from numbers import Integral, Number, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from denoiselab.errors import InvalidValue, shown

LISTS = (list, tuple, Sequence)
PLAIN = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _is(kind: Any, value: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, {int: Integral, float: Real, None: NoneType}.get(kind, kind))


@dataclass(frozen=True)
class Limit:
    """The finite numbers from `low` to `high`; with `above` and `below` the ends themselves are left out."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    multiple: int = 1  # of which number it is one

    def __post_init__(self) -> None:
        if not _is(float, self.low) or not _is(float, self.high) or not _is(int, self.multiple):
            raise TypeError(f"the ends of a limit are numbers, got {self}")

    def refusal(self, value: Any) -> str | None:
        """What is allowed, if that leaves out `value`; None if it is allowed."""
        low = f"{'above' if self.above else 'at least'} {self.low:g}" if self.low > -math.inf else ""
        high = f"{'below' if self.below else 'at most'} {self.high:g}" if self.high < math.inf else ""
        closed = low and high and not self.above and not self.below
        ends = f"from {self.low:g} to {self.high:g}" if closed else " and ".join(filter(None, (low, high)))
        multiple = f"a multiple of {self.multiple}" if self.multiple > 1 else ""
        kind = int if self.whole else float
        if not _is(kind, value) or not math.isfinite(value):
            number = "a finite number" if _is(kind, value) else PLAIN[kind]
            return ", ".join(filter(None, (number, multiple, ends)))
        inside = value > self.low if self.above else value >= self.low
        inside &= value < self.high if self.below else value <= self.high
        inside &= not multiple or value % self.multiple == 0
        return None if inside else ", ".join(filter(None, (multiple, ends)))


Finite = Annotated[float, Limit()]
Positive = Annotated[float, Limit(0, above=True)]
NonNegative = Annotated[float, Limit(0)]
Share = Annotated[float, Limit(0, 1)]
PositiveShare = Annotated[float, Limit(0, 1, above=True)]
ShareBelowOne = Annotated[float, Limit(0, 1, below=True)]
InnerShare = Annotated[float, Limit(0, 1, above=True, below=True)]
ProfileWidth = Annotated[float, Limit(0, 0.28, above=True)]  # of EDM2's averages, a share of the training
EarlyTime = Annotated[float, Limit(0, 0.5, above=True)]  # where a process is left for x0
Natural = Annotated[int, Limit(0, whole=True)]
Count = Annotated[int, Limit(1, whole=True)]
AtLeastTwo = Annotated[int, Limit(2, whole=True)]


def limited(hint: Any) -> bool:
    """Whether a type hint limits anything beyond a type."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return any(isinstance(limit, Limit) for limit in hint.__metadata__)
    return origin is Literal or (origin in (Union, UnionType, *LISTS) and any(map(limited, parts)))


def refusal(hint: Any, value: Any) -> str | None:
    """What a type hint allows, where that leaves out `value`; None where it allows it."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return None
    if origin is Annotated:
        return next((text for m in hint.__metadata__ if isinstance(m, Limit) and (text := m.refusal(value))), None)
    if origin is Literal:
        *first, last = map(shown, parts)
        alike = any(type(part) is type(value) and part == value for part in parts)
        return None if alike else f"{', '.join(first)} or {last}" if first else last
    if origin in (Union, UnionType):
        texts = [refusal(part, value) for part in parts]
        return None if None in texts else ", or ".join(dict.fromkeys(text for text in texts if text))
    if origin in LISTS:
        if not isinstance(value, Sequence) or isinstance(value, str):
            text = refusal(parts[0], value)
            return f"a list, each item {text}" if text else f"a list, such as [{shown(value)}]"
        return next((f"a list, each item {text}" for item in value if (text := refusal(parts[0], item))), None)
    if hint in PLAIN or hint in (None, NoneType):
        return None if _is(hint, value) else PLAIN.get(hint, "null")
    return "" if isinstance(value, str | Number | Sequence | None) else None  # of other types only their own objects


def check(name: str, hint: Any, value: Any) -> None:
    """Raises InvalidValue for a value that the type hint leaves out."""
    allowed = refusal(hint, value)
    if allowed is not None:
        whole = isinstance(value, float) and value.is_integer() and allowed.startswith(PLAIN[int])
        raise InvalidValue(name, value, allowed, f"write {value:.0f}" if whole else "")


F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """Decorates a constructor or a function: InvalidValue for the first argument that its annotation leaves out."""

    @cache
    def hints() -> tuple[list[str], dict[str, Any]]:
        known = get_type_hints(function, include_extras=True)
        names = list(signature(function).parameters)
        return names, {name: known[name] for name in names if limited(known.get(name))}

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        names, limits = hints()
        given = dict(zip(names, args, strict=False)) | kwargs
        for name, hint in limits.items():
            if name in given:
                check(name, hint, given[name])
        return function(*args, **kwargs)

    return cast(F, call)
