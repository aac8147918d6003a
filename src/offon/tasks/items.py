"""Items from questions: the form of the prompt, duplicates, and the split into train and held-out by content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from offon.errors import ConfigError, DataError
from offon.tasks.api import Name, Pair, Split
from offon.types import Item, Verdict
from offon.types.trajectory import Prompt

Form = Literal["text", "chat"]
PLACE = "{question}"
HELDOUT_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class PromptForm:
    """How a question becomes a prompt: plain text for a base model, or messages that the chat template renders.

    PromptForm(form="text", template="Q: {question}\\nA:")("1 + 1")     # "Q: 1 + 1\\nA:"
    PromptForm(form="chat")("1 + 1")                                   # ({"role": "user", "content": "1 + 1"},)
    """

    form: Form = "text"
    template: str = PLACE
    system: str = ""

    def __post_init__(self):
        if self.form not in ("text", "chat"):
            raise ConfigError(f"form is {self.form!r}", fix="form: text (the template as it is) or chat (messages)")
        if PLACE not in self.template:
            raise ConfigError(f"the template {self.template!r:.60} has no place for the question", fix=f"write {PLACE}")
        if self.system and self.form == "text":
            raise ConfigError("a system message needs form: chat", fix="put the text into template")

    def __call__(self, question: str) -> Prompt:
        text = self.template.replace(PLACE, question)
        if self.form == "text":
            return text
        system = ({"role": "system", "content": self.system},) if self.system else ()
        return (*system, {"role": "user", "content": text})


def distinct(items: Sequence[Item]) -> tuple[tuple[Item, ...], int]:
    """The first item of each question, and how many of those dropped had another answer than the one kept."""
    first: dict[str, Item] = {}
    conflicting = 0
    for item in items:
        kept = first.setdefault(item.id, item)
        conflicting += kept.columns.get("answer") != item.columns.get("answer")
    return tuple(first.values()), conflicting


def content_split(items: Sequence[Item], heldout: float) -> dict[Split, tuple[Item, ...]]:
    """Hold out the items whose id, read as a number in [0, 1), is below `heldout`.

    An id is a hash of the question, so an item is on the same side whatever the seed, size, order or template.
    """
    sides: dict[Split, list[Item]] = {"train": [], "heldout": []}
    for item in items:
        sides["heldout" if int(item.id, 16) < heldout * 16 ** len(item.id) else "train"].append(item)
    return {split: tuple(side) for split, side in sides.items()}


class ItemTask:
    """A task made of a list of items and a function that checks answers.

    `load` runs when items are first asked for. `heldout` is the share of questions held out, or a function that loads
    the held-out items, whose questions are then removed from the training side. `answer` names the answer that a
    response comes to, where the checker has such a thing.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Sequence[Item]],
        check: Callable[[Sequence[Pair]], list[Verdict]],
        *,
        heldout: float | Callable[[], Sequence[Item]] = HELDOUT_SHARE,
        answer: Name | None = None,
    ):
        if not callable(heldout) and not 0 <= heldout <= 1:
            raise ConfigError(f"heldout is {heldout}", fix="a share between 0 and 1, or a file of held-out rows")
        self.name, self._load, self._check, self._heldout, self.answer = name, load, check, heldout, answer

    def items(self, split: Split) -> tuple[Item, ...]:
        sides, counts = self._sides
        if split not in sides:
            raise ConfigError(f"there is no split {split!r}", fix="train or heldout")
        if not sides[split]:
            raise DataError(f"no items in split {split!r}", where=f"task {self.name}", why=f"counts: {dict(counts)}")
        return sides[split]

    def verify(self, pairs: Sequence[Pair]) -> list[Verdict]:
        return self._check(pairs)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many items were loaded, are distinct, and fell on each side."""
        return self._sides[1]

    @cached_property
    def _sides(self) -> tuple[dict[Split, tuple[Item, ...]], dict[str, int]]:
        loaded = self._load()
        items, conflicting = distinct(loaded)
        if callable(self._heldout):
            heldout, _ = distinct(self._heldout())
            apart = {item.id for item in heldout}
            sides = {"train": tuple(item for item in items if item.id not in apart), "heldout": heldout}
        else:
            sides = content_split(items, self._heldout)
        counts = {
            "loaded": len(loaded),
            "distinct": len(items),
            "conflicting": conflicting,
            "train": len(sides["train"]),
            "heldout": len(sides["heldout"]),
        }
        return sides, counts
