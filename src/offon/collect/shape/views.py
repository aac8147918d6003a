"""Views: further prompts that a response can be read under, written from what a group knows. Who reads them is up to
the parts: a sampler, a teacher. The prompt that deployment sees stays what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offon.data.render import Renderer
from offon.data.rows import BadRow
from offon.errors import ConfigError, DataError
from offon.parts.collector import Collector
from offon.parts.context import Context
from offon.types import Group, Item, Trajectory
from offon.types.trajectory import Prompt, Tokens

NO_SIBLING = "no other member succeeded"
NO_TOKENS = "its sibling's text cannot be shown in a prompt"


def around(template: str, item: Item, **texts: str) -> Prompt:
    """The item's prompt (of messages: the last one's text) written into a template, whose places are {prompt},
    {reference} (the item's known good response, else its answer), the item's columns and `texts`.

    around("{prompt} It is {answer}.", Item(id="a", prompt="1 + 1?", columns={"answer": 2}))      # "1 + 1? It is 2."
    """
    known = {**item.columns, **({} if item.solution is None else {"reference": item.solution}), **texts}
    if isinstance(item.prompt, str):
        return template.format(**{**known, "prompt": item.prompt})
    *before, last = item.prompt
    return (*before, {**last, "content": template.format(**{**known, "prompt": last["content"]})})


def check_template(template: str | None, view: str, prompts: Sequence[Group], render: Renderer, **texts: str) -> None:
    """Refuse a template that cannot be filled for every prompt without a view of that name, or not said in the
    tokenizer's words."""
    for group in prompts:
        if view in group.views:
            continue
        known = ", ".join(("prompt", *(["reference"] if group.item.solution else []), *group.item.columns, *texts))
        what = f"the view {view!r} of item {group.item.id} cannot be written"
        try:
            written = around(template or "{template}", group.item, **texts)
        except (KeyError, IndexError, ValueError) as error:
            raise DataError(
                f"{what}: no {error}",
                why=f"template {template!r:.60}; its places could be {known}" if template else "it has none of its own",
                fix=f'rows with {{"views": {{"{view}": PROMPT}}}}, or template: TEXT WITH {{prompt}} AND OTHER PLACES',
            ) from error
        try:
            render.view(group.item, written)
        except BadRow as error:
            raise DataError(f"{what}: {error.what}", why=f"template {template!r:.60}", fix=error.fix) from error


@dataclass(frozen=True)
class Shown(Collector):
    """Before sampling: every prompt gets a view, its item's own of that name or one written by a template.

    template  text with places, see `around`; None: items bring the view
    """

    view: str
    template: str | None = None

    def check(self, prompts: Sequence[Group], render: Renderer) -> None:
        check_template(self.template, self.view, prompts, render)

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        def with_view(group: Group) -> Group:
            if self.view in group.views or self.template is None:
                return group
            prefix = context.step.render.view(group.item, around(self.template, group.item))
            return group.replace(views={**group.views, self.view: prefix})

        return [with_view(group) for group in groups]

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

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        return [self._with_sibling(context.step.render, group) for group in groups]

    def check(self, prompts: Sequence[Group], render: Renderer) -> None:
        if "{sibling}" not in self.template:
            raise ConfigError(f"the template {self.template!r:.60} shows no sibling", fix="write {sibling} in it")
        check_template(self.template, self.view, prompts, render, sibling="")

    def _with_sibling(self, render: Any, group: Group) -> Group:
        good = [index for index, m in enumerate(group.members) if m.signals["reward"] >= self.at_least]
        sibling = [next((other for other in good if other != index), None) for index in range(len(group.members))]
        prefixes = [other if other is None else self._prefix(render, group, other) for other in sibling]
        members = tuple(_with_view(m, self.view, p) for m, p in zip(group.members, prefixes, strict=True))
        group = group.replace(members=members).drop([other is not None for other in sibling], NO_SIBLING)
        return group.drop([self.view in member.views for member in group.members], NO_TOKENS)

    def _prefix(self, render: Any, group: Group, other: int) -> Tokens | None:
        try:
            return render.view(group.item, around(self.template, group.item, sibling=group.members[other].text))
        except BadRow:  # a control token in what was sampled, say
            return None

    def __str__(self) -> str:
        return f"sibling_shown(at_least={self.at_least:g})"


def _with_view(member: Trajectory, view: str, prefix: Tokens | None) -> Trajectory:
    return member if prefix is None else member.replace(views={**member.views, view: prefix})


shown, sibling_shown = Shown, SiblingShown
