"""What a Python user would build instead of sysmem, and sysmem itself, for `peers.py`.

Services on dbus-fast (through a dbus-daemon of their own), on asyncvarlink and on multiprocessing.managers with
SharedMemory, each used in the way that its experienced users would choose. In each, processes say how many buffers of
which size they need. When all have done so, the service makes the largest requested number of buffers of the largest
requested size, and answers with them. These services have no other rules, and leak memory when a participant dies; the
benchmark does not measure the value of that. The *floor* is sysmem with a daemon that has no logic: no change of the
daemon can save the time that the floor takes.
"""

# No annotations from the future: asyncvarlink reads those of methods.
import asyncio
import mmap
import os
import shutil
import signal
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import managers, resource_tracker, shared_memory
from pathlib import Path
from typing import Any, Protocol

import asyncvarlink
from daemons import daemon
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus
from floors import negotiation_floor
from participants import BUFFER_BYTES, BUFFERS, DONE, needs

from sysmem import blocking


class Participant(Protocol):
    """The connection of a process to a service."""

    def echo(self) -> None:
        """Make an empty call."""

    def negotiate(self, number: int, token: int | None) -> None:
        """Say what this participant needs, and map the buffers. `number` is the round; only sysmem uses `token`."""


class Meetings:
    """The rule of all services but sysmem: the last participant's call makes the buffers."""

    def __init__(self, participants: int, make: Callable[[int, int], list[Any]]) -> None:
        self._participants = participants
        self._make = make
        self._told: dict[int, list[tuple[int, int]]] = {}
        self.made: dict[int, list[Any]] = {}

    def tell(self, number: int, count: int, size: int) -> bool:
        """Record what a participant needs. Return whether it was the last one, so that the buffers were made."""
        told = self._told.setdefault(number, [])
        told.append((count, size))
        if len(told) < self._participants:
            return False
        del self._told[number]
        self.made[number] = self._make(max(c for c, _ in told), max(s for _, s in told))
        return True


def _memfds(count: int, size: int) -> list[int]:
    made = []
    for index in range(count):
        made.append(os.memfd_create(f"peer:{index}", os.MFD_CLOEXEC))
        os.ftruncate(made[-1], size)
    return made


def _map(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with mmap.mmap(descriptor, BUFFER_BYTES):
            pass
        os.close(descriptor)


@contextmanager
def _process(main: Callable[[Callable[[], object]], None]) -> Iterator[None]:
    """Run a service in a forked process. `main` calls its argument when it is ready."""
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            main(partial(os.write, sender, DONE))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(sender)
    try:
        if os.read(receiver, 1) != DONE:
            raise RuntimeError("the service doesn't start")
        yield
    finally:
        os.close(receiver)
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


# --- sysmem ---------------------------------------------------------------------------------------------------------


class Sysmem:
    """The blocking client."""

    def __init__(self, where: Path) -> None:
        self._allocator = blocking.connect(where)
        self._token = self._allocator.allocate_shared_collection()

    def echo(self) -> None:
        self._token.sync()

    def negotiate(self, number: int, token: int | None) -> None:
        assert token is not None
        end = blocking.BufferCollectionToken.from_fd(token)
        with self._allocator.bind_shared_collection(end) as collection:
            collection.set_constraints(needs())
            with collection.wait_for_all_buffers_allocated() as info:
                for buffer in info.buffers:
                    with buffer.map():
                        pass
            collection.release()


class Floor(Sysmem):
    """The same client and the same messages, with a daemon that has no logic (:func:`floors.negotiation_floor`)."""

    def __init__(self, where: Path) -> None:
        self._allocator = blocking.connect(where)

    def echo(self) -> None:
        """Do nothing: this daemon does not answer Sync."""


@contextmanager
def _serve_floor(where: Path, participants: int) -> Iterator[Path]:
    with negotiation_floor(where, buffers=BUFFERS, size=BUFFER_BYTES):
        yield where


@contextmanager
def _serve_sysmem(where: Path, participants: int) -> Iterator[Path]:
    with daemon() as served:
        yield served.runtime_dir


# --- dbus-fast ------------------------------------------------------------------------------------------------------

_DBUS_NAME, _DBUS_PATH = "org.example.Meeting", "/org/example/Meeting"


class DBus:
    """Messages as they are: proxies and service objects are slower."""

    def __init__(self, where: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._bus = self._loop.run_until_complete(_dbus_connect(where))

    def _call(self, member: str, signature: str = "", body: list[Any] | None = None) -> Message:
        message = Message(
            destination=_DBUS_NAME,
            path=_DBUS_PATH,
            interface=_DBUS_NAME,
            member=member,
            signature=signature,
            body=body or [],
        )
        reply = self._loop.run_until_complete(self._bus.call(message))
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            raise RuntimeError(reply.body)
        return reply

    def echo(self) -> None:
        self._call("Echo")

    def negotiate(self, number: int, token: int | None) -> None:
        _map(self._call("Tell", "uut", [number, BUFFERS, BUFFER_BYTES]).unix_fds)


async def _dbus_connect(where: Path) -> MessageBus:
    return await MessageBus(f"unix:path={where}/bus", negotiate_unix_fd=True).connect()


async def _dbus_service(where: Path, participants: int, ready: Callable[[], object]) -> None:
    bus = await _dbus_connect(where)
    meetings = Meetings(participants, _memfds)
    waiting: dict[int, list[Message]] = {}

    def handle(message: Message) -> Message | bool:
        if message.member == "Echo":
            return Message.new_method_return(message)
        if message.member != "Tell":
            return False
        number, count, size = message.body
        waiting.setdefault(number, []).append(message)
        if meetings.tell(number, count, size):
            made = meetings.made.pop(number)
            calls = waiting.pop(number)
            indices = list(range(len(made)))
            for call in calls:
                # The descriptors of a message are closed once it is written, so each message gets duplicates.
                fds = [os.dup(fd) for fd in made]
                answer = Message.new_method_return(call, "ah", [indices], unix_fds=fds)
                bus.send(answer).add_done_callback(lambda _, fds=fds: list(map(os.close, fds)))
            for fd in made:
                os.close(fd)
        return True

    bus.add_message_handler(handle)
    await bus.request_name(_DBUS_NAME)
    ready()
    await bus.wait_for_disconnect()


@contextmanager
def _serve_dbus(where: Path, participants: int) -> Iterator[Path]:
    config = where / "bus.conf"
    config.write_text(
        "<!DOCTYPE busconfig PUBLIC '-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN'"
        " 'http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd'><busconfig>"
        f"<type>session</type><listen>unix:path={where}/bus</listen><auth>EXTERNAL</auth>"
        "<policy context='default'><allow send_destination='*' eavesdrop='false'/>"
        "<allow own='*'/><allow receive_sender='*'/></policy></busconfig>"
    )
    program = shutil.which("dbus-daemon")
    if program is None:
        raise FileNotFoundError("dbus-daemon isn't installed")
    bus = subprocess.Popen(
        [program, f"--config-file={config}", "--nofork", "--print-address"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert bus.stdout is not None
    try:
        bus.stdout.readline()
        with _process(lambda ready: asyncio.run(_dbus_service(where, participants, ready))):
            yield where
    finally:
        bus.terminate()
        bus.wait()
        bus.stdout.close()


# --- asyncvarlink ---------------------------------------------------------------------------------------------------


class Meeting(asyncvarlink.VarlinkInterface, name="org.example.meeting"):
    """The service."""

    def __init__(self, participants: int) -> None:
        self._meetings = Meetings(participants, _memfds)
        self._waiting: dict[int, asyncio.Future[list[int]]] = {}

    @asyncvarlink.varlinkmethod
    async def Echo(self) -> None:  # noqa: N802 - a name of varlink
        pass

    @asyncvarlink.varlinkmethod(return_parameter="buffers")
    async def Tell(  # noqa: N802
        self, *, number: int, count: int, size: int
    ) -> list[asyncvarlink.FileDescriptor]:
        made = self._waiting.setdefault(number, asyncio.get_running_loop().create_future())
        if self._meetings.tell(number, count, size):
            del self._waiting[number]
            made.set_result(self._meetings.made.pop(number))
        # The first participant must not close the descriptors that the next one gets.
        return [asyncvarlink.FileDescriptor(os.dup(fd), should_close=True) for fd in await made]


class Varlink:
    """The package's proxy."""

    def __init__(self, where: Path) -> None:
        self._loop = asyncio.new_event_loop()
        _, protocol = self._loop.run_until_complete(self._connect(where))
        self._proxy = protocol.make_proxy(Meeting)

    @staticmethod
    async def _connect(where: Path) -> tuple[Any, asyncvarlink.VarlinkClientProtocol]:
        return await asyncvarlink.connect_unix_varlink(
            asyncvarlink.VarlinkClientProtocol, f"{where}/varlink"
        )

    def echo(self) -> None:
        self._loop.run_until_complete(self._proxy.Echo())

    def negotiate(self, number: int, token: int | None) -> None:
        self._loop.run_until_complete(self._negotiate(number))

    async def _negotiate(self, number: int) -> None:
        answer = await self._proxy.Tell(number=number, count=BUFFERS, size=BUFFER_BYTES)
        with answer as told:
            for buffer in told["buffers"]:
                with mmap.mmap(buffer.fileno(), BUFFER_BYTES):
                    pass


async def _varlink_service(where: Path, participants: int, ready: Callable[[], object]) -> None:
    registry = asyncvarlink.VarlinkInterfaceRegistry()
    registry.register_interface(Meeting(participants))
    server = await asyncvarlink.create_unix_server(registry.protocol_factory, f"{where}/varlink")
    ready()
    await server.serve_forever()


@contextmanager
def _serve_varlink(where: Path, participants: int) -> Iterator[Path]:
    with _process(lambda ready: asyncio.run(_varlink_service(where, participants, ready))):
        yield where


# --- multiprocessing.managers ---------------------------------------------------------------------------------------


class SharedMeeting:
    """Lives in the manager's process, where each client has a thread."""

    def __init__(self, participants: int) -> None:
        self._meetings = Meetings(participants, self._make)
        self._changed = threading.Condition()
        self._last: list[shared_memory.SharedMemory] = []

    def echo(self) -> None:
        pass

    def tell(self, number: int, count: int, size: int) -> list[str]:
        with self._changed:
            if self._meetings.tell(number, count, size):
                self._changed.notify_all()
            self._changed.wait_for(lambda: number in self._meetings.made)
            return [memory.name for memory in self._meetings.made[number]]

    def _make(self, count: int, size: int) -> list[shared_memory.SharedMemory]:
        self.unlink()  # the memory of the previous round, which everybody has mapped already
        self._meetings.made.clear()
        self._last = [shared_memory.SharedMemory(create=True, size=size) for _ in range(count)]
        return self._last

    def unlink(self) -> None:
        for memory in self._last:
            memory.close()
            memory.unlink()


class Manager(managers.BaseManager):
    """The manager, which makes proxies of a :class:`SharedMeeting`."""


_KEY = b"benchmark"
_meeting: SharedMeeting | None = None
Manager.register("meeting", callable=lambda: _meeting, exposed=("echo", "tell"))


class Managers:
    """A proxy, and SharedMemory by name."""

    def __init__(self, where: Path) -> None:
        # Until Python 3.13's track=False each process that attaches would unlink the memory when it ends.
        resource_tracker.register = lambda *_: None
        manager = Manager(f"{where}/manager", authkey=_KEY)
        manager.connect()
        self._meeting = manager.meeting()

    def echo(self) -> None:
        self._meeting.echo()

    def negotiate(self, number: int, token: int | None) -> None:
        for name in self._meeting.tell(number, BUFFERS, BUFFER_BYTES):
            shared_memory.SharedMemory(name).close()


def _manager_service(where: Path, participants: int, ready: Callable[[], object]) -> None:
    global _meeting  # a manager calls functions of its module
    meeting = _meeting = SharedMeeting(participants)

    def end(*_: object) -> None:
        meeting.unlink()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    server = Manager(f"{where}/manager", authkey=_KEY).get_server()
    ready()
    server.serve_forever()


@contextmanager
def _serve_managers(where: Path, participants: int) -> Iterator[Path]:
    with _process(lambda ready: _manager_service(where, participants, ready)):
        yield where


# --- all of them -----------------------------------------------------------------------------------------------------

#: Not a peer, but the minimum time for sysmem's messages and kernel objects.
FLOOR = "floor"
SUBJECTS: dict[str, tuple[Callable[[Path, int], Any], Callable[[Path], Participant]]] = {
    "sysmem": (_serve_sysmem, Sysmem),
    FLOOR: (_serve_floor, Floor),
    "dbus_fast": (_serve_dbus, DBus),
    "asyncvarlink": (_serve_varlink, Varlink),
    "managers": (_serve_managers, Managers),
}
