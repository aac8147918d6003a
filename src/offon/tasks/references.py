"""Reference answers as rows give them: texts, numbers, truth values, or a list of accepted ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

from offon.data.rows import BadRow
from offon.types import Verdict


def accepted(answer: Any) -> tuple[str, ...]:
    """The texts of a reference answer, any of which is right; none where there is no answer.

        "5" -> ("5",)      5.0 -> ("5", "5.0")      True -> ("true", "True")      ["5", "five"] -> ("5", "five")

    An integral float is the integer that it was before a data frame with gaps made it one. A mapping, a list within a
    list, an empty list and what is not finite are no answers: BadRow.
    """
    answer = listed(answer)
    if answer is None:
        return ()
    if not isinstance(answer, list):
        return _spelled(answer)
    if not answer:
        raise BadRow("answer is an empty list")
    return tuple(dict.fromkeys(text for one in answer for text in _spelled(listed(one))))


def listed(value: Any) -> Any:
    """Array scalars as numbers, arrays and tuples as lists."""
    if callable(getattr(value, "tolist", None)):
        value = value.tolist()
    return list(value) if isinstance(value, tuple | set | frozenset) else value


def _spelled(answer: Any) -> tuple[str, ...]:
    if answer is None or isinstance(answer, Mapping | list):
        kind = "a mapping" if isinstance(answer, Mapping) else "no answer" if answer is None else "a list within a list"
        raise BadRow(f"answer holds {kind}: {answer!r:.60}; write a text, a number, or a list of accepted ones")
    if isinstance(answer, bool):
        return str(answer).lower(), str(answer)
    if isinstance(answer, Real | Decimal):
        if not math.isfinite(answer):
            raise BadRow(f"answer is {answer}, which is no number")
        if answer == int(answer):
            return tuple(dict.fromkeys((str(int(answer)), str(answer))))
    return (str(answer),)


def answers_of(item: Any) -> tuple[str, ...]:
    """The accepted answers of an item's column `answer`."""
    return accepted(item.columns.get("answer"))


def best(check: Callable[[str, str], Verdict], text: str, answers: Sequence[str]) -> Verdict:
    """The best verdict against any accepted answer; unscored only where every one is, or where there is none (a row of
    data that a task judges)."""
    verdicts = [check(text, answer) for answer in answers] or [Verdict(None, reason="its row has no answer")]
    return max(verdicts, key=lambda v: (-1.0, 0.0) if v.score is None else (v.score, v.content or 0.0))
