"""The container's files, tried without an engine: what they name is there, and what they run runs."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
yaml = pytest.importorskip("yaml", reason="needs PyYAML")

if not (ROOT / "Dockerfile").is_file():
    pytest.skip("only a checkout has the container's files", allow_module_level=True)


@pytest.fixture
def encoder_config(recurrent_config):
    """One kind of encoder is enough here."""
    return recurrent_config


@pytest.fixture(scope="module")
def stages():
    """The instructions of each stage of the Dockerfile, as pairs; what comes before the first stage is stage 0."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = [[]]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest))
    return found


@pytest.fixture(scope="module")
def service():
    (one,) = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"].values()
    return one


def values(stage, name):
    return [rest for instruction, rest in stage if instruction == name]


def environment(stage):
    return dict(pair.split("=", 1) for rest in values(stage, "ENV") for pair in shlex.split(rest))


def test_what_is_copied_is_there_and_let_in(stages):
    let_in = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    copied = set()
    for rest in values(stages[1], "COPY"):
        *sources, target = rest.split()
        copied.update(sources)
        assert target == "./" or [target] == sources
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = project["tool"]["setuptools"]["package-dir"].values()
    assert copied >= {folder.partition("/")[0] for folder in folders}
    assert copied >= {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}


def test_the_image_is_pinned_and_not_roots(stages):
    (base,) = values(stages[0], "ARG")
    assert re.fullmatch(r"BASE=python:3\.1[1-9]\.\d+-slim-\w+", base)
    assert [rest.split()[0] for stage in stages[1:] for rest in values(stage, "FROM")] == ["${BASE}", "${BASE}"]
    (user,) = values(stages[-1], "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert not [name for stage in stages[1:] for name, _ in stage if name == "ADD"]
    # The device is the one thing that an image is built for.
    assert "DEVICE=cpu" in values(stages[1], "ARG")
    assert sum("${DEVICE}" in rest for rest in values(stages[1], "RUN")) == 1


def test_what_is_installed_is_pinned(stages):
    installs = [rest for rest in values(stages[1], "RUN") if "pip install" in rest]
    assert len(installs) == 2
    torch = subprocess.run(
        ["sh", "-c", "grep '^torch==' requirements.txt"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"torch==[\d.]+\n", torch.stdout)
    assert "$(grep '^torch==' requirements.txt)" in installs[0]
    assert "--constraint requirements.txt" in installs[1]
    extra = re.search(r"\.\[(\w+)\]", installs[1])
    assert extra is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extra[1] in project["optional-dependencies"]


def test_the_container_has_no_more_rights_than_it_needs(service):
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "network_mode", "volumes", "user"} & set(service)
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_ports_secrets_and_times_fit_the_service(stages, service):
    from khabar.inference.service.settings import ServiceSettings

    variables = environment(stages[-1]) | service["environment"]
    fields = {f"KHABAR_{name.upper()}" for name in ServiceSettings.model_fields}
    assert {name for name in variables if name.startswith("KHABAR_")} <= fields
    port = variables["KHABAR_PORT"]
    assert values(stages[-1], "EXPOSE") == [port]
    assert [mapped.rpartition(":")[2] for mapped in service["ports"]] == [port]
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    assert set(service["secrets"]) == set(compose["secrets"])
    assert [f"/run/secrets/{name}" for name in service["secrets"]] == [variables["KHABAR_TOKENS_FILE"]]
    seconds = ServiceSettings.model_fields["shutdown_seconds"].default
    assert int(service["stop_grace_period"].removesuffix("s")) > seconds
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"  # so that no secret enters an image


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_what_the_container_runs_serves_and_is_found_healthy(stages, service, tiny_model_folder, tmp_path):
    command = json.loads(values(stages[-1], "ENTRYPOINT")[0]) + json.loads(values(stages[-1], "CMD")[0])
    assert command[0] == "khabar"
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-the-container\n")
    variables = environment(stages[-1]) | service["environment"]
    variables |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "KHABAR_PORT": str(free_port()),
        "KHABAR_TOKENS_FILE": str(tokens),
        "KHABAR_MODEL": str(tiny_model_folder),
        "KHABAR_HOST": "127.0.0.1",
    }
    kind, *check = service["healthcheck"]["test"]
    assert kind == "CMD"

    def healthy():
        return subprocess.run(check, env=variables, capture_output=True, check=False).returncode == 0

    assert not healthy()
    serving = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)
    try:
        assert serving.stderr.readline().startswith("serving tiny 1.0 on ")
        assert healthy()
    finally:
        serving.terminate()
        _, said = serving.communicate(timeout=60)
    assert serving.returncode == 143, said
    # Without the tokens that compose.yaml gives, it serves nobody.
    open_to_all = variables | {"KHABAR_HOST": environment(stages[-1])["KHABAR_HOST"], "KHABAR_TOKENS_FILE": ""}
    refused = subprocess.run(command, env=open_to_all, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--tokens-file FILE" in refused.stderr
