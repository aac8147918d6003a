"""What flows: items, trajectories, groups. No maths, no models, no files."""

from offon.types.trajectory import Comparison, Group, Item, Producer, Sampling, Source, Span, Trajectory, Verdict

__all__ = ["Comparison", "Group", "Item", "Producer", "Sampling", "Source", "Span", "Trajectory", "Verdict"]
