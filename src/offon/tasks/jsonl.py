"""Items from a file of prompts, checked by a named verifier."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from offon.data.messages import refuse, require_no_media, template_options, with_system
from offon.data.rows import BadRow, Columns, convert_rows, read_rows, source_name
from offon.errors import ConfigError
from offon.objects import OBJECT
from offon.tasks.api import Name, Pair, nearest, scored
from offon.tasks.items import HELDOUT_SHARE, PLACE, Form, ItemTask, PromptForm
from offon.tasks.killable import KillablePool
from offon.tasks.references import answers_of, best
from offon.tasks.verifiers import VERIFIERS, Verifier
from offon.types import Item, Verdict
from offon.types.trajectory import Prompt

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
    allow_unsandboxed: bool = False,
    name: str = "",
) -> ItemTask:
    """Rows with `prompt` (text or messages) and `answer`, from JSONL, Parquet, a `datasets` object or a list.

    `answer` is text, a number, true or false, or a list of accepted ones (`offon.tasks.references`).
    A row may carry further prompts by name in `views` ({"hint": ...}), and a `system` text for its messages; its other
    columns travel with the item, `tools` and `chat_template_kwargs` to the chat template.

    `columns` maps names: {prompt: question, answer: solution}. `heldout` is a share, split by content, or a second
    file. `form`, `template` and `system` shape prompts that are text; messages are taken as they are. A response is
    checked by `verifier`; `pattern` is regex's, whose rows need no answer. `limit_s` bounds a check by math, regex or
    unit_tests; `allow_unsandboxed` lets unit_tests run code where nothing on this machine can contain it.
    """
    check = named_check(verifier, pattern=pattern, limit_s=limit_s, allow_unsandboxed=allow_unsandboxed)
    needs = ("answer",) if VERIFIERS[verifier].needs_answer else ()
    prompt_form = PromptForm(form=form, template=template, system=system)
    load = partial(
        read_items, columns=columns, prompt_form=prompt_form, needs=needs, verifier=VERIFIERS[verifier], name=name
    )
    held = partial(load, heldout) if isinstance(heldout, str) else heldout
    answer = named_answer(verifier, pattern=pattern, limit_s=limit_s)
    return ItemTask(name or stem(data), partial(load, data), check, heldout=held, answer=answer)


def stem(data: Any) -> str:
    return os.path.splitext(os.path.basename(source_name(data).removeprefix(OBJECT)))[0]


def read_items(
    data: Any,
    *,
    columns: Mapping[str, str] | None,
    prompt_form: PromptForm,
    needs: Sequence[str] = (),
    verifier: Verifier | None = None,
    name: str = "",
) -> list[Item]:
    """Items of a file; every bad row is reported at once, one whose answer the verifier cannot compare too."""
    family = name or stem(data)

    def item(row: Columns) -> Item:
        for column in needs:
            if missing(row.get(column)):
                raise BadRow(f"no {column}")
        if verifier:
            verifier.row(row)
        require_no_media(row, refuse)
        raw, prompt = prompts_of(row.get("prompt"), prompt_form)
        if not isinstance(row.get("views"), Mapping | None):
            raise BadRow(f"views is not a mapping of names to prompts: {row['views']!r:.40}")
        views = {view: prompts_of(other, prompt_form)[1] for view, other in (row.get("views") or {}).items()}
        columns = {key: value for key, value in row.items() if key not in ("prompt", "views")}
        options = template_options(row) | ({"system": row["system"]} if row.get("system") else {})
        return Item(
            id=Item.content_id(raw, options),
            prompt=asked(row, prompt),
            views={view: asked(row, other) for view, other in views.items()},
            columns=columns,
            family=str(columns.get("family", family)),
            reference=reference_of(columns),
        )

    return convert_rows(data, read_rows(data, columns, ("prompt", *needs)), item)


def prompts_of(prompt: Any, prompt_form: PromptForm) -> tuple[Prompt, Prompt]:
    """The prompt as written in the row, which identifies the item, and the prompt as it is asked."""
    if isinstance(prompt, str) and prompt.strip():
        return prompt, prompt_form(prompt)
    if prompt and isinstance(prompt, list | tuple) and all(isinstance(message, Mapping) for message in prompt):
        messages = tuple(dict(message) for message in prompt)
        return messages, messages
    raise BadRow("prompt is neither text nor messages, or is empty")


def asked(row: Columns, prompt: Prompt) -> Prompt:
    """The prompt as it is asked, after the system text of the row's own."""
    if not isinstance(prompt, str):
        return tuple(with_system(row, prompt))
    if row.get("system"):
        raise BadRow("its system text has no place in a text prompt", fix="form: chat, or a prompt of messages")
    return prompt


def reference_of(columns: Mapping[str, Any]) -> str | None:
    """A whole response known to be good, where the row has one. A final answer is none: it only checks."""
    known = next((columns[name] for name in WHOLE if columns.get(name) is not None), None)
    return None if known is None else str(known)


def missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def verifier_of(name: str, pattern: str | None) -> Verifier:
    """The verifier of a name, with or without a pattern as it asks."""
    if name not in VERIFIERS:
        fix = f"one of {', '.join(VERIFIERS)}{nearest([name], list(VERIFIERS))}"
        raise ConfigError(f"there is no verifier {name!r}", fix=fix)
    verifier = VERIFIERS[name]
    if verifier.takes_pattern != (pattern is not None):
        raise ConfigError(f"verifier {name} {'needs a pattern' if pattern is None else 'takes no pattern'}")
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"the pattern does not compile: {error}", where=f"pattern: {pattern}") from error
    return verifier


def named_check(
    name: str, *, pattern: str | None = None, limit_s: float = CHECK_LIMIT_S, allow_unsandboxed: bool = False
) -> Check:
    """The checker behind a verifier's name; what may hang runs in processes that can be killed, code in a box."""
    verifier = verifier_of(name, pattern)
    if verifier.check:
        return verifier.check(limit_s, allow_unsandboxed)
    if allow_unsandboxed:
        raise ConfigError(f"verifier {name} runs no code, so there is nothing to allow", fix="drop allow_unsandboxed")
    if verifier.worker:
        arguments = (pattern,) if verifier.takes_pattern else ()
        return pooled_check(f"offon.tasks.verifiers:{verifier.worker}", limit_s, *arguments)
    return lambda pairs: [best(verifier.verdict, text, answers_of(item)) for item, text in pairs]


def named_answer(name: str, *, pattern: str | None = None, limit_s: float = CHECK_LIMIT_S) -> Name | None:
    """What a verifier takes for the answer of a response, spelled so that equal answers are equal."""
    verifier = verifier_of(name, pattern)
    if verifier.answer:
        return lambda item, text: verifier.answer(text)
    if not verifier.worker_answer:
        return None
    arguments = (pattern,) if verifier.takes_pattern else ()
    factory = f"offon.tasks.verifiers:{verifier.worker_answer}"
    pool = KillablePool(factory, arguments, workers=1, limit_s=limit_s, memory_bytes=CHECK_MEMORY_BYTES)
    return lambda item, text: pool.map([(text,)])[0].value


def pooled_check(factory: str, limit_s: float, *arguments: Any) -> Check:
    pool = KillablePool(factory, arguments, limit_s=limit_s, memory_bytes=CHECK_MEMORY_BYTES)

    def check(pairs: Sequence[Pair]) -> list[Verdict]:
        outcomes = pool.map([(text, answers_of(item)) for item, text in pairs])
        return [Verdict(**outcome.value) if outcome.value else scored(None, outcome.failure) for outcome in outcomes]

    return check
