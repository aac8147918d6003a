"""What rows say in messages, in the words of one convention: marks, reasoning, tool calls, system texts.

Nothing is dropped in silence: what cannot be said is given to `lose`, which refuses the row or counts it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from offon.data.rows import BadRow
from offon.data.turns import Message, Turns

Lose = Callable[[str, str], None]  # (kind of thing, why it is lost)

ROLES = ("system", "developer", "user", "assistant", "tool")
MARKS = ("weight", "train", "training")  # on a turn: 0 or false leaves it out of the loss
REASONING = ("reasoning_content", "reasoning", "thinking")  # names of one thing
MEDIA = ("images", "image", "videos", "video", "audios", "audio")
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")  # of a row: what goes to the chat template beside the messages
OWN_WORDS = ("conversation", "generation", "messages", "tokenize", "add_generation_prompt")  # ours to say


def template_options(columns: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row goes to the chat template beside the messages. Nested columns are often written as JSON text, and
    Arrow fills in nulls."""
    tools = _decoded("tools", columns.get("tools"), Sequence)
    options = _decoded("chat_template_kwargs", columns.get("chat_template_kwargs"), Mapping) or {}
    if taken := [name for name in options if name in OWN_WORDS]:
        raise BadRow(f"chat_template_kwargs say {taken[0]}, which is not a row's to say")
    known = {name: value for name, value in options.items() if value is not None}
    return {"tools": list(tools), **known} if tools else known


def _decoded(name: str, value: Any, kind: type) -> Any:
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise BadRow(f"{name} is neither {_KINDS[kind]} nor JSON of one: {value!r:.40}") from error
    if value and (isinstance(value, str) or not isinstance(value, kind)):
        raise BadRow(f"{name} is not {_KINDS[kind]} but a {type(value).__name__}")
    return value or None


_KINDS = {Sequence: "a list", Mapping: "a mapping"}


def with_system(columns: Mapping[str, Any], messages: Sequence[Message]) -> list[Message]:
    """The messages after what the row's column `system` says."""
    system = columns.get("system")
    if not system:
        return list(messages)
    if not isinstance(system, str):
        raise BadRow(f"system is not text but a {type(system).__name__}")
    first = messages[0] if messages and isinstance(messages[0], Mapping) else {}
    if first.get("role") not in ("system", "developer"):
        return [{"role": "system", "content": system}, *messages]
    if first.get("content") != system:
        raise BadRow("the column system and the first message are two different system texts")
    return list(messages)


def refuse(kind: str, why: str) -> None:
    raise BadRow(why)


def require_no_media(columns: Mapping[str, Any], lose: Lose, where: str = "") -> None:
    for name in MEDIA:
        if name in columns and columns[name] is not None and columns[name] != [] and columns[name] != "":
            lose(name, f"{where}{name}: offon reads text only, and what is shown would be missing")


def trained(messages: Sequence[Message], lose: Lose) -> list[bool]:
    """Of each message whether it may be learned, as its marks say; assistant turns are unless one says no."""
    return [_trained(index, message, lose) for index, message in enumerate(messages)]


def _trained(index: int, message: Message, lose: Lose) -> bool:
    if not isinstance(message, Mapping):
        return True  # what it is instead is said where it is read
    marks = {name: message[name] for name in MARKS if message.get(name) is not None}
    for name, value in marks.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise BadRow(f"{name} of message {index} is {value!r:.40}; 1 and true are trained, 0 and false are not")
    if len(set(map(bool, marks.values()))) > 1:
        raise BadRow(f"the marks of message {index} disagree: {marks}")
    if message.get("role") != "assistant" and any(marks.values()):
        role = message.get("role")
        lose("marks", f"message {index} ({role}) is marked as trained, and only assistant turns can be")
    return all(marks.values())


def read_message(index: int, message: Message, turns: Turns, lose: Lose) -> Message:
    """A message with a known role and text content, in the words that the template reads.

    Keys without a value (Arrow fills them in) and marks, which have been read, are left out.
    """
    if not isinstance(message, Mapping):
        raise BadRow(f"message {index} is a {type(message).__name__}")
    message = {key: value for key, value in message.items() if value is not None and key not in MARKS}
    if call := message.pop("function_call", None):
        message["tool_calls"] = [*(message.get("tool_calls") or ()), {"type": "function", "function": call}]
    role, content = message.get("role"), message.setdefault("content", None)
    if role not in ROLES:
        raise BadRow(f"message {index} has role {role!r}, which is none of {', '.join(ROLES)}")
    if "tool_calls" in message:
        calls = _decoded(f"tool_calls of message {index}", message.pop("tool_calls"), Sequence) or ()
        if calls:
            message["tool_calls"] = [_call(index, call, turns, lose) for call in calls]
    if content is None and message.get("tool_calls"):
        content = message["content"] = ""
    if not isinstance(content, str):
        kind = "null" if content is None else f"a {type(content).__name__}"
        raise BadRow(f"content of message {index} is {kind}")
    if role == "assistant" and not content.strip() and not message.get("tool_calls"):
        raise BadRow(f"assistant message {index} says nothing")
    require_no_media(message, lose, f"message {index} has ")
    return _reasoned(index, message, turns)


def _reasoned(index: int, message: dict[str, Any], turns: Turns) -> Message:
    """With its reasoning under the name that the template reads."""
    names = [name for name in REASONING if message.get(name)]
    if not names:
        return message
    if wrong := next((name for name in names if not isinstance(message[name], str)), None):
        raise BadRow(f"{wrong} of message {index} is not text but a {type(message[wrong]).__name__}")
    template = str(turns.tokenizer.chat_template)
    read = [name for name in REASONING if re.search(rf"[.'\"]{name}\b", template)]
    if read and len(names) == 1 and names[0] not in read:
        message[read[0]] = message.pop(names[0])
    return message


def _call(index: int, call: Any, turns: Turns, lose: Lose) -> Message:
    """A tool call with its arguments as the template wants them: a mapping, or JSON."""
    if not isinstance(call, Mapping):
        raise BadRow(f"a tool call of message {index} is a {type(call).__name__}")
    function = call.get("function", call)
    if not isinstance(function, Mapping):
        raise BadRow(f"the function of a tool call of message {index} is a {type(function).__name__}")
    if function.get("arguments") is None:
        return call
    arguments = _decoded(f"arguments of a tool call of message {index}", function["arguments"], Mapping) or {}
    if arguments and turns.arguments == "dropped":
        lose("tool arguments", f"the chat template leaves out the arguments of tool calls (message {index})")
    if turns.arguments == "text":
        given = function["arguments"]
        arguments = given if isinstance(given, str) else json.dumps(arguments, ensure_ascii=False)
    function = {**function, "arguments": arguments}
    return {**call, "function": function} if "function" in call else function


def parts(message: Message) -> Iterator[str | Mapping[str, Any]]:
    """All that a message says, to be found in what is rendered of it; arguments of tool calls as they are."""
    yield message["content"] or ""
    for name in REASONING:
        yield message.get(name) or ""
    for call in message.get("tool_calls", ()):
        function = call.get("function", call)
        yield function.get("name") or ""
        yield function.get("arguments") or ""


class Rendering:
    """Rendered text, in which something is `in` wherever the template put it: whitespace aside, perhaps as JSON."""

    def __init__(self, text: str):
        self.text = text

    @cached_property
    def squeezed(self) -> str:
        return squeezed(self.text)

    def __contains__(self, part: str | Mapping[str, Any]) -> bool:
        if not isinstance(part, str):
            written = any(squeezed(form) in self.squeezed for form in _as_json(part))
            return written or all(map(self._leaf, _leaves(part)))
        if part in self.text or squeezed(part) in self.squeezed:
            return True
        return any(squeezed(form[1:-1]) in self.squeezed for form in _as_json(part))

    def _leaf(self, value: Any) -> bool:
        return value in self if isinstance(value, str) else str(value) in self or json.dumps(value) in self


def _as_json(value: Any) -> tuple[str, str]:
    try:
        return json.dumps(value, ensure_ascii=False), json.dumps(value)
    except TypeError as error:
        raise BadRow(f"arguments of a tool call are not JSON: {error}") from error


def _leaves(value: Any) -> Iterator[Any]:
    """The keys and the values that are no containers."""
    if isinstance(value, Mapping):
        yield from value
        value = list(value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def squeezed(text: str) -> str:
    """Without whitespace, composed: several tokenizers compose accents (NFC)."""
    return unicodedata.normalize("NFC", "".join(text.split()))
