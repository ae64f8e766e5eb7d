"""The state that inspectors and metrics share: running jobs, and the last ended collections."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from sysmem_protocol import __version__, inspector, metrics
from sysmem_protocol.handles import Handle
from sysmem_protocol.sysmem2 import Error

from ..channels import Service
from ..channels.errors import Failed
from ..documents import Document
from ..pause import giving_way
from ..threads import Ask, ask_here
from ..tree import CollectionData, LogicalBufferCollection
from ..users import Account, User
from . import explanation
from .answers import document, encoded, name_users
from .counters import Counters
from .ended import EndedCollection, EndedCollections
from .holders import HolderSearch
from .snapshot import Daemon, Json, Snapshot, rfc_3339
from .tracing import Events, SaidLog
from .watchers import Watcher

#: What a watcher's first event has of the snapshot fits this.
SMALL_BYTES: Final = 32 * 1024
#: Called with what is asked for, or why it can't be had.
Done: TypeAlias = Callable[[Handle | Failed], None]


class _Job:
    """An answer that several may wait for."""

    def __init__(
        self, make: Callable[[], Json], write: Callable[[Json], Document], user: User
    ) -> None:
        #: Makes the data, and makes a text of them once it has the names of users.
        self.make = make
        self.write = write
        #: In whose turns the answer is made: those of who asked first.
        self.user = user
        self.waiting: list[Done] = []


class Inspection:
    """Answers inspectors, one question after another.

    A question that equals one that still waits for its turn shares that one's answer.
    """

    def __init__(
        self, service: Service, runtime_dir: Path | None = None, ask: Ask = ask_here
    ) -> None:
        """`ask` looks up names of users, which may come from another machine."""
        ended = EndedCollections(service.inspect.ended)
        service.on_failure = self._failed
        service.on_ended = self._ended
        self.daemon = Daemon(
            service=service,
            ended=ended,
            version=__version__,
            runtime_dir=runtime_dir,
            started=time.time(),
            began=service.clock.now(),
        )
        self.events = Events(self.daemon)
        service.tracer = self.events
        self.counters = Counters(self.events, service.reactor.connections)
        service.on_attempt = self.counters.attempted
        service.collection_log = SaidLog(service.log, self.events)
        service.who_has = HolderSearch(service.names.prefix, ask).who_has
        self._in_turn = partial(service.reactor.in_turn, apart=True)
        self._ask_for = ask
        self._jobs: deque[tuple[object, _Job]] = deque()
        self._busy = False

    def close(self) -> None:
        """Give up what is under way."""
        self._jobs.clear()

    def check_snapshot(self, id: int | None) -> None:
        """Raise :class:`Failed` if a collection isn't there."""
        if id is not None and self.daemon.find(id) is None:
            raise _unknown(id)

    def snapshot(self, id: int | None, user: User, done: Done) -> None:
        """Describe everything, or one collection, in the turns of `user`."""
        self._ask(("snapshot", id), lambda: self.described(id), user, done)

    def described(self, id: int | None) -> Json:
        """Return what a Snapshot answers, but for the names of users, which is work; see :func:`.name_users`."""
        return {**Snapshot(self.daemon, id).gather(), "counters": self.counters.told()}

    def metrics(self, user: User, done: Done, *, plain: bool) -> None:
        """Write the daemon's numbers as text, in the turns of `user`; see :func:`sysmem_protocol.metrics.lines`."""

        def write(data: Json) -> Document:
            text = giving_way(metrics.lines(data, plain=plain), every=64)
            return Document("sysmem metrics", (line.encode() for line in text))

        self._ask(("metrics", plain), self._counted, user, done, write)

    def _counted(self) -> Json:
        return {**Snapshot(self.daemon).numbers(), "counters": self.counters.told()}

    def check_explain(self, id: int) -> None:
        """Raise :class:`Failed` if a collection neither lives nor is one of those that ended last."""
        if self.daemon.find(id) is None and self.daemon.ended.find(id) is None:
            raise _unknown(id)

    def explain(self, id: int, user: User, done: Done) -> None:
        """Explain a collection, in the turns of `user`."""
        self._ask(("explanation", id), lambda: self.explained(id), user, done)

    def explained(self, id: int) -> Json:
        """Return what Explain answers, which is work. Raises :class:`Failed` for a collection that isn't known."""
        daemon, platform = self.daemon, self.daemon.service.platform
        collection = daemon.find(id)
        if collection is not None:
            return explanation.about(collection, daemon.wall_time, platform).answer()
        ended = daemon.ended.find(id)
        if ended is None:
            raise _unknown(id)
        return explanation.about_ended(ended, daemon.wall_time, platform).answer()

    def watch(
        self, server_end: Handle, account: Account, request: inspector.InspectorWatchRequest
    ) -> None:
        """Tell a client from now on what happens; owns `server_end`.

        Raises :class:`.Exceeded` if its user may have no more watchers, and :class:`.Refused` for an end that can't be
        served.
        """
        service = self.daemon.service
        _, channel = service.names.give(server_end)
        watcher = Watcher(service, channel, account, request)
        self.events.add(watcher)
        self._in_turn(account.user, partial(self._begin, watcher))

    def _begin(self, watcher: Watcher) -> None:
        snapshot = Snapshot(self.daemon, watcher.only).gather()
        self._name_users(snapshot, watcher.account.user, partial(self._tell_first, watcher))

    def _tell_first(self, watcher: Watcher, snapshot: Json) -> None:
        if not _is_small(snapshot):
            less: Json = {"settings": None, "buffers": [], "nodes": []}
            snapshot["collections"] = [{**one, **less} for one in snapshot["collections"]]
        if not _is_small(snapshot):
            snapshot = {key: snapshot[key] for key in ("schema", "daemon", "totals")}
        at = rfc_3339(time.time(), "microseconds")
        first = b"".join(encoded({"event": "watching", "at": at, "snapshot": snapshot}))
        watcher.begin(first.decode())

    def _failed(self, collection: CollectionData) -> None:
        """Record the end of a collection. Clients that are told of it may ask for it at once."""
        ended = EndedCollection.of(collection)
        self.daemon.ended.add(ended)
        self.counters.ended(ended)

    def _ended(self, collection: LogicalBufferCollection) -> None:
        if self.events.active:
            self.events.ended(self.daemon.told(EndedCollection.of(collection)))

    def _ask(
        self,
        key: object,
        make: Callable[[], Json],
        user: User,
        done: Done,
        write: Callable[[Json], Document] = document,
    ) -> None:
        for other, job in self._jobs:
            if other == key:
                job.waiting.append(done)
                return
        job = _Job(make, write, user)
        job.waiting.append(done)
        self._jobs.append((key, job))
        self._next()

    def _next(self) -> None:
        if self._busy or not self._jobs:
            return
        self._busy = True
        # Later questions need a new answer, which includes later changes.
        _, job = self._jobs.popleft()
        self._in_turn(job.user, partial(self._make, job))

    def _make(self, job: _Job) -> None:
        try:
            data = job.make()
        except Exception as error:
            self._answer(job, error)
        else:
            self._name_users(data, job.user, partial(self._write, job))

    def _name_users(self, data: Json, user: User, then: Callable[[Json], None]) -> None:
        """Name the users in a snapshot, and call `then` with it in a turn of `user`."""
        self._ask_for(
            partial(name_users, data),
            lambda named: self._in_turn(user, partial(then, named)),
        )

    def _write(self, job: _Job, data: Json) -> None:
        result: Document | Exception
        try:
            result = job.write(data)
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
        log.error(
            "a response to an inspector could not be created", reason=repr(error), exc_info=error
        )
        return Failed(Error.UNSPECIFIED, f"the daemon failed: {error!r}")


def _is_small(snapshot: Json) -> bool:
    size = 0
    for part in giving_way(encoded(snapshot)):
        size += len(part)
        if size > SMALL_BYTES:
            return False
    return True


def _unknown(id: int) -> Failed:
    return Failed(Error.NOT_FOUND, f"there is no collection {id}")
