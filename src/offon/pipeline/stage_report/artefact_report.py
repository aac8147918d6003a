"""What is measured of artefacts that no probe can sample: data, reward models, merges. One artefact.json each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offon.errors import ConfigError, DataError
from offon.measure.dataset import data_probe
from offon.measure.probe import probe_key
from offon.measure.probe_cache import ProbeCache
from offon.measure.reward_model import not_measured, reward_probe
from offon.models.loading import load_tokenizer
from offon.models.model import Model
from offon.pipeline.stage_report.metrics import changes
from offon.recipe import MethodNode, TrainNode
from offon.runs import artefacts as art
from offon.runs.artefacts import Artefact, digest
from offon.types import Group

FILE = "artefact.json"
Entries = Mapping[str, Mapping[str, Any]]  # probe task -> `behavior.task_handoff`


@dataclass(frozen=True)
class ArtefactReport:
    """Made when a node is done, and kept until what it depends on changes. `artefact` gives what a source made."""

    measure: ProbeCache
    artefact: Callable[[str], Artefact]
    note: Callable[[str], None]
    names: dict[str, str] = field(default_factory=dict)  # fingerprint of a model that wrote data -> its label
    known: dict[str, Any] = field(default_factory=dict)  # hash of an artefact -> its artefact.json

    def data(self, name: str, artefact: Artefact) -> None:
        """A data set that a node made; nothing of what is no one file of rows."""

        def measured() -> dict[str, Any] | None:
            try:
                return self._data(artefact, name)
            except ConfigError:
                return None

        self._keep(name, artefact, [self._tasks(), self._columns(name), self.names], measured)

    def reward_model(self, node: TrainNode, artefact: Artefact, heldout: Callable[[], Sequence[Group]]) -> None:
        share = node.settings.heldout
        source = Path(share).name if isinstance(share, str) else f"{share or 0:.0%} of its data's prompts"

        def measured() -> dict[str, Any]:
            groups = heldout()
            if not groups:
                return not_measured(node.name, node.makes, f"{source} are no prompts; a larger share, or heldout: FILE")
            return reward_probe(
                Model.load(artefact.path),
                groups,
                node.name,
                source=source,
                micro_batch_tokens=node.settings.micro_batch_tokens,
                seed=node.settings.seed,
            )

        if share:
            self._keep(node.name, artefact, [], measured)

    def merge(self, name: str, artefact: Artefact, parents: Sequence[Artefact]) -> None:
        """Merged weights against every model they were made of, each probed like a stage's result."""

        def measured() -> dict[str, Any]:
            after = self.measure(artefact)
            recipe = self.measure.recipe
            entries = {parent.label: changes(self.measure(parent), after, recipe) for parent in parents}
            return merge_probe(name, entries)

        self._keep(name, artefact, [self._tasks(), [parent.hash for parent in parents]], measured)

    def of(self, artefact: Artefact) -> Mapping[str, Any]:
        """Its report; of data from outside, it is report now."""
        if artefact.hash not in self.known:
            self.known[artefact.hash] = self._data(artefact, "")
        if (report := self.known[artefact.hash]) is None or not report.get("heldout", True):
            why = (report or {}).get("sentence", "its columns are no form of training data")
            raise DataError(f"nothing is known of {artefact.label} that a gate could judge", why=why)
        return report

    # ---- one of a kind

    def _data(self, artefact: Artefact, name: str) -> dict[str, Any] | None:
        return data_probe(
            art.data_file(artefact),
            artefact.label,
            columns=self._columns(name),
            names=self.names,
            heldout={t: self._heldout(spec) for t, spec in self.measure.tasks.items()},
            tokenizer=self._tokenizer(name),
        )

    def _heldout(self, spec: Any) -> list[Any]:
        return [item.prompt for item in self.measure.task(spec).items("heldout")]

    def _readers(self, name: str) -> list[MethodNode]:
        """The nodes that read a node's data."""
        recipe = self.measure.recipe

        def reads(node: MethodNode) -> bool:
            return any(e.kind == "data" and recipe.past_gates(e.source) == f"${name}" for e in node.inputs)

        return [node for node in recipe.nodes if isinstance(node, MethodNode) and reads(node)]

    def _columns(self, name: str) -> Mapping[str, str] | None:
        return next((node.settings.columns for node in self._readers(name)), None)

    def _tokenizer(self, name: str) -> Any:
        """Of the first model that is to learn from the data, as far as its chain is made."""
        recipe = self.measure.recipe
        starts = [node.settings.init for node in self._readers(name)] + [recipe.model]
        for source in (source for start in filter(None, starts) for source, _ in recipe.chain(start)):
            try:
                return load_tokenizer(self.artefact(source).path)
            except KeyError:
                continue  # a node that comes later
        return None

    def _tasks(self) -> list[str]:
        recipe = self.measure.recipe
        return [probe_key(recipe.probe, "", spec, recipe.seed) for spec in self.measure.tasks.values()]

    def _keep(
        self, name: str, artefact: Artefact, depends: list[Any], find: Callable[[], dict[str, Any] | None]
    ) -> None:
        directory, key = self.measure.run.node(name), digest([artefact.hash, depends])
        before = directory.read_json(FILE, {})
        if before.get("key") == key:
            self.known[artefact.hash] = before
            return
        self.known[artefact.hash] = report = find()
        if report is not None:
            directory.write_json(FILE, {"key": key, **report})
            self.note(report["sentence"])


def merge_probe(label: str, parents: Mapping[str, Entries]) -> dict[str, Any]:
    """artefact.json of a merge: for each parent the entries a stage from it would have. parents: label -> entries."""
    compared = [{"parent": parent, "tasks": dict(entries)} for parent, entries in parents.items()]
    return {"artefact": "merge", "parents": compared, "sentence": merge_sentence(label, parents)}


def merge_sentence(label: str, parents: Mapping[str, Entries]) -> str:
    changes_by_parent = [
        f"against {parent}: {', '.join(_change(task, entry) for task, entry in tasks.items())}"
        for parent, tasks in parents.items()
        if tasks
    ]
    return f"{label}, a merge: " + ("; ".join(changes_by_parent) or "not measured")


def _change(task: str, entry: Mapping[str, Any]) -> str:
    total, kept = entry["d1"]["total"], entry["retention"]
    points = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * total[end] for end in ("estimate", "low", "high")))
    return f"{task} {points} points" + (f", keeps {kept['estimate']:.0%}" if kept else "")
