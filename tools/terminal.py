"""Output for users: lines, and on a terminal also a spinner with the elapsed time, and a progress bar for uploads."""

import datetime
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, track

T = TypeVar("T")

console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(line: str = "", style: str = "") -> None:
    console.print(line, style=style)


@contextmanager
def waiting(text: str) -> Iterator[Callable[[], None]]:
    """Shows the text and the elapsed time while the block runs. Without a terminal, prints a line, and another whenever
    the block calls the function that this yields."""
    start = time.monotonic()

    def still() -> None:
        if not console.is_terminal:
            say(f"  [{datetime.timedelta(seconds=int(time.monotonic() - start))}] {text}")

    still()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        shown.add_task(text, total=None)
        yield still


def counted(items: list[T], text: str) -> Iterable[T]:
    return track(items, text, console=console, transient=True, disable=not console.is_terminal)
