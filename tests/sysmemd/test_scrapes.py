"""`sysmemd --metrics`: the daemon's metrics over HTTP (`docs/spec/inspect.md`, "sysmemctl")."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
import trio
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain
from trio.testing import MockClock

from sysmem import blocking, sysmemctl
from sysmem_protocol.handles import Handle
from sysmem_protocol.metrics import OPENMETRICS, PLAIN
from sysmem_protocol.runtime import socket_address
from sysmem_protocol.sysmem2 import Error
from sysmemd.__main__ import configure, parser
from sysmemd.channels.errors import Failed
from sysmemd.config import ConfigError, MetricsAddress, parse
from sysmemd.scrapes import MAX_CONNECTIONS, MAX_SECONDS, PAUSE_SECONDS, Scrapes, prefers_plain
from sysmemd.sockets import Permissions, StartError, metrics_listener
from sysmemd.users import User

from ..wire.process import Daemon
from ..wire.raw import PATIENCE, until
from .recording import RecordingLog

#: The request that Prometheus 3 sends.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.fixture
def log() -> RecordingLog:
    return RecordingLog()


@contextlib.contextmanager
def scraped(directory: Path, address: str) -> Iterator[Daemon]:
    daemon = Daemon(directory, "--metrics", address)
    try:
        yield daemon
        daemon.assert_nothing_leaked()
        daemon.stop()
    finally:
        daemon.kill()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with scraped(tmp_path_factory.mktemp("d"), "127.0.0.1:0") as made:
        yield made


def address_of(daemon: Daemon) -> tuple[str, int]:
    url = daemon.wait_log(lambda line: line["event"] == "serving metrics")["url"]
    found = re.fullmatch(r"http://\[?([\d.:]+?)\]?:(\d+)/metrics", url)
    assert found is not None
    return found[1], int(found[2])


def request(
    daemon: Daemon, method: str = "GET", path: str = "/metrics", accept: str | None = None
) -> tuple[http.client.HTTPResponse, str]:
    connection = http.client.HTTPConnection(*address_of(daemon), timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request(method, path, headers={} if accept is None else {"Accept": accept})
        response = connection.getresponse()
        return response, response.read().decode()


@pytest.mark.parametrize("accept", [None, PROMETHEUS, "*/*"])
def test_it_is_the_text_that_sysmemctl_prints(
    daemon: Daemon, accept: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with blocking.connect(daemon.runtime_dir, name='"\n\\', id=1) as allocator:
        token = allocator.allocate_shared_collection()
        token.sync()
        response, text = request(daemon, accept=accept)
        assert sysmemctl.main(["metrics", "--runtime-dir", str(daemon.runtime_dir)]) == 0
        token.close()
    assert (response.status, response.headers["Content-Type"]) == (200, OPENMETRICS)
    assert series(text) == series(capsys.readouterr().out)
    families = {each.name: each for each in openmetrics.text_string_to_metric_families(text)}  # type: ignore[no-untyped-call] # the library has no types there
    assert families["sysmem_nodes"].samples[0].value == 1
    took = {
        sample.labels["method"]: sample.value
        for sample in families["sysmem_message_seconds"].samples
        if sample.name.endswith("_count")
    }
    assert took["Sync"] >= 1


def series(text: str) -> list[str]:
    """Return the lines without their values, and without the series that the request itself changes."""
    lines = (line for line in text.splitlines() if "Inspector" not in line)
    return [line if line.startswith("#") else line.rpartition(" ")[0] for line in lines]


def test_who_asks_for_the_older_format_gets_it(daemon: Daemon) -> None:
    response, text = request(daemon, accept="text/plain;version=0.0.4")
    assert (response.status, response.headers["Content-Type"]) == (200, PLAIN)
    assert "sysmem_messages" in {family.name for family in parse_plain(text)}


@pytest.mark.parametrize(
    ("accept", "plain"),
    [
        ("", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("text/plain", True),
        ("text/*;q=0.5, */*;q=0.1", True),
        ("text/plain;q=0.5,application/openmetrics-text;q=0.6", False),
        ("application/openmetrics-text;q=0, */*", True),
        ("text/plain;q=nonsense,;,", False),
        ("text/plain;q=0.9,text/plain;q=0.1,application/openmetrics-text;q=0.5", True),
    ],
)
def test_the_format_is_the_one_that_is_preferred(accept: str, plain: bool) -> None:
    assert prefers_plain(accept) is plain


def test_head_has_the_headers_alone(daemon: Daemon) -> None:
    response, text = request(daemon, "HEAD", "/metrics?x=y")
    assert (response.status, text) == (200, "")
    assert int(response.headers["Content-Length"]) > 1000


def test_only_what_was_asked_for_is_sent(daemon: Daemon) -> None:
    for method, headers, kind in (
        (b"HEAD", b"Z: text/plain", OPENMETRICS),
        (b"GET", b"Z: text/plain", OPENMETRICS),
        (b"GET", b"Accept: text/plain", PLAIN),
    ):
        with socket.create_connection(address_of(daemon), PATIENCE) as scraper:
            scraper.sendall(method + b" /metrics HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n\r\n")
            with scraper.makefile("rb") as answer:
                head, _, body = answer.read().partition(b"\r\n\r\n")
        assert bool(body) is (method == b"GET")
        status, *fields = head.decode().split("\r\n")
        assert status == "HTTP/1.1 200 OK"
        assert {f"Content-Type: {kind}", "Vary: Accept", "Connection: close"} < set(fields)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("POST", "/metrics", 405), ("GET", "//[", 400)],
)
def test_there_is_nothing_else(daemon: Daemon, method: str, path: str, status: int) -> None:
    response, text = request(daemon, method, path)
    assert response.status == status
    assert text
    assert response.headers["Allow"] == ("GET, HEAD" if status == 405 else None)
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x00\xff\r\n\r\n", b"GET /metrics HTTP/1.1\r\nX: " + 65536 * b"x"]
)
def test_garbage_is_refused(daemon: Daemon, sent: bytes) -> None:
    with socket.create_connection(address_of(daemon), PATIENCE) as scraper:
        scraper.sendall(sent)
        assert re.match(rb"HTTP/1.1 4\d\d ", scraper.recv(4096))
    daemon.assert_log_is_sound()


def test_scrapers_that_do_nothing_are_few_and_hold_up_nobody(daemon: Daemon) -> None:
    """Some clients never send a request, one never reads its response, and many more wait. The daemon continues."""
    with contextlib.ExitStack() as stack:
        for _ in range(20 * MAX_CONNECTIONS):
            scraper = stack.enter_context(socket.create_connection(address_of(daemon), PATIENCE))
            scraper.sendall(b"GET /met")
        before = len(daemon.descriptors())
        with blocking.connect(daemon.runtime_dir) as allocator:
            allocator.allocate_shared_collection().close()
            allocator.validate_buffer_collection_token(0)
        assert before <= len(daemon.baseline) + MAX_CONNECTIONS
    response, _ = request(daemon)
    assert response.status == 200


@contextlib.contextmanager
def served(nursery: trio.Nursery, inspection: Any, log: RecordingLog) -> Iterator[tuple[str, int]]:
    """Serve scrapes within the block. Yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        scrapes = Scrapes(inspection, log)
        nursery.start_soon(scrapes.serve, trio.socket.from_stdlib_socket(listener))
        yield listener.getsockname()
        nursery.cancel_scope.cancel()


class Silent:
    """An inspection that answers too late."""

    def __init__(self) -> None:
        self.asked: list[Callable[[Handle], None]] = []

    def metrics(self, user: User, done: Callable[[Handle], None], *, plain: bool) -> None:
        self.asked.append(done)


@pytest.mark.trio
@pytest.mark.parametrize("sent", [b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /met"])
async def test_a_connection_lasts_a_bounded_time(
    nursery: trio.Nursery, autojump_clock: MockClock, log: RecordingLog, sent: bytes
) -> None:
    inspection = Silent()
    with served(nursery, inspection, log) as address:
        async with await trio.open_tcp_stream(*address) as scraper:
            await scraper.send_all(sent)
            assert await scraper.receive_some() == b""
        assert MAX_SECONDS <= trio.current_time() < 2 * MAX_SECONDS
        for done in inspection.asked:
            late = Handle(os.memfd_create("late"))
            done(late)
            assert late.closed
    assert log.entries == []


@pytest.mark.trio
async def test_a_fault_of_ours_is_logged_and_ends_that_connection_alone(
    nursery: trio.Nursery, autojump_clock: MockClock, log: RecordingLog
) -> None:
    class Faulty:
        def metrics(self, user: User, done: Callable[[Handle], None], *, plain: bool) -> None:
            raise KeyError("oh")

    with served(nursery, Faulty(), log) as address:
        for _ in range(MAX_CONNECTIONS + 1):
            async with await trio.open_tcp_stream(*address) as scraper:
                await scraper.send_all(b"GET /metrics HTTP/1.0\r\n\r\n")
                assert await scraper.receive_some() == b""
    failed = ("metrics could not be served", {"reason": "KeyError('oh')", "exc_info": True})
    assert log.said("error") == [failed] * (MAX_CONNECTIONS + 1)


@pytest.mark.trio
async def test_accepting_goes_on_once_a_shortage_is_over(
    autojump_clock: MockClock, log: RecordingLog
) -> None:
    failures: list[Any] = [OSError("no descriptor left")] * 3
    accept = AsyncMock(side_effect=[*failures, ("scraper", "")])
    scrapes = Scrapes(Silent(), log)  # type: ignore[arg-type] # all that it asks
    began = trio.current_time()
    accepted: Any = await scrapes._accept(Mock(accept=accept))
    assert (accepted, round(trio.current_time() - began)) == ("scraper", 3)
    assert len(log.said("error")) == 3


@pytest.mark.trio
async def test_however_many_ask_the_daemon_answers_only_so_many_a_second(
    nursery: trio.Nursery, autojump_clock: MockClock, log: RecordingLog
) -> None:
    class Failing:
        def metrics(self, user: User, done: Callable[[Failed], None], *, plain: bool) -> None:
            done(Failed(Error.UNSPECIFIED, "no"))

    with served(nursery, Failing(), log) as address:
        for _ in range(50):
            async with await trio.open_tcp_stream(*address) as scraper:
                await scraper.send_all(b"GET /metrics HTTP/1.0\r\n\r\n")
                assert (await scraper.receive_some()).startswith(b"HTTP/1.1 503 ")
                assert await scraper.receive_some() == b""
        assert 49 * PAUSE_SECONDS <= trio.current_time() < MAX_SECONDS


def test_what_follows_a_request_does_not_reset_the_connection(daemon: Daemon) -> None:
    with socket.create_connection(address_of(daemon), PATIENCE) as scraper:
        scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with scraper.makefile("rb") as response:
            assert response.read().endswith(b"# EOF\n")
        for _ in range(15):
            scraper.sendall(bytes(4096))
        assert scraper.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


@pytest.mark.trio
async def test_what_follows_a_request_is_not_read_without_end(
    nursery: trio.Nursery, log: RecordingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send_on() -> None:
        while True:
            await scraper.send_all(bytes(4096))

    monkeypatch.setattr("sysmemd.scrapes.MAX_SECONDS", 10 * PATIENCE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        scrapes = Scrapes(Silent(), log)  # type: ignore[arg-type] # all that it asks
        nursery.start_soon(scrapes.serve, trio.socket.from_stdlib_socket(listener))
        async with await trio.open_tcp_stream(*listener.getsockname()) as scraper:
            await scraper.send_all(b"GET / HTTP/1.0\r\n\r\n")
            with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
                await send_on()
        nursery.cancel_scope.cancel()
    assert log.entries == []


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 30])
def test_a_unix_socket_is_for_those_who_may_inspect_and_is_removed(
    tmp_path: Path, depth: int
) -> None:
    directory = tmp_path.joinpath(*["directory"] * depth)
    directory.mkdir(parents=True)
    path = directory / "metrics"
    with socket.socket(socket.AF_UNIX) as stale, socket_address(path) as address:
        stale.bind(address)
    with scraped(tmp_path / "d", f"unix:{path}") as daemon:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as scraper, socket_address(path) as address:
            scraper.settimeout(PATIENCE)
            scraper.connect(address)
            scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            received = b""
            while more := scraper.recv(65536):
                received += more
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert received.endswith(b"# EOF\n")
        told = daemon.wait_log(lambda line: line["event"] == "serving metrics")
        assert told["url"] == f"unix:{path}"
        second = start(tmp_path / "second", f"unix:{path}")
        assert "another process already listens" in second.stderr
    assert not path.exists()


def test_a_unix_socket_that_is_removed_is_made_again(tmp_path: Path) -> None:
    """This includes its directory. The service sockets stay unchanged meanwhile."""
    path = tmp_path / "metrics" / "socket"
    path.parent.mkdir()
    with scraped(tmp_path / "d", f"unix:{path}") as daemon:
        for times in (2, 3):
            shutil.rmtree(path.parent) if times == 2 else path.unlink()
            daemon.wait_log(lambda line: line.get("path") == str(path))
            path.parent.mkdir(exist_ok=True)
            for _ in until():
                served = [line for line in daemon.log() if line["event"] == "serving metrics"]
                if len(served) == times:
                    break
            with socket.socket(socket.AF_UNIX) as scraper:
                scraper.settimeout(PATIENCE)
                scraper.connect(str(path))
                scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                assert scraper.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        daemon.observer.sync()
    assert not path.exists()


def test_metrics_that_can_not_be_served_any_more_end_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    with scraped(tmp_path / "d", f"unix:{path}") as daemon:
        other = tmp_path / "other"
        with socket.create_server(str(other), family=socket.AF_UNIX):
            other.rename(path)
            told = daemon.wait_log(
                lambda line: (
                    line["event"]
                    == "metrics are no longer served: their socket cannot be recreated"
                )
            )
            assert "another process already listens" in told["reason"]
            daemon.observer.sync()
            daemon.baseline = daemon.descriptors()
        assert path.exists()


def test_ipv6(tmp_path: Path) -> None:
    with scraped(tmp_path, "[::1]:0") as daemon:
        assert request(daemon)[0].status == 200


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("0.0.0.0:9100", "is not a loopback address"),
        ("[::]:9100", "is not a loopback address"),
        ("192.0.2.1:9100", "is not a loopback address"),
        ("example.com:9100", "is invalid"),
        ("127.0.0.1", "has no port"),
        ("127.0.0.1:65536", "has no port"),
    ],
)
def test_what_is_no_address_of_this_machine_alone_is_refused(address: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as refused:
        configure(parser().parse_args(["--metrics", address]))
    assert "127.0.0.1:9100" in str(refused.value)


def test_a_unix_socket_needs_a_path() -> None:
    with pytest.raises(ConfigError, match="has no path"):
        parse('[metrics]\naddress = "unix:"')
    with (
        pytest.raises(StartError, match="/no/such/metrics: can't listen"),
        metrics_listener(MetricsAddress.parse("unix:/no/such/metrics"), Permissions()),
    ):
        pass


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        started = start(tmp_path, f"localhost:{port}")
    assert started.returncode == 1
    assert f"at 127.0.0.1 port {port}: " in started.stderr
    assert "Address already in use" in started.stderr


def start(directory: Path, address: str) -> subprocess.CompletedProcess[str]:
    """Try to start a daemon that can't start."""
    command = [sys.executable, "-m", "sysmemd", "--runtime-dir", str(directory / "run")]
    return subprocess.run(
        [*command, "--metrics", address],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
