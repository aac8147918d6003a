"""Any dataset of reasoning-gym, by name and configuration.

Every data set is checked by what is sound for it (`offon.tasks.gym.checking`, docs/gym.md): exact match where one text
is right, a checker of ours or the data set's own scorer where several are, in a process that can be killed. The
package's own scorers mostly give credit for containing the answer, some run the answer as code, some raise: those used
were read and probed. Several responses are right, the answer is parsed as data, the reference scores 1, junk and a
reference buried in a sentence score at most 0.1, and nothing raises.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from offon.errors import ConfigError
from offon.tasks import verifiers
from offon.tasks.api import Pair, nearest, refuse_unknown, scored
from offon.tasks.expressions import mentioned
from offon.tasks.gym.checkers import RULES
from offon.tasks.gym.checking import CHECKING, EVALUATES, FAULTY, NATIVE, Checking
from offon.tasks.items import HELDOUT_SHARE, PLACE, Form, ItemTask, PromptForm
from offon.tasks.killable import KillablePool, Outcome
from offon.tasks.sandbox.box import tried
from offon.tasks.verifiers import exact_answer
from offon.types import Item, Verdict

NATIVE_LIMIT_S = 10.0
NATIVE_MEMORY_BYTES = 4 << 30


def gym_task(
    dataset: str,
    *,
    size: int = 1000,
    seed: int = 0,
    heldout: float = HELDOUT_SHARE,
    form: Form = "chat",
    template: str = PLACE,
    system: str = "",
    scorer: Literal["sound", "exact", "native"] = "sound",
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
    if scorer not in ("sound", "exact", "native"):
        raise ConfigError(f"scorer is {scorer!r}", where=f"gym: {dataset}", fix="sound, exact or native")
    checking = _checking(dataset)
    if scorer == "native":
        check = native_checker(dataset, config)
    elif scorer == "exact" or checking.how == "exact":
        _require_answers(dataset, source[0])
        check = check_exact
    elif refused := [name for name in (dataset, *_parts(config)) if _checking(name).how == "refused"]:
        raise ConfigError(
            f"answers to {refused[0]} cannot be checked",
            where=f"gym: {dataset}",
            why=_checking(refused[0]).right,
            fix="another data set, or a python task with a checker of your own",
        )
    else:
        check = sound_checker(dataset, config)

    def load() -> list[Item]:
        return [_item(dataset, source[index], prompt_form) for index in range(size)]

    return ItemTask(name or dataset, load, check, heldout=heldout, answer=lambda item, text: exact_answer(text))


def _checking(dataset: str) -> Checking:
    """A data set that a later release adds is checked by exact match until it has been looked at."""
    return CHECKING.get(dataset, Checking("exact", "one text is right"))


def _parts(config: Mapping[str, Any]) -> list[str]:
    """The data sets of a composite one."""
    return [part["name"] for part in config.get("datasets", ()) if isinstance(part, Mapping)]


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
        fix = "scorer: native, or leave scorer out" if dataset in NATIVE else "another dataset"
        raise ConfigError(f"the items of {dataset} have no reference answer to match", where=f"gym: {dataset}", fix=fix)


def check_exact(pairs: Sequence[Pair]) -> list[Verdict]:
    return [verifiers.exact(text, item.columns["answer"]) for item, text in pairs]


def native_checker(dataset: str, config: Mapping[str, Any]) -> Callable[[Sequence[Pair]], list[Verdict]]:
    """Checks by the dataset's own scorer, in processes that can be killed; one that evaluates a response, in a box."""
    evaluates = dataset in EVALUATES
    ways = [how for how, problem in tried().items() if not problem] if evaluates else []
    if not ways:
        refuse_unsafe(dataset)
    pool = KillablePool(
        "offon.tasks.gym:native_scorer",
        (dataset, {"size": 1, "seed": 0, **config}),
        limit_s=NATIVE_LIMIT_S,
        memory_bytes=NATIVE_MEMORY_BYTES,
        box=ways[0] if ways else None,
    )

    def check(pairs: Sequence[Pair]) -> list[Verdict]:
        outcomes = pool.map([(verifiers.unwrapped(text), dict(item.columns)) for item, text in pairs])
        return [scored(outcome.value, outcome.failure) for outcome in outcomes]

    return check


def sound_checker(dataset: str, config: Mapping[str, Any]) -> Callable[[Sequence[Pair]], list[Verdict]]:
    """Checks by our checker or the native scorer, whichever is sound; right or wrong, and nothing between."""
    pool = KillablePool(
        "offon.tasks.gym:sound_scorer",
        (dataset, {"size": 1, "seed": 0, **config}),
        limit_s=NATIVE_LIMIT_S,
        memory_bytes=NATIVE_MEMORY_BYTES,
    )

    def check(pairs: Sequence[Pair]) -> list[Verdict]:
        outcomes = pool.map([(verifiers.unwrapped(text), dict(item.columns)) for item, text in pairs])
        return [_judged(pair, outcome) for pair, outcome in zip(pairs, outcomes, strict=True)]

    return check


def _judged(pair: Pair, outcome: Outcome) -> Verdict:
    answer, text = pair[0].columns["answer"], pair[1]
    if outcome.failure:
        return Verdict(None, reason=outcome.failure)
    if not isinstance(answer, str):
        return Verdict(float(outcome.value))
    stands_there = verifiers.opens_or_closes(text, answer) or mentioned(text, answer)
    return Verdict(float(outcome.value), content=float(outcome.value or stands_there))


def sound_scorer(dataset: str, config: Mapping[str, Any]) -> Callable[[str, dict], bool]:
    """The worker's side: whether an answer is right for an entry of a data set, or of a part of a composite one."""
    source = _create(dataset, config)

    def right(text: str, entry: dict) -> bool:
        name, answer = entry["metadata"].get("source_dataset", dataset), entry["answer"]
        checking = _checking(name)
        if isinstance(answer, str) and verifiers.exact(text, answer).score == 1:
            return True
        if checking.how == "own":
            return RULES[checking.checker](text, answer, entry["metadata"])
        if checking.how == "native" and (not checking.form or re.fullmatch(checking.form, text.strip())):
            return float(source.score_answer(text, entry)) >= 1
        return False

    return right


def native_scorer(dataset: str, config: Mapping[str, Any]) -> Callable[[str, dict], float]:
    return _create(dataset, config).score_answer


def refuse_unsafe(dataset: str) -> None:
    if dataset in NATIVE:
        return
    if dataset in EVALUATES:
        why = f"its scorer gives the response to {EVALUATES[dataset]}, which can run code, and nothing contains it here"
    elif dataset in FAULTY:
        why = f"its scorer {FAULTY[dataset]}"
    else:
        why = "its scorer is not among those checked; most give credit for containing the answer"
    raise ConfigError(
        f"the native scorer of {dataset} is refused",
        where=f"gym: {dataset}",
        why=why,
        fix="leave scorer out: scorer: sound is what docs/gym.md says",
    )
