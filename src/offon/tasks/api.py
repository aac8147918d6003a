"""What a task is, and how one is named in a recipe or on the command line."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, Literal, Protocol, runtime_checkable

from offon.errors import ConfigError, DataError, EngineError, OffonError
from offon.types import Item, Verdict

Split = Literal["train", "heldout"]
Pair = tuple[Item, str]  # an item and the text of one response to it
Name = Callable[[Item, str], str | None]  # what a response is called: its answer, its route; None: it has none

# kind -> (the function that opens it, the parameter that the kind's own value goes to)
KINDS = {
    "gym": ("offon.tasks.gym:gym_task", "dataset"),
    "jsonl": ("offon.tasks.jsonl:jsonl_task", "data"),
    "python": ("offon.tasks.python:python_task", "function"),
    "testbed": ("offon.testbed.task:TestbedTask", "families"),
}


@runtime_checkable
class Task(Protocol):
    """Items to answer and a checker of answers.

    The two splits share no prompt, and which side a prompt falls on is a function of its content, never of a seed.
    `verify` returns one verdict per pair, in order; a checker that raises, hangs or returns a non-finite number gives
    a verdict whose score is None (unscored), which is never the same as 0.

    A task may also name what a response comes to and how, see `response_classes`.
    """

    @property
    def name(self) -> str: ...

    def items(self, split: Split) -> Sequence[Item]: ...

    def verify(self, pairs: Sequence[Pair]) -> list[Verdict]: ...


def response_classes(task: Task) -> tuple[str, Callable[[Item, str], tuple[str, ...]]] | None:
    """What responses of a task are told apart by, and the function that says it of one; None where it names nothing.

    "answer"   (answer,)         by the task's `answer(item, text)`: equal answers are equal texts
    "route"    (route, answer)   where it also has `route(item, text)`: how an answer is reached

    A part that a response does not have is empty.
    """
    parts = {name: getattr(task, name, None) for name in ("route", "answer")}
    named = {name: function for name, function in parts.items() if function is not None}
    if not named:
        return None
    return next(iter(named)), lambda item, text: tuple(function(item, text) or "" for function in named.values())


def open_task(spec: str | Mapping[str, Any] | Task) -> Task:
    """Open a task from its two spellings; a task object is returned as it is.

    {gym: chain_sum, max_terms: 2, size: 2000}                 "gym:chain_sum,max_terms=2,size=2000"
    {jsonl: problems.jsonl, verifier: numeric}                 "jsonl:problems.jsonl,verifier=numeric"
    {python: "rewards:length", data: prompts.jsonl}            "python:rewards:length,data=prompts.jsonl"
    {testbed: [rare, absent]}                                  "testbed:rare,absent"
    """
    if isinstance(spec, Mapping):
        return _open(dict(spec))
    if isinstance(spec, str):
        return _open(parsed_spec(spec))
    if isinstance(spec, Task):
        return spec
    raise ConfigError(f"a task is a mapping, a string or an object with items and verify, not a {type(spec).__name__}")


def parsed_spec(text: str) -> dict[str, Any]:
    """The mapping form of "kind:value,key=value,...". Values are JSON scalars where they parse, else plain words."""
    kind, colon, rest = text.partition(":")
    if not colon:
        raise ConfigError(f"task {text!r} names no kind", fix=f"write KIND:VALUE, where KIND is {_or(KINDS)}")
    first, *parts = rest.split(",")
    values, options = [first], {}
    for part in parts:
        key, equals, value = part.partition("=")
        if equals:
            options[key.strip()] = _scalar(value.strip())
        else:
            values.append(part)
    return {kind: values if len(values) > 1 else first, **options}


def _scalar(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _open(spec: dict[str, Any]) -> Task:
    kinds = [key for key in spec if key in KINDS]
    if len(kinds) != 1:
        has = f"names {' and '.join(kinds)}" if kinds else f"has only {', '.join(map(str, spec)) or 'nothing'}"
        guess = "" if kinds else nearest(spec, KINDS)
        raise ConfigError(f"a task needs one kind, this one {has}", fix=f"one of {_or(KINDS)}{guess}")
    target, parameter = KINDS[kinds[0]]
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    value = spec.pop(kinds[0])
    check_options(f"task {kinds[0]}", spec, inspect.signature(function), besides=parameter)
    return function(**{parameter: value}, **spec)


def check_options(where: str, options: Mapping[str, Any], signature: inspect.Signature, besides: str) -> None:
    """Refuse options that a function does not take (one that takes any checks them itself), and missing ones."""
    parameters = [parameter for name, parameter in signature.parameters.items() if name != besides]
    named = [parameter for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD]
    if named == parameters:
        refuse_unknown(where, options, [parameter.name for parameter in named])
    for parameter in named:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise ConfigError(f"missing key {parameter.name!r}", where=where, fix=f"add {parameter.name}: ...")


def refuse_unknown(where: str, options: Iterable[str], known: Iterable[str]) -> None:
    known = sorted(known)
    unknown = [name for name in options if name not in known]
    if unknown:
        fix = f"known keys: {', '.join(known)}" + nearest(unknown, known)
        raise ConfigError(f"unknown key {', '.join(map(repr, unknown))}", where=where, fix=fix)


def nearest(names: Iterable[str], known: Iterable[str]) -> str:
    """ "; did you mean max_terms?", or nothing when no name is close."""
    known = list(known)
    close = [match for name in names for match in difflib.get_close_matches(str(name), known, n=1)]
    return f"; did you mean {' and '.join(dict.fromkeys(close))}?" if close else ""


def _or(names: Iterable[str]) -> str:
    *head, last = names
    return f"{', '.join(head)} or {last}" if head else last


LARGEST = 1e9  # of a reward: beyond it the differences between the others of a group are lost in float32


def scored(value: Any, reason: str = "") -> Verdict:
    """The verdict for a number some checker returned: unscored unless it is a finite number within LARGEST.

    Scalars of numpy and torch are numbers, whatever their dtype; so are arrays of one number, and truth values.
    """
    if value is None:
        return Verdict(None, reason=reason or "the checker returned None")
    value = scalar(value)
    if not isinstance(value, Real):
        return Verdict(None, reason=f"the checker returned a {type(value).__name__}: {value!r:.60}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= LARGEST:
        beyond = f", beyond {LARGEST:g}" if math.isfinite(number) else ""
        return Verdict(None, reason=f"the checker returned {value!s:.60}{beyond}")
    return Verdict(number, reason=reason)


def scalar(value: Any) -> Any:
    """The one number of an array library's scalar or array as Python's, anything else as it is."""
    shape = getattr(value, "shape", None)
    if shape is not None and callable(getattr(value, "item", None)) and all(n == 1 for n in shape):
        value = value.item()
    return float(value) if isinstance(value, Decimal) else value


# --- a checker that is down ---------------------------------------------------------------------------------------

ABSTAINED = "the function returned None"  # of one response: the checker's own way to say that it cannot tell
DUMMY = "I do not know."
TRIED_ROWS = 4


def require_some(verdicts: Sequence[Verdict], where: str) -> None:
    """Stop where a checker scored nothing at all: it cannot be called, raises, or returns nothing, for every response.

    Of some responses that is no news; they are set aside as unscored."""
    if verdicts and all(verdict.score is None for verdict in verdicts):
        raise EngineError(
            f"the checker scored none of {len(verdicts)} responses",
            where=where,
            why=f"of the first: {verdicts[0].reason or 'it gave no reason'}",
            fix="mend the checker, or the answers it compares with; nothing was trained on these responses",
        )


def call_once(task: Task) -> None:
    """Call a task's checker on real rows with a dummy response: a ConfigError if it fails for all of them."""
    try:
        items = task.items("train")[:TRIED_ROWS]
    except DataError:  # a task that only probes use
        items = task.items("heldout")[:TRIED_ROWS]
    try:
        verdicts = task.verify([(item, DUMMY) for item in items])
    except OffonError:
        raise
    except Exception as error:
        verdicts = [Verdict(None, reason=f"{type(error).__name__}: {error}")]
    failed = [verdict for verdict in verdicts if verdict.score is None and verdict.reason != ABSTAINED]
    if len(failed) == len(verdicts) > 0:
        raise ConfigError(
            "the checker fails on a row of its data",
            where=f"task {task.name}",
            why=failed[0].reason or "it gave no number and no reason",
            fix=f"it was called with {len(items)} rows and the response {DUMMY!r}: it has to give a number, or None",
        )
