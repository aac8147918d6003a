"""What the functions of the public API return: what people read as attributes, and the whole as one mapping."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from offon.api.json_form import json_text


@dataclass(frozen=True)
class Estimate:
    """A number with its two-sided 95% interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True, eq=False)
class Result(Mapping[str, Any]):
    """What every result can do besides its attributes.

    It is a mapping with the keys of the command's `--json`, so `result["sentence"]`, `"tree" in result` and
    `dict(result)` work; two results are equal if their mappings are. `as_dict()` is a copy of that mapping, the
    caller's own; `to_json()` is the text that the command prints with `--json`, character for character (JSON has no
    nan: it becomes null).
    """

    _entry: Mapping[str, Any] = field(repr=False)

    def __getitem__(self, key: str) -> Any:
        return self._entry[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entry)

    def __len__(self) -> int:
        return len(self._entry)

    def as_dict(self) -> dict[str, Any]:
        return copy.deepcopy(dict(self._entry))

    def to_json(self) -> str:
        return json_text(self._entry)


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparisonResult(Result):
    """What changed between two checkpoints on one task (`offon.compare`).

    sentence         the comparison in plain words
    sampled          whether rollouts were drawn: two equal models are not sampled unless null=True
    before, after    success: the mean over prompts of the share of right responses; None where nothing was sampled
    change           after - before, of the same prompts; exactly 0 between equal models, as are its parts
    expansion        the part of the change on prompts that came within reach of k rollouts
    reshaping        the part on prompts that were within reach both times
    attrition        the success that was lost on prompts that went out of reach: change is expansion + reshaping -
                     attrition + diffuse
    diffuse          the part on prompts that were out of reach both times
    calls            how many prompts were gained, lost, kept, undecided, never
    role             expansion, reshaping, mixed, ...: what kind of change it was mostly
    k                the rollouts that "within reach" refers to
    same_weights     whether both are one model
    prompts          one mapping a prompt: id, family, prompt, before, after ([successes, scored]), call, ...
    """

    sentence: str
    sampled: bool
    before: Estimate | None
    after: Estimate | None
    change: Estimate
    expansion: Estimate
    reshaping: Estimate
    attrition: Estimate
    diffuse: Estimate
    calls: Mapping[str, int]
    role: str
    k: int
    same_weights: bool
    prompts: tuple[Mapping[str, Any], ...] = field(repr=False)

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> ComparisonResult:
        if not entry.get("sampled", True):
            return cls(
                _entry=entry,
                sentence=entry["sentence"],
                sampled=False,
                before=None,
                after=None,
                **dict.fromkeys(("change", "expansion", "reshaping", "attrition", "diffuse"), Estimate(0.0, 0.0, 0.0)),
                calls=MappingProxyType({}),
                role="no change",
                k=entry["k"],
                same_weights=entry["same_weights"],
                prompts=(),
            )
        d1 = entry["d1"]
        return cls(
            _entry=entry,
            sampled=True,
            sentence=entry["sentence"],
            before=_estimate(entry["before"]["success"]),
            after=_estimate(entry["after"]["success"]),
            change=_estimate(d1["total"]),
            expansion=_estimate(d1["soft"]["expansion"]),
            reshaping=_estimate(d1["soft"]["reshaping"]),
            attrition=_estimate(d1["soft"]["attrition"]),
            diffuse=_estimate(d1["soft"]["diffuse"]),
            calls=MappingProxyType(dict(entry["calls"])),
            role=entry["role"]["name"],
            k=entry["k"],
            same_weights=entry["same_weights"],
            prompts=_frozen_rows(entry["prompts"]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class DiagnosisResult(Result):
    """Why a model fails a task, prompt by prompt (`offon.diagnose`).

    sentence         the diagnosis in plain words
    calls            how many prompts are solved, format, fragile, ranking, ... (those that some prompt has)
    prevalence       the share of prompts of each kind, with the uncertainty of the calls
    suggestions      one mapping each: call, prompts, methods, reason, signature, avoid
    notes            what a reader should know before acting on it
    model, task, k   what was diagnosed, and for how many rollouts of a later stage
    prompts          one mapping a prompt: id, family, prompt, strict ([successes, scored]), call, probabilities, ...
    """

    sentence: str
    calls: Mapping[str, int]
    prevalence: Mapping[str, Estimate]
    suggestions: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    model: str
    task: str
    k: int
    prompts: tuple[Mapping[str, Any], ...] = field(repr=False)

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> DiagnosisResult:
        calls: dict[str, int] = {}
        for prompt in entry["prompts"]:
            calls[prompt["call"]] = calls.get(prompt["call"], 0) + 1
        return cls(
            _entry=entry,
            sentence=entry["sentence"],
            calls=MappingProxyType(calls),
            prevalence=_estimates(entry["prevalence"]),
            suggestions=_frozen_rows(entry["suggestions"]),
            notes=tuple(entry["notes"]),
            model=entry["model"],
            task=entry["task"],
            k=entry["k"],
            prompts=_frozen_rows(entry["prompts"]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class AttributionResult(Result):
    """What each stage of a recipe contributed (`offon.attribute`).

    result           the stage whose success is shared out
    stages, seeds    which were left out in turn, and how often everything was trained
    shapley          task -> stage -> its share of the total
    total            task -> success with all stages minus success with none
    notes            what a reader should know before believing it
    """

    result: str
    stages: tuple[str, ...]
    seeds: int
    shapley: Mapping[str, Mapping[str, Estimate]]
    total: Mapping[str, Estimate]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> AttributionResult:
        return cls(
            _entry=entry,
            result=entry["result"],
            stages=tuple(entry["stages"]),
            seeds=entry["seeds"],
            shapley=MappingProxyType({task: _estimates(shares) for task, shares in entry["shapley"].items()}),
            total=_estimates(entry["total"]),
            notes=tuple(entry["notes"]),
        )


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage of a run did on one task.

    before, after    success of the model it started from and of the one it made
    change           after - before
    calls            how many prompts were gained, lost, kept, undecided, never
    role             what kind of change it was mostly
    """

    stage: str
    method: str
    task: str
    before: Estimate
    after: Estimate
    change: Estimate
    calls: Mapping[str, int]
    role: str


@dataclass(frozen=True, kw_only=True, eq=False)
class RunResult(Result):
    """A run (`offon.run`, `offon.report`). `Path(result)` and `open(os.path.join(result, ...))` take it as its folder.

    path             the run's folder
    page             the report, an HTML file
    state            done, stopped (by a gate), interrupted or failed
    warnings         what has to be known before believing anything else, most serious first
    models           node -> the from_pretrained directory that it made
    stages           what each stage did on each task that it was measured on
    """

    path: Path
    page: Path
    state: str
    warnings: tuple[str, ...]
    models: Mapping[str, Path]
    stages: tuple[StageResult, ...]

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def of(cls, path: Path, page: Path, entry: Mapping[str, Any]) -> RunResult:
        finals = {node["name"]: path / "nodes" / node["name"] / "final" for node in entry["nodes"] if "name" in node}
        return cls(
            _entry=entry,
            path=path,
            page=page,
            state=entry["status"].get("state", ""),
            warnings=tuple(warning["text"] for warning in entry["warnings"]),
            models=MappingProxyType({name: final for name, final in finals.items() if _is_model(final)}),
            stages=tuple(_stages(entry["stages"])),
        )


def _stages(stages: list[Mapping[str, Any]]) -> Iterator[StageResult]:
    for stage in stages:
        for row in stage["results"]:
            if row["family"] is None:
                success = row["success"]
                yield StageResult(
                    stage=stage["name"],
                    method=stage["method"],
                    task=row["task"],
                    before=_estimate(success["before"]),
                    after=_estimate(success["after"]),
                    change=_estimate(success["change"]),
                    calls=MappingProxyType(dict(row["calls"])),
                    role=row["role"]["name"] if isinstance(row["role"], Mapping) else str(row["role"] or ""),
                )


def _is_model(directory: Path) -> bool:
    return (directory / "config.json").is_file() or (directory / "adapter_config.json").is_file()


@dataclass(frozen=True, kw_only=True, eq=False)
class MethodResult(Result):
    """A method of the catalogue (`offon.methods`).

    kind             stage (trains), modifier (changes a stage), make (makes data or weights) or loop (several nodes)
    family           which of the survey's families it belongs to
    interface        how supervision is attached: token targets, preferences, rewards, ...
    usual_provenance, usual_role    usual tendencies; what a stage did is measured
    reference        the paper
    doc              formula, what to watch, how it fails; "" in the list of all
    example          the shortest way to write it in a recipe; "" in the list of all
    """

    name: str
    kind: str
    family: str
    interface: str
    usual_provenance: str
    usual_role: str
    reference: str
    doc: str = field(default="", repr=False)
    example: str = ""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> MethodResult:
        names = ("name", "kind", "family", "interface", "usual_provenance", "usual_role", "reference")
        full = {name: entry.get(name, "") for name in ("doc", "example")}
        return cls(_entry=entry, **{name: entry[name] for name in names}, **full)


def _estimate(values: Mapping[str, float]) -> Estimate:
    return Estimate(values["estimate"], values["low"], values["high"])


def _estimates(values: Mapping[str, Mapping[str, float]]) -> Mapping[str, Estimate]:
    return MappingProxyType({name: _estimate(value) for name, value in values.items()})


def _frozen_rows(rows: list[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    return tuple(MappingProxyType(dict(row)) for row in rows)
