import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from khabar.inference.tagger import load
from khabar.models.errors import KhabarError

TEXTS = ["قصف الجيش مواقع في حلب.", "قال المتحدث باسم الحكومة في بغداد إن المفاوضات ستستأنف. " * 30, "زار بغداد"]


def score(model: Path, runtime: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `khabar score` over the texts, in a process that has compiled nothing yet."""
    command = [sys.executable, "-m", "khabar", "score", "-"]
    return subprocess.run(
        [*command, "--model", str(model), "--device", "cpu", "--runtime", runtime],
        check=False,
        env={**os.environ, **environment},
        input="\n".join(json.dumps({"text": text}) for text in TEXTS),
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("encoder_config", ["bert_config"], indirect=True)
def test_a_compiled_model_says_the_same(tiny_model_folder: Path, tmp_path: Path):
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("needs a C++ compiler")
    compiler = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    runs = [score(tiny_model_folder, name, OMP_NUM_THREADS="2", **compiler) for name in ("torch", "compiled")]
    assert [run.returncode for run in runs] == [0, 0], runs
    assert any(tmp_path.rglob("*.so"))  # something was compiled
    as_it_is, compiled = ([json.loads(line) for line in run.stdout.splitlines()] for run in runs)
    assert len(as_it_is) == len(compiled) == len(TEXTS)
    for one, other in zip(as_it_is, compiled, strict=True):
        assert other["topic_scores"] == pytest.approx(one["topic_scores"], abs=2e-4)
        spans = [[(e["start"], e["end"], e["label"]) for e in row["entities"]] for row in (one, other)]
        assert spans[0] == spans[1]


@pytest.mark.gpu
@pytest.mark.parametrize("encoder_config", ["bert_config"], indirect=True)
def test_a_compiled_model_says_the_same_on_a_gpu(tiny_model_folder: Path):
    as_it_is, compiled = (load(tiny_model_folder, device="cuda", runtime=runtime) for runtime in ("torch", "compiled"))
    for one, other in zip(as_it_is.tag_many(TEXTS), compiled.tag_many(TEXTS), strict=True):
        assert one.topic_scores == pytest.approx(other.topic_scores, abs=0.05)  # bf16


@pytest.mark.parametrize("encoder_config", ["bert_config"], indirect=True)
def test_without_a_compiler_it_says_so(tiny_model_folder: Path, tmp_path: Path):
    run = score(tiny_model_folder, "compiled", CXX="/nowhere/g++", TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    assert run.returncode == 2
    assert "error: runtime is 'compiled', but torch cannot compile the encoder here" in run.stderr
    assert "/nowhere/g++" in run.stderr
    assert "allowed: torch; or a machine with a C++ compiler" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("encoder_config", ["recurrent_config"], indirect=True)
def test_a_recurrent_encoder_is_refused(tiny_model_folder: Path):
    with pytest.raises(KhabarError, match="the encoder is recurrent; allowed: torch, onnx"):
        load(tiny_model_folder, device="cpu", runtime="compiled")
