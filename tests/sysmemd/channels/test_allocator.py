"""The Allocator on its channel: it creates collections, turns tokens in and recognises VMOs."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from sysmem_protocol import sysmem2
from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import Handle, channel_pair
from sysmem_protocol.sysmem2 import Allocator, BufferCollection, BufferCollectionToken, Error, Node
from sysmemd.channels import AllocatorServer
from sysmemd.memory import HandleInfo, Memory
from sysmemd.memory.collection import DeliveredBuffer
from sysmemd.ports import ClientInfo, NoMemoryError, Payer, Peer

from .support import Bench, Client, wanting


def bind(allocator: Client, token: Handle, far: Handle) -> None:
    allocator.send(
        Allocator.bind_shared_collection,
        sysmem2.AllocatorBindSharedCollectionRequest(token=token, buffer_collection_request=far),
    )


# --- collections and tokens -------------------------------------------------------------------------------------------


def test_a_collection_of_one_allocates_at_once(bench: Bench) -> None:
    collection = bench.allocated()
    assert collection.call(BufferCollection.check_all_buffers_allocated) is None


def test_closing_an_allocator_has_no_effect_on_what_was_made_through_it(bench: Bench) -> None:
    allocator = bench.allocator()
    token, collection = bench.token(allocator), bench.collection(allocator)
    allocator.close()
    bench.run()
    token.sync()
    collection.sync()


def test_a_refused_allocator_closes_alone_and_is_logged(bench: Bench) -> None:
    allocator = bench.allocator("camera", 3)
    token = bench.token(allocator)
    allocator.send(Allocator.set_debug_client_info, sysmem2.SetDebugClientInfoRequest(id=4))
    bench.run()
    assert allocator.is_closed()
    token.sync()
    assert bench.log.said("warning", "error") == [
        (
            "an Allocator channel was closed because of an error",
            {
                "reason": "Allocator.SetDebugClientInfo: $.name is required",
                "channel": "Allocator",
                "client_name": "camera",
                "client_id": 3,
            },
        )
    ]


def test_who_has_not_said_its_name_is_logged_without(bench: Bench) -> None:
    allocator = bench.allocator(None)
    allocator.channel.send(b"nonsense")
    bench.run()
    fields = bench.log.refusal()
    assert (fields["client_name"], fields["client_id"]) == ("", 0)


@pytest.mark.parametrize("method", ["allocate_shared_collection", "allocate_non_shared_collection"])
def test_what_can_not_be_made_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    allocator = bench.allocator()
    monkeypatch.setattr(bench.service, "new_collection", fail)
    made = bench.token(allocator) if "non" not in method else bench.collection(allocator)
    assert made.is_closed()
    assert allocator.is_closed()
    assert bench.service.tokens == {}
    assert bench.log.said("error")[-1][1]["reason"] == "the daemon failed: MemoryError()"


def test_a_turned_in_token_becomes_a_collection_in_its_place(bench: Bench) -> None:
    token = bench.token()
    number = token.koid()
    client, far = bench.client()
    txid = client.send(Node.get_buffer_collection_id)  # before the daemon has received it
    copy = token.duplicate_end()
    node = bench.service.tokens[number].node
    bind(bench.allocator(), token.duplicate_end(), far)
    bench.run()
    answer = client.answer(Node.get_buffer_collection_id, txid)
    assert answer.buffer_collection_id == node.collection.id
    assert number not in bench.service.tokens
    assert token.is_closed()
    assert bench.adopt(copy).is_closed()  # as for any other owner of its other end
    assert node.kind.value == "collection"


def test_what_the_token_sent_is_processed_first(bench: Bench) -> None:
    token = bench.token()
    token.send(Node.set_name, sysmem2.NodeSetNameRequest(priority=1, name="frames"))
    txid = token.send(Node.sync)
    client, far = bench.client()
    bind(bench.allocator(), token.duplicate_end(), far)
    bench.run()
    assert token.answer(Node.sync, txid) is None
    client.sync()
    [collection] = bench.service.collections.values()
    assert collection.name == "frames"


@pytest.mark.parametrize(
    ("name", "expected"), [("viewer", ("viewer", 8)), (None, ("camera", 7))], ids=["set", "un-set"]
)
def test_the_allocators_client_replaces_the_tokens(
    bench: Bench, name: str | None, expected: tuple[str, int]
) -> None:
    token = bench.token(bench.allocator("camera", 7))
    bench.bind(token, bench.allocator(name, 8))
    [collection] = bench.service.collections.values()
    assert (collection.root.client.name, collection.root.client.id) == expected


def test_an_unknown_token_closes_the_collections_channel_and_nothing_else(bench: Bench) -> None:
    allocator = bench.allocator()
    client, far = bench.client()
    near, other = channel_pair()
    bind(allocator, Handle(near.detach()), far)
    bench.run()
    assert client.is_closed()
    assert other.recv(10) == b""  # the descriptor was closed
    other.close()
    bench.token(allocator).sync()
    [(event, fields)] = bench.log.said("warning")
    assert event == "BindSharedCollection failed: the token is unknown"
    assert (fields["client_name"], fields["client_id"]) == ("tester", 7)
    assert "was not created by this daemon" in fields["reason"]


def test_a_second_turn_in_is_one_of_an_unknown_token(bench: Bench) -> None:
    token = bench.token()
    copy = token.duplicate_end()
    first = bench.bind(token)
    client, far = bench.client()
    bind(bench.allocator(), copy, far)
    bench.run()
    assert client.is_closed()
    first.sync()


def test_turning_in_a_released_token_fails_the_node(bench: Bench) -> None:
    allocator = bench.allocator()
    parent = bench.token(allocator)
    token = bench.duplicate(parent)
    token.send(Node.release)
    client, far = bench.client()
    bind(allocator, token.duplicate_end(), far)
    bench.run()
    assert client.is_closed()
    assert token.is_closed()
    assert parent.is_closed()
    allocator.send(Allocator.set_debug_client_info, sysmem2.SetDebugClientInfoRequest(name="on"))
    bench.run()
    reason = bench.log.refusal()["reason"]
    assert reason == "BindSharedCollection: BindSharedCollection on a released token"


def test_a_server_end_that_can_not_be_named_closes_the_allocator_and_no_token(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another owner names it after the check and before the daemon's naming."""
    allocator = bench.allocator()
    token = bench.token()
    client, far = bench.client()
    former = socket.socket(fileno=os.dup(far.fileno()))
    find_token = bench.service.find_token

    def find_token_and_name(handle: Handle) -> object:
        former.bind("")
        return find_token(handle)

    monkeypatch.setattr(bench.service, "find_token", find_token_and_name)
    bind(allocator, token.duplicate_end(), far)
    bench.run()
    former.close()
    assert allocator.is_closed()
    assert client.is_closed()
    token.sync()


def test_a_known_token_is_live_and_not_turned_in(bench: Bench) -> None:
    allocator = bench.allocator()
    token = bench.token(allocator)
    number = token.koid()

    def known(number: int) -> bool:
        answer = allocator.call(
            Allocator.validate_buffer_collection_token,
            sysmem2.AllocatorValidateBufferCollectionTokenRequest(token_server_koid=number),
        )
        is_known: bool = answer.is_known
        return is_known

    assert known(number)
    assert not known(number + 1)
    token.sync()
    collection = bench.bind(token, allocator)
    assert not known(number)
    assert not known(collection.koid())


@pytest.mark.parametrize("is_shared", [False, True])
def test_rights_are_said_to_be_advisory_where_buffers_are_asked_for(
    bench: Bench, is_shared: bool
) -> None:
    near, far = bench.client()
    AllocatorServer(
        bench.service, Channel(far.take()), Peer(os.getpid(), os.geteuid(), os.getegid())
    )
    token = bench.token(near)
    assert bench.log.said("warning") == []
    if is_shared:
        bench.bind(token, near)
    else:
        bench.collection(near)
    assert len(bench.log.said("warning")) == 1


# --- GetVmoInfo -------------------------------------------------------------------------------------------------------


class Vmo:
    """A buffer of a collection, and an Allocator to ask about it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.allocator = bench.allocator()
        self.collection = bench.allocated(self.allocator)
        wait = BufferCollection.wait_for_all_buffers_allocated
        self.info: sysmem2.BufferCollectionInfo = self.collection.call(wait).buffer_collection_info
        assert self.info.buffers is not None
        self.vmos: list[Handle] = [
            buffer.vmo for buffer in self.info.buffers if buffer.vmo is not None
        ]

    def copy(self, index: int = 1) -> Handle:
        return self.vmos[index].duplicate()

    def ask(self, **fields: object) -> sysmem2.VmoInfo | Error:
        request = sysmem2.AllocatorGetVmoInfoRequest(**fields)  # type: ignore[arg-type] # by name
        answer: sysmem2.VmoInfo | Error = self.allocator.call(Allocator.get_vmo_info, request)
        return answer

    def close(self) -> None:
        for vmo in self.vmos:
            vmo.close()


@pytest.fixture
def vmo(bench: Bench) -> Iterator[Vmo]:
    with closing(Vmo(bench)) as made:
        yield made


def foreign() -> Handle:
    return Handle(os.memfd_create("foreign"))


def test_a_vmo_is_recognised(vmo: Vmo) -> None:
    info = vmo.ask(vmo=vmo.copy(1))
    assert info == sysmem2.VmoInfo(
        buffer_collection_id=vmo.info.buffer_collection_id, buffer_index=1
    )


def test_also_after_the_collection_failed(vmo: Vmo) -> None:
    vmo.collection.close()
    vmo.bench.run()
    assert isinstance(vmo.ask(vmo=vmo.copy()), sysmem2.VmoInfo)


@pytest.mark.parametrize("field", ["vmo", "vmo_settings_to_check"])
def test_a_foreign_file_is_not_found(vmo: Vmo, field: str) -> None:
    given = {"vmo": vmo.copy(), "vmo_settings_to_check": vmo.copy()}
    given[field].close()
    given[field] = foreign()
    assert vmo.ask(**given) is Error.NOT_FOUND
    [(event, fields)] = vmo.bench.log.said("info")
    assert event == "a call was answered with an error"
    assert fields["reason"] == f"$.{field} is not a VMO of this daemon"
    assert fields["client_name"] == "tester"


@pytest.mark.parametrize("field", ["vmo", "vmo_settings_to_check"])
def test_what_is_no_file_is_a_deviation(vmo: Vmo, field: str) -> None:
    given = {"vmo": vmo.copy(), "vmo_settings_to_check": vmo.copy()}
    given[field].close()
    given[field] = Handle(os.eventfd(0))
    assert vmo.ask(**given) is Error.PROTOCOL_DEVIATION
    assert isinstance(vmo.ask(vmo=vmo.copy()), sysmem2.VmoInfo)  # the channel stays open


def test_settings_and_checks(vmo: Vmo) -> None:
    constraints = wanting().constraints
    info = vmo.ask(
        vmo=vmo.copy(),
        need_single_buffer_settings=True,
        constraints_to_check=constraints,
        vmo_settings_to_check=vmo.copy(0),
        vmo_settings_to_check_ignore_size=True,
    )
    assert isinstance(info, sysmem2.VmoInfo)
    assert info.single_buffer_settings == vmo.info.settings
    assert info.constraints_ok is True
    assert info.vmo_settings_match is True


def test_a_false_is_an_answer(vmo: Vmo) -> None:
    too_large = sysmem2.BufferCollectionConstraints(
        buffer_memory_constraints=sysmem2.BufferMemoryConstraints(min_size_bytes=1 << 20)
    )
    info = vmo.ask(vmo=vmo.copy(), constraints_to_check=too_large)
    assert isinstance(info, sysmem2.VmoInfo)
    assert info.constraints_ok is False


def test_a_weak_handle_with_its_event(vmo: Vmo, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[ClientInfo] = []
    make_weak = HandleInfo.make_weak

    def noting(known: HandleInfo, client: ClientInfo, payer: Payer) -> DeliveredBuffer:
        given.append(client)
        return make_weak(known, client, payer)

    monkeypatch.setattr(HandleInfo, "make_weak", noting)
    info = vmo.ask(vmo=vmo.copy(), need_weak=True)
    assert given == [ClientInfo("tester", 7)]
    assert isinstance(info, sysmem2.VmoInfo)
    assert info.weak_vmo is not None
    assert info.close_weak_asap is not None
    again = vmo.ask(vmo=info.weak_vmo.duplicate())
    assert isinstance(again, sysmem2.VmoInfo)
    assert again.weak_vmo is None
    assert again.close_weak_asap is not None
    for handle in (info.weak_vmo, info.close_weak_asap, again.close_weak_asap):
        handle.close()


def test_a_weak_handle_when_no_strong_one_is_left(vmo: Vmo) -> None:
    info = vmo.ask(vmo=vmo.copy(), need_weak=True)
    assert isinstance(info, sysmem2.VmoInfo)
    assert info.weak_vmo is not None
    assert info.close_weak_asap is not None
    vmo.collection.close()
    vmo.close()
    vmo.bench.run()
    vmo.bench.memory.process_events()
    assert vmo.ask(vmo=info.weak_vmo.duplicate(), need_weak=True) is (
        Error.NO_MORE_STRONG_VMO_HANDLES
    )
    assert "no strong handle to buffer 1" in vmo.bench.log.said("info")[-1][1]["reason"]
    info.weak_vmo.close()
    info.close_weak_asap.close()


@pytest.mark.parametrize(
    ("error", "unforeseen"),
    [(NoMemoryError("out"), False), (OSError("out"), False), (KeyError("oh"), True)],
    ids=["memory", "OSError", "unforeseen"],
)
def test_whatever_else_goes_wrong_is_unspecified(
    vmo: Vmo, monkeypatch: pytest.MonkeyPatch, error: Exception, unforeseen: bool
) -> None:
    def identify(*_: object) -> None:
        raise error

    monkeypatch.setattr(Memory, "identify", identify)
    assert vmo.ask(vmo=vmo.copy()) is Error.UNSPECIFIED
    fields = vmo.bench.log.refusal()
    assert fields["exc_info"] is unforeseen
    assert fields["client_name"] == "tester"
    monkeypatch.undo()
    assert isinstance(vmo.ask(vmo=vmo.copy()), sysmem2.VmoInfo)


def test_tokens_made_in_sync_are_tokens_to_turn_in(bench: Bench) -> None:
    allocator = bench.allocator()
    token = bench.token(allocator)
    request = sysmem2.CreateTokensRequest(rights_attenuation_masks=[0x80000000])
    answer = token.call(BufferCollectionToken.duplicate_sync, request)
    [child] = [bench.adopt(handle) for handle in answer.tokens]
    bench.bind(child, allocator).sync()


def test_a_token_that_is_no_channel_closes_the_allocator(bench: Bench) -> None:
    allocator = bench.allocator()
    client, far = bench.client()
    allocator.send(
        Allocator.bind_shared_collection,
        sysmem2.AllocatorBindSharedCollectionRequest(
            token=Handle(os.open(os.devnull, os.O_RDONLY)), buffer_collection_request=far
        ),
    )
    bench.run()
    assert allocator.is_closed()
    assert client.is_closed()
    reason = bench.log.refusal()["reason"]
    assert "$.token must be a SOCK_SEQPACKET Unix socket, not a character dev" in reason
