"""Metrics over HTTP, for Prometheus and compatible programs: `sysmemd --metrics` (`docs/spec/inspect.md`, "sysmemctl").

One request is answered on each connection. Scrapers are few and their requests rare, so their limits are low: a few
connections, a few seconds for each, and a few requests per second. Responses are created in turns of a separate user
that no client has.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from email.utils import formatdate
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import h11
import trio

from sysmem_protocol.handles import Handle
from sysmem_protocol.metrics import OPENMETRICS, PLAIN

from .channels.errors import Failed
from .inspection import Inspection
from .ports import Log
from .quota import Share
from .sockets import METRICS_PATH
from .users import User

#: The maximum number of simultaneous connections. Others wait in the kernel's queue, which is bounded too.
MAX_CONNECTIONS: Final = 8
#: The maximum duration of a connection in seconds.
MAX_SECONDS: Final = 10.0
#: The minimum time between two accepted connections in seconds.
PAUSE_SECONDS: Final = 0.02
#: How long accepting pauses in seconds if a resource is exhausted.
_EXHAUSTED_SECONDS: Final = 1.0
#: The maximum size of a request's line and headers in bytes.
_MAX_REQUEST_BYTES: Final = 16 * 1024
_CHUNK: Final = 4096
#: How much is read after the request, so that closing does not make the kernel discard the response.
_MAX_REST_BYTES: Final = 64 * 1024

_METHODS: Final = (b"GET", b"HEAD")


class Scrapes:
    """Serves the metrics of a daemon on connections that are accepted."""

    def __init__(self, inspection: Inspection, log: Log) -> None:
        self._inspection = inspection
        self._log = log
        self._user = User(os.geteuid(), {}, Share())
        self._room = trio.Semaphore(MAX_CONNECTIONS)

    async def serve(self, listening: trio.socket.SocketType) -> None:
        """Serve connections to a listening socket until cancelled. The caller keeps the socket."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._room.acquire()
                nursery.start_soon(self._serve, await self._accept(listening))
                await trio.sleep(PAUSE_SECONDS)

    async def _accept(self, listening: trio.socket.SocketType) -> trio.socket.SocketType:
        while True:
            try:
                accepted, _ = await listening.accept()
            except OSError as error:
                self._log.error(
                    "new connections to the metrics socket cannot be accepted now",
                    reason=str(error),
                )
                await trio.sleep(_EXHAUSTED_SECONDS)
            else:
                return accepted

    async def _serve(self, scraper: trio.socket.SocketType) -> None:
        try:
            with scraper, trio.move_on_after(MAX_SECONDS):
                await self._converse(scraper)
        except OSError:
            pass  # the scraper has disconnected
        except Exception as error:
            self._log.error("metrics could not be served", reason=repr(error), exc_info=True)
        finally:
            self._room.release()

    async def _converse(self, scraper: trio.socket.SocketType) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_REQUEST_BYTES)
        request = None
        try:
            request = await _request(http, scraper)
        except h11.RemoteProtocolError as error:
            response, body = _answer(error.error_status_hint, f"{error}\n")
        else:
            if request is None:
                return
            response, body = await self._answer_to(request)
        head_only = request is not None and request.method == b"HEAD"
        parts = [response, *([] if head_only else [h11.Data(body)]), h11.EndOfMessage()]
        data = b"".join(http.send(part) or b"" for part in parts)
        with memoryview(data) as left:
            sent = 0
            while sent < len(data):
                sent += await scraper.send(left[sent:])
        scraper.shutdown(socket.SHUT_WR)
        rest = 0
        while rest < _MAX_REST_BYTES and (more := await scraper.recv(_CHUNK)):
            rest += len(more)

    async def _answer_to(self, request: h11.Request) -> tuple[h11.Response, bytes]:
        try:
            path = urlsplit(request.target).path
        except ValueError as error:
            return _answer(400, f"{error}\n")
        if path != METRICS_PATH.encode():
            return _answer(404, f"not found; the only path is {METRICS_PATH}\n")
        if request.method not in _METHODS:
            allowed = b", ".join(_METHODS)
            return _answer(405, "metrics can only be read\n", [(b"Allow", allowed)])
        accepted = [value.decode("latin-1") for name, value in request.headers if name == b"accept"]
        plain = prefers_plain(", ".join(accepted))
        made = await self._made(plain=plain)
        if isinstance(made, Failed):
            return _answer(503, f"{made}\n")
        with made:
            text = os.read(made.fileno(), os.fstat(made.fileno()).st_size)
        return _answer(200, text, [(b"Vary", b"Accept")], PLAIN if plain else OPENMETRICS)

    async def _made(self, *, plain: bool) -> Handle | Failed:
        """Return the text, which the caller owns, or the reason why there is none."""
        found: list[Handle | Failed] = []
        ready = trio.Event()

        def done(made: Handle | Failed) -> None:
            found.append(made)
            ready.set()

        def drop(made: Handle | Failed) -> None:
            if isinstance(made, Handle):
                made.close()

        tell = done
        self._inspection.metrics(self._user, lambda made: tell(made), plain=plain)
        try:
            await ready.wait()
        except trio.Cancelled:
            tell = drop
            for made in found:
                drop(made)
            raise
        return found[0]


async def _request(http: h11.Connection, scraper: trio.socket.SocketType) -> h11.Request | None:
    """Return the request; None if the scraper disconnects before it is complete. Raises `h11.RemoteProtocolError`."""
    while True:
        event = http.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        http.receive_data(await scraper.recv(_CHUNK))


def _answer(
    status: int,
    body: str | bytes,
    headers: list[tuple[bytes, bytes]] | None = None,
    content_type: str = "text/plain; charset=utf-8",
) -> tuple[h11.Response, bytes]:
    content = body.encode() if isinstance(body, str) else body
    fields = [
        (b"Content-Type", content_type.encode()),
        (b"Content-Length", str(len(content)).encode()),
        (b"Date", formatdate(usegmt=True).encode()),
        (b"Connection", b"close"),
    ]
    reason = HTTPStatus(status).phrase.encode()
    return h11.Response(
        status_code=status, reason=reason, headers=[*fields, *(headers or [])]
    ), content


def prefers_plain(accept: str) -> bool:
    """Return whether an `Accept` header prefers the older text format to OpenMetrics."""
    ranges = dict(_ranges(accept)) or {"*/*": 1.0}

    def quality(kind: str, subtype: str) -> float:
        wanted = (f"{kind}/{subtype}", f"{kind}/*", "*/*")
        return next((ranges[each] for each in wanted if each in ranges), 0.0)

    return quality("text", "plain") > quality("application", "openmetrics-text")


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    """Yield the media ranges of an `Accept` header with their qualities, the best of each last."""
    found = []
    for part in accept.split(","):
        name, *parameters = (each.strip().lower() for each in part.split(";"))
        quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        try:
            found.append((float(quality), name))
        except ValueError:
            continue
    for number, name in sorted(found):
        if name:
            yield name, number
