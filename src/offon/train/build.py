"""From a recipe's node to a stage: the row called with its inputs and arguments, modifiers applied, parts checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offon.catalogue import registry
from offon.collect import Collector
from offon.data import Renderer
from offon.errors import ConfigError, DataError
from offon.parts.stage import Stage
from offon.types import Group, Sampling


def build_stage(
    method: str,
    inputs: Mapping[str, Any],
    arguments: Mapping[str, Any],
    modifiers: Sequence[tuple[str, Mapping[str, Any]]],
    sampling: Sampling,
    tokenizer: Any = None,
) -> Stage:
    """Call the row, apply modifiers in order, write the node's sampling and tokenizer into its collectors, validate.

    inputs: task, data and teacher as far as the node has them; the row takes those it names.
    """
    info = registry.get(method)
    missing = [name for name, needed in info.inputs.items() if needed and inputs.get(name) is None]
    if missing:
        raise ConfigError(f"method {method} needs {' and '.join(missing)}", fix=f"add {missing[0]}: ... to the node")
    given = {name: value for name in info.inputs if (value := inputs.get(name)) is not None}
    stage = info.function(**given, **arguments)
    for name, values in modifiers:
        stage = registry.get(name).function(stage, **values)
    stage = stage.replace(collect=stage.collect.given(sampling=sampling, tokenizer=tokenizer))
    if prompts_of(stage) == (None, None):
        raise ConfigError(f"method {method} needs data or a task to sample from", fix="add data: or task: to the node")
    return stage.validate()


def prompts_of(stage: Stage) -> tuple[Sequence[Any] | None, Any]:
    """Where a stage draws its groups from: (data, None) if the first collector with a source reads data, else (None,
    task)."""
    for part in stage.collect.everything:
        if (data := getattr(part, "data", None)) is not None:
            return data, None
        if (task := getattr(part, "task", None)) is not None:
            return None, task
    return None, None


def check_prompts(collector: Collector, prompts: Sequence[Group], tokenizer: Any, where: str) -> None:
    """Collectors that could do nothing with these prompts (no hint, no demonstration, a template in words that the
    tokenizer has not) say so before anything runs."""
    render = Renderer(tokenizer)
    for part in collector.everything:
        try:
            part.check(prompts, render)
        except DataError as error:
            error.where = error.where or where
            raise


def check_room(
    prompts: Sequence[Group], max_tokens: int, longest: int | None, where: str, *, responses: int = 1
) -> None:
    """Every prompt and the longest responses after it have to fit into what the model reads."""
    if longest is None or not prompts:
        return
    prompt = max(len(view) for group in prompts for view in group.views.values())
    if prompt + responses * max_tokens > longest:
        room = (longest - prompt) // responses
        asked = f"max_tokens {max_tokens}" + (f" for each of {responses} turns" if responses > 1 else "")
        raise ConfigError(
            f"{asked} after a prompt of {prompt} tokens is more than the {longest} the model reads",
            where=where,
            fix=f"max_tokens: {room} or less" if room > 0 else "shorter prompts",
        )
