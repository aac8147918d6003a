"""The demo: a shipped model diagnosed, post-trained in three stages of both regimes, and reported on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from offon.pipeline.run import run_recipe
from offon.recipe import resolve
from offon.runs import RunDirectory

RECIPE = Path(__file__).parent.parent / "testbed" / "demo.yaml"


def run_demo(
    output: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[dict[str, Any]], None] = lambda event: None,
) -> str:
    """Run the demo's recipe and return what its diagnosis found, in words. Every number comes from the run."""
    torch.set_num_threads(1)  # models this small spend a second thread waiting for the first
    path = run_recipe(
        resolve(RECIPE), output, resume=resume, overwrite=overwrite, progress=progress, command="offon demo"
    )
    diagnosed = RunDirectory.open(path).read_json("diagnosis.json", [])
    first = diagnosed[0]["model"] if diagnosed else ""
    sentences = [f"{first}, {entry['task']}: {entry['sentence']}" for entry in diagnosed if entry["model"] == first]
    return "\n".join(sentences)
