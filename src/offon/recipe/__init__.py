"""Recipes: names, values and artefacts in YAML or plain Python values, checked and resolved before anything loads."""

from offon.catalogue.user_function import function_at
from offon.recipe.references import located_model, located_task
from offon.recipe.resolved import (
    FunctionNode,
    GateNode,
    Input,
    MakeNode,
    MethodNode,
    Modifier,
    ResolvedRecipe,
    TrainNode,
)
from offon.recipe.resolver import resolve
from offon.recipe.yaml_reader import Document, override, parse, read

__all__ = [
    "Document", "FunctionNode", "GateNode", "Input", "MakeNode", "MethodNode", "Modifier", "ResolvedRecipe",
    "TrainNode", "function_at", "located_model", "located_task", "override", "parse", "read", "resolve",
]  # fmt: skip
