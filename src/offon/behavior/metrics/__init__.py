"""Metrics of behaviour: one file each, which declares what is measured of a probe task and how it is told."""
