"""What gate.yaml names: demonstrations of testbed families, as a data set on disk."""

from offon.testbed.demo import demonstrations

__all__ = ["demonstrations"]
