"""Any dataset of reasoning-gym, by name and configuration.

Answers are checked by exact match (see `verifiers.exact`): the package's own scorers mostly give credit for containing
the answer, some run the answer as code, some raise. `scorer: native` is open to those that were read and probed:
several responses are right, the answer is parsed as data, the reference scores 1, junk and a reference buried in a
sentence score at most 0.1, and nothing raises. They run in a process that can be killed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from offon.errors import ConfigError
from offon.tasks import verifiers
from offon.tasks.api import Pair, nearest, refuse_unknown, scored
from offon.tasks.items import HELDOUT_SHARE, PLACE, Form, ItemTask, PromptForm
from offon.tasks.jsonl import exact_answer
from offon.tasks.killable import KillablePool
from offon.types import Item, Verdict

NATIVE_LIMIT_S = 10.0
NATIVE_MEMORY_BYTES = 4 << 30

NATIVE = {
    "bitwise_arithmetic",
    "cryptarithm",
    "decimal_arithmetic",
    "decimal_chain_sum",
    "graph_color",
    "group_anagrams",
    "jugs",
    "knight_swap",
    "number_format",
    "palindrome_generation",
    "palindrome_partitioning",
    "rush_hour",
    "shortest_path",
    "tower_of_hanoi",
    "word_ladder",
}
EVALUATES = {
    "binary_matrix": "eval",
    "countdown": "sympy's parse_expr",
    "intermediate_integration": "sympy's parse_expr",
    "n_queens": "eval",
    "polynomial_multiplication": "sympy's parse_expr",
    "puzzle24": "sympy's parse_expr",
    "simple_integration": "sympy's parse_expr",
    "spiral_matrix": "eval",
    "string_insertion": "eval",
}
FAULTY = {
    "boxnet": "raises AttributeError on '[1]'",
    "coin_flip": "raises OverflowError on '1e400'",
    "game_of_life": "raises KeyError on '{}'",
    "game_of_life_halting": "takes any text for True",
    "prime_factorization": "raises ValueError on '2 x 3'",
    "propositional_logic": "gives 'zzz' 0.25",
}


def gym_task(
    dataset: str,
    *,
    size: int = 1000,
    seed: int = 0,
    heldout: float = HELDOUT_SHARE,
    form: Form = "chat",
    template: str = PLACE,
    system: str = "",
    scorer: Literal["exact", "native"] = "exact",
    name: str = "",
    **config: Any,
) -> ItemTask:
    """`size` questions of one dataset, repetitions dropped, `heldout` of the distinct ones held out by content.

    Other keys are the dataset's own configuration (max_terms, ...). Item columns: question, answer, metadata.
    """
    if not isinstance(size, int) or size < 1:
        raise ConfigError(
            f"size is {size!r}", where=f"gym: {dataset}", fix="how many questions to generate, at least 1"
        )
    source = created(dataset, {"size": size, "seed": seed, **config})
    prompt_form = PromptForm(form=form, template=template, system=system)
    if scorer not in ("exact", "native"):
        raise ConfigError(f"scorer is {scorer!r}", where=f"gym: {dataset}", fix="exact or native")
    if scorer == "exact":
        _require_answers(dataset, source[0])
        check = check_exact
    else:
        check = native_checker(dataset, config)

    def load() -> list[Item]:
        return [_item(dataset, source[index], prompt_form) for index in range(size)]

    return ItemTask(name or dataset, load, check, heldout=heldout, answer=exact_answer)


def created(dataset: str, config: Mapping[str, Any]):
    """The reasoning-gym dataset, its configuration checked by name and by its own rules."""
    datasets = _registry()
    if not isinstance(dataset, str) or dataset not in datasets:
        fix = f"one of its {len(datasets)} names" + nearest([dataset], datasets)
        raise ConfigError(f"reasoning-gym has no dataset {dataset!r}", fix=fix)
    fields = [field.name for field in dataclasses.fields(datasets[dataset][1])]
    own_keys = [key for key in gym_task.__kwdefaults__ if key not in fields]
    refuse_unknown(f"gym: {dataset}", config, [*fields, *own_keys])
    try:
        return _create(dataset, config)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"reasoning-gym refuses this configuration: {error}", where=f"gym: {dataset}") from error


def _registry() -> Mapping[str, tuple[type, type]]:
    try:
        import reasoning_gym.factory
    except ImportError as error:
        raise ConfigError("gym tasks need reasoning-gym", why=str(error), fix="pip install 'offon[gym]'") from error
    return reasoning_gym.factory.DATASETS


def _create(dataset: str, config: Mapping[str, Any]):
    import reasoning_gym
    from reasoning_gym.composite import DatasetSpec

    config = dict(config)
    if dataset == "composite":
        config["datasets"] = [DatasetSpec(**{"weight": 1.0, "config": {}, **part}) for part in config["datasets"]]
    return reasoning_gym.create_dataset(dataset, **config)


def _item(dataset: str, entry: Mapping[str, Any], prompt_form: PromptForm) -> Item:
    question, answer, metadata = entry["question"], entry["answer"], entry["metadata"]
    return Item(
        id=Item.content_id(question),
        prompt=prompt_form(question),
        columns={"question": question, "answer": answer, "metadata": metadata},
        family=metadata.get("source_dataset", dataset),
        reference=answer,
    )


def _require_answers(dataset: str, entry: Mapping[str, Any]) -> None:
    if not isinstance(entry["answer"], str):
        fix = "scorer: native" if dataset in NATIVE else "another dataset"
        raise ConfigError(f"the items of {dataset} have no reference answer to match", where=f"gym: {dataset}", fix=fix)


def check_exact(pairs: Sequence[Pair]) -> list[Verdict]:
    return [verifiers.exact(text, item.columns["answer"]) for item, text in pairs]


def native_checker(dataset: str, config: Mapping[str, Any]) -> Callable[[Sequence[Pair]], list[Verdict]]:
    """Checks by the dataset's own scorer, in processes that can be killed."""
    refuse_unsafe(dataset)
    pool = KillablePool(
        "offon.tasks.gym:native_scorer",
        (dataset, {"size": 1, "seed": 0, **config}),
        limit_s=NATIVE_LIMIT_S,
        memory_bytes=NATIVE_MEMORY_BYTES,
    )

    def check(pairs: Sequence[Pair]) -> list[Verdict]:
        outcomes = pool.map([(verifiers.unwrapped(text), dict(item.columns)) for item, text in pairs])
        return [scored(outcome.value, outcome.failure) for outcome in outcomes]

    return check


def native_scorer(dataset: str, config: Mapping[str, Any]) -> Callable[[str, dict], float]:
    return _create(dataset, config).score_answer


def refuse_unsafe(dataset: str) -> None:
    if dataset in NATIVE:
        return
    if dataset in EVALUATES:
        why = f"its scorer gives the response to {EVALUATES[dataset]}, which can run code"
    elif dataset in FAULTY:
        why = f"its scorer {FAULTY[dataset]}"
    else:
        why = "its scorer is not among those checked; most give credit for containing the answer"
    raise ConfigError(
        f"the native scorer of {dataset} is refused",
        where=f"gym: {dataset}",
        why=why,
        fix="scorer: exact",
    )
