"""What changed since a node was begun, and what is to become of it: nothing that exists is thrown away unasked.

Every node that was begun has its inputs on record (node.json). On resume each is compared with what the recipe says
now, before anything is touched:

    nothing differs             it is kept, or goes on at its last checkpoint
    --allow NAME                the same: with another value from here on, which stays on record
    --restart NODE              it is made anew, and what depends on it; the old ones are kept under `replaced/`
    anything else               a table of what differs, and exit 2
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from offon.errors import ConfigError, StorageError
from offon.pipeline.resume.node_inputs import Table, table_of
from offon.recipe import GateNode, ResolvedRecipe
from offon.recipe.resolved import Node
from offon.runs import NodeDirectory, RunDirectory
from offon.runs import artefacts as art
from offon.runs.artefacts import Artefact

UNKNOWN = "inputs"  # of a node whose record names none
Action = Literal["begin", "go on", "keep", "make anew"]


@dataclass(frozen=True)
class Change:
    """An input that is not what it was. follows: the node whose new result it is, where that is all."""

    node: str
    name: str
    before: str
    now: str
    follows: str = ""


@dataclass(frozen=True)
class Wishes:
    """What may differ (an input's name, or NODE.NAME), and which nodes are made anew."""

    allow: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()

    def allows(self, change: Change) -> bool:
        return change.name in self.allow or f"{change.node}.{change.name}" in self.allow

    def require_resume(self, resume: bool) -> None:
        if (self.allow or self.restart) and not resume:
            raise ConfigError("--allow and --restart are about a run that is there", fix="with --resume")


@dataclass(frozen=True)
class Standing:
    """One node on resume: what becomes of it, its hash, its inputs, and what of them was allowed to change."""

    action: Action
    hash: str
    table: Table
    allowed: tuple[Change, ...] = ()

    def recorded(self, directory: NodeDirectory) -> list[dict[str, Any]]:
        """What of its inputs was allowed to change, and after which step of training."""
        checkpoint = directory.latest_checkpoint() if self.action == "go on" else None
        step = checkpoint.step if checkpoint else None
        return [{"input": c.name, "before": c.before, "now": c.now, "step": step} for c in self.allowed]


@dataclass
class Comparison:
    """A recipe beside what is in a run's folder."""

    recipe: ResolvedRecipe
    run: RunDirectory
    wishes: Wishes = Wishes()
    made: dict[str, Artefact] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def of(self, node: Node, artefact: Callable[[str], Artefact]) -> Standing:
        """Of a node whose inputs are there. What was not known before (which side a gate took) may still differ."""
        standing = self.standing(node, artefact)
        self.made[f"${node.name}"] = self._stands_for(node, standing)
        if self.changes:
            raise _refused(self.run.path, self.changes, kept="what is finished")
        return standing

    def compare(self) -> dict[str, Standing]:
        """Of every node; a ConfigError with all that changed and was not asked for. Nothing is touched."""
        standings, open_ends = {}, set()
        for node in self.recipe.nodes:
            if any(edge.source in open_ends for edge in node.inputs):
                open_ends.add(f"${node.name}")  # behind a gate that judges again: known when it has
                continue
            standing = self.standing(node)
            if isinstance(node, GateNode) and standing.action != "keep":
                open_ends.add(f"${node.name}")
            standings[node.name] = standing
            self.made[f"${node.name}"] = self._stands_for(node, standing)
        self._refuse_unknown(standings)
        if self.changes:
            raise _refused(self.run.path, self.changes)
        return standings

    def standing(self, node: Node, artefact: Callable[[str], Artefact] | None = None) -> Standing:
        table = table_of(node, self.recipe, artefact or self._artefact)
        key = art.digest([node.kind, table])
        directory = self.run.node(node.name)
        record = _record(directory)
        whole = isinstance(node, GateNode) or directory.final_path is not None
        done = record.get("state") == "done" and whole
        if node.name in self.wishes.restart and record:
            return Standing("make anew", key, table)
        if not record or not (done or directory.latest_checkpoint()):
            return Standing("begin", key, table)
        known = table if "inputs" not in record and record["hash"] == key else record.get("inputs")
        changes = list(_differences(node.name, known, table, self.recipe))
        if isinstance(node, GateNode) and changes:
            return Standing("make anew", key, table)  # it costs nothing to judge again
        asked = [change for change in changes if not self.wishes.allows(change)]
        if not asked:
            if changes and not done:
                key = art.digest([record["hash"], [change.now for change in changes]])
                return Standing("go on", key, table, tuple(changes))
            return Standing("keep" if done else "go on", record["hash"], table, tuple(changes))
        if all(change.follows in self.wishes.restart or self._follows(change) for change in asked):
            return Standing("make anew", key, table)
        self.changes += changes
        return Standing("make anew", key, table)

    def _follows(self, change: Change) -> bool:
        """Whether it is the new result of a node that is made anew because it was asked for."""
        known = self.made.get(f"${change.follows}")
        return known is not None and known.path == ANEW

    def _artefact(self, source: str) -> Artefact:
        return self.made[source] if source in self.made else art.external(source)

    def _stands_for(self, node: Node, standing: Standing) -> Artefact:
        """What whoever reads the node reads: of a gate, what it took."""
        if isinstance(node, GateNode) and standing.action == "keep":
            took = self.run.node(node.name).read_json("gate.json", {}).get("took")
            sides = {self._artefact(side).label: self._artefact(side) for side in node.sides}
            return sides.get(took) or self._artefact(node.gate)
        path = ANEW if standing.action == "make anew" and not self._asked(node.name) else Path(node.name)
        return Artefact(path, node.name, standing.hash)

    def _asked(self, node: str) -> bool:
        return any(change.node == node for change in self.changes)

    def _refuse_unknown(self, standings: Mapping[str, Standing]) -> None:
        """A name that stands for nothing is a slip of the hand."""
        nodes = [node.name for node in self.recipe.nodes]
        for name in self.wishes.restart:
            if name not in nodes:
                raise ConfigError(f"--restart {name}: there is no such node", fix=_nearest(name, nodes))
        known = {UNKNOWN, *nodes} | {name for one in standings.values() for name in one.table}
        for name in self.wishes.allow:
            node, dot, inner = name.partition(".")
            named = inner if dot and node in standings else name
            if named not in known:
                raise ConfigError(f"--allow {name}: no node has such an input", fix=_nearest(named, sorted(known)))


ANEW = Path("anew")


def _record(directory: NodeDirectory) -> dict[str, Any]:
    """What is known of a node; nothing where it holds half of something, which is mended before the run goes on."""
    with contextlib.suppress(StorageError, ValueError):
        return directory.read_json("node.json", {})
    return {}


def _differences(node: str, before: Table | None, now: Table, recipe: ResolvedRecipe) -> Iterator[Change]:
    if before is None:
        yield Change(node, UNKNOWN, "not on record", "as the recipe says")
        return
    for name in [*now, *(name for name in before if name not in now)]:
        then, value = before.get(name, "none"), now.get(name, "none")
        if then != value:
            yield Change(node, name, then, value, _source(then, value, recipe))


def _source(before: str, now: str, recipe: ResolvedRecipe) -> str:
    """The node whose result both are."""
    label = now.rpartition(" ")[0]
    return label if label == before.rpartition(" ")[0] and label in {node.name for node in recipe.nodes} else ""


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else f"one of {', '.join(known)}"


def _refused(path: Path, changes: Sequence[Change], kept: str = "nothing was touched") -> ConfigError:
    rows = [("node", "input", "then", "now")]
    rows += [(c.node, c.name, *(("", f"follows {c.follows}") if c.follows else (_short(c.before), _short(c.now))))
             for c in changes]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip()
        for row in rows
    ]
    first = next((change for change in changes if not change.follows), changes[0])
    return ConfigError(
        "inputs of what is finished or begun have changed\n  " + "\n  ".join(lines),
        where=str(path),
        fix=f"put them back; or --allow {first.name} to go on with what is there; or --restart {first.node} to make it "
        "anew (what is there is kept under replaced/)",
        kept=kept,
    )


def _short(value: str, most: int = 28) -> str:
    """A value in a column: a hash by its first digits, a long text by both ends."""
    text, _, digits = value.rpartition(" ")
    if text and len(digits) == 16 and all(digit in "0123456789abcdef" for digit in digits):
        value = f"{text} {digits[:6]}"
    return value if len(value) <= most else f"{value[: most // 2]}...{value[-most // 2 + 3 :]}"
