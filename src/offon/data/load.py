"""Demonstrations, preferences and prompts as groups, in the column conventions of Hugging Face and TRL.

    demonstrations   messages | prompt + completion | text | conversations (ShareGPT) | instruction + output (Alpaca)
    preferences      prompt + chosen + rejected | chosen + rejected (whole conversations with a common beginning)
    labelled         prompt + completion + label (true or false)
    rankings         prompt + completions, from best to worst
    steps            prompt + completions (the steps of one solution) + labels; perhaps separator

Prompt, completion(s), chosen and rejected are text or lists of messages. `system` stands before the messages, as does
Alpaca's `history`. Other columns travel with the item; `tools` and `chat_template_kwargs` go to the chat template. What
a row says and the template leaves out is refused, or counted where the caller allows it (`lossy="allow"`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

from offon.data.messages import require_no_media, template_options, with_system
from offon.data.render import Rendered, Renderer
from offon.data.report import DataReport, Loaded
from offon.data.rows import BadRow, Columns, convert_rows, read_rows, source_name
from offon.data.sequences import (
    CONVENTIONS,
    DEMONSTRATIONS,
    LABELLED,
    PREFERENCES,
    RANKINGS,
    SHAREGPT_ROLES,
    STEPS,
    WRITTEN,
    Lossy,
    answers_of,
    converted,
    demonstrations_of,
    listed,
    message_list,
    pair_of,
    renderer_of,
    require_columns,
    require_text_only,
    too_long,
)
from offon.errors import ConfigError, DataError
from offon.types import Comparison, Group, Item, Producer, Source, Span, Trajectory

FILLED = "truncated before its first supervised token"
NO_LABEL = "no labelled step within max_length"
CUT_PAIR = "a member exceeds max_length"
CUT_ANSWER = "an answer exceeds max_length"
IDENTICAL = "chosen equals rejected"

READ_COLUMNS = {name for names in CONVENTIONS for name in names} | {"input", "margin", "separator", WRITTEN}

__all__ = [
    "CONVENTIONS",
    "SHAREGPT_ROLES",
    "WRITTEN",
    "DataReport",
    "Loaded",
    "load_demonstrations",
    "load_labelled",
    "load_preferences",
    "load_rankings",
    "load_steps",
    "prompt_groups",
]


def load_demonstrations(
    source: Any,
    tokenizer: Any,
    *,
    columns: Mapping[str, str] | None = None,
    max_length: int | None = None,
    supervise: Literal["all", "last"] = "all",
    allow_control_tokens: bool = False,
    lossy: Lossy = "refuse",
) -> Loaded:
    """One group with one EXTERNAL member per demonstration.

    What precedes the first supervised assistant turn is the prefix; later turns of others are response tokens with
    source ENVIRONMENT. All assistant turns are supervised (of prompt + completion, those of the completion), or the
    last only. A sequence over `max_length` tokens is cut, and dropped if its prompt alone fills it.
    """
    if supervise not in ("all", "last"):
        raise ConfigError(f"supervise is {supervise!r}", fix="all or last")
    renderer = renderer_of(tokenizer, allow_control_tokens, lossy)
    rows = read_rows(source, columns, *DEMONSTRATIONS)
    detected = next(names for names in DEMONSTRATIONS if set(names) <= set(rows[0][1]))
    report = DataReport(source_name(source), " + ".join(detected), rows=len(rows))

    def demonstrations(row: Columns) -> list[tuple[Columns, Rendered]]:
        require_columns(row, detected)
        return [(row, rendered) for rendered in demonstrations_of(renderer, row, detected, supervise)]

    groups = []
    for rendered_row in converted(source, rows, demonstrations, renderer, report):
        report.split_rows += len(rendered_row) > 1
        for row, rendered in rendered_row:
            if max_length is not None and len(rendered.prefix) >= max_length:
                report.dropped[FILLED] += 1
                continue
            groups.append(_group(row, rendered, [_trajectory(renderer, rendered, report, row, max_length)]))
    return _loaded(groups, report, max_length)


def load_preferences(
    source: Any,
    tokenizer: Any,
    *,
    columns: Mapping[str, str] | None = None,
    max_length: int | None = None,
    allow_control_tokens: bool = False,
    lossy: Lossy = "refuse",
) -> Loaded:
    """One group of two EXTERNAL members per pair, tagged chosen and rejected, and the comparison between them.

    Pairs that are equal, or of which a member exceeds `max_length` tokens, are dropped and counted: cut answers cannot
    be compared. A `margin` column becomes the comparison's.
    """
    renderer = renderer_of(tokenizer, allow_control_tokens, lossy)
    rows = read_rows(source, columns, *PREFERENCES)
    detected = next(names for names in PREFERENCES if set(names) <= set(rows[0][1]))
    report = DataReport(source_name(source), " + ".join(detected), rows=len(rows))

    def pair(row: Columns) -> tuple[Columns, Rendered, Rendered]:
        require_columns(row, detected)
        return row, *pair_of(renderer, row)

    groups = []
    for row, chosen, rejected in converted(source, rows, pair, renderer, report):
        if _said(renderer, chosen) == _said(renderer, rejected):
            report.dropped[IDENTICAL] += 1
        elif too_long([chosen, rejected], max_length):
            report.dropped[CUT_PAIR] += 1
        else:
            members = [_trajectory(renderer, chosen, report, row).tagged("chosen")]
            members += [_trajectory(renderer, rejected, report, row).tagged("rejected")]
            groups.append(_group(row, chosen, members, (Comparison(0, 1, row.get("margin")),)))
    return _loaded(groups, report, max_length)


def load_labelled(
    source: Any,
    tokenizer: Any,
    *,
    columns: Mapping[str, str] | None = None,
    max_length: int | None = None,
    allow_control_tokens: bool = False,
    lossy: Lossy = "refuse",
) -> Loaded:
    """One group with one EXTERNAL member per row, tagged desirable where its label is true, else undesirable.

    Members over `max_length` tokens are dropped and counted: a label is about a whole answer.
    """
    renderer = renderer_of(tokenizer, allow_control_tokens, lossy)
    rows = read_rows(source, columns, LABELLED)
    report = DataReport(source_name(source), " + ".join(LABELLED), rows=len(rows))

    def judged(row: Columns) -> tuple[Columns, Rendered]:
        require_columns(row, LABELLED)
        if not isinstance(row["label"], bool | int | float) or row["label"] not in (True, False):
            raise BadRow(f"label is {row['label']!r:.40}, neither true nor false")
        [rendered] = answers_of(renderer, row, [row["completion"]], [(row.get(WRITTEN) or {}).get("tokens")])
        return row, rendered

    groups = []
    for row, rendered in converted(source, rows, judged, renderer, report):
        if too_long([rendered], max_length):
            report.dropped[CUT_ANSWER] += 1
        else:
            member = _trajectory(renderer, rendered, report, row).tagged("desirable" if row["label"] else "undesirable")
            groups.append(_group(row, rendered, [member]))
    return _loaded(groups, report, max_length)


def load_rankings(
    source: Any,
    tokenizer: Any,
    *,
    columns: Mapping[str, str] | None = None,
    max_length: int | None = None,
    allow_control_tokens: bool = False,
    lossy: Lossy = "refuse",
) -> Loaded:
    """One group per row with an EXTERNAL member per completion, in the row's order from best to worst, and a comparison
    of every two. Groups with a member over `max_length` tokens are dropped and counted."""
    renderer = renderer_of(tokenizer, allow_control_tokens, lossy)
    rows = read_rows(source, columns, RANKINGS)
    report = DataReport(source_name(source), " + ".join(RANKINGS), rows=len(rows))

    def ranked(row: Columns) -> tuple[Columns, list[Rendered]]:
        require_columns(row, RANKINGS)
        if isinstance(row["completions"], str) or len(listed(row, "completions")) < 2:
            raise BadRow("a ranking needs two completions or more")
        return row, answers_of(renderer, row, list(row["completions"]))

    groups = []
    for row, answers in converted(source, rows, ranked, renderer, report):
        if too_long(answers, max_length):
            report.dropped[CUT_ANSWER] += 1
            continue
        members = [_trajectory(renderer, rendered, report, row) for rendered in answers]
        order = tuple(Comparison(i, j) for i in range(len(members)) for j in range(i + 1, len(members)))
        groups.append(_group(row, answers[0], members, order))
    return _loaded(groups, report, max_length)


def load_steps(
    source: Any,
    tokenizer: Any,
    *,
    columns: Mapping[str, str] | None = None,
    max_length: int | None = None,
    allow_control_tokens: bool = False,
    lossy: Lossy = "refuse",
) -> Loaded:
    """One group with one EXTERNAL member per row: a solution whose steps are spans with a signal "label".

    Each step is tokenised by itself, with the row's `separator` after it (a line break unless written), and the last
    one is closed by EOS. A label is a number in [0, 1], or null: not labelled. Steps over `max_length` tokens are cut
    off with their labels.
    """
    renderer = renderer_of(tokenizer, allow_control_tokens, lossy)
    rows = read_rows(source, columns, STEPS)
    report = DataReport(source_name(source), " + ".join(STEPS), rows=len(rows))

    def stepwise(row: Columns) -> tuple[Columns, Rendered]:
        require_columns(row, STEPS)
        steps, labels = listed(row, "completions", str), listed(row, "labels")
        if not steps or len(steps) != len(labels):
            raise BadRow(f"{len(row['completions'])} completions (steps) and {len(row['labels'])} labels")
        wrong = [label for label in row["labels"] if label is not None and not _in_unit(label)]
        if wrong:
            raise BadRow(f"a label is {wrong[0]!r:.40}, not a number in [0, 1] or null")
        separator = "\n" if row.get("separator") is None else row["separator"]
        prompt = row["prompt"]
        if not isinstance(prompt, str):
            prompt = with_system(row, message_list("the prompt", prompt, role="user"))
        if isinstance(prompt, str):
            require_text_only(renderer, row)
        steps = [text + separator for text in steps]
        return row, renderer.stepwise(prompt, steps, **template_options(row))

    groups = []
    for row, rendered in converted(source, rows, stepwise, renderer, report):
        if max_length is not None and len(rendered.prefix) >= max_length:
            report.dropped[FILLED] += 1
            continue
        member = _trajectory(renderer, rendered, report, row, max_length)
        cut = zip(accumulate(len(stretch.tokens) for stretch in rendered.stretches), row["labels"], strict=True)
        whole = [(end, label) for end, label in cut if end <= len(member)]
        if all(label is None for _, label in whole):
            report.dropped[NO_LABEL] += 1
            continue
        steps = pairwise([(0, None), *whole])
        spans = tuple(
            Span("step", start, end, {"label": None if label is None else float(label)})
            for (start, _), (end, label) in steps
        )
        groups.append(_group(row, rendered, [member.head(whole[-1][0]).replace(spans=spans, text=member.text)]))
    return _loaded(groups, report, max_length)


def prompt_groups(items: Sequence[Item], tokenizer: Any, *, allow_control_tokens: bool = False) -> list[Group]:
    """Groups without members: each item's prompt and other views as tokens, by the chat template if messages."""
    renderer = Renderer(tokenizer, allow_control_tokens)

    def group(item: Item) -> Group:
        require_no_media(item.columns, renderer.lose)
        prompts = {"prompt": item.prompt, **item.views}
        return Group(item=item, views={view: renderer.view(item, prompt) for view, prompt in prompts.items()})

    return convert_rows(items, ((f"item {item.id}", item) for item in items), group)


def _in_unit(label: Any) -> bool:
    return isinstance(label, int | float) and 0 <= label <= 1


def _said(renderer: Renderer, rendered: Rendered) -> str:
    """A response without its end token and the white space around it, which no judge compares."""
    return renderer.turns.split(renderer.tokenizer.decode(rendered.response))[0].strip()


def _trajectory(
    renderer: Renderer, rendered: Rendered, report: DataReport, row: Columns, max_length: int | None = None
) -> Trajectory:
    source, spans, start = [], [], 0
    for stretch in rendered.stretches:
        end = start + len(stretch.tokens)
        source += [Source.EXTERNAL if stretch.supervised else Source.ENVIRONMENT] * len(stretch.tokens)
        spans += [Span("turn", start, end)] if stretch.supervised else []
        start = end
    room = len(source) if max_length is None else max_length - len(rendered.prefix)
    tokens, source = rendered.response[:room], source[:room]
    report.trajectories += 1
    report.added_eos += rendered.added_eos
    report.cut += room < start
    report.tokens_cut += start - len(tokens)
    report.tokens["prompt"] += len(rendered.prefix)
    report.tokens["supervised"] += source.count(Source.EXTERNAL)
    report.tokens["environment"] += source.count(Source.ENVIRONMENT)
    written = row.get(WRITTEN) or {}
    return Trajectory.of(
        tokens,
        rendered.prefix,
        source,
        spans=tuple(Span(span.name, span.start, min(span.end, room)) for span in spans if span.start < room),
        tags=frozenset({"truncated"} if room < start else ()),
        signals={f"data:{name}": value for name, value in written.get("signals", {}).items()},
        producer=Producer(model=written.get("producer") or Path(report.source).name),
        text=renderer.tokenizer.decode(tokens, skip_special_tokens=True),
    )


def _group(
    row: Columns, rendered: Rendered, members: Sequence[Trajectory], comparisons: tuple[Comparison, ...] = ()
) -> Group:
    columns = {name: value for name, value in row.items() if name not in READ_COLUMNS}
    item = Item(
        id=Item.content_id(rendered.prompt or members[0].text),
        prompt=rendered.prompt,
        columns=columns,
        family=str(columns.get("family") or ""),
        reference=members[0].text,
    )
    return Group(item=item, views={"prompt": rendered.prefix}, members=tuple(members), comparisons=comparisons)


def _loaded(groups: list[Group], report: DataReport, max_length: int | None) -> Loaded:
    if groups:
        return Loaded(groups, report)
    why = "; ".join(f"{count} rows: {reason}" for reason, count in report.dropped.items())
    if set(report.dropped) == {FILLED}:
        raise DataError(
            f"every row is {FILLED}",
            where=report.source,
            why=f"max_length is {max_length}",
            fix="shorter prompts, or a larger max_length if the model reads more",
        )
    raise DataError("no row is left to train on", where=report.source, why=why)
