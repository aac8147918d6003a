"""What a person sees while a run works: one live line on a terminal, a plain line every few seconds elsewhere.

Everything goes to stderr, so that stdout holds results only. Loops report events, plain mappings:

    {"node": "rl", "step": 12, "steps": 100, "loss/total": 0.03, "reward": 0.4, "num_tokens": 51200}   a step is done
    {"node": "rl", "step": 12, "steps": 100, "generated": (128, 512)}                                  at work in one
    {"node": "probe base", "task": "chain_sum", "generated": (128, 512)}                               outside any step
    {"note": "..."}                                                                                    a line that stays
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from offon.console import Unbroken

LIVE_EVERY_S = 0.1
PLAIN_EVERY_S = 5.0


def without_secrets(text: str) -> str:
    """A text as it is printed: without the password of an address."""
    if ":/" not in text or "@" not in text:
        return text
    from offon.runs.secrets import redact_text

    return redact_text(text)


class Progress:
    """Call it with events. `num_tokens` counts from the start of a node; rates and remaining time are over this
    session's part of the node, so that a resumed run does not credit itself with work done before."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        quiet: bool = False,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.stream = Unbroken(stream or sys.stderr)
        self.quiet, self.clock = quiet, clock
        self.live = self.stream.isatty() if live is None else live
        self._node: str | None = None
        self._start: tuple[float, int, float | None] = (0.0, 0, None)  # time, step, tokens
        self._shown_at = float("-inf")
        self._open = ""  # the live line on screen

    def __call__(self, event: Mapping[str, Any]) -> None:
        if note := event.get("note"):
            return self.say(note)
        now = self.clock()
        if event.get("node") != self._node:
            self._close_line()
            self._node, self._shown_at = event.get("node"), float("-inf")
            self._start = (now, event.get("step", 0), None)
        if self._start[2] is None and "num_tokens" in event:
            self._start = (now, event["step"], event["num_tokens"])
        last = event.get("step") is not None and event["step"] == event.get("steps") and "generated" not in event
        due = now - self._shown_at >= (LIVE_EVERY_S if self.live else PLAIN_EVERY_S)
        if not self.quiet and (due or last):
            self._shown_at = now
            self._show(self._line(event, now), stays=last)

    def say(self, text: str) -> None:
        """A line that stays, whatever the live line does. Quiet only silences progress, never words."""
        self._close_line()
        print(without_secrets(text), file=self.stream, flush=True)

    def close(self) -> None:
        self._close_line()

    def _line(self, event: Mapping[str, Any], now: float) -> str:
        parts = [str(event[name]) for name in ("node", "task") if event.get(name)]
        if event.get("steps"):
            width = len(str(event["steps"]))
            parts.append(f"{event['step']:>{width}}/{event['steps']}")
        if "generated" in event:
            done, total = event["generated"]
            parts.append(f"sampled {done}/{total}")
        for name, key in (("loss", "loss/total"), ("reward", "reward")):
            if event.get(key) is not None:
                parts.append(f"{name} {event[key]:.4g}")
        return "  ".join([*parts, *self._rates(event, now)])

    def _rates(self, event: Mapping[str, Any], now: float) -> list[str]:
        started, first_step, first_tokens = self._start
        elapsed, rates = now - started, []
        if elapsed > 0 and first_tokens is not None and event.get("num_tokens", 0) > first_tokens:
            rates.append(f"{brief(float(event['num_tokens'] - first_tokens) / elapsed)} tokens/s")
        done = (event.get("step") or 0) - first_step
        left = (event.get("steps") or 0) - (event.get("step") or 0)
        if done > 0 and left > 0 and elapsed > 0:
            rates.append(f"{duration(left * elapsed / done)} left")
        return rates

    def _show(self, line: str, *, stays: bool) -> None:
        if not self.live:
            print(line, file=self.stream, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        self.stream.write(f"\r{line[:width]}\x1b[K")
        self.stream.flush()
        self._open = line
        if stays:
            self._close_line()

    def _close_line(self) -> None:
        if self._open:
            self.stream.write("\n")
            self.stream.flush()
            self._open = ""


def brief(number: float) -> str:
    """950, 1.2k, 3.4M"""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """45s, 3m05s, 2h10m"""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"
