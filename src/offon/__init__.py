"""offon: LLM post-training, off-policy and on-policy, in one system.

import offon

offon.diagnose("./base", "gym:chain_sum,max_terms=2")["sentence"]
offon.run({"model": "./base", "task": "gym:chain_sum", "pipeline": {...}}, "runs/mine")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offon.version import __version__  # noqa: F401


def run(recipe: str | Path | Mapping[str, Any], output: str | Path, *, resume: bool = False, progress=print) -> Path:
    """Run a recipe (a YAML file, or the same as Python values) and return the run directory, report.html in it.

    progress: called with each event of the run, a mapping; see `offon.cli.progress`. Values may be Python objects: a
    task with items and verify, a `datasets` object as data.
    """
    from offon.pipeline.run import run_recipe
    from offon.recipe import resolve

    return run_recipe(resolve(recipe), output, resume=resume, progress=progress, command="offon.run")


def compare(before: str | Path, after: str | Path, task: Any, **options: Any) -> dict[str, Any]:
    """What changed between two checkpoints? See `offon.measure.compare.compare_models` for the options."""
    from offon.measure.compare import compare_models

    return compare_models(str(before), str(after), task, **options)


def attribute(recipe: str | Path | Mapping[str, Any], output: str | Path, **options: Any) -> dict[str, Any]:
    """What did each stage of a recipe contribute? See `offon.pipeline.attribution.attribute` for the options."""
    from offon.pipeline.attribution import attribute as study
    from offon.recipe import resolve

    return study(resolve(recipe), output, **options)


def diagnose(model: str | Path, task: Any, **options: Any) -> dict[str, Any]:
    """Why does a model fail a task, prompt by prompt? See `offon.diagnosis.run.diagnose_model` for the options."""
    from offon.diagnosis.run import diagnose_model

    return diagnose_model(str(model), task, **options)
