"""Behaviours of simulated participants: what each does besides the usual steps, and at which step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

#: The steps of a participant, in order. A participant goes on from `mapped` to `released` only if a behaviour or the
#: test requests it.
STEPS: Final = ("turned_in", "constrained", "waiting", "allocated", "mapped", "released")
#: The step outside this order: the daemon has closed the participant's channel, or answered with an error.
FAILED: Final = "failed"


@dataclass(frozen=True)
class Behaviour:
    """An action that a participant takes when it reaches a step."""

    name: str
    at: str
    #: The delay of `late` in seconds, or the pattern of `writes`.
    argument: float | bytes | None = None

    def __post_init__(self) -> None:
        if self.at not in STEPS:
            raise ValueError(
                f"{self.name}: there is no step {self.at!r}; the steps are {', '.join(STEPS)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the behaviour as JSON data."""
        argument = self.argument.hex() if isinstance(self.argument, bytes) else self.argument
        return {"name": self.name, "at": self.at, "argument": argument}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Behaviour:
        """Return the behaviour that the data from :meth:`to_dict` describes."""
        argument = data["argument"]
        made = bytes.fromhex(argument) if isinstance(argument, str) else argument
        return cls(data["name"], data["at"], made)


#: A behaviour, or the name or function of one that needs no argument.
OneBehaviour: TypeAlias = "Behaviour | str | Callable[[], Behaviour]"
#: One behaviour, or several.
Behaviours: TypeAlias = "OneBehaviour | Iterable[OneBehaviour]"


def dies(*, at: str = "allocated") -> Behaviour:
    """Die by SIGKILL, as a crashing process does."""
    return Behaviour("dies", at)


def closes(*, at: str = "allocated") -> Behaviour:
    """Close the channel without Release, and close the buffers and mappings. The process goes on running."""
    return Behaviour("closes", at)


def releases(*, at: str = "mapped") -> Behaviour:
    """Release the node and close the buffers and mappings. The process goes on running."""
    return Behaviour("releases", at)


def hangs(*, at: str = "constrained") -> Behaviour:
    """Stop by SIGSTOP until the test calls `resume()`."""
    return Behaviour("hangs", at)


def never_constrains(*, at: str = "turned_in") -> Behaviour:
    """Never set constraints, so that no participant gets buffers."""
    return _within("never_constrains", at, "turned_in", "constrained")


def late(seconds: float, *, at: str = "turned_in") -> Behaviour:
    """Wait this many seconds before the next step."""
    return Behaviour("late", at, float(seconds))


def conflicts(*, at: str = "turned_in") -> Behaviour:
    """Set constraints that cannot be met: require memory from a heap that does not exist."""
    return _within("conflicts", at, "turned_in", "constrained")


def floods(*, at: str = "constrained") -> Behaviour:
    """Send valid messages without end, as fast as the daemon accepts them."""
    return Behaviour("floods", at)


def sends_garbage(*, at: str = "constrained") -> Behaviour:
    """Send bytes that are not a valid message. The daemon closes the channel."""
    return Behaviour("sends_garbage", at)


def never_reads(*, at: str = "constrained") -> Behaviour:
    """Send calls and never read a response, until the daemon closes the channel."""
    return Behaviour("never_reads", at)


def keeps_weak(*, at: str = "turned_in") -> Behaviour:
    """Be a weak participant that keeps its buffers and mappings although `close_weak_asap` asks it to close them."""
    return _within("keeps_weak", at, *STEPS)


def writes(pattern: bytes | int, *, at: str = "mapped") -> Behaviour:
    """Fill every buffer with a repeated pattern: bytes, or the value of each byte."""
    if isinstance(pattern, int):
        pattern = bytes([pattern])
    if not pattern:
        raise ValueError("writes: the pattern is empty")
    return _within("writes", at, "mapped", argument=bytes(pattern))


def scribbles_after_release(*, at: str = "mapped") -> Behaviour:
    """Release the node but keep the mappings, and then overwrite every buffer."""
    return _within("scribbles_after_release", at, "mapped", "released")


def _within(name: str, at: str, *possible: str, argument: bytes | None = None) -> Behaviour:
    """Return a behaviour that begins at the first of these steps, whichever of them the test names."""
    if at not in possible:
        raise ValueError(f"{name} is possible only at {' and '.join(map(repr, possible))}")
    return Behaviour(name, possible[0], argument)


_BY_NAME: Final = {
    make.__name__: make
    for make in (
        dies,
        closes,
        releases,
        hangs,
        never_constrains,
        conflicts,
        floods,
        sends_garbage,
        never_reads,
        keeps_weak,
        scribbles_after_release,
    )
}


def behaviours(given: Behaviours | None, at: str | None) -> list[Behaviour]:
    """Return all behaviours as objects. Behaviours that are given by name or function take place at the step `at`.

    Raises `ValueError` for a name or function that is not a behaviour's.
    """
    if given is None:
        given = ()
    listed = [given] if isinstance(given, (str, Behaviour)) or callable(given) else list(given)
    made = []
    for each in listed:
        one = getattr(each, "__name__", repr(each)) if callable(each) else each
        if isinstance(one, Behaviour):
            made.append(one)
        elif one in _BY_NAME:
            made.append(_BY_NAME[one]() if at is None else _BY_NAME[one](at=at))
        else:
            names = ", ".join(_BY_NAME)
            raise ValueError(
                f"there is no behaviour {one!r} that needs no argument; those are {names}"
            )
    return made
