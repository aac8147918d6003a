"""What a chat template writes around a turn: how it opens one, what ends it, which ids stop a response there.

Everything is read off the template by rendering stand-ins, never off a model's name. A template that refuses the
stand-ins says nothing, and nothing is added.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from offon.data.limits import overrun
from offon.data.rows import BadRow
from offon.errors import DataError, ModelError
from offon.types.trajectory import Tokens

Message = Mapping[str, Any]
STAND_IN = "..."  # a turn of which only what stands around it is wanted
ASKED = {"role": "user", "content": STAND_IN}
ANSWERED = {"role": "assistant", "content": STAND_IN}
ARGUMENT = "offonargument"  # a word no template writes by itself


def calling(arguments: Any) -> Message:
    """An assistant turn that calls a tool. Ids of nine letters and digits are what the strictest template takes."""
    call = {"id": "call00000", "type": "function", "function": {"name": "look", "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


@dataclass(frozen=True, eq=False)
class Turns:
    """The chat template of one tokenizer.

    An assistant turn ends with a control token of its own, or, where a template writes none, with the one that the next
    turn begins with (GLM's `<|user|>` and `<|observation|>`): the model has to say either.
    """

    tokenizer: Any

    def chat(self, messages: Sequence[Message], *, generation: bool, **template: Any) -> str:
        if not self.tokenizer.chat_template:
            raise DataError(
                "messages need a chat template, and the tokenizer has none",
                fix="plain text prompts (tasks: form: text; data: prompt and completion as text), "
                "or a chat_template.jinja beside the tokenizer",
            )

        def rendered() -> str:
            return self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=generation, **template
            )

        self._try_first(rendered, messages)
        try:
            return rendered()
        except Exception as error:  # a template is somebody's program: it may fail in any way
            raise BadRow(f"the chat template refuses it: {error}") from error

    def _try_first(self, rendered: Callable[[], str], messages: Sequence[Message]) -> None:
        """Whatever is twice as long as all that was rendered before is rendered in a process that can be killed.

        A template may loop without end, or grow faster than the conversation. One that does either only for certain
        words is not noticed.
        """
        size = sum(len(str(message)) for message in messages)
        if size <= 2 * self._largest.get("size", 0):
            return
        if exceeded := overrun(rendered):
            raise ModelError(
                f"the chat template takes {exceeded} for {len(messages)} messages",
                where=str(self.tokenizer.name_or_path),
                why="a template is a program of the model's author; this one has no end in sight",
                fix="another chat_template.jinja beside the tokenizer, or shorter conversations",
            )
        self._largest["size"] = size

    @cached_property
    def _largest(self) -> dict[str, int]:
        return {}

    def split(self, turn: str) -> tuple[str, str, str]:
        """A rendered assistant turn as (what it says, its end up to the closing control token, what follows).

        Several control tokens may stand at the end (those that close a tool call, say): the turn ends with the one that
        ends turns of words, or else with the first.
        """
        body, closings = self._trailing(turn)
        if self.own == "" or not closings:
            body = turn.rstrip()
            return body, "", turn[len(body) :]
        tail = turn[len(body) :]
        matches = list(re.finditer(self.pattern, tail))
        end = next((match for match in matches if match.group() == self.own), matches[0]).end()
        return body, tail[:end], tail[end:]

    def _trailing(self, turn: str) -> tuple[str, list[str]]:
        """The turn without the control tokens and whitespace at its end, and those tokens."""
        body = turn.rstrip()
        while closing := next((token for token in self.controls if body.endswith(token)), ""):
            body = body.removesuffix(closing).rstrip()
        return body, re.findall(self.pattern, turn[len(body) :])

    @cached_property
    def own(self) -> str | None:
        """The control token that ends a turn of words; "" where turns have none, None where nothing is known."""
        after = self._after_answer(())
        return None if after is None else next(iter(self._trailing(after)[1]), "")

    def next_opening(self, role: str) -> str:
        """What a turn of `role` begins with after an assistant turn, up to its first control token: there the response
        ends where its own turn has no end. "" where that is no control token."""
        if role not in self._openings:
            after = self._after_answer(({"role": role, "content": STAND_IN},)) or ""
            opening = re.match(rf"\s*(?:{self.pattern})", after)
            self._openings[role] = opening.group() if opening else ""
        return self._openings[role]

    @cached_property
    def _openings(self) -> dict[str, str]:
        return {}

    def _after_answer(self, more: Sequence[Message]) -> str | None:
        """What is rendered after the words of an assistant's turn; None where the template refuses the stand-ins."""
        try:
            rendered = self.chat([ASKED, ANSWERED, *more], generation=False)
        except DataError:
            return None
        words = rendered.split(STAND_IN)
        return STAND_IN.join(words[2:]) if len(words) > 2 else None

    @cached_property
    def ends(self) -> Tokens:
        """The ids that end an assistant turn of words, or one that calls a tool."""
        if self.own:
            tokens = {self.own, self._end_of_call}
        elif self.own == "":
            tokens = {self.next_opening(role).strip() for role in ("user", "tool")}
        else:
            tokens = set()
        return tuple(sorted(self.tokenizer.convert_tokens_to_ids(token) for token in tokens if token))

    @property
    def _end_of_call(self) -> str:
        try:
            before = self.chat([ASKED], generation=True)
            whole = self.chat([ASKED, calling({"argument": ARGUMENT})], generation=False)
        except DataError:
            return ""
        end = self.split(whole[len(before) :])[1] if whole.startswith(before) else ""
        return re.findall(self.pattern, end)[-1] if end else ""

    @cached_property
    def arguments(self) -> Literal["mapping", "text", "dropped"]:
        """What the arguments of a tool call have to be, so that the template writes them as JSON, or else in a form of
        its own. "dropped": it writes none."""
        written = f'{{"argument":"{ARGUMENT}"}}'
        mapping, text = self._call({"argument": ARGUMENT}), self._call(f'{{"argument": "{ARGUMENT}"}}')
        if mapping is not None and written in "".join(mapping.split()):
            return "mapping"
        if text is not None and written in "".join(text.split()):
            return "text"
        known = [rendered for rendered in (mapping, text) if rendered is not None]
        return "dropped" if known and not any(ARGUMENT in rendered for rendered in known) else "mapping"

    def _call(self, arguments: Any) -> str | None:
        answered = {"role": "tool", "tool_call_id": "call00000", "name": "look", "content": STAND_IN}
        try:
            return self.chat([ASKED, calling(arguments), answered], generation=False)
        except DataError:
            return None

    def wrote(self, prefix: Sequence[int]) -> bool:
        """Whether a prompt is one that the template wrote: control tokens of its own stand in it, or, where it has none
        but those of plain text, the words that open a response."""
        if self._marks:
            return not self._marks.isdisjoint(prefix)
        opening = self._opening
        starts = range(len(prefix) - len(opening), -1, -1) if opening else ()
        return any(tuple(prefix[start : start + len(opening)]) == opening for start in starts)

    @cached_property
    def _asked(self) -> str:
        try:
            return self.chat([ASKED], generation=True)
        except DataError:
            return ""

    @cached_property
    def _marks(self) -> frozenset[int]:
        tokenizer = self.tokenizer
        plain = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
        return frozenset(map(tokenizer.convert_tokens_to_ids, re.findall(self.pattern, self._asked))) - plain

    @cached_property
    def _opening(self) -> Tokens:
        opening = self._asked.rpartition(STAND_IN)[2]
        return tuple(self.tokenizer(opening, add_special_tokens=False).input_ids) if opening.strip() else ()

    def closing(self, prefix: Sequence[int]) -> int | None:
        """The id that a whole response to this prompt ends with."""
        if self.own and self.wrote(prefix):
            return self.tokenizer.convert_tokens_to_ids(self.own)
        return self.tokenizer.eos_token_id

    @cached_property
    def controls(self) -> list[str]:
        """The tokens that the tokenizer marks as special, longest first."""
        special = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return sorted(special.union(self.tokenizer.all_special_tokens), key=len, reverse=True)

    @cached_property
    def pattern(self) -> str:
        return "|".join(map(re.escape, self.controls)) or r"(?!)"  # (?!) matches nothing


@lru_cache(maxsize=8)
def _read_off(tokenizer: Any, template: str, size: int) -> Turns:
    return Turns(tokenizer)


def turns_of(tokenizer: Any) -> Turns:
    """The turns of a tokenizer's template, read off it once, and again where either has changed."""
    return _read_off(tokenizer, str(tokenizer.chat_template), len(tokenizer))
