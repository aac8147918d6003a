"""Items checked by a Python function with TRL's reward signature.

    def reward(prompts, completions, **columns) -> list[float | None | {"score": float, "content": float}]

`content` says whether the answer was right although its form was not. Where the function does not say and the row has
an `answer`, it is whether the answer stands in the last part of the response.

A function that is named by its file runs in one worker process, loaded there once, so that it can keep state and load
a model, and so that a call that hangs or crashes can be killed. One that was handed over in Python runs in this
process, with whatever it refers to, and has no time limit. It is called with the whole batch; if that call fails, each
pair is tried by itself, so that one bad completion costs only its own verdict.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from offon.data.rows import BadRow
from offon.errors import ConfigError
from offon.objects import held, is_object
from offon.tasks.api import ABSTAINED, Pair, scored
from offon.tasks.expressions import mentioned
from offon.tasks.items import HELDOUT_SHARE, PLACE, Form, ItemTask, PromptForm
from offon.tasks.jsonl import read_items, stem
from offon.tasks.killable import KillablePool, Outcome
from offon.tasks.references import answers_of
from offon.tasks.worker import REASON_CHARS, load_function
from offon.types import Item, Verdict

CALL_LIMIT_S = 60.0
GIVE_UP_AFTER = 3  # pairs in a row whose own call failed: the function is down, not the completion bad


def python_task(
    function: str,
    *,
    data: Any,
    heldout: float | str = HELDOUT_SHARE,
    columns: Mapping[str, str] | None = None,
    form: Form = "text",
    template: str = PLACE,
    system: str = "",
    limit_s: float = CALL_LIMIT_S,
    environment: Sequence[str] = (),
    name: str = "",
) -> ItemTask:
    """`function` is "module:function" or "file.py:function", or the name of one that was handed over in Python; `data`
    has a `prompt` and the columns it reads by name.

    It gets messages where the prompt is messages, else strings; None in its list, a number that is not finite, a list
    of another length, an exception and a call over `limit_s` all give an unscored verdict with the reason.

    It works in an empty folder and inherits the environment variables of `offon.tasks.killable.ENVIRONMENT`, no others:
    `environment` names what else it needs (the key of a service).
    """
    prompt_form = PromptForm(form=form, template=template, system=system)
    load = partial(read_items, columns=columns, prompt_form=prompt_form, name=name)
    held = partial(load, heldout) if isinstance(heldout, str) else heldout
    check = function_check(function, limit_s, environment)
    return ItemTask(name or stem(data), partial(load, data), check, heldout=held)


def function_check(
    function: str, limit_s: float = CALL_LIMIT_S, environment: Sequence[str] = ()
) -> Callable[[Sequence[Pair]], list[Verdict]]:
    """Checks by the function; one that cannot be loaded is a ConfigError now."""
    require_set(environment)
    pool: KillablePool | ThisProcess
    if is_object(function):
        pool = ThisProcess(adapted(held(function).value))
    else:
        arguments = (at_its_place(function),)
        pool = KillablePool(
            "offon.tasks.python:reward_function", arguments, workers=1, limit_s=limit_s, environment=environment
        )
        pool.start()

    def check(pairs: Sequence[Pair]) -> list[Verdict]:
        if not pairs:
            return []
        [outcome] = pool.map([batch(pairs)])
        if outcome.failure and len(pairs) > 1 and not pool.down:
            answers = one_by_one(pool, pairs)
        else:
            answers = [Verdict(None, reason=outcome.failure)] * len(pairs) if outcome.failure else verdicts(outcome)
        return [with_content(pair, verdict) for pair, verdict in zip(pairs, answers, strict=True)]

    return check


class ThisProcess:
    """What a pool does, without workers: an exception is a failure, a call that hangs or crashes is the run's."""

    def __init__(self, call: Callable[..., Any]):
        self._call = call

    down = False  # it has no worker that could be

    def map(self, calls: Sequence[tuple]) -> list[Outcome]:
        return [self._outcome(arguments) for arguments in calls]

    def _outcome(self, arguments: tuple) -> Outcome:
        try:
            return Outcome(self._call(*arguments))
        except Exception as error:
            text = f"{type(error).__name__}: {error}".replace("\n", " ")
            return Outcome(failure=text[:REASON_CHARS])


def require_set(environment: Sequence[str]) -> None:
    if isinstance(environment, str) or not all(isinstance(name, str) for name in environment):
        raise ConfigError(f"environment is {environment!r}", fix="a list of names: environment: [OPENAI_API_KEY]")
    if unset := [name for name in environment if name not in os.environ]:
        fix = "set them where offon is started, or drop them from environment (it lists names, not values)"
        raise ConfigError(f"{', '.join(unset)} not set, which the reward function is to inherit", fix=fix)


def at_its_place(function: str) -> str:
    """ "./file.py:function" with the whole path of the file: the worker has a folder of its own."""
    module, _, name = function.rpartition(":")
    return f"{Path(module).expanduser().absolute()}:{name}" if module.endswith(".py") else function


def one_by_one(pool: KillablePool | ThisProcess, pairs: Sequence[Pair]) -> list[Verdict]:
    """Each pair in a call of its own, until several calls in a row failed."""
    done, failures = [], 0
    for pair in pairs:
        if failures == GIVE_UP_AFTER:
            done.append(Verdict(None, reason=f"not checked: {failures} calls in a row failed"))
            continue
        [outcome] = pool.map([batch([pair])])
        failures = failures + 1 if outcome.failure else 0
        done += verdicts(outcome)
    return done


def batch(pairs: Sequence[Pair]) -> tuple[list, list, dict[str, list]]:
    """prompts, completions and columns as TRL passes them; a column some items lack is None there."""
    items = [item for item, _ in pairs]
    names = sorted({name for item in items for name in item.columns})
    return (
        [prompt if isinstance(prompt, str) else list(map(dict, prompt)) for prompt in (item.prompt for item in items)],
        [completion(item, text) for item, text in pairs],
        {name: [item.columns.get(name) for item in items] for name in names},
    )


def completion(item: Item, text: str) -> str | list[dict[str, str]]:
    return text if isinstance(item.prompt, str) else [{"role": "assistant", "content": text}]


def verdicts(outcome: Outcome) -> list[Verdict]:
    if outcome.failure:
        return [Verdict(None, reason=outcome.failure)]
    return [Verdict(*one) for one in outcome.value]


def with_content(pair: Pair, verdict: Verdict) -> Verdict:
    """A content verdict where the function gave none and the row has an answer: right, or the answer is mentioned."""
    item, text = pair
    if verdict.score is None or verdict.content is not None:
        return verdict
    try:
        answers = answers_of(item)
    except BadRow:  # an answer that only the function reads
        return verdict
    if not answers:
        return verdict
    right = verdict.score >= 1 or any(mentioned(text, answer) for answer in answers)
    return replace(verdict, content=float(right))


Plain = tuple[float | None, float | None, str]  # score, content, reason


def reward_function(target: str) -> Callable[[list, list, dict[str, list]], list[Plain]]:
    """The worker's side: the user's function by its name."""
    return adapted(load_function(target))


def adapted(function: Callable[..., Any]) -> Callable[[list, list, dict[str, list]], list[Plain]]:
    """The user's function, its columns cut to those it takes, its result made plain."""
    parameters = inspect.signature(function).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    def call(prompts: list, completions: list, columns: dict[str, list]) -> list[Plain]:
        taken = {name: column for name, column in columns.items() if takes_all or name in parameters}
        given = function(prompts=prompts, completions=completions, **taken)
        if isinstance(given, Mapping | str) or not isinstance(given, Iterable) or getattr(given, "shape", None) == ():
            why = f"the function returned a {type(given).__name__} in place of a list of rewards"
            return [(None, None, why)] * len(completions)
        rewards = list(given)
        if len(rewards) != len(completions):  # which reward belongs to which completion is unknown
            why = f"the function returned {len(rewards)} rewards for {len(completions)} completions"
            return [(None, None, why)] * len(completions)
        return [plain(reward) for reward in rewards]

    return call


def plain(reward: Any) -> Plain:
    """A reward as (score, content, reason): a number, or {"score": .., "content": .., "reason": ..}; what is neither is
    unscored with the reason."""
    if not isinstance(reward, Mapping):
        verdict = scored(reward)
        return verdict.score, None, ABSTAINED if reward is None else _own_words(verdict.reason)
    if "score" not in reward or reward.keys() - {"score", "content", "reason"}:
        return None, None, f"the function returned a mapping with {', '.join(map(str, reward))}: score, content, reason"
    score = scored(reward["score"])
    content = scored(reward["content"]).score if reward.get("content") is not None else None
    return score.score, content, str(reward.get("reason") or _own_words(score.reason))


def _own_words(reason: str) -> str:
    return reason.replace("the checker", "the function")
