"""Says what a scoring run is: all on which its output depends, so that only the same run is gone on with.

Turns inputs, a model's files and options into JSON values. Reads the model's files; opens no input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from khabar.inference.sources import Source
from khabar.inference.text_rows import folder_size

MOST_NAMED = 50  # of more inputs a digest is kept
_MODEL_FILES = ("*.safetensors", "*.onnx", "config.json", "tokenizer.json", "tokenizer_config.json")


def describe_run(sources: Sequence[Source], made_by: Mapping[str, object]) -> dict[str, object]:
    """Describe a run by what must be the same for its output to be the same.

    Args:
        sources: The inputs, told by names and sizes: what is in them shows as they are read.
        made_by: All else that the output depends on, as JSON values.
    """
    inputs = [f"{source.name} ({source.format}, {_size(source)})" for source in sources]
    if len(inputs) > MOST_NAMED:
        digest = hashlib.blake2b("\n".join(inputs).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        named = {"inputs": f"{len(inputs):,} inputs {digest}"}
    else:
        named = {f"input {number}": one for number, one in enumerate(inputs, start=1)}
    return {**named, **made_by}


def model_digest(model: str) -> str:
    """Digest the files that a model is loaded from.

    Args:
        model: As for `khabar.load`.

    Raises:
        ModelFolderError: If there is no such model.
    """
    from khabar.models.folder import local_folder

    folder = local_folder(model)
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for pattern in _MODEL_FILES for path in folder.glob(pattern)):
        digest.update(path.name.encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "blake2b").digest())
    return digest.hexdigest()


def _size(source: Source) -> str:
    path = Path(source.name)
    if source.is_folder:
        return f"{folder_size(path):,} bytes"
    if source.is_standard_input or not path.is_file():
        return "a stream"
    return f"{path.stat().st_size:,} bytes"
