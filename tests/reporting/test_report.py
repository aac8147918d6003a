"""The report says what the run's files say, shows model text as text, and renders whatever is missing."""

import json
import re
import shutil

import numpy as np
import pytest
from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from offon import reporting
from offon.errors import ConfigError
from offon.reporting import terminal
from offon.reporting.blocks.samples import segments
from offon.runs import RunDirectory, atomic
from offon.types import Group, Item, Source, Trajectory
from tests.reporting import synthetic
from tests.rounding import FLOAT64_SUM

pytestmark = pytest.mark.slow


def page(run):
    return reporting.write(run).read_text(encoding="utf-8")


def visible(html):
    """Roughly what a reader sees: no style, no data block, no tags."""
    html = re.sub(r"<(style|script|title)\b.*?</\1>", "", html, flags=re.S)
    return re.sub(r"<[^>]*>", " ", html)


def test_the_summary_repeats_the_numbers_of_the_handoff(whole_run):
    summary = reporting.summarise(whole_run)
    handoff = json.loads((whole_run / "nodes" / "rl" / "handoff.json").read_text())
    stage = next(stage for stage in summary["stages"] if stage["name"] == "rl")
    entry = handoff["tasks"]["testbed"]
    overall, *families = stage["results"]
    assert overall["success"]["before"] == entry["before"]["success"]
    assert overall["success"]["change"] == entry["d1"]["total"] and overall["soft"] == entry["d1"]["soft"]
    assert [row["family"] for row in families] == sorted(synthetic.FAMILIES)
    assert stage["regime"] == "on-policy" and stage["cost"]["verifier_calls"] == 15_360
    assert summary["cost"]["tokens_generated"] == 2 * 92_160
    json.dumps(summary, allow_nan=False)


def test_the_terms_of_a_row_add_up_to_its_change(whole_run):
    for stage in reporting.summarise(whole_run)["stages"]:
        for row in stage["results"]:
            for terms in (row["certified"], row["soft"]):
                values = {name: est["estimate"] for name, est in terms.items()}
                total = sum(value * (-1 if name == "attrition" else 1) for name, value in values.items())
                assert total == pytest.approx(row["success"]["change"]["estimate"], abs=FLOAT64_SUM)


def test_warnings_come_before_everything_else(whole_run):
    html = page(whole_run)
    assert html.index("held-out success fell on guard") < html.index("What each stage did")


@pytest.mark.parametrize("name", ["measured_run", "whole_run", "interrupted_run", "empty_run"])
def test_no_part_that_is_missing_leaves_a_trace_of_itself(name, request):
    text = visible(page(request.getfixturevalue(name)))
    assert not re.search(r"\b(None|nan|NaN|undefined|Infinity)\b|\{\{|\{%", text)


def test_an_interrupted_run_says_where_it_stopped_and_shows_what_it_did(interrupted_run):
    text = visible(page(interrupted_run))
    assert "interrupted in sft, step 23 of 60" in text and "23 of 60 steps" in text
    assert "loss/total" in text and "What each stage did" not in text and "usually off-policy" in text


def test_a_failed_run_says_why(empty_run):
    assert "error[data]: no row has a prompt" in visible(page(empty_run))


def test_model_text_is_shown_as_text(whole_run):
    html = page(whole_run)
    assert synthetic.ATTACK not in html and "&lt;script&gt;document.title" in html
    assert len(re.findall(r"<script\b", html)) == 1 and "<img" not in html
    block = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.S)[1]
    assert "<" not in block and json.loads(block)["status"]["state"] == "done"


@pytest.mark.fault("F54")
def test_every_name_that_can_reach_the_page_is_escaped(tmp_path):
    """Task, family, prompt, model, warning, error, metric, recipe: all of them attacker's text."""
    evil = '"><script>alert(1)</script>'
    with RunDirectory.create(tmp_path / "run", recipe_text=f"# {evil}", info={"name": evil, "command": evil}) as run:
        nodes = synthetic.pipeline({"sft": "done"})
        nodes["nodes"][2] |= {"interface": evil, "method": evil, "family": evil}
        nodes["nodes"][2]["inputs"][1]["from"] = evil
        run.write_pipeline(nodes)
        handoff = synthetic.handoff("sft", np.random.default_rng(0))
        entry = handoff["tasks"].pop("testbed")
        entry["families"] = {evil: entry["families"]["guard"]}
        for prompt in entry["prompts"]:
            prompt |= {"prompt": evil, "family": evil, "call": "gained"}
        run.node("sft").write_json(
            "handoff.json", handoff | {"tasks": {evil: entry}, "warnings": [evil], "regime": evil}
        )
        run.write_diagnosis(
            [
                {
                    "model": evil,
                    "task": evil,
                    "k": 8,
                    "n_samples": 4,
                    "sentence": evil,
                    "prompts": [],
                    "summary": [{"family": evil, "n": 1, "solved": 1}],
                }
            ]
        )
        for step in (1, 2):
            run.node("sft").log_metrics(step, {evil: step})
        run.write_status("failed", node=evil, error=evil)
    html = page(tmp_path / "run")
    assert "alert(1)" in html and "<script>alert" not in html


def test_what_gates_artefacts_paths_and_handoffs_say_is_escaped(measured_run, tmp_path):
    run = shutil.copytree(measured_run, tmp_path / "run")
    kept, names = (
        ("artefact", "bound", "metric", "call"),
        ("tasks", "portability", "contamination", "shapley"),
    )
    files = [
        "path.json",
        "attribution.json",
        "nodes/ok/gate.json",
        *(f"nodes/{n}/artefact.json" for n in ("demos", "judge", "merged")),
    ]
    for file in (*files, "nodes/rl/handoff.json"):
        (run / file).write_text(json.dumps(synthetic.attacked(json.loads((run / file).read_text()), kept, names)))
    html = page(run)
    assert synthetic.ATTACK not in html and len(re.findall(r"<script\b", html)) == 1 and "<img" not in html
    for section in ("path", "gates", "attribution", "artefacts", "stage-rl"):
        own = re.search(rf'<section id="{section}".*?</section>', html, re.S)[0]
        assert "&lt;script&gt;document.title" in own, section


def test_the_page_loads_nothing_and_forbids_loading(measured_run):
    html = page(measured_run)
    assert "default-src 'none'" in html
    targets = re.findall(r"""\b(?:src|href|action|data|poster|srcset)\s*=\s*["']([^"']*)""", html)
    assert targets and all(target.startswith("#") or target == "data:," for target in targets)
    assert not re.search(r"@import|url\((?!#)", html)


def test_a_run_shows_everything_that_it_handed_on(measured_run):
    """A number of every block, as its file has it."""
    text = visible(page(measured_run))
    told = {
        "gain retention": "91.0%",
        "drift": "1.6 to 2.2",
        "protected": "12.0%",
        "transfer": "83.0%",
        "portability": "62.0%",
        "amortisation": "93.0%",
        "cost of a point": "2,500 to no bound",
        "gate": "at least 80.0%",
        "data": "2 of 80 prompts",
        "reward model": "84.3 to 90.5",
        "attribution": "+32.0",
        "notes": "Not told: trace of testbed: rl has no success.",
        "path": "Of what was certainly expanded",
    }
    assert [name for name, number in told.items() if number not in text] == []
    summary = reporting.summarise(measured_run)
    assert [gate["name"] for gate in summary["gates"]] == ["ok"] and summary["path"]["chains"]
    assert [made["artefact"] for made in summary["artefacts"]] == ["data", "reward model", "merge"]


def test_the_path_and_what_was_left_out_are_never_in_one_table(measured_run):
    html = page(measured_run)
    (path, attribution) = (
        re.search(rf'<section id="{name}">.*?</section>', html, re.S)[0] for name in ("path", "attribution")
    )
    assert "+55.2" in path and "+55.2" not in attribution and "+32.0" in attribution and "+32.0" not in path


@pytest.mark.fault("F53")
def test_no_secret_reaches_the_page(tmp_path):
    with RunDirectory.create(tmp_path / "run", recipe_text="hub_token: canary-77aa\n", info={"api_key": "canary-77aa"}):
        pass
    assert "canary-77aa" not in page(tmp_path / "run")


def test_a_megabyte_of_completion_is_cut_and_says_so(tmp_path):
    with RunDirectory.create(tmp_path / "run", recipe_text="") as run:
        run.write_pipeline(synthetic.pipeline({"sft": "done"}))
        member = Trajectory.of([1], [2], Source.LEARNER, id="a", text="x" * 1_000_000)
        group = Group(item=Item(id="i", prompt="y" * 1_000_000), views={"prompt": (2,)}, members=(member,))
        run.node("sft").write_buffer(0, [group])
    html = page(tmp_path / "run")
    assert len(html) < 100_000 and "more characters" in html


def test_samples_differ_in_fate_verdict_and_prompt(whole_run):
    text = visible(page(whole_run))
    rl = text[text.index("Success rose on") :]
    for expected in ("dropped: every member failed", "trained", "right", "wrong", "prompt with hint"):
        assert expected in rl


def row(tokens, source, scaffold=None, text="whole text"):
    return {"tokens": tokens, "source": source, "scaffold": scaffold or [False] * len(tokens), "text": text}


def byte_level_tokenizer():
    """One token per byte, as in GPT-2's vocabulary without merges."""
    vocabulary = {character: index for index, character in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    return tokenizer


def test_segments_join_to_the_decoded_text_and_keep_their_source():
    tokenizer = synthetic.tokenizer()
    parts = segments(row([2, 12, 13, 1], [1, 1, 2, 2], [True, False, False, False]), tokenizer)
    assert "".join(part["text"] for part in parts) == tokenizer.decode([2, 12, 13, 1], skip_special_tokens=False)
    assert [(p["source"], p["scaffold"], p["tokens"]) for p in parts] == [
        ("teacher", True, 1),
        ("teacher", False, 1),
        ("learner", False, 2),
    ]


def test_a_character_of_several_bytes_is_not_torn():
    tokenizer = byte_level_tokenizer()
    ids = tokenizer.encode("é is ε").ids
    parts = segments(row(ids, [1] * 3 + [2] * (len(ids) - 3)), tokenizer)
    assert [part["text"] for part in parts] == ["é ", "is ε"]


def test_without_a_tokenizer_a_response_of_one_source_keeps_it_and_a_mixed_one_says_so():
    assert segments(row([5, 6], [1, 1]), None)[0]["source"] == "teacher"
    assert segments(row([5, 6], [1, 2]), None) == [
        {"text": "whole text", "source": "mixed", "scaffold": False, "tokens": 2}
    ]
    assert segments(row([], []), None)[0]["tokens"] == 0


def test_the_report_can_go_elsewhere_and_is_rewritten_in_place(whole_run, tmp_path):
    assert reporting.write(whole_run) == whole_run / "report.html"
    assert reporting.write(whole_run, tmp_path / "r.html").read_text() == (whole_run / "report.html").read_text()


def test_what_is_not_a_run_has_no_report(tmp_path):
    with pytest.raises(ConfigError, match="not a run directory"):
        reporting.write(tmp_path)


def test_a_change_that_stays_out_of_reach_is_pointed_out(tmp_path):
    with RunDirectory.create(tmp_path / "run", recipe_text="") as run:
        run.write_pipeline(synthetic.pipeline({"sft": "done"}))
        handoff = synthetic.handoff("sft", np.random.default_rng(0))
        d1 = handoff["tasks"]["testbed"]["d1"]
        d1["certified"]["diffuse"] = {**d1["total"], "estimate": d1["total"]["estimate"] / 2}
        run.node("sft").write_json("handoff.json", handoff)
        run.write_status("done")
    assert any("stay out of reach" in warning["text"] for warning in reporting.summarise(tmp_path / "run")["warnings"])


def test_the_terminal_shows_the_same_headline(whole_run, interrupted_run):
    def shown(run, width=100):
        console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        terminal.show(run, console)
        return console.export_text()

    text = shown(whole_run)
    summary = reporting.summarise(whole_run)
    assert all(stage["name"] in text and stage["regime"] in text for stage in summary["stages"])
    assert text.index("fell on guard") < text.index("before → after")
    assert max(map(len, shown(whole_run, 80).splitlines())) <= 80
    assert "No stage has been measured" in shown(interrupted_run)


def test_a_damaged_handoff_is_a_storage_error_not_a_traceback(tmp_path):
    with RunDirectory.create(tmp_path / "run", recipe_text="") as run:
        run.write_pipeline(synthetic.pipeline({"sft": "done"}))
        atomic.write_text(run.node("sft").path / "handoff.json", "{")
    with pytest.raises(OSError, match="handoff.json is not JSON"):
        reporting.summarise(tmp_path / "run")
