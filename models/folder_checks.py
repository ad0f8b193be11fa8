"""Looks at a model's folder before anything of it is loaded, and refuses what is no plain, whole model.

Turns a folder into the names, types and shapes of its tensors, or into an error that names the file. Knows files and
JSON; knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from khabar.models.errors import ModelFolderError
from khabar.models.messages import show

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # large encoders come in shards
PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
FLOATS = ("BF16", "F16", "F32", "F64")  # as safetensors names them
# What turns the loading of a folder into the loading of something else.
_ADAPTER = "adapter_config.json"
_READ = (".json", ".safetensors", ".txt", ".model")


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """What a file of weights says of one tensor."""

    file: str
    kind: str
    shape: tuple[int, ...]


def check_whole(folder: Path, needed: Iterable[str]) -> None:
    """Refuse a folder that lacks a file.

    Raises:
        ModelFolderError: Naming all that is missing, and what is there in its stead.
    """
    missing = [file for file in needed if not (folder / file).is_file()]
    if WEIGHTS in missing and (folder / INDEX).is_file():
        missing.remove(WEIGHTS)
    if missing:
        pickles = _pickles(folder)
        hint = f" ({', '.join(pickles)} is a pickle, which khabar never opens)" if pickles else ""
        if (folder / "model.onnx").is_file():
            hint = " (it has a model.onnx: runtime onnx loads what `khabar export` wrote)"
        raise ModelFolderError(f"{folder}: {', '.join(missing)} missing{hint}")


def check_contained(folder: Path) -> None:
    """Refuse a folder from which loading would go elsewhere: by a link, or by an adapter's name of another model.

    Raises:
        ModelFolderError: Naming the file.
    """
    inside = [folder.resolve()]
    if inside[0].parent.name == "snapshots":  # the hub's cache keeps the files of a model's versions in one place
        inside.append(inside[0].parent.parent / "blobs")
    for path in sorted(folder.iterdir()):
        target = path.resolve()
        if path.suffix in _READ and not any(target.is_relative_to(one) for one in inside):
            raise ModelFolderError(
                f"{path}: a link out of the folder, to {target}; allowed: files of the folder itself"
            )
    if (folder / _ADAPTER).exists():
        raise ModelFolderError(f"{folder / _ADAPTER}: an adapter of another model; allowed: whole models")


def check_no_pickles(folder: Path) -> None:
    """Refuse a folder with a pickle in it, which can run code when it is opened.

    Raises:
        ModelFolderError: Naming the pickles.
    """
    pickles = _pickles(folder)
    if pickles:
        raise ModelFolderError(
            f"{folder}: {', '.join(pickles)}: a pickle, which no khabar model has and khabar never opens; "
            f"allowed: weights in {WEIGHTS}"
        )


def read_settings(path: Path) -> dict[str, Any]:
    """Read a file of settings.

    Raises:
        ModelFolderError: If it is not a JSON object.
    """
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(row, dict):
        raise ModelFolderError(f"{path}: is {show(row)}; allowed: a JSON object")
    return row


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Read what a folder's weights hold, without the numbers.

    Raises:
        ModelFolderError: If a file is missing, damaged, or lies elsewhere than in the folder.
    """
    found: dict[str, StoredTensor] = {}
    for file in _weight_files(folder):
        try:
            with safe_open(folder / file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118  # it is no mapping
                    one = weights.get_slice(name)
                    found[name] = StoredTensor(file=file, kind=one.get_dtype(), shape=tuple(one.get_shape()))
        except (OSError, SafetensorError) as error:
            raise ModelFolderError(f"{folder / file}: cannot be loaded: no whole safetensors file: {error}") from None
    return found


def misfits(stored: Mapping[str, StoredTensor], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Name the stored tensors that are not of the shape, or not of numbers of the kind, that a model has.

    Args:
        stored: What is stored.
        shapes: Shape of each of the model's tensors; of others nothing is said.
    """
    problems: list[str] = []
    for name, one in sorted(stored.items()):
        if name in shapes and one.shape != shapes[name]:
            problems.append(f"{name} has shape {list(one.shape)}, must be {list(shapes[name])}")
        elif name in shapes and one.kind not in FLOATS:
            problems.append(f"{name} has numbers of kind {one.kind}, must be {', '.join(FLOATS)}")
    return problems


def _weight_files(folder: Path) -> list[str]:
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    index = folder / INDEX
    files = read_settings(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ModelFolderError(f"{index}: weight_map is {show(files)}; allowed: a file for each tensor")
    for file in files.values():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise ModelFolderError(f"{index}: names {show(file)}; allowed: safetensors files of the folder itself")
        if not (folder / file).is_file():
            raise ModelFolderError(f"{index}: names {file}, which is missing")
    return sorted(set(files.values()))


def _pickles(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
