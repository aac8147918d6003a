"""The `offon` command. Commands import what they need when they run: help answers before torch is loaded."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from offon.cli.folder import as_bug, make_way, recorded
from offon.cli.output import only_results_on_stdout, plain, print_json, table
from offon.cli.pages import attribution_page, catalogue, diagnosis_page, page, plan_page
from offon.cli.progress import Progress, without_secrets
from offon.console import unbroken_streams
from offon.errors import ConfigError, ModelError, OffonError, Signalled


class Commands(typer.core.TyperGroup):
    """Typer calls Ctrl-C an abort and exits with 1; the shell's word for it is 130, and 143 for SIGTERM."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except KeyboardInterrupt as stop:
            print("interrupted", file=sys.stderr)
            sys.exit(getattr(stop, "exit_code", 128 + signal.SIGINT))


app = typer.Typer(
    cls=Commands,
    help="LLM post-training: diagnose a model, run stages, see what each stage did.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress lines.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="rl.steps=10; may be repeated.")]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe in YAML.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
Page = Annotated[Path | None, typer.Option("--page", metavar="FILE", dir_okay=False, help="Also an HTML page.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run that is there.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the run that is there, once there is something in its place.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="INPUT", help="With --resume: go on although this changed; may be repeated."),
]
Restart = Annotated[
    list[str] | None,
    typer.Option("--restart", metavar="NODE", help="With --resume: make it anew, keep the old; may be repeated."),
]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    allow_unsandboxed: Annotated[
        bool, typer.Option("--allow-unsandboxed", help="Run model-written code also where nothing contains it.")
    ] = False,
) -> None:
    """LLM post-training: diagnose a model, run stages, see what each stage did."""
    if allow_unsandboxed:
        os.environ["OFFON_ALLOW_UNSANDBOXED"] = "1"


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where the run goes.")] = Path("runs/demo"),
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Diagnose, post-train and report on models that ship with offon."""
    make_way(output, resume=resume, overwrite=overwrite)
    progress = Progress(quiet=quiet)
    with recorded(output), only_results_on_stdout():
        from offon.pipeline.demo import run_demo

        text = run_demo(output, resume=resume, overwrite=overwrite, progress=progress)
    progress.close()
    print(text)
    _show(output)


@app.command()
def run(
    recipe: RecipeFile,
    output: Annotated[Path | None, typer.Option(help="Where the run goes; runs/RECIPE unless given.")] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    set_: Set = None,
    allow: Allow = None,
    restart: Restart = None,
    quiet: Quiet = False,
) -> None:
    """Run a recipe: its stages in order, then the report."""
    from offon.api.mistakes import resolve_or_all

    resolved = resolve_or_all(recipe, set_ or ())
    output = output or Path("runs", resolved.name)
    make_way(output, resume=resume, overwrite=overwrite)
    progress = Progress(quiet=quiet)
    for note in resolved.notes:
        progress.say(note)
    for node in resolved.nodes:
        progress.say(f"{node.name}: {node.summary}")
    with recorded(output), only_results_on_stdout():
        from offon.pipeline.resume.changes import Wishes
        from offon.pipeline.run import run_recipe

        run_recipe(
            resolved,
            output,
            resume=resume,
            overwrite=overwrite,
            wishes=Wishes(tuple(allow or ()), tuple(restart or ())),
            progress=progress,
            command=" ".join(sys.argv),
        )
    progress.close()
    _show(output)


def _show(output: Path) -> None:
    """The table of what each stage did, and where the rest is."""
    from offon import reporting

    reporting.show(output)
    print(f"report: {output / 'report.html'}")


@app.command()
def check(recipe: RecipeFile, set_: Set = None, json: Json = False) -> None:
    """Find every mistake of a recipe before anything loads."""
    from offon.api.mistakes import resolve_or_all

    resolved = resolve_or_all(recipe, set_ or ())
    with only_results_on_stdout():
        from offon.pipeline.check import check_recipe

        plan = check_recipe(resolved)
    if json:
        print_json(plan)
        return
    print(f"{resolved.dump()}\n{plan_page(plain(plan))}")


@app.command()
def diagnose(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a Hub id or testbed:base.")],
    task: Annotated[str, typer.Option(metavar="SPEC", help="gym:chain_sum,max_terms=2 or {jsonl: FILE, ...}.")],
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts.")] = 64,
    teacher: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A model that solves the task, with the same vocabulary.")
    ] = None,
    earlier: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="A checkpoint before this one; may be repeated.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSONL: prompt or id, response, right; tells the checker's errors."),
    ] = None,
    budget: Annotated[int, typer.Option(min=1, help="The most rollouts of one prompt.")] = 128,
    k: Annotated[int, typer.Option(min=1, help="Rollouts a later on-policy stage could spend on a prompt.")] = 32,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest response, in tokens.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, help="Of the sampler that is diagnosed.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=1e-9, max=1)] = 1.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    page_file: Page = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Why does a model fail a task, and what kind of stage would help?"""
    from offon.recipe import located_model, located_task

    place, what = located_model(model), located_task(task)
    guide = located_model(teacher) if teacher else None
    before = [located_model(one) for one in earlier or ()]
    progress = Progress(quiet=quiet)
    with only_results_on_stdout():
        from offon.diagnosis.run import diagnose_model

        diagnosis = diagnose_model(
            place,
            what,
            teacher=guide,
            earlier=before,
            labels=labels,
            prompts=prompts,
            budget=budget,
            k=k,
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_tokens,
            seed=seed,
            progress=progress,
        )
    progress.close()
    print_json(diagnosis) if json else print(diagnosis_page(diagnosis))
    _write_page("write_diagnosis", diagnosis, page_file)


@app.command()
def compare(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="A folder, a Hub id or testbed:base.")],
    after: Annotated[str, typer.Argument(metavar="AFTER")],
    task: Annotated[str, typer.Option(metavar="SPEC", help="gym:chain_sum,max_terms=2 or {jsonl: FILE, ...}.")],
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts.")] = 64,
    samples: Annotated[int, typer.Option(min=2, help="Samples of each prompt by each model.")] = 128,
    k: Annotated[int, typer.Option(min=1, help="Rollouts a later on-policy stage could spend on a prompt.")] = 32,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest response, in tokens.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, help="0 compares greedy responses.")] = 1.0,
    prompt: Annotated[str | None, typer.Option(metavar="ID", help="Show this prompt's branches.")] = None,
    null: Annotated[bool, typer.Option("--null", help="Sample two equal models, too: the noise of sampling.")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    page_file: Page = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What changed between two checkpoints: gained, lost, and what kind of change it was."""
    from offon.recipe import located_model, located_task

    places, what = [located_model(model) for model in (before, after)], located_task(task)
    progress = Progress(quiet=quiet)
    with only_results_on_stdout():
        from offon.measure.compare import compare_models

        compared = compare_models(
            *places,
            what,
            prompts=prompts,
            samples=samples,
            k=k,
            temperature=temperature,
            max_tokens=max_tokens,
            prompt=prompt,
            null=null,
            seed=seed,
            progress=(lambda event: None) if quiet else progress,
        )
        from offon.cli.comparison import comparison_page
    progress.close()
    print_json(compared) if json else print(comparison_page(compared))
    _write_page("write_comparison", compared, page_file if compared.get("sampled", True) else None)


def _write_page(how: str, result: dict[str, Any], path: Path | None) -> None:
    """A page beside what was printed; where it is goes to stderr, so that stdout holds the results alone."""
    if path is not None:
        from offon import reporting

        print(f"page: {getattr(reporting, how)(plain(result), path)}", file=sys.stderr)


@app.command()
def attribute(
    recipe: RecipeFile,
    task: Annotated[str | None, typer.Option(metavar="T", help="A probe task of the recipe, or any task.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often everything is trained; 3 or more for a claim.")] = 1,
    stages: Annotated[str | None, typer.Option(metavar="A,B", help="Left out in turn; all unless given.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where it runs; runs/RECIPE-attribution unless given.")] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    set_: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What each stage of a recipe contributed: run it with stages left out, and share the change out."""
    from offon.api.mistakes import resolve_or_all
    from offon.recipe import located_task

    resolved = resolve_or_all(recipe, set_ or ())
    probed = resolved.probe.tasks if resolved.probe else {}
    tasks = {task: probed[task] if task in probed else located_task(task)} if task else None
    output = output or Path("runs", f"{resolved.name}-attribution")
    make_way(output, resume=resume, overwrite=overwrite)
    progress = Progress(quiet=quiet)
    with recorded(output), only_results_on_stdout():
        from offon.pipeline.attribution import attribute as study

        attribution = study(
            resolved,
            output,
            stages=stages.split(",") if stages else None,
            tasks=tasks,
            seeds=seeds,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
            command=" ".join(sys.argv),
        )
    progress.close()
    print_json(attribution) if json else print(attribution_page(attribution))


@app.command()
def report(
    run: RunFolder,
    output: Annotated[Path | None, typer.Option(help="The page; RUN/report.html unless given.")] = None,
    json: Json = False,
) -> None:
    """Write a run's report: what each stage did."""
    with only_results_on_stdout():
        from offon import reporting

        result = reporting.summarise(run) if json else reporting.write(run, output)
    print_json(result) if json else print(result)


@app.command()
def methods(name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None, json: Json = False) -> None:
    """The catalogue of methods, or one in full."""
    with only_results_on_stdout():
        from offon.api.catalogue_entry import in_full
        from offon.catalogue import registry

        described = in_full(registry.get(name)) if name else [info.describe() for info in registry.catalogue()]
    if json:
        print_json(described)
    elif name is None:
        print(catalogue(described))
    else:
        print(page(described))


@app.command()
def ledger(
    run: RunFolder,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="Over trajectories, consumption, metrics and nodes.")],
    json: Json = False,
) -> None:
    """Ask for any trajectory of a run, in SQL.

    offon ledger RUN "select fate, count(*) from trajectories group by fate"
    """
    with only_results_on_stdout():
        from offon.runs import ledger as ledgers

        answer = ledgers.query(run, sql)
    rows = answer.to_pylist(maps_as_pydicts="lossy")
    if json:
        print_json(rows)
    else:
        print(table(answer.column_names, [list(row.values()) for row in rows]))


@app.command()
def doctor(
    contracts: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Instead, measure with this model what a run rests on.")
    ] = None,
    json: Json = False,
) -> None:
    """Is this machine ready? Versions, devices, and a self-check."""
    if contracts is not None:
        return _contracts(contracts, json)
    with only_results_on_stdout():
        from offon.cli.doctor import examine

        findings = examine()
    if json:
        print_json(findings)
    else:
        print(table(("", "", ""), [(f.name, f.state, f.text) for f in findings], widest=120).split("\n", 2)[2])
    broken = [finding.name for finding in findings if finding.state == "broken"]
    if broken:
        raise ConfigError(f"broken: {', '.join(broken)}", fix="pip install -c constraints.txt offon")


def _contracts(model: str, json: bool) -> None:
    with only_results_on_stdout():
        from offon.contracts import contracts as measured

        results = list(measured(model))
    words = {True: "holds", False: "BROKEN", None: "not here"}
    if json:
        print_json(results)
    else:
        print(table(("contract", "", "measured"), [(c.name, words[c.holds], c.measured) for c in results], widest=42))
    if broken := [result.name for result in results if result.holds is False]:
        why = "what a run measures or trains here would not be what it says"
        raise ModelError(f"broken: {'; '.join(broken)}", where=model, why=why)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code, whatever becomes of its console.

    0 done, 1 a bug, 2 config, 3 data, 4 model, 5 numerics, 6 storage, 7 engine, 8 a closed gate, 9 memory, 129, 130 or
    143 stopped by a hang-up, Ctrl-C or SIGTERM.
    """
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"transformers|peft"
    )  # theirs to mend, not the user's
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the verifier's processes
    with unbroken_streams(), terminable():
        return _exit_code(list(sys.argv[1:] if arguments is None else arguments))


def _exit_code(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    everywhere = ("--debug", "--allow-unsandboxed")  # accepted after the command as well
    arguments.sort(key=lambda argument: argument not in everywhere)
    try:
        app(arguments, prog_name="offon")
    except SystemExit as end:  # how typer returns, with 2 for a usage error
        return end.code
    except KeyboardInterrupt as stop:
        return getattr(stop, "exit_code", 128 + signal.SIGINT)
    except Exception as error:
        if debug:
            traceback.print_exc()
        known = error if isinstance(error, OffonError) else as_bug(error, "run it again")
        print(without_secrets(str(known)), file=sys.stderr)
        return known.exit_code
    return 0


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM unwinds a command as Ctrl-C does, so that what it holds is let go; a run handles both by itself."""

    def end(number: int, frame: Any) -> None:
        raise Signalled(number)

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
