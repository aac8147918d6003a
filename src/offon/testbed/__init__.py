"""Tiny language models whose bottlenecks are known because they were planted, with an exact oracle.

    family    bottleneck                                          exact success of the base
    rare      takes the right route in 15% of its documents       0.15, above the support threshold on every prompt
    absent    its operations occur in no document                 below 1e-5
    format    right trace, then the wrong symbol in 98%           0.02 strict, 1.00 content
    scaffold  right only after the word `hint`                    below 0.001 without, 1.00 with
    guard     none: already solved                                1.00

Facts worth knowing when reading numbers: a guessed trace is right with probability 16^-3 = 0.024%; an answer is in
the effective support at budget k if its probability is at least 1 - 0.05^(1/k), 4.6% at k = 64; families share the
decision for a route and the tables of operations, so a stage on one family moves others. That is transfer (or
forgetting), not noise: the oracle has none.

`grammar` says what is planted, `task` asks and checks, `oracle` measures, `train` makes the shipped models.
"""

from pathlib import Path

from offon.errors import ConfigError
from offon.testbed.grammar import FAMILIES
from offon.testbed.task import TestbedTask

MODELS = Path(__file__).parent / "models"

__all__ = ["FAMILIES", "MODELS", "TestbedTask", "model_path"]


def model_path(name: str) -> Path:
    """The Hugging Face directory of a shipped model: "base" or "student"."""
    shipped = sorted(path.parent.name for path in MODELS.glob("*/config.json"))
    if name not in shipped:
        raise ConfigError(f"no testbed model {name!r}", where=str(MODELS), fix=f"one of {', '.join(shipped)}")
    return MODELS / name
