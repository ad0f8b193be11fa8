"""Saves a model with its tokenizer as a folder, and loads such a folder, strictly.

A folder is config.json, model.safetensors, tokenizer.json and tokenizer_config.json. Tensors come from
safetensors alone: no pickle is ever opened and no code of a folder is ever run.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import model_info, try_to_load_from_cache
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from khabar.models.config import KhabarConfig
from khabar.models.errors import KhabarError, ModelFolderError
from khabar.models.model import KhabarModel
from khabar.models.text import load_tokenizer

EMBEDDED = Path(__file__).resolve().parent / "embedded"  # the model that comes with khabar
WEIGHTS = "model.safetensors"
HUB_TIMEOUT = 10  # seconds
MODEL_FILES = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json")

T = TypeVar("T")


def named_folder(name: str | Path) -> str | Path:
    """Give the folder that the name `embedded` stands for; any other name, a folder's or a hub's, as it is."""
    return EMBEDDED if str(name) == "embedded" else name


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Save a model (or an encoder) and its tokenizer.

    Files are written beside their place and moved into it, the configuration last: a folder with a
    config.json is whole. Other files of the folder stay.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    try:
        with no_reports():
            model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        move_files(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def move_files(source: Path, folder: Path) -> None:
    """Move a whole model's files into a folder of the same disk, where they may replace an earlier model's.

    At no moment does the folder hold a config.json beside files that are not of the same model.
    """
    (folder / "config.json").unlink(missing_ok=True)
    for path in sorted(source.iterdir(), key=lambda path: path.name == "config.json"):
        path.chmod(0o644)  # safetensors writes files for their owner alone
        path.replace(folder / path.name)


def load_model(name: str | Path) -> tuple[KhabarModel, PreTrainedTokenizerFast]:
    """Load a khabar model in float32, in evaluation mode, on the CPU.

    Args:
        name: A model folder, a hub id, or `embedded`; only a hub id reaches the network.

    Raises:
        ModelFolderError: If the folder is not a khabar model, lacks a file, has missing, extra or
            wrongly shaped tensors, or its tokenizer does not fit its vocabulary.
    """
    name = named_folder(name)
    _check_folder(name, MODEL_FILES)
    config = quietly(name, lambda: KhabarConfig.from_pretrained(name))
    if not config.topics and not config.entity_labels:
        raise ModelFolderError(f"{name}: config.json names no topics and no entity labels; not a khabar model")
    model: KhabarModel
    model, info = _with_report(KhabarModel, name, config=config)
    problems = [
        *(f"{key} is missing" for key in sorted(info["missing_keys"])),
        *(f"{key} is not part of this model" for key in sorted(info["unexpected_keys"])),
        *(f"{key[0]} has shape {list(key[1])}, must be {list(key[2])}" for key in sorted(info["mismatched_keys"])),
    ]
    if problems:
        raise ModelFolderError(f"{name}: {WEIGHTS} does not fit config.json: {_some(problems)}")
    tokenizer = quietly(name, lambda: load_tokenizer(name))
    _check_vocabulary(name, model.encoder, tokenizer)
    return model.train(mode=False), tokenizer


def load_encoder(name: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a pretrained encoder to train a khabar model on: any encoder transformers knows, or khabar's own.

    Args:
        name: A folder, a hub id such as aubmindlab/bert-base-arabertv02, or `embedded`. Of a khabar model, its
            encoder.

    Raises:
        ModelFolderError: If it is not there, has no safetensors, or weights of the encoder are missing.
    """
    name = named_folder(name)
    _check_folder(name, ("config.json", WEIGHTS))
    if quietly(name, lambda: AutoConfig.from_pretrained(name)).model_type == KhabarConfig.model_type:
        model, tokenizer = load_model(name)
        return model.encoder, tokenizer
    encoder: PreTrainedModel
    encoder, info = _with_report(AutoModel, name)
    # A masked-LM checkpoint has no pooler, and khabar uses none; every other weight must be there.
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing or info["mismatched_keys"]:
        mismatched = [f"{key[0]} has another shape" for key in info["mismatched_keys"]]
        raise ModelFolderError(f"{name}: {WEIGHTS} lacks weights of the encoder: {_some([*missing, *mismatched])}")
    tokenizer = quietly(name, lambda: load_tokenizer(name))
    _check_vocabulary(name, encoder, tokenizer)
    return encoder, tokenizer


def _with_report(kind: Any, name: str | Path, **options: Any) -> Any:
    """Load weights in float32 from safetensors alone, with transformers' account of what did not fit."""
    return quietly(
        name,
        lambda: kind.from_pretrained(
            name,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are in the account, and the caller refuses them
            output_loading_info=True,
            **options,
        ),
    )


def _check_folder(name: str | Path, needed: tuple[str, ...]) -> None:
    """Refuse a local folder that lacks a file, before anything is read."""
    folder = Path(name)
    if not folder.exists():
        if str(name).startswith((".", "/", "~")) or str(name).count("/") > 1:
            raise ModelFolderError(f"{name}: no such model folder")
        _check_hub(str(name))
        return
    if not folder.is_dir():
        raise ModelFolderError(f"{name}: a model is a folder with {', '.join(needed)}; this is a file")
    missing = [file for file in needed if not (folder / file).is_file()]
    if WEIGHTS in missing and (folder / "model.safetensors.index.json").is_file():
        missing.remove(WEIGHTS)  # large encoders come in shards
    if missing:
        pickles = [path.name for path in folder.glob("*.bin")]
        hint = f" ({', '.join(pickles)} is a pickle, which khabar never opens)" if pickles else ""
        if (folder / "model.onnx").is_file():
            hint = " (it has a model.onnx: runtime onnx loads what `khabar export` wrote)"
        raise ModelFolderError(f"{name}: {', '.join(missing)} missing{hint}")


def _check_hub(name: str) -> None:
    """Ask the hub once whether it has a model: without a network, loading would try for minutes."""
    if try_to_load_from_cache(name, "config.json") is not None:
        return
    try:
        model_info(name, timeout=HUB_TIMEOUT)
    except Exception as error:  # the hub's, the HTTP library's and the system's: too many to name
        raise ModelFolderError(
            f"{name}: no such folder here, and no model hub gave it. Give a local folder with config.json and "
            f"{WEIGHTS}, or check the id and the network"
        ) from error


def _check_vocabulary(name: str | Path, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    embeddings: Any = encoder.get_input_embeddings()
    n_pieces, n_rows = len(tokenizer), embeddings.weight.shape[0]
    if n_pieces > n_rows:
        raise ModelFolderError(f"{name}: the tokenizer has {n_pieces} pieces, the encoder embeds only {n_rows}")


def quietly(name: str | Path, load: Callable[[], T]) -> T:
    """Load without transformers' reports (ours are errors), turning its many failures into one kind."""
    try:
        with no_reports():
            return load()
    except KhabarError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelFolderError(f"{name}: cannot be loaded: {_first_line(error)}") from error


@contextmanager
def no_reports() -> Iterator[None]:
    """Keep transformers' progress bars and loading reports off the terminal for a while."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def _some(items: list[str], most: int = 5) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + rest
