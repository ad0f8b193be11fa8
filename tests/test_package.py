"""The package as installed: its version, its data files, its command, its place."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import khabar

ROOT = Path(__file__).resolve().parents[1]


def test_version_is_the_installed_one():
    assert importlib.metadata.version("khabar") == khabar.__version__


def test_version_is_the_first_of_the_changelog():
    changelog = ROOT / "CHANGELOG.md"
    if not changelog.is_file():
        pytest.skip("only a checkout has a changelog")
    first = re.search(r"^## (\S+)", changelog.read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None
    assert first.group(1) == khabar.__version__


@pytest.mark.skipif("KHABAR_INSTALLED_COPY" not in os.environ, reason="this is a checkout")
def test_the_installed_copy_is_the_one_under_test():
    assert khabar.__file__ is not None
    assert "site-packages" in Path(khabar.__file__).parts


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "README.md"])
def test_the_embedded_model_is_part_of_the_package(name):
    import khabar.models

    (folder,) = khabar.models.__path__
    assert (Path(folder) / "embedded" / name).is_file()


def test_types_are_published():
    assert (Path(khabar.__path__[0]) / "py.typed").is_file()


@pytest.mark.parametrize("command", [[], ["score"], ["train"], ["evaluate"], ["pretrain"]])
def test_command_explains_itself(command):
    call = [sys.executable, "-m", "khabar", *command, "--help"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "khabar" in done.stdout


def test_extras_name_only_packages_that_are_pinned():
    requirements = ROOT / "requirements.txt"
    if not requirements.is_file():
        pytest.skip("only a checkout has the pins")

    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", name, maxsplit=1)[0]).lower()

    lines = requirements.read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins), "a pin is `name==version`, no more"
    assert pins[0].startswith("torch==")
    needed = {plain(line) for line in importlib.metadata.requires("khabar") or []} - {"khabar"}
    assert needed <= {plain(pin) for pin in pins}
