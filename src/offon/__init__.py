"""offon: LLM post-training, off-policy and on-policy, in one system.

    import offon

    print(offon.diagnose("./base", "gym:chain_sum,max_terms=2").sentence)
    run = offon.run({"model": "./base", "task": "gym:chain_sum", "pipeline": {...}}, "runs/mine")
    run.page, run.models["rl"]

What stands in a recipe as a path may be an object from Python: a model with its tokenizer, data, a function.
docs/api.md has every function with its parameters and what it returns.
"""

from offon.api import (
    AttributionResult,
    ComparisonResult,
    DiagnosisResult,
    Estimate,
    MethodResult,
    Result,
    RunResult,
    StageResult,
    attribute,
    compare,
    diagnose,
    methods,
    report,
    run,
)
from offon.version import __version__

__all__ = [
    "AttributionResult",
    "ComparisonResult",
    "DiagnosisResult",
    "Estimate",
    "MethodResult",
    "Result",
    "RunResult",
    "StageResult",
    "__version__",
    "attribute",
    "compare",
    "diagnose",
    "methods",
    "report",
    "run",
]
