"""Whoever steers a replay: lines from the keyboard, and signals."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading

import click

from agents.cli.output import echo_json
from agents.cli.replay_bar import ReplayBar
from streams.days.replay import Replay
from streams.days.report import Pause

PAUSE_SIGNAL = signal.SIGUSR1


class Steering:
    """Pauses, steps and ends a replay.

    SIGUSR1 pauses, and goes on. While it is paused: Enter goes on, a number goes so many rows on and pauses again, q
    ends. Ctrl-C and SIGTERM end it in order; a second one at once.

    Args:
        step: rows from one pause to the next; None = only where the user says.
        bar: what is drawn meanwhile; it makes way for a pause.
    """

    def __init__(self, *, step: int | None, as_json: bool, bar: ReplayBar) -> None:
        self._step, self._as_json, self._bar = step, as_json, bar
        self._replay: Replay | None = None
        self._paused = False
        self._words: asyncio.Queue[str] = asyncio.Queue()
        self._reading = False

    def attach(self, replay: Replay) -> None:
        """Hear signals for this replay, from inside the loop that runs it."""
        self._replay = replay
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(PAUSE_SIGNAL, self._toggle)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end, number)

    async def on_pause(self, pause: Pause) -> int | None:
        """Tell of the pause and wait, without a limit: whoever paused decides."""
        with self._bar.hidden():
            return await self._answer(pause)

    async def _answer(self, pause: Pause) -> int | None:
        if self._as_json:
            echo_json({"paused_at": pause.seq, "offsets": {str(p): offset for p, offset in pause.offsets.items()}})
        else:
            click.echo(f"paused at {pause.seq}: Enter goes on, a number goes so many rows on, q ends")
        self._paused = True
        try:
            while True:
                self._read()
                word = (await self._words.get()).strip()
                if word == "q":
                    self._stop()
                    return None
                if not word:
                    return self._step
                if word.isdecimal() and int(word):
                    return int(word)
                click.echo(f"{word!r} is neither a number above 0 nor q", err=True)
        finally:
            self._paused = False

    def _read(self) -> None:
        """Wait for a line, in a thread that nobody waits for: a signal may come first, and no line ever."""
        if self._reading:
            return
        self._reading, loop = True, asyncio.get_running_loop()

        def read() -> None:
            line = sys.stdin.readline()
            loop.call_soon_threadsafe(self._heard, line)

        threading.Thread(target=read, daemon=True).start()

    def _heard(self, line: str) -> None:
        self._reading = not line  # at its end nobody will ever type again: only a signal goes on then
        if line:
            self._words.put_nowait(line)

    def _toggle(self) -> None:
        if self._paused:
            self._words.put_nowait("")
        elif self._replay is not None:
            self._replay.pause()

    def _end(self, number: signal.Signals) -> None:
        asyncio.get_running_loop().remove_signal_handler(number)
        self._stop()
        if self._paused:
            self._words.put_nowait("q")

    def _stop(self) -> None:
        if self._replay is not None:
            self._replay.stop()
