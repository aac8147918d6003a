"""The catalogue: every row and modifier, with what the survey asks of a method. Rows register with a decorator."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_origin

from offon.catalogue.arguments import names_of
from offon.catalogue.families import FAMILIES
from offon.catalogue.surrogate import Computed, computed
from offon.catalogue.toolbox import Plan
from offon.catalogue.user_function import function_at
from offon.errors import ConfigError
from offon.parts.credits import Chain
from offon.parts.loop import Loop

Kind = Literal["stage", "modifier", "make", "loop"]
INPUTS = ("task", "data", "teacher")  # what a row may be given by name; its other parameters are arguments of a recipe
CATALOGUE = tuple(
    f"offon.catalogue.methods.{file.stem}" for file in sorted((Path(__file__).parent / "methods").glob("[a-z]*.py"))
)


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    name: str
    kind: Kind
    function: Callable[..., Any]
    family: str
    usual_provenance: str
    interface: str
    usual_role: str
    paper: str
    recommends: Mapping[str, Any] = field(default_factory=dict)  # of a row that makes: a stage says so itself

    @property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function, eval_str=True)

    @property
    def reference(self) -> str:
        """Where it is from: arXiv:2402.03300, or words where there is no arXiv id."""
        return f"arXiv:{self.paper}" if re.fullmatch(r"\d{4}\.\d{4,5}", self.paper) else self.paper

    @property
    def inputs(self) -> dict[str, bool]:
        """The inputs the row takes: name -> whether it must be given. A modifier has arguments only."""
        parameters = self.signature.parameters if self.kind != "modifier" else {}
        return {name: parameters[name].default is inspect.Parameter.empty for name in INPUTS if name in parameters}

    @property
    def arguments(self) -> dict[str, inspect.Parameter]:
        return {
            name: parameter
            for name, parameter in self.signature.parameters.items()
            if name not in (*self.inputs, "stage", "toolbox")
        }

    @property
    def doc(self) -> str:
        return inspect.cleandoc(self.function.__doc__ or "")

    @property
    def parts(self) -> dict[str, Any]:
        """The composition at its defaults, in words: what is collected, and each learner's terms and credit."""
        if self.kind == "modifier":
            return {}
        if self.kind in ("make", "loop"):
            return {"collect": str(self.example()), "learners": []}
        stage = self.example()
        return {
            "collect": str(stage.collect),
            "learners": [
                {
                    "name": learner.name,
                    "credit": None if learner.credit is None else in_words(learner.credit),
                    "terms": [in_words(term) for term in learner.terms],
                }
                for learner in stage.learners
            ],
        }

    @property
    def computed(self) -> Computed | None:
        """At its defaults: what is computed in place of a surrogate with ratios, in a sentence and in formulas."""
        return computed(self.example()) if self.kind == "stage" else None

    @property
    def data_among(self) -> dict[str, str]:
        """Inputs and arguments that are data, and the form of each as their annotations say."""
        marks = {name: names_of(parameter.annotation) for name, parameter in self.signature.parameters.items()}
        marked = {name: mark.what for name, mark in marks.items() if mark and mark.edge == "data"}
        return {"data": "demonstrations", **marked} if "data" in self.inputs else marked

    def composed(self, **given: Any) -> Any:
        """What the row returns for these inputs and arguments: a stage or a loop; of a row that makes, its plan."""
        if self.kind != "make":
            return self.function(**given)
        forms = self.data_among
        given = {name: [] if name in forms else value for name, value in given.items()}
        return Plan.of(self.function, self.recommends, forms.get("data", "demonstrations"), **given)

    def example(self, **given: Any) -> Any:
        """The row at its defaults, with stand-ins for what else it must be given."""
        needed = [p for p in self.signature.parameters.values() if p.default is p.empty and p.name != "toolbox"]
        return self.composed(**{parameter.name: _stand_in(parameter) for parameter in needed} | given)

    def describe(self) -> dict[str, Any]:
        fields = ("name", "kind", "family", "usual_provenance", "interface", "usual_role", "paper", "reference")
        family = FAMILIES[self.family]
        tendencies = {"strength": family.strength, "handoff_risk": family.handoff_risk}
        return {**{name: getattr(self, name) for name in fields}, **tendencies, "parts": self.parts}


def in_words(part: Any) -> str:
    """A part as its name and the fields that differ from their defaults: PolicyGradient(advantage=credit, ...)."""
    if isinstance(part, Chain):
        return " >> ".join(map(in_words, part.steps))
    if not dataclasses.is_dataclass(part):
        return getattr(part, "__name__", repr(part))
    shown = [
        f"{field.name}={in_words(getattr(part, field.name))}"
        for field in dataclasses.fields(part)
        if field.default is dataclasses.MISSING or getattr(part, field.name) != field.default
    ]
    return f"{type(part).__name__}({', '.join(shown)})"


class _Given(str):
    """Stands for an input (a task, data, a teacher) where only the shape of a row is wanted."""


def _stand_in(parameter: inspect.Parameter) -> Any:
    """A source; where the row takes a list or a mapping, two of them."""
    several = [_Given(f"{parameter.name}{i}") for i in (1, 2)]
    stand_ins = {list: several, tuple: several, dict: dict(zip("ab", several, strict=True))}
    return stand_ins.get(get_origin(parameter.annotation), _Given(parameter.name))


_METHODS: dict[str, MethodInfo] = {}


def method(
    *,
    family: str,
    interface: str,
    usual_provenance: str,
    usual_role: str,
    paper: str,
    kind: Kind = "stage",
    recommends: Mapping[str, Any] = MappingProxyType({}),
):
    """Register a row. Family, interface and roles are the survey's words; roles are usual tendencies, never claims.

    kind  what it is called with, and what it returns
        stage     (its inputs) -> Stage: trains            modifier  (stage) -> Stage: changes one
        make      (toolbox, its inputs): makes data or weights with the `MakeContext`, and returns nothing
        loop      (its inputs) -> Loop: several nodes, which a recipe has in its place
    recommends  a row that makes: values for the keys of its node
    """
    if family not in FAMILIES:
        raise ConfigError(f"unknown family {family!r}", fix=f"one of {', '.join(FAMILIES)}")

    def register(function):
        info = MethodInfo(
            name=function.__name__, kind=kind, function=function, family=family, interface=interface,
            usual_provenance=usual_provenance, usual_role=usual_role, paper=paper,
            recommends=recommends,
        )  # fmt: skip
        function.info = info
        if function.__module__ in CATALOGUE:
            _METHODS[info.name] = info
        return function

    return register


def _load() -> dict[str, MethodInfo]:
    for module in CATALOGUE:
        importlib.import_module(module)
    return _METHODS


def catalogue() -> list[MethodInfo]:
    """Everything there is, by family in the survey's order, then by name."""
    order = list(FAMILIES)
    return sorted(_load().values(), key=lambda info: (order.index(info.family), info.kind != "stage", info.name))


def names(*kinds: Kind) -> list[str]:
    """Rows of these kinds; stages unless written."""
    return sorted(name for name, info in _load().items() if info.kind in (kinds or ("stage",)))


def modifiers() -> list[str]:
    return sorted(name for name, info in _load().items() if info.kind == "modifier")


def get(name: str) -> MethodInfo:
    """A method by its name, or `file.py:function` for one of your own."""
    if ":" in name:
        return _from_file(name)
    known = _load()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            f"unknown method {name!r}",
            fix=(f"did you mean {close[0]!r}? " if close else "") + f"known: {', '.join(sorted(known))}",
        )
    return known[name]


def _from_file(name: str) -> MethodInfo:
    function = function_at(name)
    if not hasattr(function, "info"):
        method(
            family="own", interface="own", usual_provenance="own", usual_role="own", paper="", kind=_kind_of(function)
        )(function)
    return function.info


def _kind_of(function: Callable[..., Any]) -> Kind:
    """What an undecorated row is, by the parameter that gives it away, or by what it says it returns."""
    signature = inspect.signature(function, eval_str=True)
    by_parameter = {"stage": "modifier", "toolbox": "make"}
    kind = next((kind for name, kind in by_parameter.items() if name in signature.parameters), "stage")
    return "loop" if signature.return_annotation is Loop else kind
