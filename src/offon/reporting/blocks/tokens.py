"""Where the trained tokens came from, how off-policy they were, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offon.reporting import words
from offon.reporting.drawing import bar_row

UNMEASURED = {"mean_age": None, "conditioned_share": None, "sampler_gap_nats": None}


def tokens(stage: Mapping[str, Any]) -> dict[str, Any]:
    """One stage's bar of sources, its three measures of off-policyness, and what became of its responses."""
    return {
        **{name: stage[name] for name in ("name", "regime", "cost")},
        "sources": bar_row(stage["name"], stage["tokens_by_source"], words.SOURCES),
        "off_policy": UNMEASURED | stage["off_policy"],
        "fate_words": "; ".join(f"{words.compact(count)} {name}" for name, count in stage["fates"].items() if count),
    }
