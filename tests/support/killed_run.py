"""Scores in children of a process that has loaded everything, and kills them: at every file operation, or at random.

Arguments: a model folder or `fake`, the input, the output, `operations` or `random`. Prints how often it has killed.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from fakes import FakeTagger

from khabar.inference import part, planning
from khabar.inference.score import ScoreOptions, score_sources
from khabar.inference.sources import open_sources

MODEL, INPUT, OUTPUT, MOMENTS = sys.argv[1:]
planning.LOOK_AHEAD["cpu"] = planning.LookAhead(articles=8, characters=1_000_000)
OUT = Path(OUTPUT)


if MODEL == "fake":
    from khabar.inference.duplicates import StoryGrouper

    tagger = FakeTagger()
    StoryGrouper()  # loads its packages here, once
else:
    from khabar.inference.tagger import load

    tagger = load(MODEL, device="cpu")


def run(prepare=lambda: None):
    """Score in a child, and give its process id."""
    child = os.fork()
    if child:
        return child
    try:
        prepare()
        with Path(os.devnull).open("wb") as errors:
            score_sources(
                tagger,
                open_sources([INPUT]),
                OUT,
                errors=errors,
                resume=True,
                options=ScoreOptions(group_duplicates=MODEL == "fake"),
            )
        os._exit(0)
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
        os._exit(3)


def wait(child):
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, f"exit status {os.WEXITSTATUS(status)}"
    return False


def result():
    files = [OUT, part.errors_path(OUT)]
    found = [file.read_bytes() for file in files]
    assert sorted(path.name for path in OUT.parent.iterdir()) == sorted(file.name for file in files)
    for file in files:
        file.unlink()
    return found


def kill_at(number):
    """Kill this process before its n-th operation on files, once the function that is returned has been called."""
    left = number

    def counted(operation):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return call

    def prepare():
        os.fsync, os.open, os.replace = counted(os.fsync), counted(os.open), counted(os.replace)
        Path.replace, Path.unlink, Path.open = counted(Path.replace), counted(Path.unlink), counted(Path.open)

    return prepare


started = time.monotonic()
assert not wait(run())
seconds = time.monotonic() - started
whole = result()
n_killed = 0
if MOMENTS == "operations":
    number = 1
    while wait(run(kill_at(number))):
        n_killed += 1
        # The next run is killed too, at its third operation; the one after that goes to the end.
        if wait(run(kill_at(3))):
            assert not wait(run())
        assert result() == whole, f"other bytes after a kill at operation {number}"
        number += 1
    assert result() == whole
else:
    moments = random.Random(20)
    while n_killed < 20:
        child = run()
        time.sleep(moments.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        n_killed += wait(child)
        if moments.random() < 0.7 or OUT.exists():
            assert not wait(run())
            assert result() == whole, f"other bytes after {n_killed} kills"
print(n_killed)
