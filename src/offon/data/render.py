"""From text and messages to tokens, with the line between what the model says and what others say.

The line comes from the tokenizer's own chat template, never from a registry of templates, and is verified: the prompt
before an assistant turn is what deployment would show (`add_generation_prompt`), it must be a prefix of the rendering
with the turn, and the decoded tokens must be the text they stand for. Chat text is tokenised without further special
tokens, since a template writes its own; plain text gets the BOS the tokenizer would add, once.

Each stretch of text is tokenised by itself, as it is when a model continues a prompt, so the prompt's tokens are
always a prefix of the whole.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import jinja2

from offon.data.rows import BadRow
from offon.errors import DataError
from offon.types.trajectory import Prompt, Tokens

ROLES = ("system", "developer", "user", "assistant", "tool")
Message = Mapping[str, Any]
STAND_IN = "..."  # an assistant turn of which only what follows it is wanted


@dataclass(frozen=True)
class Stretch:
    """Consecutive response tokens that the model said (supervised) or that others said."""

    tokens: Tokens
    said: bool


@dataclass(frozen=True)
class Rendered:
    """A prompt and what follows it. `prompt` is the prompt before rendering; `added_eos`: the text had no end token."""

    prompt: Prompt
    prefix: Tokens
    stretches: tuple[Stretch, ...]
    added_eos: bool = False

    @property
    def response(self) -> Tokens:
        return tuple(token for stretch in self.stretches for token in stretch.tokens)


@dataclass(frozen=True)
class _Turn:
    """Assistant turn k as the template writes it: the conversation before it, what the model says, what is added."""

    before: str
    said: str
    after: str
    ended: bool  # `said` closes with a control token


@dataclass(frozen=True)
class Renderer:
    """Renders with one tokenizer. Control tokens written in message content are refused unless allowed.

    They would become real turn boundaries: text from outside could put words into the assistant's mouth. Plain text
    prompts may contain them, since they often are conversations rendered earlier.
    """

    tokenizer: Any
    allow_control_tokens: bool = False

    def prompt(self, prompt: Prompt) -> Tokens:
        """The tokens a model sees before it answers."""
        if isinstance(prompt, str):
            ids = self._opened(self.encode_stretches([prompt])[0])
        else:
            messages = self.checked(prompt)
            if messages[-1]["role"] == "assistant":
                raise BadRow("the prompt ends with an assistant turn: there is nothing to answer")
            [ids] = self.encode_stretches([self.chat(messages, generation=True)])
            if self.bos is not None and ids[:2] == [self.bos, self.bos]:
                raise DataError("the chat template writes the BOS token twice", fix="mend the chat template")
        if not ids:
            raise BadRow("the prompt is empty")
        return tuple(ids)

    def continuation(self, prompt: str, completion: str) -> Rendered:
        """Plain text after plain text, closed with EOS."""
        if not completion.strip():
            raise BadRow("the completion is empty")
        prompt_ids, ids = self.encode_stretches([prompt, completion])
        prefix = self._opened(prompt_ids)
        if not prefix:
            raise BadRow("the prompt is empty")
        closed = self._closed(ids)
        return Rendered(prompt, tuple(prefix), (Stretch(closed, True),), added_eos=len(closed) > len(ids))

    def stepwise(self, prompt: Prompt, steps: Sequence[str]) -> Rendered:
        """An answer in steps, each a stretch of its own, closed with EOS."""
        if not all(steps):
            raise BadRow("a step is empty")
        before = prompt if isinstance(prompt, str) else self.chat(self.checked(prompt), generation=True)
        _, *ids = self.encode_stretches([before, *steps])
        stretches = tuple(Stretch(tuple(tokens), True) for tokens in [*ids[:-1], self._closed(ids[-1])])
        return Rendered(prompt, self.prompt(prompt), stretches, added_eos=True)

    def text(self, text: str) -> Rendered:
        """A document without a prompt. BOS is the prefix; without one the first token is, and is not learned."""
        if not text.strip():
            raise BadRow("the text is empty")
        [ids] = self.encode_stretches([text])
        opened = self._opened(ids)
        closed = self._closed(opened[1:])
        return Rendered("", tuple(opened[:1]), (Stretch(closed, True),), added_eos=len(closed) > len(opened) - 1)

    def conversation(self, messages: Sequence[Message], first: int, **template: Any) -> list[Rendered]:
        """Every assistant turn from message `first` on, each after exactly what deployment would show before it.

        One sequence holds all turns where the template allows. A template that drops or rewrites earlier turns (their
        reasoning, say) once later ones exist gives one sequence per turn.
        """
        messages = self.checked(messages)
        if messages[-1]["role"] != "assistant":
            raise BadRow(f"the conversation ends with a {messages[-1]['role']} turn, which nobody answers")
        positions = [k for k in range(first, len(messages)) if messages[k]["role"] == "assistant"]
        turns = [self._turn(messages, k, **template) for k in positions]
        if all(later.before.startswith(turn.before + turn.said + turn.after) for turn, later in pairwise(turns)):
            return [self._sequence(messages[: positions[0]], turns)]
        return [self._sequence(messages[:k], [turn]) for k, turn in zip(positions, turns, strict=True)]

    def turn(self, prompt: Prompt, said: Sequence[int], content: str, role: str = "user") -> Tokens:
        """What stands between a response and the next one: the end of its turn where `said` has none, the turn of
        somebody else, and the beginning of the next response. After a plain text prompt, the content as it stands.

        Control tokens in the content are taken out: a model may have written it, and could close its own turn.
        """
        content = re.sub(self._control_pattern, "", content)
        if isinstance(prompt, str):
            return tuple(self.encode(content))
        ours = [*prompt, {"role": "assistant", "content": STAND_IN}]
        before = self.chat(ours, generation=False).rindex(STAND_IN) + len(STAND_IN)
        between = self.chat([*ours, {"role": role, "content": content}], generation=True)[before:]
        end = re.match(rf"\s*(?:{self._control_pattern})", between)
        if end and list(said[-1:]) == self.encode(end.group())[-1:]:
            between = between[end.end() :]  # the response closed its turn itself
        return tuple(self.encode(between))

    def _sequence(self, prompt: Sequence[Message], turns: Sequence[_Turn]) -> Rendered:
        texts = [turns[0].before]
        for turn, later in pairwise(turns):
            texts += [turn.said, later.before[len(turn.before) + len(turn.said) :]]
        texts.append(turns[-1].said)
        prefix, *ids = self.encode_stretches(texts)
        if not turns[-1].ended:
            ids[-1] = self._closed(ids[-1])
        stretches = tuple(Stretch(tuple(tokens), index % 2 == 0) for index, tokens in enumerate(ids))
        return Rendered(tuple(prompt), tuple(prefix), stretches, added_eos=not turns[-1].ended)

    def _turn(self, messages: Sequence[Message], k: int, **template: Any) -> _Turn:
        before = self.chat(messages[:k], generation=True, **template)
        whole = self.chat(messages[: k + 1], generation=False, **template)
        if not whole.startswith(before):
            raise BadRow(
                f"the template's generation prompt {before[-30:]!r} is not how it renders assistant turn {k}; "
                "give prompt and completion as text, rendered as wanted"
            )
        body, end, after = self._ending(whole[len(before) :])
        self._require_all_said(messages[k], body, k)
        return _Turn(before, body + end, after, ended=bool(end))

    def _ending(self, turn: str) -> tuple[str, str, str]:
        """Split a rendered turn into its body, its end up to the first closing control token, and what follows."""
        body = turn.rstrip()
        while closing := next((token for token in self._controls if body.endswith(token)), ""):
            body = body.removesuffix(closing).rstrip()
        tail = turn[len(body) :]
        end = re.match(rf"\s*(?:{self._control_pattern})", tail)
        return (body, end.group(), tail[end.end() :]) if end else (body, "", tail)

    def _require_all_said(self, message: Message, body: str, k: int) -> None:
        """The rendered turn contains all the assistant said, whitespace aside."""
        calls = [call.get("function", call).get("name", "") for call in message.get("tool_calls", ())]
        for part in (message["content"] or "", message.get("reasoning_content", ""), *calls):
            if _squeezed(part) not in _squeezed(body):
                raise BadRow(f"the chat template drops or rewrites part of assistant turn {k}: {part!r:.60}")

    def chat(self, messages: Sequence[Message], *, generation: bool, **template: Any) -> str:
        if not self.tokenizer.chat_template:
            raise DataError(
                "messages need a chat template, and the tokenizer has none",
                fix="plain text prompts (tasks: form: text; data: prompt and completion as text), "
                "or a chat_template.jinja beside the tokenizer",
            )
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=generation, **template
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise BadRow(f"the chat template refuses it: {error}") from error

    def checked(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Messages with known roles and text content. Keys without a value (Arrow fills them in) are left out."""
        if not messages:
            raise BadRow("there are no messages")
        return tuple(self._checked_message(index, message) for index, message in enumerate(messages))

    def _checked_message(self, index: int, message: Message) -> Message:
        if not isinstance(message, Mapping):
            raise BadRow(f"message {index} is a {type(message).__name__}")
        message = {key: value for key, value in message.items() if value is not None}
        role, content = message.get("role"), message.setdefault("content", None)
        if role not in ROLES:
            raise BadRow(f"message {index} has role {role!r}, which is none of {', '.join(ROLES)}")
        if content is None and message.get("tool_calls"):
            content = message["content"] = ""
        if not isinstance(content, str):
            kind = "null" if content is None else f"a {type(content).__name__}"
            raise BadRow(f"content of message {index} is {kind}")
        if role == "assistant" and not content.strip() and not message.get("tool_calls"):
            raise BadRow(f"assistant message {index} says nothing")
        if not self.allow_control_tokens and (found := self.control_tokens(content)):
            raise BadRow(f"message {index} ({role}) contains the control token {found[0]}")
        return message

    def control_tokens(self, text: str) -> list[str]:
        return re.findall(self._control_pattern, text)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def encode_stretches(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text as tokens, such that all of them decoded are the whole text.

        Tokenisers that put a space before every text they are given are asked for the whole instead, and cut at the
        boundaries. Whitespace may differ where a tokenizer does not keep it; anything else that differs is an error.
        """
        whole = "".join(texts)
        apart = [self.encode(text) for text in texts]
        decoded = self._decode(apart)
        if decoded == whole:
            return apart
        cut = self._cut(whole, texts) if self.tokenizer.is_fast else None
        if cut is not None and cut[0] == apart[0] and self._decode(cut) == whole:
            return cut
        if _squeezed(decoded) != _squeezed(whole):
            position = next((i for i, (a, b) in enumerate(zip(decoded, whole, strict=False)) if a != b), len(decoded))
            here = slice(max(0, position - 10), position + 20)
            raise BadRow(
                f"the tokenizer cannot express it: {whole[here]!r} comes back as {decoded[here]!r}",
                fix="text, or a template, in words that the tokenizer has",
            )
        return apart

    def _cut(self, whole: str, texts: Sequence[str]) -> list[list[int]] | None:
        """Tokens of the whole, dealt out to the texts they come from; None if one spans a boundary."""
        encoding = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        ends = [sum(map(len, texts[: i + 1])) for i in range(len(texts))]
        dealt: list[list[int]] = [[] for _ in texts]
        piece = 0
        for token, (start, end) in zip(encoding.input_ids, encoding.offset_mapping, strict=True):
            while start >= ends[piece] and piece + 1 < len(ends):
                piece += 1
            if end > ends[piece]:
                return None
            dealt[piece].append(token)
        return dealt

    def _decode(self, stretches: Sequence[Sequence[int]]) -> str:
        ids = [token for tokens in stretches for token in tokens]
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _opened(self, ids: Sequence[int]) -> list[int]:
        """With the BOS the tokenizer itself would add, once."""
        if not self._adds_bos or list(ids[:1]) == [self.bos]:
            return list(ids)
        return [self.bos, *ids]

    def _closed(self, ids: Sequence[int]) -> Tokens:
        """With EOS at the end, once."""
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise DataError("the tokenizer has no EOS token: the model could never learn to stop", fix="set eos_token")
        return tuple(ids) if list(ids[-1:]) == [eos] else (*ids, eos)

    @property
    def bos(self) -> int | None:
        return self.tokenizer.bos_token_id

    @cached_property
    def _adds_bos(self) -> bool:
        return self.bos is not None and self.tokenizer("a").input_ids[:1] == [self.bos]

    @cached_property
    def _controls(self) -> list[str]:
        """The tokens that the tokenizer marks as special, longest first."""
        special = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return sorted(special.union(self.tokenizer.all_special_tokens), key=len, reverse=True)

    @cached_property
    def _control_pattern(self) -> str:
        return "|".join(map(re.escape, self._controls)) or r"(?!)"  # (?!) matches nothing


def _squeezed(text: str) -> str:
    """Without whitespace, composed: several tokenizers compose accents (NFC)."""
    return unicodedata.normalize("NFC", "".join(text.split()))
