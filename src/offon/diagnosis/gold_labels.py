"""Gold labels of outputs, and what the task's checker does with those outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from offon.behavior.statistics.checker_errors import Checker
from offon.data.rows import BadRow, Columns, convert_rows, read_rows, source_name
from offon.errors import DataError
from offon.types import RIGHT, Item

FORM = "form"  # right but for its form


@dataclass(frozen=True)
class Labelled:
    """checker: its errors. forms: family -> (right in form, all) of the outputs with right content that it rejects.
    wrong_form: (accepted, all) of the outputs that are right but for their form. note: what the labels leave open."""

    checker: Checker
    forms: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    wrong_form: tuple[int, int] = (0, 0)
    note: str = ""


def read_labels(labels: Any, task: Any) -> Labelled:
    """Run the task's checker on labelled outputs, from a JSONL file or a list of mappings:

    {"prompt": ..., "response": ..., "right": true}       the answer is right, whatever its form
    {"id": ..., "response": ..., "right": true, "format": true}      and so is its form

    An item is named by its id or its prompt. The errors are those of the content verdict where the task has one.
    Where it has none, what is right but for its form counts on neither side: a checker that rejects it judges the form,
    and its share among the labels is not that of any prompt.
    """
    rows = read_rows(labels, None, ("prompt", "response", "right"), ("id", "response", "right"))
    items = _by_name(task)

    def pair(row: Columns) -> tuple[Item, Columns]:
        name = row["id"] if row.get("id") is not None else Item.content_id(row["prompt"])
        if name not in items:
            raise BadRow(f"no item {row.get('id') or row.get('prompt')!r:.60} in task {task.name}")
        if not isinstance(row["right"], bool) or not isinstance(row.get("format"), bool | None):
            raise BadRow("right and format are true or false")
        return items[name], row

    pairs = convert_rows(labels, rows, pair)
    verdicts = task.verify([(item, row["response"]) for item, row in pairs])
    accepted: Counter = Counter()
    forms: dict[str, Counter] = {}
    unsaid = 0  # right outputs that the checker rejects, for their content or for their form
    for (item, row), verdict in zip(pairs, verdicts, strict=True):
        if verdict.score is None:
            continue
        passes, content = verdict.score >= RIGHT, verdict.right_content
        seen = passes if content is None else content
        judges_form = content is None and row["right"] and row.get("format") is False
        kind = FORM if judges_form else row["right"]
        accepted[kind, seen] += 1
        unsaid += row["right"] and row.get("format") is None and content is None
        if row["right"] and row.get("format") is not None and seen and not passes:
            forms.setdefault(item.family, Counter())[row["format"]] += 1
    if not accepted:
        raise DataError("the checker scored none of the labelled outputs", where=source_name(labels))
    right, wrong = (accepted[side, True] + accepted[side, False] for side in (True, False))
    checker = Checker(
        accepted_right=accepted[True, True], right=right, accepted_wrong=accepted[False, True], wrong=wrong
    )
    note = (
        f"of the right labelled outputs that the checker rejects, {unsaid} do not say whether their form is right "
        '("format"): if it is not, right answers in the right form are accepted more often than these labels show'
    )
    return Labelled(
        checker, {family: (tally[True], tally.total()) for family, tally in forms.items()},
        (accepted[FORM, True], accepted[FORM, True] + accepted[FORM, False]), note if unsaid else "",
    )  # fmt: skip


def _by_name(task: Any) -> dict[str, Item]:
    """Every item of the task by its id, and by the id its prompt would have."""
    named: dict[str, Item] = {}
    for split in ("heldout", "train"):
        for item in _items(task, split):
            named.setdefault(Item.content_id(item.prompt), item)
            named.setdefault(item.id, item)
    return named


def _items(task: Any, split: str) -> Sequence[Item]:
    try:
        return task.items(split)
    except DataError:  # an empty side is no mistake here
        return ()
