"""What this machine has of what offon can use, found by looking and by trying."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LITTLE_DISK_GB = 2.0


@dataclass(frozen=True)
class Finding:
    """ok, missing (offon works without it, a part of it does not) or broken (offon does not work)."""

    name: str
    state: Literal["ok", "missing", "broken"]
    text: str


def examine() -> list[Finding]:
    looks = (_python, _packages, _extras, _system, _disk, _devices, _attention)
    return [finding for look in looks for finding in look()]


def _python() -> Iterator[Finding]:
    text = f"{platform.python_version()} at {sys.executable}"
    yield Finding("python", "ok" if sys.version_info >= (3, 11) else "broken", f"{text} (3.11 or later)")


def _packages() -> Iterator[Finding]:
    """Every dependency against the range this version of offon declares."""
    for requirement in map(Requirement, metadata.requires("offon") or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            version = _version(requirement.name)
            fits = version is not None and requirement.specifier.contains(version, prereleases=True)
            text = f"{version or 'not installed'} ({requirement.specifier})"
            yield Finding(requirement.name, "ok" if fits else "broken", text)


def _extras() -> Iterator[Finding]:
    uses = {"reasoning-gym": "tasks of the form gym:NAME; pip install 'offon[gym]'"}
    for name, use in uses.items():
        version = _version(name)
        yield Finding(name, "ok" if version else "missing", version or f"not installed: {use}")


def _system() -> Iterator[Finding]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    have = {"C compiler": compiler, "Python headers": str(header) if header.exists() else None}
    for name, place in have.items():
        yield Finding(name, "ok" if place else "missing", place or "only needed to install reasoning-gym")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    yield Finding("browser", "ok" if browser else "missing", browser or "only needed to test reports")


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free / 1e9
    yield Finding("disk", "ok" if free > LITTLE_DISK_GB else "missing", f"{free:.0f} GB free here")


def _devices() -> Iterator[Finding]:
    def look() -> str:
        import torch

        if torch.cuda.is_available():
            count = torch.cuda.device_count()
            names = (torch.cuda.get_device_properties(i) for i in range(count))
            gpus = ", ".join(f"{p.name} ({p.total_memory / 2**30:.0f} GiB)" for p in names)
            return f"{gpus}: float32"
        return f"no GPU; {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads: float32"

    yield _tried("device", look)


def _attention() -> Iterator[Finding]:
    """Score a tiny random model without padding and compare with its own forward, as every model is at load."""

    def look() -> str:
        import torch
        from transformers import Qwen3Config, Qwen3ForCausalLM

        from offon.models.model import Model

        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, eos_token_id=1, bos_token_id=None, pad_token_id=None,
        )  # fmt: skip
        model = Model.wrap(Qwen3ForCausalLM(config))
        if not model.packed:
            raise RuntimeError(model.why)
        return "agrees with the model's own forward"

    yield _tried("packed attention", look)


def _tried(name: str, look: Callable[[], str]) -> Finding:
    """A doctor reports what fails; it does not fail with it."""
    try:
        return Finding(name, "ok", look())
    except Exception as error:
        return Finding(name, "broken", f"{type(error).__name__}: {error}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
