"""Early ends: signals (the first asks a run to stop where nothing is lost, the second stops it), and the machine's."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from offon.errors import OffonError, OutOfMemory, Signalled
from offon.recipe import TrainNode
from offon.recipe.resolved import Node
from offon.runs import RunDirectory

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Call it to ask whether somebody wants the run to end; `exit_code` is then that of the first signal."""

    def __init__(self) -> None:
        self._asked: list[int] = []

    def __call__(self) -> bool:
        return bool(self._asked)

    @property
    def exit_code(self) -> int:
        return 128 + (self._asked or [signal.SIGINT])[0]

    def ask(self, number: int, frame: Any) -> None:
        if self._asked and number != signal.SIGHUP:  # a terminal that closes hangs up more than once
            raise Signalled(number)
        self._asked.append(number)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Within it the first SIGINT, SIGTERM or SIGHUP asks the run to stop after its step; the second stops at once.

    A signal that whoever started the run had ignored (`nohup` does it to SIGHUP) stays ignored.
    """
    stop, before = Stop(), {}
    for number in SIGNALS:
        if signal.getsignal(number) == signal.SIG_IGN:
            continue
        try:
            before[number] = signal.signal(number, stop.ask)
        except ValueError:  # not the main thread: the caller handles signals
            break
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def of_the_node(error: OffonError, node: Node, run: RunDirectory) -> None:
    """Complete an error of the machine (no memory, no room on the disk): at which node and step, what to change, and
    what is kept."""
    now = run.status()
    step = f", step {now.get('step', 0)} of {now['steps']}" if now.get("node") == node.name and now.get("steps") else ""
    error.where = f"{node.name}{step}" + (f": {error.where}" if error.where else "")
    saved = run.node(node.name).latest_checkpoint(report=lambda damage: None)
    kept = f"checkpoint-{saved.step} of {node.name}, finished stages" if saved else "finished stages"
    error.kept = f"{kept}; run again with --resume"
    if isinstance(error, OutOfMemory):
        error.fix = _smaller(node)


def _smaller(node: Node) -> str:
    """Two settings that cost memory at this node and, where there are such, change nothing that is learned."""
    settings = getattr(node, "settings", None)
    if settings is None:
        return "less data at once in the function of this node"
    fixes = [f"micro_batch_tokens: {max(1, settings.micro_batch_tokens // 2)} (now {settings.micro_batch_tokens})"]
    if not isinstance(node, TrainNode):
        fixes.append(
            f"prompts_per_buffer: {max(1, settings.prompts_per_buffer // 2)} (now {settings.prompts_per_buffer})"
        )
    elif not settings.gradient_checkpointing:
        fixes.append("gradient_checkpointing: true")
    else:
        fixes.append("lora: true" if settings.lora is None else "a smaller max_length")
    return f"in {node.name}, " + " or ".join(fixes)
