"""What a run leaves on disk: directory, checkpoints, metrics, and the ledger of every trajectory."""

from offon.runs.directory import Checkpoint, NodeDirectory, RunDirectory

__all__ = ["Checkpoint", "NodeDirectory", "RunDirectory"]
