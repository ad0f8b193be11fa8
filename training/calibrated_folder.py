"""Puts a calibration into a model's folder: in place, or in a copy of the folder.

Knows config.json and metrics.json as JSON, the card as what is made from the latter, and the other files as bytes;
weights are never read.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from khabar.inference.sinks import FileSink, whole_folder
from khabar.models.config import KhabarConfig
from khabar.models.errors import KhabarError
from khabar.models.folder import named_folder
from khabar.training.card import render_card

logger = logging.getLogger(__name__)

_SETTINGS = ("topic_temperatures", "topic_thresholds", "topic_bands")


def check_target(model: str, output: str | None) -> None:
    """See, before long work, that a calibration can be stored.

    Args:
        model: Model folder, hub id or `embedded`.
        output: Folder for a calibrated copy; None means the model's own folder.

    Raises:
        KhabarError: If there is no output and the model is not a folder that can be written in, or the output
            is there already and not empty.
    """
    if output is None:
        if model == "embedded":
            raise KhabarError("embedded comes with khabar and is not changed; give --output DIR for a calibrated copy")
        if not Path(model).is_dir():
            raise KhabarError(f"{model} is no folder here, so it cannot be changed; give --output DIR for a copy")
        if not os.access(model, os.W_OK):
            raise KhabarError(f"{model} cannot be written in; give --output DIR for a calibrated copy")
        return
    target = Path(output)
    if target.exists() and not target.is_dir():
        raise KhabarError(f"{output} is a file; allowed: a new or an empty folder")
    if target.is_dir() and any(target.iterdir()):
        raise KhabarError(f"{output} is not empty; allowed: a new or an empty folder")


def store_calibration(folder: str | Path, config: KhabarConfig, report: Mapping[str, Any]) -> None:
    """Write a calibration into a folder's config.json, and what it is worth into its metrics.json and its card.

    Each file changes as a whole, config.json last. A card that is not what `render_card` makes of metrics.json stays,
    and the log says so.

    Args:
        folder: A model folder.
        config: The calibrated config.
        report: The calibration's report, fit for JSON.

    Raises:
        KhabarError: If config.json or metrics.json is no JSON object.
    """
    settings = {name: getattr(config, name) for name in _SETTINGS}
    metrics_file, config_file = Path(folder) / "metrics.json", Path(folder) / "config.json"
    metrics = _read(metrics_file) if metrics_file.exists() else {}
    stored = _read(config_file)
    # Training notes the settings among its measures too.
    noted = {name: value for name, value in settings.items() if name in metrics}
    # The dev measures stay training's, and so does what is to be said of them.
    kept = {"dev_thresholds_fitted": metrics.get("dev_thresholds_fitted", bool(metrics.get("calibration")))}
    calibrated = metrics | noted | kept | {"calibration": report}
    card = Path(folder) / "README.md"
    follows = card.exists() and _is_card_of(metrics, card)
    _write(metrics_file, json.dumps(calibrated, ensure_ascii=False, indent=1))
    if follows:
        _write(card, render_card(calibrated))
    elif card.exists():
        logger.warning("README.md is not what khabar makes of metrics.json, so it stays; look at its thresholds")
    _write(config_file, json.dumps(stored | settings, indent=2, sort_keys=True))  # as transformers writes it


def copy_calibrated(model: str, output: str | Path, config: KhabarConfig, report: Mapping[str, Any]) -> None:
    """Copy a model that has been loaded, with another calibration; the copy appears whole or not at all.

    Args:
        model: Model folder, hub id or `embedded`.
        output: A new or an empty folder.
        config: The calibrated config.
        report: The calibration's report, fit for JSON.

    Raises:
        KhabarError: As `store_calibration`.
    """
    source = Path(named_folder(model))
    if not source.is_dir():
        # Loading has fetched it; asking the hub again might give newer weights than those that were calibrated.
        source = Path(snapshot_download(model, local_files_only=True))
    with whole_folder(output) as partial:
        for path in source.iterdir():  # checkpoints and other folders are not part of a model
            if path.is_file():
                shutil.copyfile(path, partial / path.name)
        store_calibration(partial, config, report)


def _is_card_of(metrics: Mapping[str, Any], card: Path) -> bool:
    text = card.read_text(encoding="utf-8", errors="replace").removesuffix("\n")
    try:
        return text == render_card(metrics)
    except (LookupError, TypeError, ValueError, AttributeError):  # measures of an older khabar, or somebody's own
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise KhabarError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise KhabarError(f"{path} holds {type(content).__name__}, must be a JSON object")
    return content


def _write(path: Path, text: str) -> None:
    with FileSink(path) as sink:
        sink.write(text)
