"""One node of the pipeline: by a method (a row), by a function of the user's, or a gate."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offon.catalogue.user_function import function_at
from offon.errors import DataError, ModelError, OffonError
from offon.objects import is_object
from offon.recipe import fields
from offon.recipe.fields import Settings
from offon.recipe.gates import read_gate
from offon.recipe.problems import BAD, Reader
from offon.recipe.references import References
from offon.recipe.resolved import (
    LIBRARY,
    RECIPE,
    ROW,
    FunctionNode,
    GateNode,
    Input,
    MakeNode,
    MethodNode,
    Node,
    TrainNode,
)
from offon.recipe.rows import ANY, KEYS, SECTIONS, Given, Rows
from offon.recipe.yaml_reader import Keys

NODE_NAME = r"[A-Za-z_][\w\-]*"


@dataclass(frozen=True)
class Shared:
    """What a recipe says once for all nodes."""

    model: str | None = None
    task: Any = None
    seed: int = 0


class Nodes:
    """Reads the nodes of one recipe, one after the other and in the order in which they are written."""

    def __init__(self, reader: Reader, references: References, rows: Rows, shared: Shared):
        self.reader, self.references, self.rows, self.shared = reader, references, rows, shared
        self.trained: str | None = None  # the language model that a node trained last

    def node(self, name: str, keys: Any) -> Node | None:
        """The node with every value filled in; None after a problem."""
        problem, position = self.reader.problem, ("pipeline", name)
        if not re.fullmatch(NODE_NAME, name):
            problem(f"{name!r} cannot name a node", position, fix="letters, digits, _ and -: it names a folder")
        if not isinstance(keys, dict):
            problem(f"node {name!r} is not a mapping", position, fix=f"{name}: {{method: sft, steps: 100}}")
        elif len(kinds := [key for key in ("method", "make", "gate") if key in keys]) != 1:
            has = f"both {' and '.join(kinds)}" if kinds else "neither method nor make nor gate"
            fix = "method: NAME, make: ./file.py:function, or gate: $NODE"
            problem(f"node {name!r} has {has}", position, fix=fix)
        else:
            return {"method": self.by_method, "make": self.by_function, "gate": self.by_gate}[kinds[0]](name, keys)
        return None

    def by_gate(self, name: str, keys: Mapping[str, Any]) -> GateNode | None:
        gate = read_gate(self.references, name, keys)
        if gate and gate.gate == f"${self.trained}":
            self.trained = name  # what comes next continues what the gate lets through
        return gate

    # ---- by a function

    def by_function(self, name: str, keys: Mapping[str, Any]) -> FunctionNode | None:
        position, before = ("pipeline", name), len(self.reader.problems)
        target, others = self._function(keys["make"], (*position, "make"))
        if others is None:
            return None
        parameters = {parameter.name: parameter for parameter in others}
        given = {key: (value, (*position, key)) for key, value in keys.items() if key != "make"}
        for key, (_, where) in given.items():
            if key not in parameters:
                takes = ", ".join(parameters) or "nothing"
                self.reader.unknown(key, where, parameters, why=f"{target} names {takes} (**kwargs is not read)")
        if "seed" in parameters:
            given.setdefault("seed", (self.shared.seed, ("seed",)))
        arguments, inputs = self.rows.arguments(parameters, target, given, position)
        if len(self.reader.problems) > before:
            return None
        origins = {key: RECIPE if key in keys else "the recipe's seed" if key == "seed" else ROW for key in arguments}
        return FunctionNode(
            name=name,
            function=target,
            arguments=arguments,
            inputs=tuple(inputs),
            origins=origins,
            place=self.reader.document.place(position),
        )

    def _function(self, target: Any, place: Keys) -> tuple[Any, list[inspect.Parameter] | None]:
        """The function's path, and its parameters after the directory; None for these after a problem."""
        problem = self.reader.problem
        if not is_object(target) and (not isinstance(target, str) or ".py:" not in target):
            problem(f"make: {target!r} names no function", place, of="value", fix="make: ./prepare.py:function")
            return target, None
        target = self.references.path(target, place)
        if target is BAD:
            return target, None
        try:
            _, *others = (
                parameter
                for parameter in inspect.signature(function_at(target), eval_str=True).parameters.values()
                if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            )
        except OffonError as error:
            problem(error.what, place, of="value", why=error.why, fix=error.fix)
            return target, None
        except ValueError:
            fix = "def function(directory, ...): write the artefact into directory"
            problem(f"{target} takes no directory to write to", place, of="value", fix=fix)
            return target, None
        return target, others

    # ---- by a method

    def by_method(self, name: str, keys: Mapping[str, Any]) -> TrainNode | MakeNode | None:
        position, before, rows = ("pipeline", name), len(self.reader.problems), self.rows
        method, info = rows.named(keys["method"], (*position, "method"), "stage", "make")
        known = KEYS[info.kind] if info else ANY
        given = rows.entries(keys, position, info, known)
        written = {key: self._setting(key, *given[key]) for key in known if key in given}
        inherited = self._inherited(written, name)
        modifiers, of_modifiers = rows.modifiers(*given.get("with", ([], position)))
        arguments, of_row = rows.arguments(info.arguments, info.name, given, position) if info else ({}, [])
        if len(self.reader.problems) > before:
            return None
        stage = rows.composed(info, {**inherited, **written}, arguments, modifiers, position)
        if stage is None:
            return None
        settings, origins = self._settings(info, stage, given, written, inherited, position)
        if settings is None:
            return None
        sources = {key: getattr(settings, key) for key in ("init", "teacher", "data") if key in origins}
        of_settings = [Input(key, source) for key, source in sources.items() if isinstance(source, str)]
        if isinstance(heldout := getattr(settings, "heldout", None), str):
            of_settings.append(Input("data", heldout))
        node: type[MethodNode] = {"stage": TrainNode, "make": MakeNode}[info.kind]
        return node(
            name=name,
            method=method,
            settings=settings,
            arguments=arguments,
            modifiers=modifiers,
            inputs=(*of_settings, *of_row, *of_modifiers),
            reads=stage.reads,
            makes=_made(info, stage),
            origins=origins | {key: RECIPE if key in given else ROW for key in arguments},
            place=self.reader.document.place(position),
        )

    def _setting(self, key: str, value: Any, position: Keys) -> Any:
        match key:
            case "init" | "teacher":
                return self.references.located(value, position, ModelError)
            case "data":
                objects = not isinstance(value, str | Path | dict | list | int | float | None)
                return value if objects else self.references.located(value, position, DataError)
            case "task":
                return self.references.task(value, position)
            case "lora":
                return self.reader.lora(value, position)
            case "heldout" if isinstance(value, str):
                return self.references.located(value, position, DataError)
        return self.reader.value(ANY[key], value, position)

    def _inherited(self, written: Mapping[str, Any], name: str) -> dict[str, Any]:
        """What the recipe says once for all nodes. A model that is a node becomes an edge of this node too."""
        shared = {"init": self.shared.model, "task": self.shared.task, "seed": self.shared.seed}
        inherited = {key: value for key, value in shared.items() if key not in written and value is not None}
        self.references.add_edge(inherited.get("init"), name)
        return inherited

    def _settings(
        self,
        info: Any,
        stage: Any,
        given: Given,
        written: Mapping[str, Any],
        inherited: Mapping[str, Any],
        position: Keys,
    ) -> tuple[Settings | None, dict[str, str]]:
        """Every setting of a node, and the origin of those that mean something for it; (None, {}) after a problem.

        given is what stands in the recipe and where, written its settings as they were read.
        """
        before, defaults = len(self.reader.problems), fields.defaults_of(SECTIONS[info.kind])
        recommended = {**(dataclasses.asdict(stage.updates) if stage.updates else {}), **stage.recommends}
        adapter = self._continues_adapter(written, inherited, position)
        lora = written.get("lora", recommended.get("lora")) or adapter
        layers = (
            (written, dict.fromkeys(written, RECIPE)),
            (recommended, dict.fromkeys(recommended, ROW)),
            (inherited, {key: f"the recipe's {'model' if key == 'init' else key}" for key in inherited}),
            (defaults, dict.fromkeys(defaults, LIBRARY)),
        )
        values, origins = {}, {}
        for key in KEYS[info.kind]:
            layer, origin = next(((layer, origin) for layer, origin in layers if key in layer), ({}, {}))
            if layer:
                values[key], origins[key] = layer[key], origin[key]
        if lora and origins.get("learning_rate", RECIPE) != RECIPE:
            values["learning_rate"] *= fields.LORA_FACTOR
            origins["learning_rate"] += f" x {fields.LORA_FACTOR} for LoRA"
        needed = {"steps": "steps: 100"} if info.kind == "stage" else {}
        needed |= {"init": "init: ./model, or model: ./model at the top"} if stage.uses_init else {}
        for key, fix in needed.items():
            if values.get(key) is None:
                self.reader.problem(f"node {position[1]!r} has no {key}", position, fix=fix)
        idle = _idle(info, stage, written)
        values |= {key: defaults.get(key) for key in idle if key in values and key not in given}
        for key in given:
            if key in idle:
                self.reader.problem(f"{key} has no effect here", given[key][1], why=idle[key], fix="take it out")
        if "init" in inherited and stage.uses_init and self.trained and f"${self.trained}" != values["init"]:
            start = f"{position[1]} starts from {values['init']}"
            self.reader.notes.append(f"{start}; to continue {self.trained} write init: ${self.trained}")
        if info.kind == "stage":
            self._check_batches(values, info.name, stage.least, position)
            self.trained = position[1] if stage.main.head is None else self.trained
        if len(self.reader.problems) > before:
            return None, {}
        shown = {k: o for k, o in origins.items() if k not in idle and (o != LIBRARY or values[k] is not None)}
        return SECTIONS[info.kind](**values), shown

    def _continues_adapter(self, written: Mapping[str, Any], inherited: Mapping[str, Any], position: Keys) -> bool:
        """Whether a node starts from an adapter; a problem where that hangs on a gate and the node does not say."""
        init = written.get("init", inherited.get("init"))
        answers = self.references.may_be_adapter(init, self.shared.model)
        if len(answers) > 1 and "lora" not in written:
            self.reader.problem(
                f"{init} may or may not be an adapter, as its gate goes",
                position,
                why="a stage continues an adapter and trains all weights of a model, at another learning rate",
                fix="lora: true, which trains an adapter either way",
            )
        return True in answers

    def _check_batches(self, values: Mapping[str, Any], method: str, least: int, position: Keys) -> None:
        from offon.parts.stage import Updates

        try:
            updates = Updates(**{field.name: values[field.name] for field in dataclasses.fields(Updates)})
        except OffonError as error:
            self.reader.problem(error.what, position, why=error.why, fix=error.fix)
            return
        if updates.buffer < least:
            what, why = f"a buffer of {updates.buffer} prompt", f"{method} looks from one prompt to another"
            self.reader.problem(what, position, why=why, fix=f"prompts_per_step: {least} or more")


def _idle(info: Any, stage: Any, written: Mapping[str, Any]) -> dict[str, str]:
    """Keys that nothing of this stage reads, with the reason."""
    idle = {} if stage.uses_init else {"init": f"{info.name} uses no model but those it names"}
    for name in ("teacher", "data"):
        if name not in info.inputs:
            idle[name] = f"{info.name} takes {' and '.join(info.inputs) or 'no inputs'}, no {name}"
    if info.kind == "stage" and stage.main.head is None:
        idle["heldout"] = f"{info.name} trains a policy, which is measured on the probe's prompts"
    if not stage.samplers:
        idle |= dict.fromkeys(fields.SAMPLING, f"{info.name} samples nothing here")
    if written.get("data") is None:
        idle |= dict.fromkeys(fields.READING, f"{info.name} reads no data here")
    elif stage.reads != "demonstrations":
        idle["supervise"] = f"{info.name} reads {stage.reads}, and learns from all of an answer"
    return idle


def _made(info: Any, stage: Any) -> str | None:
    """What kind of thing comes out of a node."""
    if info.kind == "make":
        return stage.makes
    if stage.main.head is None:
        return "policy"
    return "process model" if stage.reads == "steps" else "reward model"
