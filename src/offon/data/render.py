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
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from offon.data.messages import REASONING, Message, Rendering, parts, read_message, squeezed, template_options, trained
from offon.data.rows import BadRow
from offon.data.turns import STAND_IN, Turns, turns_of
from offon.errors import DataError
from offon.types import Item
from offon.types.trajectory import Prompt, Tokens


@dataclass(frozen=True)
class Stretch:
    """Consecutive response tokens that the model said (supervised) or that others said."""

    tokens: Tokens
    supervised: bool


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
    supervised: str
    after: str
    ended: bool  # `supervised` closes with a control token


@dataclass(frozen=True)
class Renderer:
    """Renders with one tokenizer. Control tokens written in message content are refused unless allowed.

    They would become real turn boundaries: text from outside could put words into the assistant's mouth. Plain text
    prompts may contain them, since they often are conversations rendered earlier.

    What a row says and the template leaves out is refused, or with `lossy` named in `lost`.
    """

    tokenizer: Any
    allow_control_tokens: bool = False
    lossy: bool = False
    lost: set[str] = field(default_factory=set, compare=False)  # kinds of things; whoever reads it clears it

    def lose(self, kind: str, why: str) -> None:
        """Something that a row says and that is not in what is rendered."""
        if not self.lossy:
            raise BadRow(why)
        self.lost.add(kind)

    def view(self, item: Item, prompt: Prompt | None = None) -> Tokens:
        """A prompt of an item, its own unless given, with the tools and template arguments of its row."""
        return self.prompt(item.prompt if prompt is None else prompt, **template_options(item.columns))

    def prompt(self, prompt: Prompt, **template: Any) -> Tokens:
        """The tokens a model sees before it answers."""
        if isinstance(prompt, str):
            self.no_template(**template)
            ids = self._opened(self.encode_stretches([prompt])[0])
        else:
            messages = self.checked(prompt)
            if messages[-1]["role"] == "assistant":
                raise BadRow("the prompt ends with an assistant turn: there is nothing to answer")
            before = self.chat(messages, generation=True, **template)
            self._require_context(messages, before, (), **template)
            [ids] = self.encode_stretches([before])
            if self.bos is not None and ids[:2] == [self.bos, self.bos]:
                raise DataError("the chat template writes the BOS token twice", fix="mend the chat template")
        if not ids:
            raise BadRow("the prompt is empty")
        return tuple(ids)

    def no_template(self, **template: Any) -> None:
        """Text is taken as it is: nothing can write tools into it."""
        if template.get("tools"):
            self.lose("tools", "its tools have no place in a text prompt; write them into the text, or give messages")

    def sampled(self, prompt: Prompt, tokens: Sequence[int], text: str, **template: Any) -> Rendered | None:
        """A response that a model gave in these tokens, as it gave them: text keeps neither bytes that form no
        character nor control tokens. None where they are not the text's tokens for this tokenizer."""
        if not all(0 <= token < len(self.tokenizer) for token in tokens):
            return None
        if self.tokenizer.decode(tokens, skip_special_tokens=True) != text:
            return None
        prefix = self.prompt(prompt, **template)
        ended = tokens[-1] in self._control_ids
        if not ended and (closing := self.turns.closing(prefix)) is not None:
            tokens = [*tokens, closing]
        asked = prompt if isinstance(prompt, str) else self.checked(prompt)
        return Rendered(asked, prefix, (Stretch(tuple(tokens), True),), added_eos=not ended)

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

    def stepwise(self, prompt: Prompt, steps: Sequence[str], **template: Any) -> Rendered:
        """An answer in steps, each a stretch of its own, closed with EOS."""
        if not all(steps):
            raise BadRow("a step is empty")
        before = prompt if isinstance(prompt, str) else self.chat(self.checked(prompt), generation=True, **template)
        _, *ids = self.encode_stretches([before, *steps])
        stretches = tuple(Stretch(tuple(tokens), True) for tokens in [*ids[:-1], self._closed(ids[-1])])
        return Rendered(prompt, self.prompt(prompt, **template), stretches, added_eos=True)

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
        reasoning, say) once later ones exist gives one sequence per turn. Turns that are marked as untrained stand
        where they are and are not learned; where all are, there is no sequence.
        """
        learned = trained(messages, self.lose)
        messages = self.checked(messages)
        if messages[-1]["role"] != "assistant":
            raise BadRow(f"the conversation ends with a {messages[-1]['role']} turn, which nobody answers")
        assistant = [k for k in range(first, len(messages)) if messages[k]["role"] == "assistant"]
        positions = [k for k in assistant if learned[k]]
        if not positions:
            return []
        turns = [self._turn(messages, k, **template) for k in positions]
        self._require_context(messages[: positions[-1]], turns[-1].before, positions, **template)
        if all(later.before.startswith(turn.before + turn.supervised + turn.after) for turn, later in pairwise(turns)):
            return [self._sequence(messages[: positions[0]], turns)]
        return [self._sequence(messages[:k], [turn]) for k, turn in zip(positions, turns, strict=True)]

    def turn(
        self, prompt: Prompt, response: Sequence[int], content: str, role: str = "user", **template: Any
    ) -> Tokens:
        """What stands between a response and the next one: the end of its turn where `response` has none, the turn of
        somebody else, and the beginning of the next response. After a plain text prompt, the content as it stands.

        Control tokens in the content are taken out: a model may have written it, and could close its own turn.
        """
        content = re.sub(self.turns.pattern, "", content)
        if isinstance(prompt, str):
            return tuple(self.encode(content))
        ours = [*self.checked(prompt), {"role": "assistant", "content": STAND_IN}]
        before = self.chat(ours, generation=False, **template).rindex(STAND_IN) + len(STAND_IN)
        between = self.chat([*ours, {"role": role, "content": content}], generation=True, **template)[before:]
        end = re.match(rf"\s*(?:{self.turns.pattern})", between)
        if end and list(response[-1:]) == self.encode(end.group())[-1:]:
            between = between[end.end() :]  # the response closed its turn itself
        return tuple(self.encode(between))

    def _sequence(self, prompt: Sequence[Message], turns: Sequence[_Turn]) -> Rendered:
        texts = [turns[0].before]
        for turn, later in pairwise(turns):
            texts += [turn.supervised, later.before[len(turn.before) + len(turn.supervised) :]]
        texts.append(turns[-1].supervised)
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
        body, end, after = self.turns.split(whole[len(before) :])
        self._require_said(messages[k], Rendering(body), k)
        if not end and k + 1 < len(messages):
            end, after = self._opening_after(before + body, messages[: k + 2], **template), ""
        return _Turn(before, body + end, after, ended=bool(end))

    def _opening_after(self, so_far: str, messages: Sequence[Message], **template: Any) -> str:
        """What the next turn begins with, up to a control token: what ends a turn that has no end of its own."""
        try:
            more = self.chat(messages, generation=False, **template)
        except BadRow:
            more = ""
        if more.startswith(so_far):
            opening = re.match(rf"\s*(?:{self.turns.pattern})", more[len(so_far) :])
            return opening.group() if opening else ""
        return self.turns.next_opening(messages[-1]["role"])

    def _require_said(self, message: Message, rendering: Rendering, k: int) -> None:
        """What is rendered of a message contains all it says, whitespace aside."""
        for part in parts(message):
            if part not in rendering:
                what = f"the chat template drops or rewrites part of {message['role']} turn {k}: {str(part)!r:.60}"
                self.lose(f"part of {_a(message['role'])} turn", what)

    def _require_context(
        self, messages: Sequence[Message], before: str, learned: Sequence[int], **template: Any
    ) -> None:
        """What stands before an answer contains all that the others say, and the tools.

        A template may forget what the assistant said earlier (its reasoning, mostly), as long as it can say it.
        """
        if template.get("tools") and not self._differs(messages, before, **{**template, "tools": None}):
            self.lose("tools", "the chat template drops the tools")
        rendering = Rendering(before)
        for k, message in enumerate(messages):
            if k in learned or all(part in rendering for part in parts(message)):
                continue
            if message["role"] == "assistant":
                rendered = self.chat(messages[: k + 1], generation=False, **template)
                self._require_said(message, Rendering(rendered), k)
            else:
                self._require_said(message, rendering, k)

    def _differs(self, messages: Sequence[Message], before: str, **template: Any) -> bool:
        try:
            return before != self.chat(messages, generation=True, **template)
        except BadRow:
            return True

    @cached_property
    def turns(self) -> Turns:
        return turns_of(self.tokenizer)

    def chat(self, messages: Sequence[Message], *, generation: bool, **template: Any) -> str:
        return self.turns.chat(messages, generation=generation, **template)

    def checked(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Messages with known roles and text content, in the words that the template reads."""
        if not messages:
            raise BadRow("there are no messages")
        return tuple(self._checked_message(index, message) for index, message in enumerate(messages))

    def _checked_message(self, index: int, message: Message) -> Message:
        message = read_message(index, message, self.turns, self.lose)
        written = [message["content"], *(str(message[name]) for name in REASONING if name in message)]
        if not self.allow_control_tokens and (forged := [c for text in written for c in self.control_tokens(text)]):
            raise BadRow(f"message {index} ({message['role']}) contains the control token {forged[0]}")
        return message

    def control_tokens(self, text: str) -> list[str]:
        return re.findall(self.turns.pattern, text)

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
        if squeezed(decoded) != squeezed(whole):
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
    def _control_ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.convert_tokens_to_ids(token) for token in self.turns.controls)


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
