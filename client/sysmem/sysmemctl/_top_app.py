"""The screens of `sysmemctl top`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Resize
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from ._follower import Follower
from ._live import (
    COLLECTIONS,
    PARTICIPANTS,
    Column,
    Rates,
    Row,
    collection_rows,
    cut,
    fitting,
    ordered,
    participant_rows,
    summary,
)
from ._show import print_all
from ._source import ClientEnds, Data
from ._text import drawn
from ._why import sentences

#: Creates the follower. Its arguments are called with each snapshot, and with the reason when there is no daemon.
MakeFollower: TypeAlias = Callable[[Callable[[Data], object], Callable[[str], object]], Follower]
_STYLES: Final = {"negotiating": "yellow", "allocated": "green", "failing": "red"}


#: Columns for padding and a scroll bar.
_DETAIL_MARGIN: Final = 4


@dataclass(frozen=True)
class View:
    """The displayed content of a snapshot."""

    summary: str
    collections: list[Row]
    participants: list[Row]
    #: The open collection, and the function that prints it.
    opened: int | None = None
    detail: Callable[[Console], None] | None = None


@dataclass(frozen=True)
class Table:
    """One of the displayed tables."""

    columns: Sequence[Column]
    rows: Callable[[View], list[Row]]


_TABLES: Final = {
    "collections": Table(COLLECTIONS, lambda view: view.collections),
    "participants": Table(PARTICIPANTS, lambda view: view.participants),
}


_TABLE_ACTIONS: Final = {"sort", "reverse", "table"}


class Seen(Message):
    """A new snapshot is ready to be displayed."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self.view = view


class Lost(Message):
    """There is no daemon."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


class Detail(Screen[None]):
    """One collection."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace,enter", "app.shut", "back", key_display="Esc"),
        Binding("q", "app.quit", "quit"),
    ]

    def __init__(self, id: int) -> None:
        super().__init__()
        self.collection = id
        self._draw: Callable[[Console], None] | None = None

    def compose(self) -> ComposeResult:
        """Create the widgets; see textual."""
        with VerticalScroll():
            yield Static(Text("…"), id="detail")
        yield Footer()

    def see(self, draw: Callable[[Console], None]) -> None:
        """Display a collection with this function."""
        self._draw = draw
        width = max(20, self.size.width - _DETAIL_MARGIN)
        self.query_one("#detail", Static).update(drawn(width, draw))

    def on_resize(self, _: Resize) -> None:
        """Fit the content to the terminal."""
        if self._draw is not None:
            self.see(self._draw)


class Rows(DataTable[Text]):
    """The table."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select_cursor", "open")]


class Top(App[None]):
    """The application."""

    TITLE = "sysmemctl top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary { height: auto; padding: 0 1; text-style: bold; }
    #trouble { height: auto; padding: 0 1; background: $error; color: $text; display: none; }
    Rows { height: 1fr; }
    #detail { padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "quit", key_display="q"),
        Binding("s", "sort", "sort"),
        Binding("r", "reverse", "reverse"),
        Binding("p", "table('participants')", "participants"),
        Binding("c", "table('collections')", "collections"),
    ]

    def __init__(self, follow: MakeFollower) -> None:
        super().__init__()
        self._make_follower = follow
        self._follower: Follower | None = None
        self._rates = Rates()
        self._view: View | None = None
        self._table = "collections"
        #: For each table: the column that it is sorted by, and whether the order is descending.
        self._sorting = {"collections": (6, True), "participants": (6, True)}
        self._shown: list[Row] = []
        #: The open collection. The follower's thread reads it.
        self._opened: int | None = None

    def compose(self) -> ComposeResult:
        """Create the widgets; see textual."""
        yield Static(Text("…"), id="summary")
        yield Static(Text(), id="trouble")
        yield Rows(cursor_type="row", zebra_stripes=True)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to follow the daemon."""
        self._follower = self._make_follower(
            self._look, lambda reason: self.post_message(Lost(reason))
        )

    def on_unmount(self) -> None:
        """Stop following the daemon."""
        if self._follower is not None:
            self._follower.stop()

    # --- in the follower's thread -------------------------------------------------------------------------------------

    def _look(self, data: Data) -> None:
        """Compute what to display."""
        self._rates.see(data)
        ends = ClientEnds(data["collections"])
        opened = self._opened
        self.post_message(
            Seen(
                View(
                    summary(data, self._rates),
                    collection_rows(data, self._rates, ends),
                    participant_rows(data, self._rates, ends),
                    opened,
                    None if opened is None else _detail(data, opened, ends),
                )
            )
        )

    # --- display ----------------------------------------------------------------------------------------------------

    def on_seen(self, message: Seen) -> None:
        """Display the daemon's state."""
        self._view = message.view
        self._trouble("")
        self._show()
        screen = self.screen
        if isinstance(screen, Detail) and screen.collection == message.view.opened:
            assert message.view.detail is not None
            screen.see(message.view.detail)

    def on_lost(self, message: Lost) -> None:
        """Report that there is no daemon, and keep the last display."""
        self._trouble(f"no daemon, waiting for one: {message.reason}")

    def _trouble(self, text: str) -> None:
        shown = self.screen_stack[0].query_one("#trouble", Static)
        shown.update(Text(text))
        shown.display = bool(text)

    def _show(self) -> None:
        if self._view is None:
            return
        main = self.screen_stack[0]
        main.query_one("#summary", Static).update(Text(self._view.summary))
        table = main.query_one(Rows)
        kind = _TABLES[self._table]
        by, descending = self._sorting[self._table]
        at = self._shown[table.cursor_row].key if table.cursor_row < len(self._shown) else None
        scroll = table.scroll_y
        rows = self._shown = ordered(kind.rows(self._view), by, descending=descending)
        columns = fitting(kind.columns, rows, max(20, self.size.width - 2), cell_len)
        table.clear(columns=True)
        arrow = " ▼" if descending else " ▲"
        for i in columns:
            column = kind.columns[i]
            title = Text(column.title + (arrow if i == by else ""))
            table.add_column(title, key=str(i))
        for row in rows:
            table.add_row(*(_cell(kind.columns[i], row, i, self.size.width) for i in columns))
        position = next((i for i, row in enumerate(rows) if row.key == at), None)
        if position is not None:
            table.move_cursor(row=position, animate=False, scroll=False)
            table.scroll_to(y=scroll, animate=False)

    # --- keys ---------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer a table's actions only while the table is visible."""
        return not (isinstance(self.screen, Detail) and action in _TABLE_ACTIONS)

    def action_table(self, name: str) -> None:
        """Show the other table."""
        self._table = name
        self._show()

    def action_sort(self) -> None:
        """Sort by the next visible column."""
        table = self.query_one(Rows)
        shown = [int(str(key.value)) for key in table.columns]
        by, _ = self._sorting[self._table]
        later = [i for i in shown if i > by]
        if shown:
            self._sort_by(later[0] if later else shown[0])

    def action_reverse(self) -> None:
        """Reverse the order."""
        by, descending = self._sorting[self._table]
        self._sorting[self._table] = (by, not descending)
        self._show()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the clicked column, or reverse the order if it is sorted by that column."""
        column = int(str(event.column_key.value))
        if column == self._sorting[self._table][0]:
            self.action_reverse()
        else:
            self._sort_by(column)

    def _sort_by(self, column: int) -> None:
        self._sorting[self._table] = (column, _TABLES[self._table].columns[column].number)
        self._show()

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        """Open the collection of the selected row."""
        table = self.query_one(Rows)
        if table.cursor_row < len(self._shown):
            id = self._shown[table.cursor_row].collection
            self._opened = id
            self.push_screen(Detail(id))
            if self._follower is not None:
                self._follower.now()

    def action_shut(self) -> None:
        """Close the open collection."""
        self._opened = None
        self.pop_screen()

    def on_resize(self, _: Resize) -> None:
        """Choose the columns that fit."""
        self._show()


def _cell(column: Column, row: Row, index: int, width: int) -> Text:
    style = _STYLES.get(row.state, "") if column.title == "state" else ""
    text = cut(row.cells[index], min(32, max(8, width - 4)))
    return Text(text, style=style, justify="right" if column.number else "left", no_wrap=True)


def _detail(data: Data, id: int, ends: ClientEnds) -> Callable[[Console], None]:
    """Return the function that prints a collection."""
    living = [each for each in data["collections"] if each["id"] == id]
    ended = [each for each in data["ended"] if each["id"] == id]

    def draw(out: Console) -> None:
        for collection in living or ended:
            for line in sentences(collection, ends):
                out.print(line)
        for collection in living:
            out.print()
            print_all(out, collection, ends)
        if not (living or ended):
            out.print("This collection has ended, and the daemon no longer remembers it.")

    return draw
