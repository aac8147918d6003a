"""Guides: help that some members are sampled with, and that fades. Each is a pure function of (step, group, member).

What a guide shows is condition: a prompt of its own, or the beginning of a response that somebody else wrote. It is
trained on only where a method says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from offon.collect.shape.views import around, check_template
from offon.collect.sources.dataset import Library
from offon.collect.sources.rollouts import Guidance, Guide
from offon.data.render import Renderer
from offon.errors import DataError
from offon.parts.context import Step
from offon.parts.schedules import Schedule, value_at
from offon.types import Group, Source, Trajectory


@dataclass(frozen=True, kw_only=True)
class Hint(Guide):
    """Sample under another view of the prompt for a share of the groups, which fades.

    view    the item's view with the hint; items without it are sampled plainly
    amount  share of groups that see it, as a schedule over the stage
    drop    False: trained under the view it was sampled under, exactly on-policy. True: trained under the plain prompt;
            behaviour log-probs stay those of the hinted sampler, so that the ratio across views is the true one, and
            the ledger reports the trajectories as off-policy by conditioning.

    All members of a group see the same view, so that they share a baseline.
    """

    view: str = "hint"
    amount: Schedule = 1.0
    drop: bool = False

    def __call__(self, step: Step, group: Group, member: int, n: int) -> Guidance | None:
        if self.view not in group.views:
            return None
        hinted = step.uniform(group.draw) < value_at(self.amount, step.index, step.steps)
        return Guidance(group.views[self.view]) if hinted else None

    def check(self, prompts: Sequence[Group], render: Renderer) -> None:
        if prompts and not any(self.view in group.views for group in prompts):
            views = sorted({view for group in prompts for view in group.views})
            raise DataError(
                f"no prompt has a view named {self.view!r}",
                why=f"the views of its {len(prompts)} prompts: {', '.join(views)}",
                fix='rows with {"views": {"' + self.view + '": PROMPT WITH THE HINT}}, or hints: {view: ...}',
            )

    def __str__(self) -> str:
        return f"hint={self.view}{' dropped' if self.drop else ''}"


@dataclass(frozen=True, kw_only=True)
class ShownView(Hint):
    """Every member sees a view that a collector before this wrote (`shown`), and is trained under the plain prompt."""

    drop: bool = True

    def check(self, prompts: Sequence[Group], render: Renderer) -> None:
        """The view is not there yet."""


@dataclass(frozen=True, kw_only=True)
class ExpertPrefix(Guide):
    """Begin the response with the beginning of a demonstration; the learner continues it.

    library   demonstrations by prompt; None: the items' own reference responses, where they are whole ones
    amount    how much of it, as a schedule over the stage
    cuts      None: that share of its tokens. k: Binomial(k, amount) of its k equal parts, one draw for a group
    scaffold  True: these tokens are condition only. False: terms may read them, as external tokens

    The end token is never given. All members of a group continue the same beginning, so that they share a baseline.
    """

    library: Library | None = None
    amount: Schedule = 0.5
    cuts: int | None = None
    scaffold: bool = True

    def __call__(self, step: Step, group: Group, member: int, n: int) -> Guidance | None:
        demo = self._demo(step, group)
        length = 0 if demo is None else round(self._share(step, group) * len(demo))
        if not length:
            return None
        begun = demo.head(length).replace(spans=(), scaffold=demo.scaffold[:length] | self.scaffold)
        return Guidance(group.prompt, begun)

    def _share(self, step: Step, group: Group) -> float:
        amount = value_at(self.amount, step.index, step.steps)
        if self.cuts is None:
            return amount
        return int(step.random("prefix", group.draw).binomial(self.cuts, amount)) / self.cuts

    def _demo(self, step: Step, group: Group) -> Trajectory | None:
        """Without its last token, which would end the response."""
        if self.library is not None:
            demonstrations = self.library.of(step, group, 1)
            return demonstrations[0].head(len(demonstrations[0]) - 1) if demonstrations else None
        if not group.item.whole_reference:
            return None
        return Trajectory.of(step.render.encode(group.item.whole_reference), group.prompt, Source.EXTERNAL)

    def check(self, prompts: Sequence[Group], render: Renderer) -> None:
        if self.library is not None:
            self.library.check(prompts)
        elif prompts and not any(group.item.whole_reference for group in prompts):
            raise DataError(
                "no item has a whole reference response to begin with: an answer alone is none",
                fix="a task whose rows have one (column completion or solution), or demos: FILE with demonstrations",
            )

    def __str__(self) -> str:
        return f"prefix of a demonstration{'' if self.scaffold else ', trained'}"


@dataclass(frozen=True, kw_only=True)
class Template(Guide):
    """Show a share of each group's members the prompt inside a text; which of several texts is drawn for each member.

    texts    with {prompt} where the question stands
    amount   share of members, as a schedule over the stage
    drop     as of a hint
    """

    texts: tuple[str, ...]
    amount: Schedule = 0.5
    drop: bool = False

    def __call__(self, step: Step, group: Group, member: int, n: int) -> Guidance | None:
        random = step.random("template", group.draw, member)
        if random.random() >= value_at(self.amount, step.index, step.steps):
            return None
        text = self.texts[int(random.integers(len(self.texts)))]
        return Guidance(step.render.view(group.item, around(text, group.item)))

    def check(self, prompts: Sequence[Group], render: Renderer) -> None:
        for text in self.texts:
            check_template(text, "template", prompts, render)

    def __str__(self) -> str:
        return f"{len(self.texts)} templates{' dropped' if self.drop else ''}"


@dataclass(frozen=True, kw_only=True)
class Rubric(Guide):
    """Show each member some of its item's criteria: member i of n the share amount(step) * (n - 1 - i) / (n - 1) of
    them, so that a group holds everything from all to none; which ones is drawn for each member.

    column   of the item: a list of criteria
    text     with {prompt} and {rubric}, the criteria shown, one a line
    spread   "group": shares differ within the group; "none": every member is shown amount(step) of them
    drop     as of a hint
    """

    column: str = "rubric"
    text: str
    amount: Schedule = 1.0
    spread: Literal["group", "none"] = "group"
    drop: bool = False

    def __call__(self, step: Step, group: Group, member: int, n: int) -> Guidance | None:
        criteria = group.item.columns.get(self.column) or ()
        share = 1.0 if self.spread == "none" or n == 1 else (n - 1 - member) / (n - 1)
        shown = round(value_at(self.amount, step.index, step.steps) * share * len(criteria))
        if not shown:
            return None
        order = step.random("rubric", group.draw, member).permutation(len(criteria))[:shown]
        rubric = "\n".join(criteria[i] for i in sorted(order))
        return Guidance(step.render.view(group.item, around(self.text, group.item, rubric=rubric)))

    def check(self, prompts: Sequence[Group], render: Renderer) -> None:
        if prompts and not any(group.item.columns.get(self.column) for group in prompts):
            raise DataError(
                f"no item has criteria in its column {self.column!r}",
                why=f"columns of the first: {', '.join(sorted(prompts[0].item.columns)) or 'none'}",
                fix='rows with {"' + self.column + '": ["first criterion", ...]}, or column: NAME',
            )
        for group in prompts:
            rubric = "\n".join(group.item.columns.get(self.column) or ())
            check_template(self.text, self.column, [group], render, rubric=rubric)

    def __str__(self) -> str:
        return f"rubric{' dropped' if self.drop else ''}"
