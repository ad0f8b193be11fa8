"""Labelled corpora to a model: readers, trainer, evaluation, pretraining."""

from importlib.util import find_spec

from khabar.models.errors import MissingExtraError

# Asked for once, here: every module of this folder may then import them plainly.
if any(find_spec(name) is None for name in ("accelerate", "datasets", "jinja2", "sklearn", "yaml")):
    raise MissingExtraError("train", "training and evaluation")
