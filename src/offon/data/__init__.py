"""Data as groups: demonstrations, preferences and prompts, rendered once and with verified loss masks."""

from offon.data.load import (
    DataReport,
    Loaded,
    load_demonstrations,
    load_labelled,
    load_preferences,
    load_rankings,
    load_steps,
    prompt_groups,
)  # fmt: skip
from offon.data.render import Renderer

LOADERS = {
    "demonstrations": load_demonstrations,
    "pairs": load_preferences,
    "labelled": load_labelled,
    "rankings": load_rankings,
    "steps": load_steps,
}  # by what a collector says it reads

__all__ = [
    "LOADERS", "DataReport", "Loaded", "Renderer", "load_demonstrations", "load_labelled", "load_preferences",
    "load_rankings", "load_steps", "prompt_groups",
]  # fmt: skip
