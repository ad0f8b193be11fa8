"""Made-up requests, right and wrong ones, against the description: no failure, and answers that are as described."""

import re
import subprocess
import sys

import pytest

pytest.importorskip("schemathesis", reason="needs the package schemathesis")

TOKEN = "a-token-for-tests"


def test_schemathesis_finds_nothing_wrong(tagger, server_of, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN, encoding="utf-8")
    with server_of(tagger, tokens_file=tokens, max_articles=5, max_characters=60) as (app, port):
        url = f"http://127.0.0.1:{port}/openapi.json"
        options = [f"--header=Authorization: Bearer {TOKEN}", "--checks=all", "--max-examples=25", "--seed=1"]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "schemathesis.cli",
                "run",
                url,
                *options,
                "--no-color",
                "--generation-deterministic",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 selected / 4 total" in done.stdout
    # Not all were refused, and not all were right.
    generated, passed = map(int, re.search(r"(\d+) generated, (\d+) passed", done.stdout).groups())
    assert generated == passed > 100
    assert 10 < app.batcher.n_requests < generated
