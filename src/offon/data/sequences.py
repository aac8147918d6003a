"""Rows as rendered sequences: what of a row is prompt, what is answer, and what of it is learned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from offon.data.messages import require_no_media, template_options, with_system
from offon.data.render import Message, Rendered, Renderer
from offon.data.report import DataReport
from offon.data.rows import BadRow, Columns, convert_rows
from offon.errors import ConfigError

DEMONSTRATIONS = (("messages",), ("prompt", "completion"), ("conversations",), ("instruction", "output"), ("text",))
PREFERENCES = (("prompt", "chosen", "rejected"), ("chosen", "rejected"))
LABELLED = ("prompt", "completion", "label")
RANKINGS = ("prompt", "completions")
STEPS = ("prompt", "completions", "labels")
CONVENTIONS = (*DEMONSTRATIONS, *PREFERENCES, LABELLED, RANKINGS, STEPS)
WRITTEN = "offon"  # what a node that makes data says of a row: who wrote the answer, how, and its signals
ALPACA = ("instruction", "output")
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "system": "system", "tool": "tool", "function": "tool"}

UNTRAINED = "no turn of it is to be trained"
BROKEN = "sampled bytes that form no character, whose tokens are not known"
BROKEN_CHARACTER = "\ufffd"  # what decoding puts in place of them


Lossy = Literal["refuse", "allow"]
T = TypeVar("T")


def require_columns(row: Columns, names: Sequence[str]) -> None:
    for name in names:
        if row.get(name) is None:
            raise BadRow(f"no {name}")


def renderer_of(tokenizer: Any, allow_control_tokens: bool, lossy: Lossy) -> Renderer:
    if lossy not in ("refuse", "allow"):
        raise ConfigError(f"lossy is {lossy!r}", fix="refuse or allow")
    return Renderer(tokenizer, allow_control_tokens, lossy == "allow")


class _Dropped(Exception):
    """A row that is whole and of which nothing is to be learned, with the reason."""


def converted(
    source: Any,
    rows: Iterable[tuple[str, Columns]],
    convert: Callable[[Columns], T],
    renderer: Renderer,
    report: DataReport,
) -> list[T]:
    """The rows converted, and counted where something of them is dropped or lost."""

    def counted(row: Columns) -> list[T]:
        renderer.lost.clear()
        require_written(row)
        require_no_media(row, renderer.lose)
        if row.get("history") and report.columns != " + ".join(ALPACA):
            renderer.lose("history", "a column history is read beside instruction + output only")
        try:
            kept = [convert(row)]
        except _Dropped as reason:
            report.dropped[str(reason)] += 1
            return []
        report.lost.update(renderer.lost)
        return kept

    return [one for kept in convert_rows(source, rows, counted) for one in kept]


def demonstrations_of(
    renderer: Renderer, row: Columns, detected: Sequence[str], supervise: Literal["all", "last"]
) -> list[Rendered]:
    if detected == ("text",):
        if not isinstance(row["text"], str):
            raise BadRow(f"text is a {type(row['text']).__name__}")
        require_text_only(renderer, row)
        return [renderer.text(row["text"])]
    if detected == ("prompt", "completion"):
        tokens = (row.get(WRITTEN) or {}).get("tokens")
        return _continuations(renderer, row, row["prompt"], row["completion"], supervise, tokens)
    return _conversation(renderer, row, _messages(row, detected), supervise)


def listed(row: Columns, name: str, of: type = object) -> list[Any]:
    """A column that is a list, of values of one type."""
    value = row[name]
    if not isinstance(value, list | tuple) or not all(isinstance(one, of) for one in value):
        kind = {object: "", str: " of text"}[of]
        raise BadRow(f"{name} is not a list{kind}: {value!r:.40}")
    return list(value)


def require_written(row: Columns) -> None:
    """The columns that offon writes beside a row, and those of words, are of their kind wherever they came from."""
    written = row.get(WRITTEN)
    if written is not None and not isinstance(written, Mapping):
        raise BadRow(f"{WRITTEN} is offon's own column, a mapping: {written!r:.40}")
    for name in ("tokens", "rejected_tokens"):
        tokens = (written or {}).get(name)
        if tokens is not None and not (isinstance(tokens, list | tuple) and all(type(t) is int for t in tokens)):
            raise BadRow(f"{WRITTEN}.{name} is not a list of token ids: {tokens!r:.40}")
    signals = (written or {}).get("signals")
    if signals is not None and not isinstance(signals, Mapping):
        raise BadRow(f"{WRITTEN}.signals is no mapping: {signals!r:.40}")
    for name in ("instruction", "input", "output", "system", "separator"):
        if not isinstance(row.get(name), str | None):
            raise BadRow(f"{name} is not text: {row[name]!r:.40}")
    margin = row.get("margin")
    if margin is not None and (isinstance(margin, bool) or not isinstance(margin, int | float)):
        raise BadRow(f"margin is not a number: {margin!r:.40}")


def require_text_only(renderer: Renderer, row: Columns) -> None:
    """Text is taken as it is: nothing else that a row says finds a place in it."""
    renderer.no_template(**template_options(row))
    if row.get("system"):
        why = "its system text has no place in a text prompt; write it into the text, or give messages"
        renderer.lose("system", why)


def _messages(row: Columns, detected: Sequence[str]) -> list[Message]:
    if detected == ("messages",):
        return message_list("messages", row["messages"])
    if detected == ALPACA:
        question = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
        turns = [*_history(row.get("history") or ()), (question, row["output"])]
        roles = ("user", "assistant")
        return [{"role": role, "content": words} for turn in turns for role, words in zip(roles, turn, strict=True)]
    return [
        {
            "role": SHAREGPT_ROLES.get(str(turn.get("from")), turn.get("from")),
            "content": turn.get("value"),
            **{key: value for key, value in turn.items() if key not in ("from", "value", "role", "content")},
        }
        for turn in message_list("conversations", row["conversations"])
    ]


def _history(turns: Any) -> list[tuple[str, str]]:
    if isinstance(turns, Sequence) and all(isinstance(t, list | tuple) and len(t) == 2 for t in turns):
        return [tuple(turn) for turn in turns]
    raise BadRow(f"history is not a list of pairs (instruction, answer): {turns!r:.40}")


def message_list(name: str, value: Any, role: str = "") -> list[Message]:
    """A column's messages; text stands for one message where a role is given."""
    if isinstance(value, str) and role:
        return [{"role": role, "content": value}]
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(m, Mapping) for m in value):
        raise BadRow(f"{name} is {'neither text nor' if role else 'not'} a list of messages: {value!r:.40}")
    return list(value)


def _continuations(
    renderer: Renderer,
    row: Columns,
    prompt: Any,
    completion: Any,
    supervise: Literal["all", "last"] = "all",
    tokens: Sequence[int] | None = None,
) -> list[Rendered]:
    """Text after text as it is; if either is messages, both are. tokens: those that the answer was sampled in."""
    plain = isinstance(prompt, str) and isinstance(completion, str)
    if plain:
        require_text_only(renderer, row)
        answer: Any = completion
    else:
        prompt = with_system(row, message_list("the prompt", prompt, role="user"))
        completion = message_list("the answer", completion, role="assistant")
        alone = len(completion) == 1 and set(completion[0]) == {"role", "content"}
        answer = completion[0]["content"] if alone else None
    if tokens and isinstance(answer, str):
        if sampled := renderer.sampled(prompt, tokens, answer, **({} if plain else template_options(row))):
            return [sampled]
        if BROKEN_CHARACTER in answer:
            raise _Dropped(BROKEN)
    if plain:
        return [renderer.continuation(prompt, completion)]
    rendered = renderer.conversation(
        prompt + completion, _first(prompt, completion, supervise), **template_options(row)
    )
    return _learned(rendered)


def _conversation(
    renderer: Renderer, row: Columns, messages: list[Message], supervise: Literal["all", "last"]
) -> list[Rendered]:
    messages = with_system(row, messages)
    rendered = renderer.conversation(messages, _first([], messages, supervise), **template_options(row))
    return _learned(rendered)


def _first(before: Sequence[Message], after: Sequence[Message], supervise: Literal["all", "last"]) -> int:
    """The first message that may be learned."""
    return len(before) + len(after) - 1 if supervise == "last" else len(before)


def _learned(rendered: list[Rendered]) -> list[Rendered]:
    if not rendered:
        raise _Dropped(UNTRAINED)
    return rendered


def pair_of(renderer: Renderer, row: Columns) -> tuple[Rendered, Rendered]:
    prompt, answers = row.get("prompt"), [row["chosen"], row["rejected"]]
    if not any(isinstance(answer, str) for answer in answers):
        answers = [message_list(name, row[name]) for name in ("chosen", "rejected")]
        if all(answer and answer[0].get("role") != "assistant" for answer in answers):
            shared = _common_prefix(*answers)  # whole conversations, which repeat the prompt
            prompt, answers = answers[0][:shared], [answer[shared:] for answer in answers]
    if prompt is None:
        raise BadRow("no prompt, and chosen and rejected are not whole conversations")
    written = row.get(WRITTEN) or {}
    sampled = [written.get("tokens"), written.get("rejected_tokens")]
    chosen, rejected = answers_of(renderer, {**row, "prompt": prompt}, answers, sampled)
    return chosen, rejected


def answers_of(
    renderer: Renderer, row: Columns, answers: Sequence[Any], sampled: Sequence[Sequence[int] | None] = ()
) -> list[Rendered]:
    """One sequence for each answer to a row's prompt; sampled: the tokens of those that a model gave."""
    tokens = [*sampled, *[None] * (len(answers) - len(sampled))]
    answered = [
        _continuations(renderer, row, row["prompt"], answer, tokens=given)
        for answer, given in zip(answers, tokens, strict=True)
    ]
    if any(len(rendered) > 1 for rendered in answered):
        raise BadRow("the chat template rewrites earlier turns, so an answer of several turns is no one sequence")
    if len({rendered.prefix for [rendered] in answered}) > 1:
        raise BadRow("the answers do not follow the same prompt tokens")
    return [rendered for [rendered] in answered]


def too_long(answers: Sequence[Rendered], max_length: int | None) -> bool:
    return max_length is not None and max(len(a.prefix) + len(a.response) for a in answers) > max_length


def _common_prefix(chosen: Sequence[Message], rejected: Sequence[Message]) -> int:
    """Messages that both conversations begin with, up to the assistant turn where they part (or the last one)."""
    shared = 0
    for a, b in zip(chosen[:-1], rejected[:-1], strict=False):
        if a != b:
            break
        shared += 1
    return shared
