"""Views: further prompts that a response can be read under, written from what a group knows. Who reads them is up to
the parts: a sampler, a teacher. The prompt that deployment sees stays what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offon.collect.base import Collector
from offon.collect.context import Context
from offon.data.rows import BadRow
from offon.errors import ConfigError, DataError
from offon.types import Group, Trajectory
from offon.types.trajectory import Prompt, Tokens

NO_SIBLING = "no other member succeeded"
NO_TOKENS = "its sibling's text cannot be shown in a prompt"


def around(template: str, prompt: Prompt, **texts: str) -> Prompt:
    """The prompt with its text (of messages: the last one's) written into a template.

    around("{prompt}\\nAnswer: {reference}", "1 + 1 =", reference="2")      # "1 + 1 =\\nAnswer: 2"
    """
    if isinstance(prompt, str):
        return template.format(prompt=prompt, **texts)
    *before, last = prompt
    return (*before, {**last, "content": template.format(prompt=last["content"], **texts)})


def check_template(template: str, **texts: str) -> None:
    try:
        template.format(prompt="", **texts)
    except (KeyError, IndexError, ValueError) as error:
        places = ", ".join("{" + name + "}" for name in ("prompt", *texts))
        raise ConfigError(
            f"the template {template!r:.60} cannot be filled: {error}", fix=f"its places are {places}"
        ) from error


@dataclass(frozen=True)
class Shown(Collector):
    """Before sampling: every prompt gets a view, its item's own of that name or one written by a template.

    template  {prompt} is the question, {reference} the item's reference response; None: items bring the view
    """

    view: str
    template: str | None = None

    def __post_init__(self):
        check_template(self.template or "", reference="")

    def check(self, prompts: Sequence[Group]) -> None:
        without = [group for group in prompts if self._prompt(group) is None and self.view not in group.views]
        if without:
            asked = self.template is not None
            raise DataError(
                f"{len(without)} of {len(prompts)} prompts have no {'reference' if asked else f'view {self.view!r}'}",
                where=f"the first is item {without[0].item.id}",
                fix="items with a reference response" if asked
                else f'rows with {{"views": {{"{self.view}": PROMPT}}}}, or template: TEXT AROUND {{prompt}}',
            )  # fmt: skip

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        def with_view(group: Group) -> Group:
            if self.view in group.views:
                return group
            return group.replace(views={**group.views, self.view: context.step.render.prompt(self._prompt(group))})

        return [with_view(group) for group in groups]

    def _prompt(self, group: Group) -> Prompt | None:
        if self.template is None or ("{reference}" in self.template and group.item.reference is None):
            return None
        return around(self.template, group.item.prompt, reference=group.item.reference or "")

    def __str__(self) -> str:
        return f"shown({self.view})"


@dataclass(frozen=True, kw_only=True)
class SiblingShown(Collector):
    """After scoring: each member gets a view that shows the response of another member that reached `at_least`.

    Members without such a sibling are dropped with the reason: nobody has anything to tell them.
    """

    template: str
    at_least: float = 1.0
    view: str = "sibling"
    requires = frozenset({"members", "reward"})

    def __post_init__(self):
        check_template(self.template, sibling="")

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        return [self._told(context.step.render, group) for group in groups]

    def _told(self, render: Any, group: Group) -> Group:
        good = [index for index, m in enumerate(group.members) if m.signals["reward"] >= self.at_least]
        sibling = [next((other for other in good if other != index), None) for index in range(len(group.members))]
        prefixes = [other if other is None else self._prefix(render, group, other) for other in sibling]
        members = tuple(_with_view(m, self.view, p) for m, p in zip(group.members, prefixes, strict=True))
        group = group.replace(members=members).drop([other is not None for other in sibling], NO_SIBLING)
        return group.drop([self.view in member.views for member in group.members], NO_TOKENS)

    def _prefix(self, render: Any, group: Group, other: int) -> Tokens | None:
        try:
            return render.prompt(around(self.template, group.item.prompt, sibling=group.members[other].text))
        except BadRow:  # a control token in what was sampled, say
            return None

    def __str__(self) -> str:
        return f"sibling_shown(at_least={self.at_least:g})"


def _with_view(member: Trajectory, view: str, prefix: Tokens | None) -> Trajectory:
    return member if prefix is None else member.replace(views={**member.views, view: prefix})


shown, sibling_shown = Shown, SiblingShown
