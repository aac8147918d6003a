"""Reading one document against what it may say: keys known, values in range. Problems are collected."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from offon.errors import ConfigError, OffonError, Problems
from offon.recipe.fields import Lora, keys_of
from offon.recipe.trl import INSTEAD, RENAMED
from offon.recipe.values import NotAllowed, checked
from offon.recipe.yaml_reader import Document, Keys, flow

BAD = object()  # stands for a value whose problem has been noted


def did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


class Reader:
    """One document, its problems and its notes. What has a problem is BAD, so that reading goes on to the next."""

    def __init__(self, document: Document):
        self.document = document
        self.problems: list[OffonError] = []
        self.notes: list[str] = []

    @property
    def nodes(self) -> Mapping[str, Any]:
        pipeline = self.document.data.get("pipeline")
        return pipeline if isinstance(pipeline, dict) else {}

    def problem(
        self,
        what: str,
        position: Keys,
        *,
        of: str = "key",
        kind: type[OffonError] = ConfigError,
        why: str = "",
        fix: str = "",
    ) -> Any:
        self.problems.append(kind(what, where=self.document.place(position, of=of), why=why, fix=fix))
        return BAD

    def raise_problems(self) -> None:
        if self.problems:
            raise self.problems[0] if len(self.problems) == 1 else Problems(self.problems)

    def unknown(self, key: str, position: Keys, known: Iterable[str], *, why: str = "", elsewhere: str = "") -> None:
        """An unknown key, with what the reader most likely meant."""
        words = {name: name for name in known}
        words |= {theirs: ours for theirs, ours in RENAMED.items() if ours in words and theirs not in words}
        close = difflib.get_close_matches(key, list(words), n=1)
        if key in INSTEAD:
            fix = INSTEAD[key]
        elif close:
            fix = f"did you mean {words[close[0]]}?"
        else:
            fix = elsewhere
        self.problem(f"unknown key {key!r}", position, why=why, fix=fix)

    # ---- values

    def value(self, annotation: Any, value: Any, position: Keys) -> Any:
        if value is BAD:  # what the recipe says for all nodes comes here once for each
            return BAD
        try:
            return checked(annotation, value)
        except NotAllowed as allowed:
            return self.not_allowed(value, position, str(allowed))

    def not_allowed(self, value: Any, position: Keys, allowed: str) -> Any:
        try:
            text = flow(value)
        except yaml.YAMLError:
            text = repr(value)  # an object handed over in Python
        shown = textwrap.shorten(text, 60, placeholder=" ...")
        return self.problem(f"{position[-1]}: {shown} is not allowed", position, of="value", why=f"allowed: {allowed}")

    def section(self, section: type, value: Any, position: Keys) -> dict[str, Any] | Any:
        """A mapping read against a dataclass: its known keys, each in range."""
        keys = keys_of(section)
        if not isinstance(value, Mapping):
            return self.not_allowed(value, position, "a mapping of " + ", ".join(keys))
        for key in value:
            if key not in keys:
                self.unknown(key, (*position, key), keys, why=f"{position[-1]} has {', '.join(keys)}")
        return {key: self.value(keys[key], value[key], (*position, key)) for key in keys if key in value}

    def lora(self, value: Any, position: Keys) -> Lora | None | Any:
        if value is None or isinstance(value, bool):
            return Lora() if value else None
        before = len(self.problems)
        given = self.section(Lora, value, position)
        return BAD if len(self.problems) > before else Lora(**given)
