"""`sysmemctl top`: the table follows the daemon. textual's pilot operates it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from sysmem import blocking
from sysmem._inspector import Inspector
from sysmem.sysmemctl._follower import Follower, _drain
from sysmem.sysmemctl._live import COLLECTIONS, PARTICIPANTS, Rates, Row, fitting, ordered
from sysmem.sysmemctl._source import ClientEnds
from sysmem.sysmemctl._text import drawn
from sysmem.sysmemctl._top_app import Detail, Top, _detail
from sysmem.testing import Sysmemd

from .conftest import Held

PATIENCE = 120.0


def played(
    runtime_dir: Path, play: Callable[[Top, Pilot[None]], Awaitable[None]], columns: int = 120
) -> None:
    """Run the application against a daemon, and operate it."""

    async def run() -> None:
        top = Top(lambda seen, lost: Follower(str(runtime_dir), 5.0, seen, lost, interval=0.3))
        async with top.run_test(size=(columns, 30)) as pilot:
            await play(top, pilot)

    asyncio.run(run())
    assert "follower" not in {thread.name for thread in threading.enumerate()}


async def until(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        await pilot.pause(0.02)


def rows(top: Top) -> list[list[str]]:
    table = top.screen_stack[0].query_one(DataTable)
    return [[str(cell) for cell in table.get_row_at(i)] for i in range(table.row_count)]


def titles(top: Top) -> list[str]:
    table = top.screen_stack[0].query_one(DataTable)
    return [str(column.label) for column in table.columns.values()]


def names(top: Top) -> list[str]:
    return [row[0] for row in rows(top)]


def text(top: Top, selector: str) -> str:
    return str(top.screen.query_one(selector, Static).render())


def test_collections_and_who_is_waited_for(sysmemd: Sysmemd, collections: Held) -> None:
    async def play(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: len(rows(top)) >= 2)
        by_name = {row[0]: dict(zip(titles(top), row, strict=True)) for row in rows(top)}
        assert by_name["hanging"]["state"] == "negotiating"
        assert f"[{os.getpid()}]" in by_name["hanging"]["waits for"]
        assert by_name["allocated"]["memory ▼"] == "128 KiB"
        assert "messages/s" in text(top, "#summary")
        rate = titles(top).index("messages/s")
        await until(
            pilot, lambda: [row[rate] for row in rows(top) if row[0] == "allocated"] == ["0"]
        )

    played(sysmemd.runtime_dir, play, columns=200)


def test_participants_and_sorting(sysmemd: Sysmemd, collections: Held) -> None:
    async def play(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: len(rows(top)) >= 2)
        largest_first = names(top)
        assert largest_first[0] == "allocated"
        await pilot.press("r")
        assert names(top) == largest_first[::-1]
        await pilot.press("p")
        await until(pilot, lambda: "camera (7)" in names(top))
        assert "display (8)" in names(top)
        while not titles(top)[0].endswith("▲"):
            await pilot.press("s")
        assert names(top) == sorted(names(top))

    played(sysmemd.runtime_dir, play)


def test_one_is_opened_and_closed_and_the_program_quits(
    sysmemd: Sysmemd, collections: Held
) -> None:
    async def play(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "hanging" in names(top))
        top.screen.query_one(DataTable).move_cursor(row=names(top).index("hanging"))
        await pilot.press("enter")
        await until(pilot, lambda: "must turn in its token" in text(top, "#detail"))
        assert "min_size_bytes" in text(top, "#detail")
        collections.token.close()
        await until(pilot, lambda: "failed at" in text(top, "#detail"))
        await pilot.press("escape")
        assert not isinstance(top.screen, Detail)
        await pilot.press("q")
        await until(pilot, lambda: top.return_code == 0)

    played(sysmemd.runtime_dir, play)


def test_all_that_has_happened_is_read(sysmemd: Sysmemd) -> None:
    with Inspector.connect(sysmemd.runtime_dir) as inspector, inspector.watch() as events:
        inspector.snapshot()
        _drain(events)
        with pytest.raises(TimeoutError):
            events.next(0)


def test_a_click_on_a_title_sorts_and_the_cursor_keeps_its_row(
    sysmemd: Sysmemd, collections: Held
) -> None:
    async def play(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: len(rows(top)) >= 2)
        table = top.screen.query_one(DataTable)

        def click(title: str) -> None:
            [key] = [
                key for key, each in table.columns.items() if str(each.label).startswith(title)
            ]
            label = table.columns[key].label
            top.on_data_table_header_selected(DataTable.HeaderSelected(table, key, 0, label))

        click("name")
        assert titles(top)[0] == "name ▲"
        assert names(top) == sorted(names(top))
        table.move_cursor(row=1)
        second = names(top)[1]
        click("name")
        assert titles(top)[0] == "name ▼"
        assert names(top) == sorted(names(top), reverse=True)
        assert names(top)[table.cursor_row] == second
        click("memory")
        assert [title for title in titles(top) if "▼" in title] == ["memory ▼"]
        for _ in titles(top):  # through all columns, and back to this one
            await pilot.press("s")
        assert [title for title in titles(top) if "▼" in title] == ["memory ▼"]
        assert top.check_action("sort", ())
        table.move_cursor(row=names(top).index("hanging"))
        await pilot.press("enter")
        await until(pilot, lambda: "must turn in its token" in text(top, "#detail"))
        assert not top.check_action("sort", ())
        assert top.check_action("quit", ())

    played(sysmemd.runtime_dir, play)


def test_a_daemon_that_is_restarted_is_followed_again(sysmemd: Sysmemd) -> None:
    async def play(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: f"[{sysmemd.pid}]" in text(top, "#summary"))
        sysmemd.stop()
        await until(pilot, lambda: "no daemon, waiting for one" in text(top, "#trouble"))
        await asyncio.to_thread(sysmemd.start)
        await until(pilot, lambda: f"[{sysmemd.pid}]" in text(top, "#summary"))
        assert not top.screen.query_one("#trouble").display

    played(sysmemd.runtime_dir, play)


def test_a_daemon_that_hangs_does_not_keep_the_program_from_ending(sysmemd: Sysmemd) -> None:
    follower = Follower(str(sysmemd.runtime_dir), None, lambda _: sysmemd.faults.pause(), print)
    with blocking.connect(sysmemd.runtime_dir):
        follower.now()
        follower.stop()
        follower.stop()
        follower.now()
    sysmemd.faults.resume()


@pytest.mark.parametrize("columns", [80, 40])
def test_it_fits_a_narrow_terminal_and_shows_no_markup_or_control(
    sysmemd: Sysmemd, columns: int
) -> None:
    hostile = "[red]\x1b[2J\nx" + 50 * "y"

    async def play(top: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: len(rows(top)) == 1)
        [[name, *_]] = rows(top)
        assert name.startswith(r"[red]\x1b[2J\nxyyy")
        assert name.endswith("…")
        table = top.screen.query_one(DataTable)
        assert table.virtual_size.width <= columns
        await pilot.press("p")
        await until(pilot, lambda: names(top)[0].startswith("[bold]"))
        await pilot.press("enter")
        await until(pilot, lambda: "[red]" in text(top, "#detail"))
        assert "\x1b" not in text(top, "#detail")

    with blocking.connect(sysmemd.runtime_dir, name="[bold]\x1b[1m", id=1) as allocator:
        token = allocator.allocate_shared_collection()
        token.set_name(1, hostile)
        token.sync()
        with token:
            played(sysmemd.runtime_dir, play, columns)


# --- without a terminal -----------------------------------------------------------------------------------------------


def test_columns_are_left_out_by_rank() -> None:
    one = Row("1", 1, ("a name", "1", "negotiating", "1 s", "2", "–", "0 B", "1", "who"), (), "")
    titled = [
        [COLLECTIONS[i].title for i in fitting(COLLECTIONS, [one], width)] for width in (200, 40, 1)
    ]
    assert titled == [
        [column.title for column in COLLECTIONS],
        ["name", "state", "memory", "messages/s"][:3],
        ["name"],
    ]
    assert len(PARTICIPANTS) == len({column.rank for column in PARTICIPANTS})


def test_not_more_rows_than_anybody_reads() -> None:
    many = [Row(str(i), i, (), (i,), "") for i in range(1000)]
    assert [row.key for row in ordered(many, 0, descending=True)][:2] == ["999", "998"]
    assert len(ordered(many, 0, descending=False)) == 500


def test_an_open_collection_may_end_and_be_forgotten() -> None:
    ended = [{"id": n, "name": "x", "how": "released", "ended": "now"} for n in (4, 5, 6)]
    gone: dict[str, Any] = {
        "collections": [],
        "ended": [{**each, "waiting_for": []} for each in ended],
    }
    for id, told in (
        (5, "x (5) ended at now: all participants are gone, as planned."),
        (7, "This collection has ended, and the daemon no longer remembers it."),
    ):
        assert drawn(80, _detail(gone, id, ClientEnds([]))).plain.strip() == told


def test_rates_are_of_one_daemon() -> None:
    at = iter([10.0, 12.0, 14.0])
    rates = Rates(lambda: next(at))

    def snapshot(pid: int, messages: int) -> dict[str, object]:
        node = {"number": 3, "received": messages, "sent": 0}
        return {
            "daemon": {"pid": pid, "started": "now"},
            "counters": {"messages": {"in": messages, "out": messages}},
            "collections": [{"id": 1, "nodes": [node]}],
        }

    rates.see(snapshot(1, 100))
    assert rates.of(None) is None
    rates.see(snapshot(1, 110))
    assert (rates.of(None), rates.of((1, 3)), rates.of((1, 4))) == (10.0, 5.0, None)
    rates.see(snapshot(2, 5))
    assert rates.of(None) is None
