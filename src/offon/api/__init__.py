"""The public API: `import offon`. Importing it imports no library but Python's own."""

from offon.api.calls import attribute, compare, diagnose, methods, report, run
from offon.api.results import (
    AttributionResult,
    ComparisonResult,
    DiagnosisResult,
    Estimate,
    MethodResult,
    Result,
    RunResult,
    StageResult,
)

__all__ = [
    "AttributionResult",
    "ComparisonResult",
    "DiagnosisResult",
    "Estimate",
    "MethodResult",
    "Result",
    "RunResult",
    "StageResult",
    "attribute",
    "compare",
    "diagnose",
    "methods",
    "report",
    "run",
]
