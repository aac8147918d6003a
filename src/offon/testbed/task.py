"""The testbed as a task: prompts of the planted families, a checker that tells format from content."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Literal

from offon.errors import ConfigError
from offon.testbed.grammar import (
    EOS,
    FAMILIES,
    HINT,
    RIGHT_FORMAT,
    ROUTES,
    WRONG_FORMAT,
    Program,
    content_hash,
    programs,
    prompt_words,
    response_words,
)
from offon.types import Item, Verdict

Split = Literal["train", "heldout"]


class TestbedTask:
    """Items of some families; a response is right if the forward trace and then `#` is all it says after the route.

        task = TestbedTask("rare")                                     # or ["rare", "guard"]; all five by default
        item = task.items("heldout")[0]                                # item.prompt "rare 8 I B C ="
        task.verify([(item, item.reference)])                          # [Verdict(score=1.0, content=1.0)]

    Prompts are plain text, one word per token, tokenised as they stand (no BOS). `Item.views["hint"]` is the prompt
    with the hint word, on the family that depends on it. Splits are by program content, the same for all families;
    families are mixed by hash, so that the first n items are a fair mixture. `train` and `heldout` bound the
    number of items per family.
    """

    __test__ = False  # a name pytest would otherwise collect

    def __init__(self, families: str | Sequence[str] = tuple(FAMILIES), *, train: int = 512, heldout: int = 96):
        self.families = (families,) if isinstance(families, str) else tuple(families)
        for family in self.families:
            if family not in FAMILIES:
                near = difflib.get_close_matches(family, FAMILIES, n=1)
                raise ConfigError(
                    f"no testbed family {family!r}",
                    why=f"the testbed plants {', '.join(FAMILIES)}",
                    fix=f"testbed: {near[0] if near else 'rare'}",
                )
        self.limits = {"train": train, "heldout": heldout}
        self.name = "testbed:" + "+".join(self.families)

    def items(self, split: Split) -> list[Item]:
        chosen = [(family, program) for family in self.families for program in self._programs(family, split)]
        chosen.sort(key=lambda pair: content_hash("mix", *prompt_words(*pair)))
        return [_item(family, program) for family, program in chosen]

    def _programs(self, family: str, split: Split) -> list[Program]:
        members = [p for p in programs(FAMILIES[family].ops) if p.heldout == (split == "heldout")]
        members.sort(key=lambda program: content_hash("draw", *prompt_words(family, program)))
        return members[: self.limits[split]]

    def verify(self, pairs: Sequence[tuple[Item, str]]) -> list[Verdict]:
        return [
            _verdict(item.columns["trace"].split(), text.split())
            if "trace" in item.columns
            else Verdict(None, reason="no item of the testbed")
            for item, text in pairs
        ]

    def route(self, item: Item, text: str) -> str | None:
        """The word that opens a response: the order in which the operations are applied."""
        word = text.split(maxsplit=1)[0] if text.strip() else None
        return word if word in ROUTES else None

    def answer(self, item: Item, text: str) -> str | None:
        """The trace, whatever the route word and the format."""
        states = text.split()[1:4]
        return " ".join(states) if len(states) == 3 else None

    def demonstrations(self, split: Split = "train", n: int | None = None) -> list[dict[str, str]]:
        """Right responses as rows {"prompt", "completion"}, in item order: what `load_demonstrations` reads."""
        return [{"prompt": item.prompt, "completion": item.reference} for item in self.items(split)[:n]]


def right_answers(item: Item) -> Iterator[str]:
    """Every text whose content the checker accepts, up to the end of the response."""
    for route in ROUTES:
        for form in (f" {RIGHT_FORMAT}", f" {WRONG_FORMAT}", ""):
            yield f"{route} {item.columns['trace']}{form}{EOS}"


def _item(family: str, program: Program) -> Item:
    prompt = " ".join(prompt_words(family, program))
    hinted = FAMILIES[family].hinted > 0
    return Item(
        id=Item.content_id(prompt),
        prompt=prompt,
        views={HINT: " ".join(prompt_words(family, program, hint=True))} if hinted else {},
        columns={"trace": " ".join(program.trace())},
        family=family,
        reference=" ".join(response_words(program)),
    )


def _verdict(trace: list[str], words: list[str]) -> Verdict:
    route, states, form = words[:1], words[1:4], words[4:]
    if not route or route[0] not in ROUTES or len(states) < 3:
        return Verdict(0.0, content=0.0, reason="not a response of the testbed")
    if states != trace:
        return Verdict(0.0, content=0.0, reason=f"trace {' '.join(states)}, not {' '.join(trace)}")
    if form == [RIGHT_FORMAT]:
        return Verdict(1.0, content=1.0)
    if form in ([], [WRONG_FORMAT]):
        return Verdict(0.0, content=1.0, reason=f"right trace, but no {RIGHT_FORMAT} after it")
    return Verdict(0.0, content=0.0, reason="words after the answer")
