"""Data as groups: demonstrations, preferences and prompts, rendered once and with verified loss masks."""

from offon.data.load import DataReport, Loaded, load_demonstrations, load_preferences, prompt_groups
from offon.data.render import Renderer

__all__ = ["DataReport", "Loaded", "Renderer", "load_demonstrations", "load_preferences", "prompt_groups"]
