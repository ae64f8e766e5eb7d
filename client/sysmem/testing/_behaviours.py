"""How a participant made up for a test acts: what it does besides the usual, and when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

#: What a participant comes to, in this order. It goes on from `mapped` to `released` only if a behaviour or the test
#: says so.
STEPS: Final = ("turned_in", "constrained", "waiting", "allocated", "mapped", "released")
#: A step that is not on the way: the daemon has closed the participant's channel, or answered with an error.
FAILED: Final = "failed"


@dataclass(frozen=True)
class Behaviour:
    """One thing that a participant does when it has come to a step."""

    name: str
    at: str
    #: Seconds of `late`, or the pattern of `writes`.
    argument: float | bytes | None = None

    def __post_init__(self) -> None:
        if self.at not in STEPS:
            raise ValueError(
                f"{self.name}: there is no step {self.at!r}; they are {', '.join(STEPS)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the behaviour as JSON data."""
        argument = self.argument.hex() if isinstance(self.argument, bytes) else self.argument
        return {"name": self.name, "at": self.at, "argument": argument}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Behaviour:
        """Return the behaviour that :meth:`to_dict` made this data of."""
        argument = data["argument"]
        made = bytes.fromhex(argument) if isinstance(argument, str) else argument
        return cls(data["name"], data["at"], made)


#: One behaviour, several, or the name of one that needs no argument.
Behaviours: TypeAlias = "Behaviour | str | Iterable[Behaviour | str]"


def dies(*, at: str = "allocated") -> Behaviour:
    """Be killed by SIGKILL, as a process that crashes."""
    return Behaviour("dies", at)


def closes(*, at: str = "allocated") -> Behaviour:
    """Close its channel without Release, and all that it holds, and live on."""
    return Behaviour("closes", at)


def releases(*, at: str = "mapped") -> Behaviour:
    """Release its node, close its buffers and mappings, and live on."""
    return Behaviour("releases", at)


def hangs(*, at: str = "constrained") -> Behaviour:
    """Be stopped by SIGSTOP, until `resume()`."""
    return Behaviour("hangs", at)


def never_constrains(*, at: str = "turned_in") -> Behaviour:
    """Never set constraints, so that nobody gets buffers."""
    return _only("never_constrains", at, "turned_in")


def late(seconds: float, *, at: str = "turned_in") -> Behaviour:
    """Go on so many seconds later."""
    return Behaviour("late", at, float(seconds))


def conflicts(*, at: str = "turned_in") -> Behaviour:
    """Set constraints that nobody can meet: besides its own, memory of a heap that does not exist."""
    return _only("conflicts", at, "turned_in")


def floods(*, at: str = "constrained") -> Behaviour:
    """Send valid messages without end, as fast as the daemon takes them."""
    return Behaviour("floods", at)


def sends_garbage(*, at: str = "constrained") -> Behaviour:
    """Send bytes that are no message, for which the daemon closes its channel."""
    return Behaviour("sends_garbage", at)


def never_reads(*, at: str = "constrained") -> Behaviour:
    """Send calls and never read an answer, until the daemon closes its channel."""
    return Behaviour("never_reads", at)


def keeps_weak(*, at: str = "turned_in") -> Behaviour:
    """Be a weak participant that keeps its buffers and mappings though told by `close_weak_asap` to close them."""
    return _only("keeps_weak", at, "turned_in")


def writes(pattern: bytes | int, *, at: str = "mapped") -> Behaviour:
    """Fill every buffer with a pattern, repeated: bytes, or the value of each byte."""
    if isinstance(pattern, int):
        pattern = bytes([pattern])
    if not pattern:
        raise ValueError("writes: the pattern is empty")
    return _only("writes", at, "mapped", bytes(pattern))


def scribbles_after_release(*, at: str = "mapped") -> Behaviour:
    """Release its node but keep the mappings, and overwrite every buffer after that."""
    return _only("scribbles_after_release", at, "mapped")


def _only(name: str, at: str, possible: str, argument: bytes | None = None) -> Behaviour:
    if at != possible:
        raise ValueError(f"{name} happens at {possible!r} only")
    return Behaviour(name, at, argument)


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
    """Return all behaviours, those that are named made; `at` is the step of named ones.

    Raises `ValueError` for a name that is not a behaviour's.
    """
    if given is None:
        given = ()
    listed = [given] if isinstance(given, (str, Behaviour)) else list(given)
    made = []
    for one in listed:
        if isinstance(one, Behaviour):
            made.append(one)
        elif one in _BY_NAME:
            made.append(_BY_NAME[one]() if at is None else _BY_NAME[one](at=at))
        else:
            names = ", ".join(_BY_NAME)
            raise ValueError(
                f"there is no behaviour {one!r} without an argument; those are {names}"
            )
    return made
