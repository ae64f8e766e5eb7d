"""A producer's end of streams, without waiting."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from sysmem_protocol.handles import Handle
from sysmem_protocol.owner import close_cell

from .._buffers import BufferCollectionInfo, VmoBuffer
from . import messages
from .buffers import Buffers
from .ends import End, own, received
from .lending import Consumer, Lending, Policy
from .messages import Start, StreamError
from .statistics import ConsumerStatistics, SenderStatistics

#: By default a consumer whose policy drops frames holds this many: the one that it works on and the next one.
DEFAULT_HOLD = 2
_GONE = "it closed its end, or died"


class _Peer:
    """A consumer and its socket."""

    __slots__ = ("_broken", "consumer", "gone", "name", "sock")

    def __init__(
        self, sock: socket.SocketType, name: str, policy: Policy, hold: int, broken: list[_Peer]
    ) -> None:
        self.sock = sock
        self.name = name
        self.consumer = Consumer(policy, hold, self.transmit)
        self.gone: str | None = None
        self._broken = broken

    def transmit(self, message: bytes) -> bool:
        """Send a message. Returns False if the queue is full, or the consumer is gone, which `_broken` then lists."""
        try:
            self.sock.send(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except ConnectionError:
            self._broken.append(self)
            return False
        except OSError:  # the queue is full, or the kernel has no memory
            return False
        return True


class Sender(End):
    """What both faces' :class:`FrameSender` have in common; see there."""

    def __init__(
        self,
        buffers: BufferCollectionInfo | Sequence[VmoBuffer] | int,
        *socks: socket.socket | Handle | int,
        policy: Policy | str = Policy.WAIT,
        hold: int | None = None,
    ) -> None:
        super().__init__()
        known = Buffers.of(buffers)
        self._sizes = known.sizes
        self._start = messages.encode_start(Start(len(known.sizes), known.collection_id))
        self._lending = Lending(len(self._sizes))
        self._peers: dict[int, _Peer] = {}
        #: Consumers that are gone, found while sending to them.
        self._broken: list[_Peer] = []
        self._all_peers: list[_Peer] = []
        self._waits = 0
        self._waited = 0.0
        #: The time at which `acquire()` first found no free buffer; None if there was one.
        self._since: float | None = None
        self._epoll = select.epoll()
        self._open(self._epoll)
        try:
            for sock in socks:
                self.add(sock, policy=policy, hold=hold)
        except BaseException:
            self.abandon()
            raise

    def add(
        self,
        sock: socket.socket | Handle | int,
        *,
        policy: Policy | str = Policy.WAIT,
        hold: int | None = None,
        name: str | None = None,
    ) -> None:
        """Add a consumer. It gets the frames that are sent from now on.

        Args:
            sock: The producer's end of a connection to it, which :func:`pair` makes. The sender takes ownership.
            policy: What happens to a new frame when the consumer has as many as it may hold: a :class:`Policy`, or its
                value.
            hold: The greatest number of frames that the consumer may have at once, including those that wait in its
                socket. The default is all buffers with `Policy.WAIT`, and otherwise 2. Consumers that may miss frames
                must together leave one buffer to the producer, even if they never release a frame.
            name: What `statistics()` calls it; by default "consumer" and a number.

        Raises:
            ValueError: The end isn't a connected SOCK_SEQPACKET Unix socket, there is no such policy, or `hold` is too
                small or too large. The caller still owns the end then.
        """
        with self._lock:
            self._check_open()
            count = len(self._sizes)
            policy = Policy(policy)
            if hold is None:
                hold = count if policy is Policy.WAIT else DEFAULT_HOLD
            self._check_hold(policy, hold)
            taken = own(sock)
            try:
                owned: socket.SocketType = taken.made[0]
                name = name or f"consumer {len(self._all_peers)}"
                peer = _Peer(owned, name, policy, hold, self._broken)
                self._all_peers.append(peer)
            except BaseException:
                # A peer is in a reference cycle, which would keep its socket open.
                taken.close()
                raise
            self._epoll.register(owned, select.EPOLLIN | select.EPOLLRDHUP)
            self._peers[owned.fileno()] = peer
            self._lending.consumers.append(peer.consumer)
            peer.transmit(self._start)

    def send(
        self,
        index: int,
        *,
        size: int | None = None,
        timestamp: int | None = None,
        metadata: Any = None,
    ) -> int:
        """Send the frame in a buffer to all consumers, and return its sequence number. Never waits.

        The producer must not write into the buffer until `acquire()` returns it again. Without consumers the buffer is
        free at once.

        Args:
            index: A buffer that `acquire()` returned.
            size: Bytes of the frame, from the start of the buffer; the whole buffer by default.
            timestamp: The time of the frame, in nanoseconds of CLOCK_MONOTONIC. The default is now.
            metadata: Plain data for the consumers: None, numbers, texts, bytes, lists, and dicts with texts or
                integers as keys; at most 1024 bytes of CBOR.

        Raises:
            ValueError: The buffer isn't the producer's, or a value is out of range. Nothing was sent.
            TypeError: The metadata aren't plain data. Nothing was sent.
        """
        with self._lock:
            self._check_open()
            lending = self._lending
            lending.check_taken(index)
            room = self._sizes[index]
            if size is None:
                size = room or 0
            elif room is not None and not 0 <= size <= room:
                raise ValueError(f"a frame of {size} bytes doesn't fit the {room} of the buffer")
            if timestamp is None:
                timestamp = time.monotonic_ns()
            sequence = lending.sent
            message = messages.encode_frame(index, sequence, timestamp, size, metadata)
            self._process_all()
            lending.lend(index, message)
            if lending.free:
                self._waiter.wake()
            return sequence

    def cancel(self, index: int) -> None:
        """Give back a buffer that `acquire()` returned, without sending a frame.

        Raises:
            ValueError: The buffer isn't the producer's.
        """
        with self._lock:
            self._check_open()
            self._lending.cancel(index)
            self._waiter.wake()

    def process(self) -> None:
        """Receive releases, send the frames that wait for them, and remove consumers that are gone. Never waits.

        `acquire()` and `send()` do this too. A producer that calls neither for a long time should call it when the
        sender's descriptor is readable, so that consumers that hold few frames get the next ones.
        """
        with self._lock:
            self._check_open()
            self._process_all()
            if self._lending.free:
                self._waiter.wake()

    def statistics(self) -> SenderStatistics:
        """Return what happened so far."""
        with self._lock:
            lending = self._lending
            free, acquired = len(lending.free), len(lending.taken)
            return SenderStatistics(
                sent=lending.sent,
                waits=self._waits,
                waited_seconds=self._waited,
                free=free,
                acquired=acquired,
                lent=len(self._sizes) - free - acquired,
                consumers=tuple(_statistics(peer) for peer in self._all_peers),
            )

    @property
    def consumers(self) -> int:
        """How many consumers there are. One that is gone counts until the sender has noticed it."""
        return len(self._peers)

    def fileno(self) -> int:
        """Return a descriptor that is readable when :meth:`process` has something to do. The sender owns it."""
        self._check_open()
        return self._epoll.fileno()

    def close(self, reason: str = "the producer closed the stream") -> None:
        """End the stream: consumers get the frames that wait for them, and then the reason. Idempotent. Never waits.

        Frames that consumers hold stay valid.
        """
        self._close(messages.End(reason, closed=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the stream. If an exception ended the with-block, consumers get the name of its type as the reason."""
        if kind is None:
            self.close()
        else:
            self._close(messages.End(f"the producer failed: {kind.__name__}", closed=False))

    def abandon(self) -> None:
        """Close without sending a reason, as if the process had died. Idempotent."""
        for peer in self._all_peers:
            close_cell(peer.sock)
        self._peers.clear()
        super().abandon()

    # --- for the faces ------------------------------------------------------------------------------------------------

    def _take(self) -> int | None:
        """Return a buffer for the producer, or None if no buffer is free."""
        with self._lock:
            self._check_open()
            self._process_all()
            index = self._lending.take()
            if self._lending.free:
                self._waiter.wake()
            if index is None:
                if self._since is None:
                    self._since = time.monotonic()
                    self._waits += 1
            elif self._since is not None:
                self._waited += time.monotonic() - self._since
                self._since = None
            return index

    def _nothing_free(self) -> str:
        """Return an error text that says who has the buffers."""
        having = [
            f"{peer.name} has {len(peer.consumer.held)} and waits for {len(peer.consumer.waiting)}"
            for peer in self._peers.values()
        ]
        mine = len(self._lending.taken)
        return f"no buffer became free in time: the producer has {mine}, {', '.join(having)}"

    # --- inside -------------------------------------------------------------------------------------------------------

    def _close(self, end: messages.End) -> None:
        with self._lock:
            if self.closed:
                return
            self._process_all()
            self._lending.flush()
            message = messages.encode_end(end)
            for peer in self._peers.values():
                peer.transmit(message)
            self.abandon()

    def _process_all(self) -> None:
        for fd, _ in self._epoll.poll(0):
            self._process(self._peers[fd])
        while self._broken:
            self._remove(self._broken.pop(), _GONE)

    def _process(self, peer: _Peer) -> None:
        while (message := received(peer.sock)) is not None:
            if not message:
                return self._remove(peer, _GONE)
            try:
                self._lending.release(peer.consumer, messages.decode_release(message))
            except StreamError as error:
                return self._remove(peer, f"it sent {error}")
            except KeyError as error:
                return self._remove(peer, f"it released frame {error}, which it does not have")
        return None

    def _remove(self, peer: _Peer, reason: str) -> None:
        if peer.gone is not None:
            return
        # The order matters: if an exception interrupts this, epoll reports the consumer again, or all is done.
        self._lending.remove(peer.consumer)
        self._epoll.unregister(peer.sock)
        del self._peers[peer.sock.fileno()]
        peer.gone = reason
        peer.sock.close()

    def _check_hold(self, policy: Policy, hold: int) -> None:
        count = len(self._sizes)
        if hold < 1:
            raise ValueError(f"a consumer must be able to hold at least 1 frame, not {hold}")
        if policy is Policy.WAIT:
            return
        droppers = [c for c in self._lending.consumers if c.policy is not Policy.WAIT]
        others = sum(consumer.hold for consumer in droppers)
        if others + hold >= count:
            raise ValueError(
                f"consumers who may miss frames could hold all {count} buffers ({hold}"
                + (f", and {others} with the others" if others else "")
                + "), and so stop the producer for good: let them hold fewer, or ask for more buffers"
            )

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._peers)} consumers"
        return f"<{type(self).__name__} {state}, {self._lending.sent} frames>"


def _statistics(peer: _Peer) -> ConsumerStatistics:
    consumer = peer.consumer
    return ConsumerStatistics(
        name=peer.name,
        policy=consumer.policy,
        hold=consumer.hold,
        delivered=consumer.delivered,
        dropped=consumer.dropped,
        held=len(consumer.held),
        waiting=len(consumer.waiting),
        gone=peer.gone,
    )
