"""What the Inspector's connections share: the jobs under way, and the collections that ended last."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import TypeAlias

from sysmem_protocol import __version__
from sysmem_protocol.handles import Handle
from sysmem_protocol.sysmem2 import Error

from ..channels import Service
from ..channels.connection import Failed
from ..documents import Document
from ..threads import Ask, ask_here
from ..users import User
from . import explanation
from .answers import document, user_names
from .ended import EndedCollections
from .slices import Slices
from .snapshot import Daemon, Json, Snapshot

#: Called with what is asked for, or why it can't be had.
Done: TypeAlias = Callable[[Handle | Failed], None]
#: Gathers data in slices; returns what makes the answer of them.
_Gather: TypeAlias = Generator[None, None, Callable[[], Json]]


class _Job:
    """An answer that several may wait for."""

    def __init__(self, gather: Callable[[], _Gather], user: User) -> None:
        self.gather = gather
        #: In whose turns the answer is made: those of who asked first.
        self.user = user
        self.waiting: list[Done] = []


class Inspection:
    """Answers inspectors, one question after another.

    Who asks what somebody else has asked, and hasn't been answered because others come first, shares the answer.
    """

    def __init__(
        self, service: Service, runtime_dir: Path | None = None, ask: Ask = ask_here
    ) -> None:
        """`ask` asks for names of users, which may come from another machine."""
        ended = EndedCollections(service.inspect.ended)
        service.on_ended = ended.add
        self.daemon = Daemon(
            service=service,
            ended=ended,
            version=__version__,
            runtime_dir=runtime_dir,
            started=time.time(),
            began=service.clock.now(),
        )
        self._in_turn = service.reactor.in_turn
        self._ask_for = ask
        self._slices = Slices(service.clock)
        self._jobs: deque[tuple[object, _Job]] = deque()
        self._busy = False

    def close(self) -> None:
        """Give up what is under way."""
        self._slices.close()
        self._jobs.clear()

    def snapshot(self, id: int | None, user: User, done: Done) -> None:
        """Describe everything, or one collection. Raises :class:`Failed` if it isn't there."""
        if id is not None and self.daemon.find(id) is None:
            raise _unknown(id)

        def gather() -> _Gather:
            data = yield from Snapshot(self.daemon, id).gather()
            return lambda: data

        self._ask(("snapshot", id), gather, user, done)

    def explain(self, id: int, user: User, done: Done) -> None:
        """Explain a collection that lives or has ended. Raises :class:`Failed` if it isn't known."""
        daemon = self.daemon
        if daemon.find(id) is None and daemon.ended.find(id) is None:
            raise _unknown(id)

        def gather() -> _Gather:
            collection = daemon.find(id)
            if collection is not None:
                question = yield from explanation.about(
                    collection, daemon.wall_time, daemon.service.platform
                )
            else:
                ended = daemon.ended.find(id)
                if ended is None:
                    raise _unknown(id)
                question = explanation.about_ended(ended, daemon.wall_time, daemon.service.platform)
            return question.answer

        self._ask(("explanation", id), gather, user, done)

    def _ask(self, key: object, gather: Callable[[], _Gather], user: User, done: Done) -> None:
        for other, job in self._jobs:
            if other == key:
                job.waiting.append(done)
                return
        job = _Job(gather, user)
        job.waiting.append(done)
        self._jobs.append((key, job))
        self._next()

    def _next(self) -> None:
        if self._busy or not self._jobs:
            return
        self._busy = True
        # Whoever asks from now on is to see what happens from now on.
        _, job = self._jobs.popleft()
        self._slices.run(job.gather(), lambda made: self._gathered(job, made))

    def _gathered(self, job: _Job, made: Callable[[], Json] | Exception) -> None:
        if isinstance(made, Exception):
            self._answer(job, made)
            return
        self._in_turn(job.user, partial(self._make, job, made))

    def _make(self, job: _Job, make: Callable[[], Json]) -> None:
        try:
            data = make()
        except Exception as error:
            self._answer(job, error)
            return
        uids = [user["uid"] for user in data.get("users", ())]
        self._ask_for(
            partial(user_names, uids),
            lambda names: self._in_turn(job.user, partial(self._write, job, data, names)),
        )

    def _write(self, job: _Job, data: Json, names: dict[int, str | None]) -> None:
        for user in data.get("users", ()):
            user["name"] = names[user["uid"]]
        result: Document | Exception
        try:
            result = document("sysmem inspection", data)
        except Exception as error:
            result = error
        self._answer(job, result)

    def _answer(self, job: _Job, result: Document | Exception) -> None:
        self._busy = False
        for done in job.waiting:
            done(self._handle(result))
        if isinstance(result, Document):
            result.close()
        self._next()

    def _handle(self, result: Document | Exception) -> Handle | Failed:
        error: Exception
        if isinstance(result, Document):
            try:
                return result.open()
            except OSError as too_many:
                error = too_many
        else:
            error = result
        if isinstance(error, Failed):
            return error
        log = self.daemon.service.log
        log.error("an inspector can't be answered", reason=repr(error), exc_info=error)
        return Failed(Error.UNSPECIFIED, f"the daemon failed: {error!r}")


def _unknown(id: int) -> Failed:
    return Failed(Error.NOT_FOUND, f"there is no collection {id}")
