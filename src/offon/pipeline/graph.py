"""pipeline.json: the graph of a run's nodes and of the models it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offon.catalogue import registry
from offon.recipe import MethodNode, ResolvedRecipe, TrainNode
from offon.runs.artefacts import label_of


def graph(recipe: ResolvedRecipe, states: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Nodes in order with what is known of each, after the models from outside that they start from."""
    nodes, roots = [], {}
    for node in recipe.nodes:
        entry = {"name": node.name, "kind": node.kind, **states[node.name], "inputs": []}
        if isinstance(node, MethodNode):
            info = registry.get(node.method)
            words = ("family", "interface", "usual_provenance", "usual_role")
            entry |= {"method": info.name, **{word: getattr(info, word) for word in words}}
        if isinstance(node, TrainNode):
            entry["steps"] = node.settings.steps
        for edge in node.inputs:
            source = edge.node or label_of(edge.source)
            entry["inputs"].append({"kind": edge.kind, "from": source})
            if edge.node is None and edge.kind in ("init", "teacher"):
                roots[source] = {"name": source, "kind": "model", "state": "done", "inputs": []}
        nodes.append(entry)
    probe = recipe.probe
    measured = {"k": probe.k, "prompts": probe.prompts, "samples": probe.samples} if probe else None
    return {"nodes": [*roots.values(), *nodes], "probe": measured}
