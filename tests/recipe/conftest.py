"""A small catalogue, so that these tests change when the schema does and not when a method does."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from offon.errors import ConfigError


@dataclass(frozen=True)
class FakeStage:
    samplers: tuple = ()
    reads: str = "demonstrations"
    uses_init: bool = True
    updates: Any = None
    recommends: dict = field(default_factory=dict)
    anchored: bool = False
    least: int = 1
    main: Any = field(default_factory=lambda: SimpleNamespace(head=None))

    def validate(self):
        return self


@dataclass(frozen=True)
class FakeInfo:
    name: str
    kind: str
    function: Any

    @property
    def signature(self):
        return inspect.signature(self.function, eval_str=True)

    def composed(self, **given):
        return self.function(**given)

    @property
    def inputs(self):
        known = ("task", "data", "teacher")
        return {n: p.default is p.empty for n, p in self.signature.parameters.items() if n in known}

    @property
    def arguments(self):
        return {n: p for n, p in self.signature.parameters.items() if n not in ("task", "data", "teacher", "stage")}


def sft(data, *, per: Literal["token", "sequence"] = "token"):
    return FakeStage(recommends={"learning_rate": 2e-5})


def grpo(task, *, group_size: int = 8, clip: tuple[float, float] = (0.2, 0.2)):
    if clip[0] > 1:
        raise ConfigError("clip low is above 1", fix="clip: [0.2, 0.2]")
    return FakeStage(samplers=("self",), recommends={"learning_rate": 1e-6, "max_tokens": 256})


def distill(teacher, task=None, data=None, *, kind: Literal["forward", "reverse"] = "forward"):
    return FakeStage(samplers=() if data is not None else ("teacher",))


def kl_anchor(stage, *, to: str | None = None, coef: float = 0.05):
    return dataclasses.replace(stage, anchored=True)


class FakeRegistry:
    infos = {
        **{f.__name__: FakeInfo(f.__name__, "stage", f) for f in (sft, grpo, distill)},
        "kl_anchor": FakeInfo("kl_anchor", "modifier", kl_anchor),
    }

    def names(self, *kinds):
        return [name for name, info in self.infos.items() if info.kind in (kinds or ("stage",))]

    def get(self, name):
        if ":" in name:
            from offon.catalogue.user_function import function_at

            return FakeInfo(name.rpartition(":")[2], "stage", function_at(name))
        return self.infos[name]


@pytest.fixture
def registry():
    return FakeRegistry()


@pytest.fixture
def folder(tmp_path):
    """A folder with a model, demonstrations, and a preparation function."""
    (tmp_path / "base").mkdir()
    (tmp_path / "small").mkdir()
    (tmp_path / "demos.jsonl").write_text("{}\n")
    (tmp_path / "prepare.py").write_text("def base(directory, *, size: int = 3, text: str, seed: int = 7):\n    pass\n")
    return tmp_path
