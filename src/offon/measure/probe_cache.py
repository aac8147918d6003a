"""Measuring the models of a run: each is probed on every probe task once, whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from offon.engines.api import Engine
from offon.errors import Interrupted
from offon.measure.probe import PLAIN, probe_key, run_probe
from offon.measure.probe_diagnosis import diagnosis
from offon.models.loading import head_of
from offon.models.model import Model
from offon.recipe import ResolvedRecipe
from offon.runs import RunDirectory
from offon.runs.artefacts import Artefact
from offon.types import Group


@dataclass(frozen=True)
class ProbeCache:
    """Call it with a model. What was sampled before is read back; a reward model says nothing that could be probed."""

    recipe: ResolvedRecipe
    run: RunDirectory
    task: Callable[[Any], Any]
    engine: Engine
    progress: Callable[[dict[str, Any]], None]
    stop: Callable[[], bool]
    tasks: Mapping[str, Any] = field(default_factory=dict)  # name -> description

    def __call__(
        self, artefact: Artefact, root: bool = False, *, specs: Mapping[str, Any] | None = None, view: str = PLAIN
    ) -> dict[str, list[Group]]:
        """Probes by task, or of `specs`, under a view. root: the model is where a chain begins, and is diagnosed."""
        probe = self.recipe.probe
        if probe is None or head_of(artefact.path) is not None:
            return {}
        model: Model | None = None
        results = {}
        for name, spec in (self.tasks if specs is None else specs).items():
            key = probe_key(probe, artefact.hash, spec, self.recipe.seed, view)
            groups = self.run.read_probe(key)
            if groups is None:
                model = model or Model.load(artefact.path)

                def sampled(done: int, total: int, name=name) -> None:
                    if self.stop():
                        raise Interrupted("interrupted while probing", kept="finished stages and probes; use --resume")
                    self.progress({"node": f"probe {artefact.label}", "task": name, "generated": (done, total)})

                groups = run_probe(model, self.task(spec), probe, key, view=view, engine=self.engine, progress=sampled)
                self.run.write_probe(key, groups, node=artefact.label)
            results[name] = groups
        if root:
            self.run.write_diagnosis(diagnosis(self.run, artefact.label, results, probe.k))
        return results
