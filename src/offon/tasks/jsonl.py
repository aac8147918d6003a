"""Items from a file of prompts, checked by a named verifier."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from offon.data.rows import BadRow, Columns, convert_rows, read_rows, source_name
from offon.errors import ConfigError
from offon.tasks import verifiers
from offon.tasks.api import Name, Pair, nearest, scored
from offon.tasks.items import HELDOUT_SHARE, PLACE, Form, ItemTask, PromptForm
from offon.tasks.killable import KillablePool
from offon.types import Item, Verdict
from offon.types.trajectory import Prompt

VERIFIERS = ("exact", "numeric", "regex", "math")
WHOLE = ("completion", "solution")  # columns that hold a whole response
CHECK_LIMIT_S = 5.0
CHECK_MEMORY_BYTES = 4 << 30

Check = Callable[[Sequence[Pair]], list[Verdict]]


def jsonl_task(
    data: Any,
    *,
    verifier: str = "exact",
    pattern: str | None = None,
    heldout: float | str = HELDOUT_SHARE,
    columns: Mapping[str, str] | None = None,
    form: Form = "text",
    template: str = PLACE,
    system: str = "",
    limit_s: float = CHECK_LIMIT_S,
    name: str = "",
) -> ItemTask:
    """Rows with `prompt` (text or messages) and `answer`, from JSONL, Parquet, a `datasets` object or a list.

    A row may carry further prompts by name in `views` ({"hint": ...}); its other columns travel with the item.

    `columns` maps names: {prompt: question, answer: solution}. `heldout` is a share, split by content, or a second
    file. `form`, `template` and `system` shape prompts that are text; messages are taken as they are. A response is
    checked by `verifier`; `pattern` is regex's, whose rows need no answer. `limit_s` bounds a check by math or regex.
    """
    check = named_check(verifier, pattern=pattern, limit_s=limit_s)
    needs = () if verifier == "regex" else ("answer",)
    prompt_form = PromptForm(form=form, template=template, system=system)
    load = partial(read_items, columns=columns, prompt_form=prompt_form, needs=needs, name=name)
    held = partial(load, heldout) if isinstance(heldout, str) else heldout
    answer = named_answer(verifier, pattern=pattern, limit_s=limit_s)
    return ItemTask(name or stem(data), partial(load, data), check, heldout=held, answer=answer)


def stem(data: Any) -> str:
    return os.path.splitext(os.path.basename(source_name(data)))[0]


def read_items(
    data: Any,
    *,
    columns: Mapping[str, str] | None,
    prompt_form: PromptForm,
    needs: Sequence[str] = (),
    name: str = "",
) -> list[Item]:
    """Items of a file; every bad row is reported at once."""
    family = name or stem(data)

    def item(row: Columns) -> Item:
        for column in needs:
            if row.get(column) in (None, ""):
                raise BadRow(f"no {column}")
        raw, prompt = prompts_of(row.get("prompt"), prompt_form)
        columns = {key: value for key, value in row.items() if key not in ("prompt", "views")}
        return Item(
            id=Item.content_id(raw),
            prompt=prompt,
            views={view: prompts_of(other, prompt_form)[1] for view, other in (row.get("views") or {}).items()},
            columns=columns,
            family=str(columns.get("family", family)),
            reference=reference_of(columns),
        )

    return convert_rows(data, read_rows(data, columns, ("prompt", *needs)), item)


def prompts_of(prompt: Any, prompt_form: PromptForm) -> tuple[Prompt, Prompt]:
    """The prompt as written in the row, which identifies the item, and the prompt as it is asked."""
    if isinstance(prompt, str) and prompt.strip():
        return prompt, prompt_form(prompt)
    if isinstance(prompt, Sequence) and not isinstance(prompt, str) and prompt:
        messages = tuple(dict(message) for message in prompt)
        return messages, messages
    raise BadRow("prompt is neither text nor messages, or is empty")


def reference_of(columns: Mapping[str, Any]) -> str | None:
    """A whole response known to be good, where the row has one. A final answer is none: it only checks."""
    known = next((columns[name] for name in WHOLE if columns.get(name) is not None), None)
    return None if known is None else str(known)


def named_check(verifier: str, *, pattern: str | None = None, limit_s: float = CHECK_LIMIT_S) -> Check:
    """The checker behind a verifier's name. `math` and `regex` run in processes that can be killed."""
    if verifier not in VERIFIERS:
        fix = f"one of {', '.join(VERIFIERS)}{nearest([verifier], VERIFIERS)}"
        raise ConfigError(f"there is no verifier {verifier!r}", fix=fix)
    if (verifier == "regex") != (pattern is not None):
        raise ConfigError(f"verifier {verifier} {'needs a pattern' if pattern is None else 'takes no pattern'}")
    if verifier == "exact":
        return lambda pairs: [verifiers.exact(text, answer_of(item)) for item, text in pairs]
    if verifier == "numeric":
        return lambda pairs: [verifiers.numeric(text, answer_of(item)) for item, text in pairs]
    if verifier == "math":
        return pooled_check("offon.tasks.verifiers:math_checker", limit_s)
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"the pattern does not compile: {error}", where=f"pattern: {pattern}") from error
    return pooled_check("offon.tasks.verifiers:regex_checker", limit_s, pattern)


def named_answer(verifier: str, *, pattern: str | None = None, limit_s: float = CHECK_LIMIT_S) -> Name:
    """What a verifier takes for the answer of a response, spelled so that equal answers are equal."""
    if verifier == "exact":
        return exact_answer
    if verifier == "numeric":

        def number(item: Item, text: str) -> str | None:
            found = verifiers.given_number(text)
            return None if found is None else str(found)

        return number
    factory, arguments = ("math_answer", ()) if verifier == "math" else ("regex_answer", (pattern,))
    pool = KillablePool(
        f"offon.tasks.verifiers:{factory}", arguments, workers=1, limit_s=limit_s, memory_bytes=CHECK_MEMORY_BYTES
    )
    return lambda item, text: pool.map([(text,)])[0].value


def exact_answer(item: Item, text: str) -> str | None:
    return verifiers.normalised(verifiers.unwrapped(text)) or None


def pooled_check(factory: str, limit_s: float, *arguments: Any) -> Check:
    pool = KillablePool(factory, arguments, limit_s=limit_s, memory_bytes=CHECK_MEMORY_BYTES)

    def check(pairs: Sequence[Pair]) -> list[Verdict]:
        outcomes = pool.map([(text, answer_of(item)) for item, text in pairs])
        return [Verdict(**outcome.value) if outcome.value else scored(None, outcome.failure) for outcome in outcomes]

    return check


def answer_of(item: Item) -> str | None:
    answer = item.columns.get("answer")
    return None if answer is None else str(answer)
