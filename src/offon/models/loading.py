"""From a path or hub id to a transformers causal LM with its tokenizer, or to an error that says what to do."""

from __future__ import annotations

import difflib
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from offon.errors import ModelError, OffonError, of_the_machine
from offon.hub import look_for_the_hub
from offon.models.adapters import merged
from offon.models.files import json_object, require_whole, wants_own_code
from offon.models.packed.padding import ends

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """Low-rank adapters: W + alpha / r * B A on the target modules, A random from `seed`, B zero.

    r 16 with alpha 2 r on every linear layer is the common setting for post-training (Hu et al. 2021,
    arXiv:2106.09685; all layers: Dettmers et al. 2023, arXiv:2305.14314). There is no dropout: log-probs must be a
    function of the weights.
    """

    r: int = 16
    alpha: float = 32
    target_modules: str | tuple[str, ...] = "all-linear"
    seed: int = 0


HEADS = {
    None: "AutoModelForCausalLM",
    "score": "AutoModelForSequenceClassification",
    "value": "AutoModelForTokenClassification",
}  # transformers' names
TASKS = {None: "CAUSAL_LM", "score": "SEQ_CLS", "value": "TOKEN_CLS"}  # PEFT's words


def load_model(
    path: str | Path, *, dtype: torch.dtype, lora: LoraSpec | None, head: str | None = None
) -> tuple[nn.Module, bool]:
    """(transformers or PEFT model in `dtype`, whether its adapter is new).

    A directory with an adapter continues that adapter; `lora` then has to agree with it. head: load the body with one
    number per token in place of the language model's head (see HEADS), as a directory of such a class is loaded anyway;
    an adapter made for another head is merged, and all weights are trained.
    """
    source = locate(path)
    if not is_adapter(source):
        head = head or head_of(source)
        model = _load_core(source, dtype, head)
        return (model, False) if lora is None else (add_lora(model, lora, head), True)
    require_whole(Path(source))
    settings = json_object(Path(source) / "adapter_config.json")
    saved = {"r": settings.get("r"), "alpha": settings.get("lora_alpha")}
    if settings.get("peft_type") != "LORA":
        raise ModelError(
            f"the adapter is of type {settings.get('peft_type')!r}", where=source, why="offon continues LoRA adapters"
        )
    if lora is not None and (saved["r"], saved["alpha"]) != (lora.r, lora.alpha):
        raise ModelError(
            f"the adapter has r {saved['r']} and alpha {saved['alpha']}, asked for are {lora.r} and {lora.alpha}",
            where=source,
            why="a stage that starts from an adapter continues it",
            fix=f"lora: {{r: {saved['r']}, alpha: {saved['alpha']}}}, or start from a merged model",
        )
    saved_head = head_of(source)
    base = _load_core(_base_of_adapter(source, settings), dtype, saved_head)
    silence(base)
    from peft import PeftModel

    model = PeftModel.from_pretrained(base, source, is_trainable=True)
    return (model if head in (None, saved_head) else _under_head(merged(model), head)), False


def _under_head(model: nn.Module, head: str) -> nn.Module:
    """The body of a model under another head, which keeps the weights of the old one that it shares with it."""
    model.config.num_labels = 1
    made = getattr(transformers, HEADS[head]).from_config(model.config, dtype=model.dtype)
    nn.init.zeros_(made.get_parameter(f"{number_layer(made)}.weight"))
    made.load_state_dict(model.state_dict(), strict=False)
    return made


def head_of(path: str | Path) -> str | None:
    """The head that a model's class or an adapter's task has, None for a language model: a reward model is loaded as
    one without being told."""
    source = locate(path)
    if is_adapter(source):
        task = json_object(Path(source) / "adapter_config.json").get("task_type")
        return next((head for head, name in TASKS.items() if name == task), None)
    names = _load_config(source).architectures or [""]
    return next((head for head, end in _CLASS_ENDS.items() if names[0].endswith(end)), None)


_CLASS_ENDS = {"score": "ForSequenceClassification", "value": "ForTokenClassification"}


def positions(path: str | Path) -> int | None:
    """The longest sequence that a model is made to read, from its configuration; None if it names no limit."""
    source = locate(path)
    if is_adapter(source):
        require_whole(Path(source))
        source = _base_of_adapter(source, json_object(Path(source) / "adapter_config.json"))
    return getattr(_load_config(source).get_text_config(), "max_position_embeddings", None)


def add_lora(model: nn.Module, lora: LoraSpec, head: str | None = None) -> PeftModel:
    """The model with fresh adapters; everything else is frozen, but for a head of numbers, which is trained as it is.
    At the start it computes what the model computed."""
    from peft import LoraConfig, get_peft_model

    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    whole = [number_layer(model)] if head else None
    config = LoraConfig(
        exclude_modules=whole,
        modules_to_save=whole,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=targets,
        task_type=TASKS[head],
    )
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(lora.seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
            raise ModelError(
                f"LoRA cannot be attached to {lora.target_modules}",
                why=str(error).splitlines()[0],
                fix=f"target_modules: all-linear, or some of {sorted({name.rpartition('.')[2] for name in linear})}",
            ) from error


def load_tokenizer(path: str | Path) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer beside the weights; for an adapter without one, its base model's."""
    source = locate(path)
    if is_adapter(source) and not _has_tokenizer(source):
        source = _base_of_adapter(source, json_object(Path(source) / "adapter_config.json"))
    try:
        # Without any file transformers 5 hands out an empty tokenizer of the model's family.
        if Path(source).is_dir() and not _has_tokenizer(source):
            raise OSError("none of its files (tokenizer.json, ...) is there")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if (Path(source) / name).is_file():
                json_object(Path(source) / name)
        return transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except OffonError:
        raise
    except Exception as error:  # the tokenizers library raises plain Exceptions
        files = sorted(path.name for path in Path(source).glob("tokenizer*"))
        raise ModelError(
            "no usable tokenizer beside the weights",
            where=f"{source}: {', '.join(files)}" if files else source,
            why=_first_line(error),
            fix="save the tokenizer into the same directory: tokenizer.save_pretrained(path)",
        ) from error


def _has_tokenizer(source: str) -> bool:
    return any(any(Path(source).glob(pattern)) for pattern in ("tokenizer*", "vocab*", "spiece*"))


def locate(path: str | Path) -> str:
    """The absolute local directory, or the hub id.

    Whatever starts with / . or ~, or has more than one slash, is a local path and never looked for elsewhere.
    """
    text = str(path)
    local = Path(text).expanduser()
    if local.is_dir():
        return str(local.resolve())
    if local.is_file():
        raise ModelError(
            "a model is a directory, this is a file", where=text, fix=f"the directory that holds it: {local.parent}"
        )
    if text.startswith(("/", ".", "~")) or text.count("/") > 1:
        raise ModelError("no such model directory", where=text, **_suggestion(local))
    look_for_the_hub()
    return text


def _suggestion(missing: Path) -> dict[str, str]:
    """What exists near a path that does not: the deepest existing parent, and the entry closest to the next name."""
    missing = missing.absolute()
    parent = next(parent for parent in missing.parents if parent.is_dir())
    wanted = missing.relative_to(parent).parts[0]
    entries = sorted(entry.name for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    close = difflib.get_close_matches(wanted, entries, n=1, cutoff=0.5)
    why = f"{parent} has no {wanted!r}" + (f"; it has {', '.join(entries[:8])}" if entries else " and no directories")
    return {"why": why, "fix": f"did you mean {parent / close[0]}?" if close else "check the path"}


def is_adapter(source: str | Path) -> bool:
    return (Path(source) / "adapter_config.json").is_file()


def has_adapter(hf: nn.Module) -> bool:
    """Whether PEFT has wrapped a model. It takes seconds to import, and wraps nothing before it is."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(hf, peft.PeftModel)


def _base_of_adapter(source: str, settings: dict) -> str:
    base = settings.get("base_model_name_or_path")
    try:
        if not base:
            raise ModelError("no base model named")
        return locate(base)
    except ModelError as error:
        raise ModelError(
            f"the adapter's base model {base!r} was not found",
            where=f"{source}/adapter_config.json",
            why=error.why or error.what,
            fix="set base_model_name_or_path there to the directory of the base model",
        ) from error


def _load_core(source: str, dtype: torch.dtype, head: str | None) -> nn.Module:
    """A causal LM; or its body under a classifier of one label, whose weights are 0 where the checkpoint has none: then
    every number is 0, and the first step moves the head alone."""
    config = _load_config(source)
    if head:
        labels = config.num_labels if head_of(source) else 1
        if labels != 1:
            raise ModelError(f"the model has {labels} labels", where=source, why="a reward is one number")
        config.num_labels = 1
    options = dict(dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True)
    try:
        with quiet():
            auto = getattr(transformers, HEADS[head])
            model, report = auto.from_pretrained(source, config=config, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        if of_the_machine(error):  # no memory is no fault of the weights
            raise
        raise ModelError(
            "the weights could not be loaded",
            where=source,
            why=_first_line(error),
            fix="a causal LM as written by save_pretrained: config.json beside *.safetensors",
        ) from error
    missing = sorted(report["missing_keys"])
    if head:
        linear = number_layer(model)
        for name, parameter in model.get_submodule(linear).named_parameters():
            if f"{linear}.{name}" in missing:
                nn.init.zeros_(parameter)
                missing.remove(f"{linear}.{name}")
    for parameter in model.parameters():
        # Weights lie in memory as in the file, at any offset, and kernels round differently by alignment: the same
        # weights from two files would not compute the same to the bit.
        parameter.data = parameter.data.clone()
    if missing:
        raise ModelError(
            f"{len(missing)} weights are not in the checkpoint, {missing[0]} among them",
            where=source,
            why="they would be random numbers",
            fix="the checkpoint of a causal LM, of the class that config.json names",
        )
    return model


def number_layer(core: nn.Module) -> str:
    """The name of the layer with which a classifier of one label reads hidden states."""
    for name, child in core.named_children():
        if getattr(child, "out_features", None) == 1:
            return name
    raise ModelError(f"{type(core).__name__} has no linear layer with one output", why="its numbers are read off that")


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars, and its reports of weights that we check ourselves."""
    logging = transformers.utils.logging
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _load_config(source: str) -> transformers.PreTrainedConfig:
    if Path(source).is_dir():
        require_whole(Path(source))
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    except OSError as error:
        near = _suggestion(Path(source))
        raise ModelError(
            f"{source!r} is neither a local directory nor a model that the Hugging Face hub gave us",
            why=f"locally, {near['why']}; the hub: {_first_line(error)}",
            fix=near["fix"] if near["fix"].startswith("did") else "a local path (./name), or a hub id while online",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ModelError(
            "transformers cannot make sense of config.json",
            where=source,
            why=_first_line(error),
            fix="a model_type that the installed transformers has, with the settings it wants",
        ) from error
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        raise wants_own_code(source)
    _require_plain_weights(config, source)
    return config


def _require_plain_weights(config: transformers.PreTrainedConfig, source: str) -> None:
    """Refuse quantised checkpoints: their integers cannot be trained, and kernels of their own compute with them."""
    for part in (config, config.get_text_config()):
        if quantised := getattr(part, "quantization_config", None):
            settings = quantised if isinstance(quantised, dict) else quantised.to_dict()
            method = settings.get("quant_method") or "unnamed"
            raise ModelError(
                f"the checkpoint is quantised ({getattr(method, 'value', method)})",
                where=f"{source}/config.json: quantization_config",
                why="offon loads plain weights: float32, bfloat16 or float16",
                fix="the unquantised checkpoint, or a copy dequantised with the tools that made this one "
                "(model.dequantize(), save_pretrained); if the weights are plain, remove the entry from a copy",
            )


def require_all_tokens(tokenizer: transformers.PreTrainedTokenizerBase, model: nn.Module, path: str | Path) -> None:
    """Refuse a tokenizer whose tokens the embedding has no rows for. A special token that transformers' class adds by
    default, beside those that were saved, is no token of this model: no template and no text of its data has it."""
    rows = model.get_input_embeddings().weight.shape[0]
    last = max([len(tokenizer) - 1, *tokenizer.added_tokens_decoder])
    if last >= rows:
        last = last_saved(path, last)
    if last >= rows:
        raise ModelError(
            f"the tokenizer has token ids up to {last}, the embedding {rows} rows",
            where=str(path),
            why="text with such a token could not be read",
            fix="the tokenizer that belongs to the weights, or model.resize_token_embeddings(len(tokenizer)) and save",
        )


def last_saved(path: str | Path, otherwise: int) -> int:
    """The highest id in a directory's tokenizer.json; `otherwise` without one."""
    file = Path(path) / "tokenizer.json"
    if not file.is_file():
        return otherwise
    saved = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = saved.get("model", {}).get("vocab", {})
    if not isinstance(vocabulary, dict):  # unigram: a list of pieces, each at its place
        vocabulary = {piece: index for index, (piece, _) in enumerate(vocabulary)}
    return max([*vocabulary.values(), *(token["id"] for token in saved.get("added_tokens", []))], default=otherwise)


def warn_of_early_score(tokenizer: transformers.PreTrainedTokenizerBase, model: nn.Module, path: str | Path) -> None:
    """Say where a reward model made elsewhere reads its score, where that is not at the end."""
    padding = model.config.pad_token_id
    if padding is None or padding not in ends(model.config, tokenizer) or head_of(path) != "score":
        return
    warnings.warn(
        f"the reward model {path} pads with its end token: transformers reads its score one token before the end, "
        "offon at the end; if it was trained that way, its scores here are others",
        stacklevel=3,
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def silence(model: nn.Module) -> None:
    """Switch off every dropout, in modules: configurations keep their numbers, and are saved with them. Other noise is
    drawn in train mode only, in which no module that draws it is put."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, setting in vars(module).items():
            if isinstance(setting, float) and setting > 0 and "drop" in name:
                setattr(module, name, 0.0)
