"""Calls of the client, each interrupted at every place where that can happen: `python -m tests.sysmem.interrupted WAY`.

A way consists of a face of the client, the kind of interrupt, and the places where it comes:

- `blocking`: a KeyboardInterrupt at every place of our code (:mod:`.places`);
- `trio`, `asyncio`: the same in tasks. Real signals, which trio holds back where it is not to be interrupted itself;
- `trio-pending`: SIGINT just before, or after, each step of a task; trio raises it at the next checkpoint;
- `trio-cancelled`, `asyncio-cancelled`: a cancellation there;
- `blocking-closing`, `blocking-releasing`, `trio-closing`, `asyncio-closing`: a handler at every place that closes or
  releases the node or event on which the call is made.

After each interrupt no descriptor may be left that nobody owns, another task that waits on the same object must get its
answer, and a token has moved or it hasn't. This is a program, because our modules are rewritten in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import inspect
import itertools
import signal
import sys
import traceback
import warnings
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any

from .places import at_every_place, rewrite

rewrite()

import anyio  # noqa: E402  # after that, like all that follows
import sniffio  # noqa: E402
import trio  # noqa: E402

import sysmem  # noqa: E402
from sysmem_protocol.sysmem2 import Node  # noqa: E402

from ..conftest import open_descriptors  # noqa: E402
from .interruptible import ASYNC, BLOCKING, CASES, PATIENCE, Case, Peer, Trial  # noqa: E402

# --- ways to interrupt --------------------------------------------------------------------------------------------


def interrupt() -> None:
    """Send the signal that Ctrl-C sends."""
    signal.raise_signal(signal.SIGINT)


class AtStep:
    """Performs an action just before or after the step of a task with this number.

    A step ends when the task gives way.
    """

    def __init__(self, number: int) -> None:
        self.done = False
        self.where = f"{'after' if number % 2 else 'before'} step {number // 2}"
        self.act: Callable[[], None] = interrupt
        self._left = number

    def __enter__(self) -> AtStep:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    # trio delays a signal that arrives in protected code.
    @trio.lowlevel.enable_ki_protection
    def _pass_by(self) -> None:
        self._left -= 1
        if self._left == -1:
            self.done = True
            self.act()

    async def watch(self, made: Awaitable[Any]) -> Any:
        """Await an awaitable in steps."""
        return await _Steps(made, self._pass_by)


class _Steps:
    def __init__(self, made: Awaitable[Any], pass_by: Callable[[], None]) -> None:
        self._made = made
        self._pass_by = pass_by

    def __await__(self) -> Generator[Any, Any, Any]:
        steps: Any = self._made.__await__()
        resume, value = steps.send, None
        while True:
            try:
                given = resume(value)
            except StopIteration as end:
                return end.value
            self._pass_by()
            try:
                value = yield given
                resume = steps.send
            except BaseException as error:
                value, resume = error, steps.throw
            self._pass_by()


def at_every_step() -> Iterator[AtStep]:
    """Yield an object for each step of an awaitable, which performs an action there. End after the last step."""
    for number in itertools.count():
        at = AtStep(number)
        yield at
        if not at.done:
            return


# --- doing it -----------------------------------------------------------------------------------------------------


def in_blocking(case: Case, given: Any, at: Any) -> Any:
    """Make the call."""
    with contextlib.suppress(*INTERRUPTS), at:
        return case.call(given)


async def in_task(case: Case, given: Any, at: Any, cancels: bool, peer: Peer | None) -> Any:
    """Make the call in a task. Another task may wait on the same object meanwhile."""
    result = None
    with anyio.fail_after(PATIENCE / 4):
        async with anyio.create_task_group() as group:
            answered = anyio.Event()
            if peer is not None:
                group.start_soon(wait_too, given, answered)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(peer.serve)
            with contextlib.suppress(*INTERRUPTS), anyio.CancelScope() as scope, at:
                if cancels:
                    task = sniffio.current_async_library() == "asyncio" and asyncio.current_task()
                    at.act = task.cancel if task else scope.cancel
                result = case.call(given)
                if inspect.isawaitable(result):
                    made, result = result, None
                    result = await (at.watch(made) if isinstance(at, AtStep) else made)
                await anyio.lowlevel.checkpoint()  # the last place of a cancellation
            if cancels and task:
                task.uncancel()
            # trio delays an interrupt in a finalizer, and asyncio a second cancellation.
            with contextlib.suppress(*INTERRUPTS):
                await anyio.lowlevel.checkpoint()
            if peer is not None:
                await answered.wait()
                group.cancel_scope.cancel()
    return result


#: The exceptions with which an interrupt or a handler ends a call. trio's cancellations end at their scope.
INTERRUPTS = (
    KeyboardInterrupt,
    InterruptedError,
    asyncio.CancelledError,
    sysmem.HandleClosedError,
)


async def wait_too(given: Any, answered: anyio.Event) -> None:
    """Wait for the response to a Sync on an object that may be closed or interrupted meanwhile."""
    with contextlib.suppress(*INTERRUPTS):
        await given.sync()
    answered.set()


def run_trio(*arguments: Any) -> Any:
    """Make the call in trio's main task."""
    return trio.run(in_task, *arguments)


def run_asyncio(*arguments: Any) -> Any:
    """Make the call in a loop of asyncio that leaves signals to Python."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(in_task(*arguments))
    finally:
        loop.close()


#: The functions that make calls in tasks.
LOOPS: dict[str, Callable[..., Any]] = {"trio": run_trio, "asyncio": run_asyncio}
#: The actions of handlers that raise nothing.
ENDINGS = {"closing": "close", "releasing": "release"}


def trials(way: str, name: str, others: bool) -> Iterator[str | None]:
    """Make a call once for each place at which it can be interrupted. Yield the error for each interrupt, or None."""
    case = CASES[name]
    face, _, how = way.partition("-")
    run = LOOPS.get(face)
    cancels = how == "cancelled"
    ending = ENDINGS.get(how)

    def end() -> None:
        with contextlib.suppress(sysmem.HandleClosedError):  # the call has closed it already
            getattr(given, ending or "")()

    for at in (
        at_every_place(end, raises=False)
        if ending
        else at_every_step()
        if how
        else at_every_place(interrupt)
    ):
        before = open_descriptors()
        wrong = None
        with Trial(BLOCKING if run is None else ASYNC, others=others) as trial:
            given = case.prepare(trial)
            made = None
            if ending and not (hasattr(given, ending) and hasattr(given, "wait_closed")):
                return  # memory and streams do not define what follows
            try:
                if run is None:
                    made = in_blocking(case, given, at)
                else:
                    made = run(case, given, at, cancels, trial.peer if others else None)
                if cancels:
                    assert case.whole(given, made), "it is half done"
                if ending == "release" and trial.peer and name not in ("close", "release"):
                    given.close()
                    released = Node.release.ordinal in trial.peer.drain()
                    assert released == at.done, "it is released, or it isn't"
                close(made)
            except KeyboardInterrupt:
                assert at.done  # trio delayed the interrupt until everything was done
            except (Exception, BaseExceptionGroup) as error:
                wrong = "".join(traceback.format_exception(error))
            made = given = None
        if wrong is None:
            after = open_descriptors().items()
            left = [what for fd, what in after if before.get(fd) != what]
            wrong = f"left open: {left}" if left else None
        if at.done or wrong:
            yield wrong and f"{name}{' beside another task' * others}, {at.where}: {wrong}"
        if wrong:
            return


def close(made: Any) -> None:
    """Close the result of a call."""
    for each in made if isinstance(made, list | tuple) else [made]:
        ending = getattr(each, "close", None) or getattr(each, "release", None)
        if ending is not None:
            ending()


def main() -> int:
    """Interrupt all calls, or those with the given names, in one way. The exit status is 1 if there was an error."""
    way, *names = sys.argv[1:]
    in_tasks = way.partition("-")[0] in LOOPS
    faulthandler.enable()
    warnings.simplefilter("ignore")  # objects that an interrupt drops are closed, and may warn
    sys.unraisablehook = lambda _: None  # an exception in a finalizer is only reported
    wrong: list[str] = []
    total = 0
    for name in names or CASES:
        case = CASES[name]
        for others in (False, True) if case.shared and in_tasks else (False,):
            faulthandler.dump_traceback_later(4 * PATIENCE, exit=True)
            count = 0
            for found in trials(way, name, others):
                count += 1
                if found:
                    wrong.append(found)
            total += count
            print(f"{count:5} {name}{' beside another task' * others}", flush=True)
    print(*wrong, sep="\n")
    print(f"{total} interrupts, {len(wrong)} of {len(names or CASES)} calls were wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
