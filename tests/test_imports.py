"""Imports point one way (models <- inference <- training), and scoring loads no training or web package."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

BARE = {"models", "inference", "training"}
WEB = {"fastapi", "starlette", "uvicorn", "flask", "aiohttp"}
TRAINING_ONLY = {"datasets", "sklearn", "matplotlib", "gensim", "accelerate", "seqeval"}
PACKAGES = (
    "khabar",
    "khabar.models",
    "khabar.inference",
    "khabar.inference.service",
    "khabar.training",
    "khabar.training.convert",
)
FORBIDDEN = {
    "khabar.models": ("khabar.inference", "khabar.training", "khabar.cli"),
    "khabar.inference": ("khabar.training", "khabar.cli", "khabar.inference.service"),
    "khabar.inference.service": ("khabar.training", "khabar.cli"),
    "khabar.training": ("khabar.cli",),
    "khabar.training.convert": ("khabar.cli",),
}


def _folder(package: str) -> Path:
    if package.startswith("khabar.training"):
        pytest.importorskip("sklearn", reason="khabar.training needs khabar[train]")
    (path,) = importlib.import_module(package).__path__
    return Path(path)


def _imported_names(source: Path) -> set[str]:
    """Every absolute name a file imports anywhere, `from a import b` counted as both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source.name}:{node.lineno}: relative import"
            assert node.module is not None
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _modules_after(code: str) -> set[str]:
    """Run code in a fresh interpreter and return the top-level names of all modules it loaded."""
    script = f"{code}\nimport sys\nprint(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_walk_sees_every_kind_of_import(tmp_path):
    source = tmp_path / "probe.py"
    source.write_text("import a.b\ndef f():\n    from c import d\n    import e as g\n", encoding="utf-8")
    assert _imported_names(source) == {"a.b", "c", "c.d", "e"}


@pytest.mark.parametrize("package", PACKAGES)
def test_sources_use_the_installed_names_only(package):
    sources = sorted(_folder(package).glob("*.py"))
    assert sources
    for source in sources:
        bare = {name.partition(".")[0] for name in _imported_names(source)} & BARE
        assert not bare, f"{package}: {source.name} imports {sorted(bare)}"


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package):
    for source in _folder(package).glob("*.py"):
        for name in _imported_names(source):
            for forbidden in FORBIDDEN[package]:
                assert name != forbidden, f"{package}: {source.name} imports {name}"
                assert not name.startswith(f"{forbidden}."), f"{package}: {source.name} imports {name}"


def test_importing_khabar_alone_is_light():
    assert not _modules_after("import khabar") & {"torch", "transformers", "numpy", "sklearn", "typer"}


def test_the_command_is_light_until_it_works():
    assert not _modules_after("import khabar.cli") & {"torch", "transformers", "sklearn", "gensim"}


IMPORT_ALL_OF_INFERENCE = """
import importlib, pkgutil, khabar.inference
for module in pkgutil.iter_modules(khabar.inference.__path__):
    importlib.import_module(f"khabar.inference.{module.name}")
"""


def _loaded_by_khabar(code: str) -> set[str]:
    """Modules after khabar's code that transformers, where they are installed, does not load by itself."""
    return _modules_after(code) - _modules_after("from transformers import AutoModel, PreTrainedModel")


def test_inference_loads_no_training_package():
    assert not _loaded_by_khabar(IMPORT_ALL_OF_INFERENCE) & (TRAINING_ONLY | WEB)


def test_inference_does_without_the_training_packages():
    # None in sys.modules makes an import fail as if the package were not installed.
    hide = f"import sys; sys.modules.update(dict.fromkeys({sorted(TRAINING_ONLY)}))"
    _modules_after(hide + IMPORT_ALL_OF_INFERENCE)


def test_loading_a_model_loads_no_web_framework_and_no_training_package():
    code = "import khabar\ntagger = khabar.load()\ntagger.tag('وصل الوزير إلى بغداد.')"
    assert not _loaded_by_khabar(code) & (TRAINING_ONLY | WEB)
