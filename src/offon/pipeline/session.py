"""What a run has and has made so far, for whatever reports on one of its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from offon.measure.probe_cache import ProbeCache
from offon.recipe import ResolvedRecipe, TrainNode
from offon.runs import RunDirectory
from offon.runs.artefacts import Artefact


@dataclass(frozen=True)
class Session:
    """Handed to the stage report and the path in place of the pipeline: it reads, and runs no node.

    made       what each node that is done has made, by "$name"; it grows while the run goes on
    measure    probes of a model, sampled once whoever asks
    task       opens what describes a task; artefact: what a source ("$name", a path) stands for
    stop       whether somebody wants the run to end
    """

    recipe: ResolvedRecipe
    run: RunDirectory
    made: Mapping[str, Artefact]
    measure: ProbeCache
    task: Callable[[Any], Any]
    artefact: Callable[[str], Artefact]
    stop: Callable[[], bool]

    @property
    def probe_tasks(self) -> Mapping[str, Any]:
        """The tasks that the recipe's probe names, with their descriptions."""
        return self.measure.tasks

    def stage_of(self, artefact: Artefact) -> TrainNode | None:
        """The stage that made an artefact, whatever handed it on since: a gate's result is its candidate's."""
        stages = (node for node in self.recipe.nodes if isinstance(node, TrainNode) and f"${node.name}" in self.made)
        return next((node for node in stages if self.made[f"${node.name}"].path == artefact.path), None)
