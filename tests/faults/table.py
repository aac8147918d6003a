"""The numbered faults: what provokes each, what is promised, and what TRL does today.

TRL: 1.16.0 with transformers 5.23.0 and torch 2.13.0, tried with a tiny model, or read in its source; "" where neither.
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    provoked: str
    promised: str
    trl: str = ""
    without: str = ""  # why there is no test


FAULTS = {
    "F01": Fault(
        "misspelt keys, also nested and on the command line",
        "exit 2, all at once, with file, line and the nearest key",
        "115 lines that blame the launcher",
    ),
    "F02": Fault(
        "2.5, -1, 0, nan, true where a count or rate is wanted",
        "exit 2 with what is allowed; nothing is loaded",
        "a traceback after 10 s; a negative length filters every row",
    ),
    "F03": Fault('1e-5, "1e-5", 1E-5', "all are the number", "works"),
    "F04": Fault(
        "a misspelt model path, a hub id offline, a folder without weights",
        "exit 4 with the closest path; a path is never a hub id",
        "64 lines about the form of repository ids",
    ),
    "F05": Fault(
        "a batch that does not divide",
        "exit 2 before anything loads, with the nearest values that do",
        "a clear text, after the model is loaded",
    ),
    "F06": Fault("a folder that holds a run", "exit 2 with the choices; nothing is touched", "overwrites in silence"),
    "F07": Fault("two processes, one folder", "exit 6: a run is running, its process, host and since when", "no lock"),
    "F08": Fault(
        "several mistakes in different stages, and no room on the disk", "all found before weights load", "no dry run"
    ),
    "F09": Fault("no GPU, default precision", "runs, and says on what in one line", "refuses bf16 without a GPU"),
    "F10": Fault("columns of other names", "exit 3 with the mapping that would do", "KeyError, 62 lines"),
    "F11": Fault("an empty file, or all rows filtered", "exit 3 with counts", "StopIteration, or num_samples=0"),
    "F12": Fault(
        "content that is null or a number, unknown roles, a missing rejected",
        "exit 3 with row numbers, five shown and the rest counted",
        "a traceback; unknown roles train in silence",
    ),
    "F13": Fault(
        "a broken line; byte order mark; Windows line ends",
        "file, line and text; the others are accepted",
        "89 lines; the others are fine",
    ),
    "F14": Fault(
        "rows that are too long",
        "cut and dropped rows counted on console and page; above 5% dropped is refused",
        "drops down to zero rows in silence",
    ),
    "F15": Fault(
        "templates without generation marks",
        "what is supervised decodes to the assistant's words and end token",
        "refuses templates it does not know",
    ),
    "F16": Fault(
        "BOS twice, no EOS, pad = eos",
        "one BOS where the model wants one; the end is supervised",
        "double BOS in silence",
    ),
    "F17": Fault(
        "control tokens in a user's text", "exit 3 for data and for task prompts, with the row", "become control tokens"
    ),
    "F18": Fault("another template or tokenizer", "a changed input, named on resume", "tokenised caches are reused"),
    "F19": Fault(
        "tool arguments of mixed types", "rendered as in the source, no nulls added", "its documentation advises Json()"
    ),
    "F20": Fault(
        "chosen = rejected; training data that ask what a probe holds out",
        "dropped and counted; counted, warned of, refused above a share of the user's",
        "no word",
    ),
    "F21": Fault(
        "token ids beyond the embedding; a teacher with other ids",
        "exit 4 before training, by ids and not by sizes",
        "compares sizes only",
    ),
    "F22": Fault(
        "rows longer than the model reads", "cut and counted, or exit 2 with the largest value", "trains in silence"
    ),
    "F23": Fault("reasoning of earlier turns that the template drops", "one sequence per turn, or refused", ""),
    "F24": Fault(
        "NaN in a weight, loss or gradient",
        "exit 5 before the update; no checkpoint holds it",
        "ends as a success with loss 0.0",
    ),
    "F25": Fault(
        "a rate that makes training diverge", "exit 5 within steps, the last good checkpoint named", "runs to the end"
    ),
    "F26": Fault("a step without a gradient", "weights do not move; counted", "fixed recently"),
    "F27": Fault(
        "micro-batches, packing, padding, checkpointing, processes",
        "the same gradient for every row",
        "tried for SFT alone",
    ),
    "F28": Fault("a generator that holds other weights", "exit 7 at that step", ""),
    "F29": Fault(
        "temperature, top-p, top-k",
        "log-probs are of what was sampled, first ratios 1; truncated samplers are refused where a ratio is taken",
        "",
    ),
    "F30": Fault(
        "preferences on an adapter, dropout in the model",
        "the reference is the adapter; the first loss is ln 2",
        "ln 2 without dropout",
    ),
    "F31": Fault(
        "SIGKILL while a checkpoint is written",
        "the last whole checkpoint is found; the same bits in the end",
        "resumes from the broken one",
    ),
    "F32": Fault(
        "a full disk, anywhere",
        "exit 6, nothing half written that counts; resumes",
        "half a checkpoint, on which the resume dies",
    ),
    "F33": Fault(
        "files cut, flipped or missing",
        "named; refused, or gone on from one before",
        "missing optimizer state resumes without a word",
    ),
    "F34": Fault(
        "stopped anywhere, every row",
        "bit-equal weights, metrics, ledger (make resume)",
        "inside a buffer of GRPO 1.5e-3 off",
    ),
    "F35": Fault(
        "resumed with another rate, data, version",
        "a table of what differs, exit 2, nothing touched",
        "warns of some arguments",
    ),
    "F36": Fault("few checkpoints kept, the newest save fails", "the last whole one stays", ""),
    "F37": Fault(
        "SIGINT, SIGTERM, hang-up, at any time",
        "130, 143, 129 with status interrupted; nothing left running",
        "the child trains on",
    ),
    "F38": Fault("out of memory", "exit 9 with the settings that cost less and what is kept", "a traceback"),
    "F39": Fault("a later stage fails", "finished stages are kept", ""),
    "F40": Fault("exports: tied heads, adapters, templates", "from_pretrained and PEFT give the same logits", ""),
    "F41": Fault("a tracker that is down", "", "", "no tracker is written to yet"),
    "F42": Fault(
        "rewards that raise, are nan, text, too few",
        "unscored and counted; too many end the stage with exit 7 and the words",
        "one inf gives a whole batch no gradient, in silence",
    ),
    "F43": Fault(
        "checkers that hang in C, ignore alarms, eat memory", "killed at the limit, counted and named", "no limit"
    ),
    "F44": Fault(
        "hostile programs: network, files, forks, output, memory",
        "contained, or refused where nothing contains",
        "no sandbox",
    ),
    "F45": Fault("a solution that exits, prints PASS, forges a frame", "no verdict comes from it", ""),
    "F46": Fault("a judge that fails often, or always", "retried, then unscored; above a share exit 7", ""),
    "F47": Fault("signs of trouble in training", "warnings on console and first page", "metrics only"),
    "F48": Fault("multi-turn tool rollouts", "", "", "environments with tools are not there yet"),
    "F49": Fault("an inference server that dies", "", "", "the engine is in the process"),
    "F50": Fault(
        "code in a pickle, .bin, .npz, YAML tag", "refused by name, never run", "refused by torch, in torch's words"
    ),
    "F51": Fault("a model that brings code", "exit 4; none of it runs, nobody is asked", "asks on the terminal"),
    "F52": Fault("templates that never end, or fill the memory", "exit 4 within 5 s and 1 GiB", "hangs"),
    "F53": Fault(
        "secrets in environment, settings, addresses", "in no file and on no console", "hub_token in training_args.bin"
    ),
    "F54": Fault("markup in what a model writes", "shown as text; pages load nothing", ""),
    "W01": Fault("a module that a reward file imports is edited", "a changed input"),
    "W02": Fault("stdout or stderr closed, broken pipes", "the run goes on, its exit code its own"),
    "W03": Fault("a clock that jumps", "changes nothing"),
    "W04": Fault("a run's folder is moved", "it goes on"),
    "W05": Fault("a project is copied elsewhere", "it goes on; nothing is trained again"),
    "W06": Fault("the output folder vanishes", "exit 6"),
    "W07": Fault("lines or shards missing from the record", "named on console, in status and report"),
    "W08": Fault("all prompts are one", "exit 3 with counts"),
    "W09": Fault("several runs beside each other", "do not meet"),
    "W10": Fault("another version of offon", "what was trained is kept unless its numbers changed"),
    "W11": Fault("a comment in a user's function", "changes nothing"),
    "W12": Fault("--overwrite of a run by one that is refused", "the old run is there"),
    "pool": Fault("a checker's process is killed from outside", "another takes its place"),
}
