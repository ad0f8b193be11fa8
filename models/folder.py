"""Saves a model with its tokenizer as a folder, and loads such a folder, strictly.

A folder is config.json, model.safetensors, tokenizer.json and tokenizer_config.json. Tensors come from
safetensors alone: no pickle is ever opened and no code of a folder is ever run.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import model_info, snapshot_download, try_to_load_from_cache
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from khabar.models.config import KhabarConfig
from khabar.models.errors import KhabarError, ModelFolderError
from khabar.models.folder_checks import (
    INDEX,
    WEIGHTS,
    check_contained,
    check_no_pickles,
    check_whole,
    misfits,
    read_settings,
    stored_tensors,
)
from khabar.models.messages import show
from khabar.models.model import KhabarModel
from khabar.models.text import check_segmentation, load_tokenizer

EMBEDDED = Path(__file__).resolve().parent / "embedded"  # the model that comes with khabar
HUB_TIMEOUT = 10  # seconds
MODEL_FILES = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json")
HUB_FILES = (  # beside the weights
    "config.json",
    INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)

T = TypeVar("T")

# What a hub calls a model. No other name reaches the network, such as a path of Windows.
_HUB_ID = re.compile(r"(?:\w[\w.\-]*/)?\w[\w.\-]*", re.ASCII)

# What transformers reports, and what it does to torch while it builds a model, is the whole process's.
_one_at_a_time = threading.RLock()


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
    if isinstance(model, KhabarModel):
        model.config.vocabulary = vocabulary_digest(tokenizer)
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
        ModelFolderError: If the folder is not a khabar model, lacks a file, holds a pickle or leads out of itself; if
            its tensors are missing, too many, of wrong shapes or kinds, or not numbers; if its settings are not of
            the right types; or if its tokenizer is not the model's.
    """
    folder, config, tokenizer = _looked_at(name)
    model: KhabarModel
    model, info = _with_report(KhabarModel, folder, config=config)
    problems = [
        *(f"{key} is missing" for key in sorted(info["missing_keys"])),
        *(f"{key} is not part of this model" for key in sorted(info["unexpected_keys"])),
        *(f"{key[0]} has another shape" for key in sorted(info["mismatched_keys"])),
    ]
    _refuse_misfits(folder, problems)
    _check_numbers(folder, model)
    return model.train(mode=False), tokenizer


def read_config(name: str | Path) -> KhabarConfig:
    """Read a khabar model's configuration and see what `load_model` would refuse, without the weights' numbers.

    Args:
        name: As for `load_model`.

    Raises:
        ModelFolderError: As `load_model` does, but for tensors that are missing, too many or not numbers.
    """
    return _looked_at(name)[1]


def own_config(folder: Path) -> KhabarConfig:
    """Read config.json as that of a khabar model, whatever its weights are stored in.

    Raises:
        ModelFolderError: If it is another kind of model's, names no labels, or its settings are not of the right types.
    """
    _check_kind(folder / "config.json")
    config = quietly(folder, lambda: KhabarConfig.from_pretrained(folder))
    if not config.topics and not config.entity_labels:
        raise ModelFolderError(f"{folder}: config.json names no topics and no entity labels; not a khabar model")
    return config


def own_tokenizer(folder: Path, config: KhabarConfig, *, n_rows: int) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a khabar model, whatever its weights are stored in.

    Args:
        folder: The model's.
        config: Its configuration.
        n_rows: Pieces that its encoder embeds.

    Raises:
        ModelFolderError: If it cannot be read, has more pieces than that, lacks a special one, or is not the tokenizer
            that the model was saved with.
    """
    tokenizer = _fitting_tokenizer(folder, n_rows)
    if config.vocabulary and config.vocabulary != vocabulary_digest(tokenizer):
        raise ModelFolderError(f"{folder}: tokenizer.json has another vocabulary than the model was saved with")
    return tokenizer


def load_encoder(name: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a pretrained encoder to train a khabar model on: any encoder transformers knows, or khabar's own.

    Args:
        name: A folder, a hub id such as aubmindlab/bert-base-arabertv02, or `embedded`. Of a khabar model, its
            encoder.

    Raises:
        ModelFolderError: If it is not there, has no safetensors, leads out of itself, or weights of the encoder are
            missing or not numbers.
        KhabarError: If it reads text segmented by Farasa.
    """
    check_segmentation(str(name))
    folder = local_folder(name)
    check_whole(folder, ("config.json", WEIGHTS))
    if read_settings(folder / "config.json").get("model_type") == KhabarConfig.model_type:
        model, tokenizer = load_model(folder)
        return model.encoder, tokenizer
    _check_contained(folder)
    stored_tensors(folder)  # whole, and in the folder
    encoder: PreTrainedModel
    encoder, info = _with_report(AutoModel, folder, trust_remote_code=False)
    # A masked-LM checkpoint has no pooler, and khabar uses none; every other weight must be there.
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing or info["mismatched_keys"]:
        mismatched = [f"{key[0]} has another shape" for key in info["mismatched_keys"]]
        raise ModelFolderError(f"{folder}: {WEIGHTS} lacks weights of the encoder: {_some([*missing, *mismatched])}")
    _check_numbers(folder, encoder)
    return encoder, _fitting_tokenizer(folder, _n_rows(encoder))


def new_encoder(name: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Build an encoder with random weights from another one's configuration, and load its tokenizer.

    Args:
        name: As for `load_encoder`; a folder needs no weights.

    Raises:
        ModelFolderError: If it is not there, leads out of itself, or its settings are not those of an encoder that
            transformers knows, or the tokenizer does not fit it.
        KhabarError: If it reads text segmented by Farasa.
    """
    check_segmentation(str(name))
    folder = local_folder(name, weights=False)
    check_whole(folder, ("config.json",))
    _check_contained(folder)
    config = quietly(folder, lambda: AutoConfig.from_pretrained(folder, trust_remote_code=False))
    if isinstance(config, KhabarConfig):
        config = config.encoder
    encoder: PreTrainedModel = quietly(folder, lambda: AutoModel.from_config(config, trust_remote_code=False))
    return encoder, _fitting_tokenizer(folder, _n_rows(encoder))


def vocabulary_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """Give the SHA-256 of a tokenizer's pieces and their ids."""
    pieces = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    return hashlib.sha256(pieces.encode()).hexdigest()


def _looked_at(name: str | Path) -> tuple[Path, KhabarConfig, PreTrainedTokenizerFast]:
    """Look at all of a khabar model but its numbers: what is wrong shows before memory and time are taken for them."""
    folder = local_folder(name)
    check_whole(folder, MODEL_FILES)
    _check_contained(folder)
    check_no_pickles(folder)
    config = own_config(folder)
    stored = stored_tensors(folder)
    with torch.device("meta"):  # config.json may claim sizes that fit no memory
        claimed = quietly(folder, lambda: KhabarModel(config))
    shapes = {key: tuple(tensor.shape) for key, tensor in claimed.state_dict().items()}
    _refuse_misfits(folder, misfits(stored, shapes))
    return folder, config, own_tokenizer(folder, config, n_rows=_n_rows(claimed.encoder))


def _with_report(kind: Any, folder: Path, **options: Any) -> Any:
    """Load weights in float32 from safetensors alone, with transformers' account of what did not fit."""
    return quietly(
        folder,
        lambda: kind.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # so that they are in the account, and the caller refuses them
            output_loading_info=True,
            **options,
        ),
    )


def local_folder(name: str | Path, *, weights: bool = True) -> Path:
    """Give the folder that is meant; of a hub id, the one in the hub's cache, once what khabar reads is there.

    Args:
        name: A folder, a hub id, or `embedded`.
        weights: Whether its weights are needed.

    Raises:
        ModelFolderError: If it is neither, or the hub does not give it.
    """
    folder = Path(named_folder(name))
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelFolderError(f"{name}: a model is a folder with {', '.join(MODEL_FILES)}; this is a file")
    if not _HUB_ID.fullmatch(str(name)):
        raise ModelFolderError(f"{name}: no such model folder")
    _check_hub(str(name))
    return quietly(name, lambda: _from_hub(str(name), weights=weights))


def _from_hub(name: str, *, weights: bool) -> Path:
    """Fetch what khabar reads of a hub's model, unless it is in the cache, and nothing else."""
    folder = Path(snapshot_download(name, allow_patterns=list(HUB_FILES), etag_timeout=HUB_TIMEOUT))
    if not weights:
        return folder
    files = "model-*.safetensors" if (folder / INDEX).is_file() else WEIGHTS
    return Path(snapshot_download(name, allow_patterns=[files], etag_timeout=HUB_TIMEOUT))


def _check_hub(name: str) -> None:
    """Ask the hub once whether it has a model: without a network, loading would try for minutes."""
    if try_to_load_from_cache(name, "config.json") is not None:
        return
    try:
        model_info(name, timeout=HUB_TIMEOUT)
    except Exception as error:  # the hub's, the HTTP library's and the system's: too many to name
        raise ModelFolderError(
            f"{name}: no such folder here, and no model hub gave it. Give a local folder with config.json and "
            f"{WEIGHTS}, or `embedded`, which comes with khabar; or check the id and the network"
        ) from error


def _check_kind(path: Path) -> None:
    """Refuse the configuration of another kind of model, and one that wants code of its own or other numbers."""
    settings = read_settings(path)
    if settings.get("model_type") != KhabarConfig.model_type:
        seen = show(settings.get("model_type"))
        raise ModelFolderError(f'{path}: model_type is {seen}, must be "{KhabarConfig.model_type}"; not a khabar model')
    for key in ("auto_map", "quantization_config"):
        if key in settings:
            raise ModelFolderError(f"{path}: has {key}, which no khabar model has: khabar runs no code of a folder")


def _check_contained(folder: Path) -> None:
    if folder != EMBEDDED:  # what installs khabar may have linked its files
        check_contained(folder)


def _check_numbers(folder: Path, model: PreTrainedModel) -> None:
    wrong = [key for key, tensor in sorted(model.state_dict().items()) if not tensor.isfinite().all()]
    if wrong:
        raise ModelFolderError(f"{folder}: {WEIGHTS} holds NaN or infinity: {_some(wrong)}")


def _refuse_misfits(folder: Path, problems: list[str]) -> None:
    if problems:
        raise ModelFolderError(f"{folder}: {WEIGHTS} does not fit config.json: {_some(problems)}")


def _fitting_tokenizer(folder: Path, n_rows: int) -> PreTrainedTokenizerFast:
    """Load a tokenizer for an encoder that embeds so many pieces."""
    tokenizer = quietly(folder, lambda: load_tokenizer(folder))
    if len(tokenizer) > n_rows:
        raise ModelFolderError(f"{folder}: the tokenizer has {len(tokenizer)} pieces, the encoder embeds only {n_rows}")
    missing = [kind for kind in ("pad", "cls", "sep") if getattr(tokenizer, f"{kind}_token_id") is None]
    if missing:
        raise ModelFolderError(f"{folder}: the tokenizer has no special piece for {', '.join(missing)}")
    return tokenizer


def _n_rows(encoder: PreTrainedModel) -> int:
    embeddings: Any = encoder.get_input_embeddings()
    return int(embeddings.weight.shape[0])


def quietly(name: str | Path, load: Callable[[], T]) -> T:
    """Load without transformers' reports (ours are errors), turning its many failures into one kind."""
    try:
        with no_reports():
            return load()
    except KhabarError:
        raise
    except Exception as error:  # damaged files and wrong settings surface as any kind of error
        raise ModelFolderError(f"{name}: cannot be loaded: {_first_line(error)}") from error


@contextmanager
def no_reports() -> Iterator[None]:
    """Keep transformers' progress bars and loading reports off the terminal for a while, for one thread at a time."""
    with _one_at_a_time:
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
