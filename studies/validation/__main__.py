"""Run the studies and write docs/validation.md."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import time
from pathlib import Path

import numpy
import scipy
import torch
import transformers

from studies.validation.findings import Finding, Section, table

DOCS = Path(__file__).parents[2] / "docs" / "validation.md"
FOUND = Path(__file__).parent / "found"  # NAME.json: what a section last found
SECTIONS = {
    "exactness": "Exactness and nulls",
    "coverage": "Coverage of the 95% intervals",
    "events": "Diagnosis, rates known",
    "trained": "Diagnosis of trained models",
    "stress": "Diagnosis of trained models where something is amiss",
    "cost": "Cost",
    "causal": "Causal validity: classes and interventions",
    "effects": "Published effects",
}
RESUMED = ("causal", "effects")  # long: what is finished is kept part by part


def machine() -> str:
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    versions |= {"numpy": numpy.__version__, "scipy": scipy.__version__}
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"Python {platform.python_version()}, {told}; {platform.machine()}, {os.cpu_count()} cores, one thread"


def page() -> str:
    parts = [(Path(__file__).parent / "preface.md").read_text().rstrip()]
    for name, title in SECTIONS.items():
        if (kept := FOUND / f"{name}.json").exists():
            section = json.loads(kept.read_text())
            findings = [Finding(**row) for row in section["findings"]]
            judged = [finding for finding in findings if not finding.told]
            met = sum(finding.met for finding in judged)
            parts.append(f"## {title}")
            notes = Path(__file__).parent / "notes" / f"{name}.md"
            if notes.exists():
                parts.append(notes.read_text().rstrip())
            made = f"{section['date']}, {section['seconds']:.0f} s; {section['machine']}"
            parts.append(f"{met} of {len(judged)} met. {made}.")
            parts += [table(findings), *section.get("tables", ())]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.validation")
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="reduced sizes; prints, writes nothing")
    parser.add_argument("--keep", type=Path, metavar="DIR", help=f"where {' and '.join(RESUMED)} keep finished parts")
    parser.add_argument("--page", action="store_true", help="write the page from what was last found, run nothing")
    asked = parser.parse_args()
    if unknown := set(asked.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    if asked.page:
        DOCS.write_text(page())
        return
    torch.set_num_threads(1)
    for name in asked.sections or SECTIONS:
        started = time.monotonic()
        options = {"keep": asked.keep / name} if asked.keep and name in RESUMED else {}
        found = importlib.import_module(f"studies.validation.{name}").run(asked.quick, **options)
        section = found if isinstance(found, Section) else Section(found)
        seconds = time.monotonic() - started
        print("\n\n".join([f"{name}, {seconds:.0f} s\n{table(section.findings)}", *section.tables]), flush=True)
        if not asked.quick:
            record(name, section, seconds)


def record(name: str, section: Section, seconds: float) -> None:
    """Keep a section, and write the page of all that are kept."""
    found = {
        "date": datetime.date.today().isoformat(), "seconds": seconds, "machine": machine(),
        "findings": [vars(finding) for finding in section.findings], "tables": list(section.tables),
    }  # fmt: skip
    FOUND.mkdir(exist_ok=True)
    (FOUND / f"{name}.json").write_text(json.dumps(found, indent=1, default=float) + "\n")
    DOCS.write_text(page())


if __name__ == "__main__":
    main()
