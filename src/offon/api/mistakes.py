"""All mistakes of a recipe at once: those of what it says, and of the data and models that its sound nodes name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from offon.errors import OffonError, Problems
from offon.recipe import ResolvedRecipe, resolve


def resolve_or_all(recipe: Any, overrides: Iterable[str] = ()) -> ResolvedRecipe:
    """The recipe, resolved. A reference to no node hides nothing: what other nodes read is looked at before it is
    raised."""
    try:
        return resolve(recipe, overrides=overrides)
    except OffonError as error:
        if error.rest is None:
            raise
        more = _mistakes(error.rest)
        if not more:
            raise
        errors = error.errors if isinstance(error, Problems) else [error]
        raise Problems([*errors, *more]) from None


def _mistakes(recipe: ResolvedRecipe) -> list[OffonError]:
    from offon.pipeline.check import check_recipe  # loads what reads models: after a mistake only

    try:
        check_recipe(recipe)
    except Problems as problems:
        return problems.errors
    except OffonError as error:
        return [error]
    return []
