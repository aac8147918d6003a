"""What flows: items, trajectories, groups. No maths, no models, no files."""

from offon.types.trajectory import (
    RIGHT,
    TARGET,
    Comparison,
    Group,
    Item,
    Producer,
    Sampling,
    Source,
    Span,
    Trajectory,
    Verdict,
)

__all__ = [
    "RIGHT", "TARGET", "Comparison", "Group", "Item", "Producer", "Sampling", "Source", "Span", "Trajectory", "Verdict",
]  # fmt: skip
