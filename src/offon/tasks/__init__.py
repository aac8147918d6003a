"""Tasks: items to answer and checkers of answers."""

from offon.tasks.api import KINDS, Pair, Split, Task, open_task, parsed_spec

__all__ = ["KINDS", "Pair", "Split", "Task", "open_task", "parsed_spec"]
