"""Recipes: names, values and artefacts in YAML or plain Python values, checked and resolved before anything loads."""

from offon.recipe.load import Document, override, parse, read
from offon.recipe.resolve import resolve
from offon.recipe.resolved import Input, MakeNode, Modifier, ResolvedRecipe, TrainNode

__all__ = [
    "Document", "Input", "MakeNode", "Modifier", "ResolvedRecipe", "TrainNode", "override", "parse", "read", "resolve",
]  # fmt: skip
