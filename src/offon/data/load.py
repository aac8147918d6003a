"""Demonstrations, preferences and prompts as groups, in the column conventions of Hugging Face and TRL.

    demonstrations   messages | prompt + completion | text | conversations (ShareGPT) | instruction + output (Alpaca)
    preferences      prompt + chosen + rejected | chosen + rejected (whole conversations with a common beginning)
    labelled         prompt + completion + label (true or false)
    rankings         prompt + completions, from best to worst
    steps            prompt + completions (the steps of one solution) + labels; perhaps separator

Prompt, completion(s), chosen and rejected are text or lists of messages. `system` stands before the messages, as does
Alpaca's `history`. Other columns travel with the item; `tools` and `chat_template_kwargs` go to the chat template. What a
row says and the template leaves out is refused, or counted where the caller allows it (`lossy="allow"`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

from offon.data.messages import require_no_media, template_options, with_system
from offon.data.render import Message, Rendered, Renderer
from offon.data.rows import BadRow, Columns, convert_rows, read_rows, source_name
from offon.errors import ConfigError, DataError
from offon.types import Comparison, Group, Item, Producer, Source, Span, Trajectory

DEMONSTRATIONS = (("messages",), ("prompt", "completion"), ("conversations",), ("instruction", "output"), ("text",))
PREFERENCES = (("prompt", "chosen", "rejected"), ("chosen", "rejected"))
LABELLED = ("prompt", "completion", "label")
RANKINGS = ("prompt", "completions")
STEPS = ("prompt", "completions", "labels")
CONVENTIONS = (*DEMONSTRATIONS, *PREFERENCES, LABELLED, RANKINGS, STEPS)
WRITTEN = "offon"  # what a node that makes data says of a row: who wrote the answer, how, and its signals
READ_COLUMNS = {name for names in CONVENTIONS for name in names} | {"input", "margin", "separator", WRITTEN}
ALPACA = ("instruction", "output")
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "system": "system", "tool": "tool", "function": "tool"}

FILLED = "truncated before its first supervised token"
NO_LABEL = "no labelled step within max_length"
CUT_PAIR = "a member exceeds max_length"
CUT_ANSWER = "an answer exceeds max_length"
IDENTICAL = "chosen equals rejected"
UNTRAINED = "no turn of it is to be trained"
BROKEN = "sampled bytes that form no character, whose tokens are not known"
BROKEN_CHARACTER = "\ufffd"  # what decoding puts in place of them

Lossy = Literal["refuse", "allow"]
T = TypeVar("T")


@dataclass
class DataReport:
    """What became of the rows of a source. `str()` is the sentence to print; the counts are for the run's report."""

    source: str
    columns: str  # what was detected, such as "prompt + completion"
    rows: int = 0
    trajectories: int = 0
    split_rows: int = 0  # rows whose template rewrites earlier turns: one trajectory per assistant turn
    added_eos: int = 0  # trajectories whose template or text had no end token
    dropped: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    tokens_cut: int = 0
    lost: Counter[str] = field(default_factory=Counter)  # rows by what they say and the template leaves out
    tokens: Counter[str] = field(default_factory=Counter)  # prompt, supervised, environment

    @property
    def supervised_share(self) -> float:
        return self.tokens["supervised"] / max(1, self.tokens.total())

    def __str__(self) -> str:
        parts = [f"{self.source}: {self.rows} rows ({self.columns}), {self.trajectories} trajectories"]
        parts += [f"{count} dropped: {reason}" for reason, count in sorted(self.dropped.items())]
        parts += [f"{count} without their {kind}" for kind, count in sorted(self.lost.items())]
        if self.cut:
            parts.append(f"{self.cut} cut to max_length, losing {self.tokens_cut} tokens")
        if self.split_rows:
            parts.append(f"{self.split_rows} rows split by turn, because the chat template rewrites earlier turns")
        if self.added_eos:
            parts.append(f"EOS added to {self.added_eos}")
        parts.append(f"{self.supervised_share:.1%} of {self.tokens.total()} tokens supervised")
        return "; ".join(parts)


class Loaded(list[Group]):
    """Groups, with the report of how they came from their rows."""

    def __init__(self, groups: Iterable[Group], report: DataReport):
        super().__init__(groups)
        self.report = report


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
    renderer = _renderer(tokenizer, allow_control_tokens, lossy)
    rows = read_rows(source, columns, *DEMONSTRATIONS)
    detected = next(names for names in DEMONSTRATIONS if set(names) <= set(rows[0][1]))
    report = DataReport(source_name(source), " + ".join(detected), rows=len(rows))

    def demonstrations(row: Columns) -> list[tuple[Columns, Rendered]]:
        _require(row, detected)
        return [(row, rendered) for rendered in _demonstrations(renderer, row, detected, supervise)]

    groups = []
    for found in _converted(source, rows, demonstrations, renderer, report):
        report.split_rows += len(found) > 1
        for row, rendered in found:
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
    renderer = _renderer(tokenizer, allow_control_tokens, lossy)
    rows = read_rows(source, columns, *PREFERENCES)
    detected = next(names for names in PREFERENCES if set(names) <= set(rows[0][1]))
    report = DataReport(source_name(source), " + ".join(detected), rows=len(rows))

    def pair(row: Columns) -> tuple[Columns, Rendered, Rendered]:
        _require(row, detected)
        return row, *_pair(renderer, row)

    groups = []
    for row, chosen, rejected in _converted(source, rows, pair, renderer, report):
        if chosen.response == rejected.response:
            report.dropped[IDENTICAL] += 1
        elif _too_long([chosen, rejected], max_length):
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
    renderer = _renderer(tokenizer, allow_control_tokens, lossy)
    rows = read_rows(source, columns, LABELLED)
    report = DataReport(source_name(source), " + ".join(LABELLED), rows=len(rows))

    def judged(row: Columns) -> tuple[Columns, Rendered]:
        _require(row, LABELLED)
        if row["label"] not in (True, False):
            raise BadRow(f"label is {row['label']!r:.40}, neither true nor false")
        [rendered] = _answers(renderer, row, [row["completion"]], [(row.get(WRITTEN) or {}).get("tokens")])
        return row, rendered

    groups = []
    for row, rendered in _converted(source, rows, judged, renderer, report):
        if _too_long([rendered], max_length):
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
    renderer = _renderer(tokenizer, allow_control_tokens, lossy)
    rows = read_rows(source, columns, RANKINGS)
    report = DataReport(source_name(source), " + ".join(RANKINGS), rows=len(rows))

    def ranked(row: Columns) -> tuple[Columns, list[Rendered]]:
        _require(row, RANKINGS)
        if isinstance(row["completions"], str) or len(row["completions"]) < 2:
            raise BadRow("a ranking needs two completions or more")
        return row, _answers(renderer, row, list(row["completions"]))

    groups = []
    for row, answers in _converted(source, rows, ranked, renderer, report):
        if _too_long(answers, max_length):
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
    renderer = _renderer(tokenizer, allow_control_tokens, lossy)
    rows = read_rows(source, columns, STEPS)
    report = DataReport(source_name(source), " + ".join(STEPS), rows=len(rows))

    def stepwise(row: Columns) -> tuple[Columns, Rendered]:
        _require(row, STEPS)
        if len(row["completions"]) != len(row["labels"]):
            raise BadRow(f"{len(row['completions'])} completions (steps) and {len(row['labels'])} labels")
        wrong = [label for label in row["labels"] if label is not None and not 0 <= label <= 1]
        if wrong:
            raise BadRow(f"a label is {wrong[0]!r:.40}, not a number in [0, 1] or null")
        separator = "\n" if row.get("separator") is None else row["separator"]
        prompt = row["prompt"]
        if not isinstance(prompt, str):
            prompt = with_system(row, _message_list("the prompt", prompt, role="user"))
        if isinstance(prompt, str):
            _require_text_only(renderer, row)
        steps = [text + separator for text in row["completions"]]
        return row, renderer.stepwise(prompt, steps, **template_options(row))

    groups = []
    for row, rendered in _converted(source, rows, stepwise, renderer, report):
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


def _require(row: Columns, names: Sequence[str]) -> None:
    for name in names:
        if row.get(name) is None:
            raise BadRow(f"no {name}")


def _renderer(tokenizer: Any, allow_control_tokens: bool, lossy: Lossy) -> Renderer:
    if lossy not in ("refuse", "allow"):
        raise ConfigError(f"lossy is {lossy!r}", fix="refuse or allow")
    return Renderer(tokenizer, allow_control_tokens, lossy == "allow")


class _Dropped(Exception):
    """A row that is whole and of which nothing is to be learned, with the reason."""


def _converted(
    source: Any, rows: Iterable[tuple[str, Columns]], convert: Callable[[Columns], T], renderer: Renderer, report: DataReport
) -> list[T]:
    """The rows converted, and counted where something of them is dropped or lost."""

    def counted(row: Columns) -> list[T]:
        renderer.lost.clear()
        require_no_media(row, renderer.lose)
        if row.get("history") and report.columns != " + ".join(ALPACA):
            renderer.lose("history", "a column history is read beside instruction + output only")
        try:
            found = [convert(row)]
        except _Dropped as reason:
            report.dropped[str(reason)] += 1
            return []
        report.lost.update(renderer.lost)
        return found

    return [one for found in convert_rows(source, rows, counted) for one in found]


def _demonstrations(
    renderer: Renderer, row: Columns, detected: Sequence[str], supervise: Literal["all", "last"]
) -> list[Rendered]:
    if detected == ("text",):
        if not isinstance(row["text"], str):
            raise BadRow(f"text is a {type(row['text']).__name__}")
        _require_text_only(renderer, row)
        return [renderer.text(row["text"])]
    if detected == ("prompt", "completion"):
        tokens = (row.get(WRITTEN) or {}).get("tokens")
        return _continuations(renderer, row, row["prompt"], row["completion"], supervise, tokens)
    return _conversation(renderer, row, _messages(row, detected), supervise)


def _require_text_only(renderer: Renderer, row: Columns) -> None:
    """Text is taken as it is: nothing else that a row says finds a place in it."""
    renderer.no_template(**template_options(row))
    if row.get("system"):
        renderer.lose("system", "its system text has no place in a text prompt; write it into the text, or give messages")


def _messages(row: Columns, detected: Sequence[str]) -> list[Message]:
    if detected == ("messages",):
        return _message_list("messages", row["messages"])
    if detected == ALPACA:
        question = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
        turns = [*_history(row.get("history") or ()), (question, row["output"])]
        roles = ("user", "assistant")
        return [{"role": role, "content": said} for turn in turns for role, said in zip(roles, turn, strict=True)]
    return [
        {
            "role": SHAREGPT_ROLES.get(turn.get("from"), turn.get("from")),
            "content": turn.get("value"),
            **{key: value for key, value in turn.items() if key not in ("from", "value", "role", "content")},
        }
        for turn in _message_list("conversations", row["conversations"])
    ]


def _history(turns: Any) -> list[tuple[str, str]]:
    if isinstance(turns, Sequence) and all(isinstance(t, list | tuple) and len(t) == 2 for t in turns):
        return [tuple(turn) for turn in turns]
    raise BadRow(f"history is not a list of pairs (instruction, answer): {turns!r:.40}")


def _message_list(name: str, value: Any, role: str = "") -> list[Message]:
    """A column's messages; text stands for one message where a role is given."""
    if isinstance(value, str) and role:
        return [{"role": role, "content": value}]
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(m, Mapping) for m in value):
        raise BadRow(f"{name} is {'neither text nor' if role else 'not'} a list of messages: {value!r:.40}")
    return list(value)


def _continuations(
    renderer: Renderer,
    row: Columns,
    prompt: Any,
    completion: Any,
    supervise: Literal["all", "last"] = "all",
    tokens: Sequence[int] | None = None,
) -> list[Rendered]:
    """Text after text as it is; if either is messages, both are. tokens: those that the answer was sampled in."""
    plain = isinstance(prompt, str) and isinstance(completion, str)
    if plain:
        _require_text_only(renderer, row)
        answer: Any = completion
    else:
        prompt = with_system(row, _message_list("the prompt", prompt, role="user"))
        completion = _message_list("the answer", completion, role="assistant")
        alone = len(completion) == 1 and set(completion[0]) == {"role", "content"}
        answer = completion[0]["content"] if alone else None
    if tokens and isinstance(answer, str):
        if sampled := renderer.sampled(prompt, tokens, answer, **({} if plain else template_options(row))):
            return [sampled]
        if BROKEN_CHARACTER in answer:
            raise _Dropped(BROKEN)
    if plain:
        return [renderer.continuation(prompt, completion)]
    found = renderer.conversation(
        prompt + completion, _first(prompt, completion, supervise), **template_options(row)
    )
    return _learned(found)


def _conversation(
    renderer: Renderer, row: Columns, messages: list[Message], supervise: Literal["all", "last"]
) -> list[Rendered]:
    messages = with_system(row, messages)
    found = renderer.conversation(messages, _first([], messages, supervise), **template_options(row))
    return _learned(found)


def _first(before: Sequence[Message], after: Sequence[Message], supervise: Literal["all", "last"]) -> int:
    """The first message that may be learned."""
    return len(before) + len(after) - 1 if supervise == "last" else len(before)


def _learned(found: list[Rendered]) -> list[Rendered]:
    if not found:
        raise _Dropped(UNTRAINED)
    return found


def _pair(renderer: Renderer, row: Columns) -> tuple[Rendered, Rendered]:
    prompt, answers = row.get("prompt"), [row["chosen"], row["rejected"]]
    if not any(isinstance(answer, str) for answer in answers):
        answers = [_message_list(name, row[name]) for name in ("chosen", "rejected")]
        if all(answer and answer[0].get("role") != "assistant" for answer in answers):
            shared = _common_prefix(*answers)  # whole conversations, which repeat the prompt
            prompt, answers = answers[0][:shared], [answer[shared:] for answer in answers]
    if prompt is None:
        raise BadRow("no prompt, and chosen and rejected are not whole conversations")
    written = row.get(WRITTEN) or {}
    sampled = [written.get("tokens"), written.get("rejected_tokens")]
    chosen, rejected = _answers(renderer, {**row, "prompt": prompt}, answers, sampled)
    return chosen, rejected


def _answers(
    renderer: Renderer, row: Columns, answers: Sequence[Any], sampled: Sequence[Sequence[int] | None] = ()
) -> list[Rendered]:
    """One sequence for each answer to a row's prompt; sampled: the tokens of those that a model gave."""
    tokens = [*sampled, *[None] * (len(answers) - len(sampled))]
    found = [
        _continuations(renderer, row, row["prompt"], answer, tokens=given)
        for answer, given in zip(answers, tokens, strict=True)
    ]
    if any(len(rendered) > 1 for rendered in found):
        raise BadRow("the chat template rewrites earlier turns, so an answer of several turns is no one sequence")
    if len({rendered.prefix for [rendered] in found}) > 1:
        raise BadRow("the answers do not follow the same prompt tokens")
    return [rendered for [rendered] in found]


def _too_long(answers: Sequence[Rendered], max_length: int | None) -> bool:
    return max_length is not None and max(len(a.prefix) + len(a.response) for a in answers) > max_length


def _common_prefix(chosen: Sequence[Message], rejected: Sequence[Message]) -> int:
    """Messages that both conversations begin with, up to the assistant turn where they part (or the last one)."""
    shared = 0
    for a, b in zip(chosen[:-1], rejected[:-1], strict=False):
        if a != b:
            break
        shared += 1
    return shared


def _trajectory(
    renderer: Renderer, rendered: Rendered, report: DataReport, row: Columns, max_length: int | None = None
) -> Trajectory:
    source, spans, start = [], [], 0
    for stretch in rendered.stretches:
        end = start + len(stretch.tokens)
        source += [Source.EXTERNAL if stretch.said else Source.ENVIRONMENT] * len(stretch.tokens)
        spans += [Span("turn", start, end)] if stretch.said else []
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
