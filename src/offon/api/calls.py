"""The functions of `import offon`. What they need is imported when they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from offon.api.results import AttributionResult, ComparisonResult, DiagnosisResult, MethodResult, RunResult

if TYPE_CHECKING:
    from typing import TypeAlias

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from offon.api.handed import HandedIn
    from offon.behavior.diagnosis.bottleneck import Rule
    from offon.tasks.api import Task

    ModelSource: TypeAlias = str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase]
    TaskSource: TypeAlias = str | Mapping[str, Any] | Task
    RecipeSource: TypeAlias = str | Path | Mapping[str, Any]
    Rows: TypeAlias = Iterable[Mapping[str, Any]]

Progress = Callable[[dict[str, Any]], None]


def silent(event: dict[str, Any]) -> None:
    """Shows nothing."""


def run(
    recipe: RecipeSource,
    output: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    allow: Sequence[str] = (),
    restart: Sequence[str] = (),
    progress: Progress = print,
) -> RunResult:
    """Run a recipe and write its report.

    recipe: a YAML file, or the same as Python values. Among those, a model may be `(model, tokenizer)` of transformers,
    data a `datasets` object or a list of rows, a method, a modifier, a `make` function or a reward a Python function, a
    task an object with items and verify. Models are saved into the run's folder once, under `inputs`, and read from
    there; recipe.yaml names objects by a hash of their content.

    output: the run's folder. It has to be empty or absent, unless resume continues the run that is in it: finished
    nodes are kept, an interrupted one goes on at its last checkpoint. A run made from Python objects is given the same
    objects again; others are refused, with what differs. overwrite puts the run that is there aside, and deletes it
    once the new one has its first checkpoint or result.

    allow, restart: what a continued run may differ in since its nodes were begun. allow names inputs (`learning_rate`,
    or `rl.learning_rate`) that have another value from here on; restart names nodes that are made anew, the old ones
    kept under `replaced/`. Whatever else differs is an error that says what it was and is.

    progress: called with each event, a mapping.

    Raises `offon.errors.OffonError` with what, where, why and how to mend it; everything that can be found without
    weights is found before any are loaded.
    """
    from offon.api.handed import handed_to_a_run
    from offon.api.mistakes import resolve_or_all
    from offon.pipeline.resume.changes import Wishes
    from offon.pipeline.run import run_recipe

    with handed_to_a_run(Path(output), resume=resume or overwrite) as handed:
        resolved = resolve_or_all(_recipe(handed, recipe))
        wishes = Wishes(tuple(allow), tuple(restart))
        folder = run_recipe(
            resolved,
            output,
            resume=resume,
            overwrite=overwrite,
            wishes=wishes,
            progress=progress,
            command="offon.run",
        )
    return _result(folder, folder / "report.html")


def compare(
    before: ModelSource,
    after: ModelSource,
    task: TaskSource,
    *,
    prompts: int = 64,
    samples: int = 128,
    k: int = 32,
    temperature: float = 1.0,
    max_tokens: int = 512,
    prompt: str | None = None,
    null: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> ComparisonResult:
    """What changed between two checkpoints on one task: gained, lost, and what kind of change it was.

    Both are sampled on the same held-out prompts; every further instrument that applies to them is used, and those
    that do not are named with the reason.

    before, after: a folder, a Hub id, testbed:NAME, or `(model, tokenizer)`. task: as in a recipe.

    prompts: how many held-out prompts, at most. samples: of each prompt by each model, 2 or more; 2.5 k certify what is
    out of reach. k: the rollouts that "within reach" refers to. temperature: of sampling; 0 compares greedy responses.
    max_tokens: longest response. prompt: the id of the prompt whose branches are shown; the one with the largest
    certain change unless given. null: sample two equal models, too: what differs is then the noise of sampling.
    """
    from offon.api.handed import handed_to_a_call
    from offon.measure.compare import compare_models

    with handed_to_a_call() as handed:
        entry = compare_models(
            str(handed.named(before, ("before",))),
            str(handed.named(after, ("after",))),
            handed.named(task, ("task",)),
            prompts=prompts,
            samples=samples,
            k=k,
            temperature=temperature,
            max_tokens=max_tokens,
            prompt=prompt,
            null=null,
            seed=seed,
            progress=progress,
        )
    return ComparisonResult.of(entry)


def diagnose(
    model: ModelSource,
    task: TaskSource,
    *,
    teacher: ModelSource | None = None,
    earlier: Sequence[ModelSource] = (),
    labels: str | Path | Rows | None = None,
    prompts: int = 64,
    budget: int = 128,
    k: int = 32,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_tokens: int = 512,
    seed: int = 0,
    rule: Rule | None = None,
    progress: Progress = silent,
) -> DiagnosisResult:
    """Why does a model fail a task, prompt by prompt, and what kind of stage would help?

    model: a folder, a Hub id, testbed:NAME, or `(model, tokenizer)`. task: as in a recipe.

    teacher: a model with the same vocabulary that solves the task; without one and without references in the items,
    prompts out of reach are not told apart. earlier: checkpoints that may have been able to do what this one cannot.
    labels: gold verdicts on 100 or more outputs, from which the checker's errors are estimated and undone.

    prompts: how many held-out prompts, at most. budget: the most rollouts of one prompt, the teacher's and earlier
    checkpoints' included. k: the rollouts per prompt that the next on-policy stage could spend. temperature, top_p,
    max_tokens: the sampler that every rate is about. rule: the thresholds of the calls
    (`offon.behavior.diagnosis.bottleneck.Rule`).
    """
    from offon.api.handed import handed_to_a_call
    from offon.behavior.diagnosis.bottleneck import Rule
    from offon.diagnosis.run import diagnose_model

    with handed_to_a_call() as handed:
        entry = diagnose_model(
            str(handed.named(model, ("model",))),
            handed.named(task, ("task",)),
            teacher=None if teacher is None else str(handed.named(teacher, ("teacher",))),
            earlier=[str(handed.named(one, ("earlier", index))) for index, one in enumerate(earlier)],
            labels=labels,
            prompts=prompts,
            budget=budget,
            k=k,
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_tokens,
            seed=seed,
            rule=rule or Rule(),
            progress=progress,
        )
    return DiagnosisResult.of(entry)


def attribute(
    recipe: RecipeSource,
    output: str | Path,
    *,
    stages: Sequence[str] | None = None,
    tasks: Mapping[str, TaskSource] | None = None,
    seeds: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> AttributionResult:
    """What each stage of a recipe contributed: the recipe is run with stages left out, and the change is shared out.

    recipe, output, resume, overwrite: as for `offon.run`; the study is a run of its own, in a folder of its own.

    stages: those that are left out in turn; unless given, all that the result depends on. tasks: probe tasks by name;
    the recipe's unless given. seeds: how often everything is trained; with one, intervals say nothing about training
    again.
    """
    from offon.api.handed import handed_to_a_run
    from offon.api.mistakes import resolve_or_all
    from offon.pipeline.attribution import attribute as study

    with handed_to_a_run(Path(output), resume=resume or overwrite) as handed:
        resolved = resolve_or_all(_recipe(handed, recipe))
        probed = None if tasks is None else handed.named(tasks, ("tasks",))
        entry = study(
            resolved,
            output,
            stages=stages,
            tasks=probed,
            seeds=seeds,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
            command="offon.attribute",
        )
    return AttributionResult.of(entry)


def report(run: str | Path | RunResult, output: str | Path | None = None) -> RunResult:
    """Write a run's report again and return its numbers.

    run: the run's folder, or what `offon.run` returned. output: the page; report.html in the run's folder unless given.
    """
    from offon import reporting

    page = reporting.write(Path(run), output)
    return _result(Path(run), page)


@overload
def methods() -> tuple[MethodResult, ...]: ...
@overload
def methods(name: str) -> MethodResult: ...
@overload
def methods(name: None) -> tuple[MethodResult, ...]: ...
def methods(name: str | None = None) -> tuple[MethodResult, ...] | MethodResult:
    """The catalogue of methods, or one in full.

    name: a method's name, or ./file.py:function for one of your own; all of the catalogue unless given.
    """
    from offon.api.catalogue_entry import in_full
    from offon.catalogue import registry

    if name is not None:
        return MethodResult.of(in_full(registry.get(name)))
    return tuple(MethodResult.of(info.describe()) for info in registry.catalogue())


def _recipe(handed: HandedIn, recipe: RecipeSource) -> RecipeSource:
    return handed.named(recipe) if isinstance(recipe, Mapping) else recipe


def _result(folder: Path, page: Path) -> RunResult:
    from offon import reporting

    return RunResult.of(folder, page, reporting.summarise(folder))
