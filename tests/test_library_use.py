"""khabar inside other programs: threads, silence, no network, few imports; and the guide's examples, run."""

import importlib.util
import json
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transformers.utils import logging as transformers_logging

import khabar
from khabar.models.errors import ModelFolderError

TEXTS = [
    "أعلنت وزارة الدفاع العراقية في بيان مقتل ثلاثة من عناصر داعش بضربة جوية قرب كركوك.",
    "شهدت العاصمة تونس مظاهرة شارك فيها المئات.",
    "",
]


@pytest.fixture
def encoder_config(recurrent_config):
    """One kind of encoder is enough here."""
    return recurrent_config


def run_python(code, *arguments, **variables):
    """Run code in a fresh interpreter that is free to use the network and to write what it likes."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    env.pop("TOKENIZERS_PARALLELISM", None)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=env | variables,
    )


def spans(article):
    return [t.label for t in article.topics], [(e.label, e.start, e.end) for e in article.entities]


def test_many_threads_tag_with_one_tagger_as_one_does(tiny_model_folder):
    tagger = khabar.load(tiny_model_folder, device="cpu")
    alone = [spans(tagger.tag(text)) for text in TEXTS]

    def work(i):
        if i % 2:
            return [spans(tagger.tag(text)) for text in TEXTS]
        return [spans(article) for article in tagger.tag_many(TEXTS)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(24))) == [alone] * 24


def test_many_threads_may_load_at_a_time(tiny_model_folder, tmp_path):
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    start = threading.Barrier(8)

    def work(i):
        start.wait()
        if i % 4 == 3:
            with pytest.raises(ModelFolderError):
                khabar.load(tmp_path / "nowhere")
            return None
        return spans(khabar.load(tiny_model_folder, device="cpu").tag(TEXTS[0]))

    with ThreadPoolExecutor(8) as pool:
        results = [result for result in pool.map(work, range(8)) if result is not None]
    assert results == [results[0]] * 6
    # They are the whole process's, and another part of it may want them.
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == (verbosity, bars)


NO_NETWORK = """
import sys
calls = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        calls.append((event, arguments))
        raise PermissionError(f"{event} in a test that allows none")
sys.addaudithook(watch)
import khabar
khabar.load().tag("وصل الوزير إلى بغداد.")
list(khabar.load(sys.argv[1], device="cpu").tag_many(["خبر"]))
try:
    khabar.load("./nowhere")
except khabar.KhabarError:
    pass
assert not calls, calls
try:
    khabar.load("somebody/some-model")
except khabar.KhabarError:
    pass
assert calls, "a hub id reaches the network, so this test would have seen it"
"""


def test_only_a_hub_id_reaches_the_network(tiny_model_folder, tmp_path):
    done = run_python(NO_NETWORK, tiny_model_folder, HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr


SILENT = """
import sys, logging, khabar
tagger = khabar.load()
tagger.tag("وصل الوزير إلى بغداد.")
list(tagger.tag_many(["خبر"] * 40))
khabar.load(sys.argv[1], device="cpu").tag("خبر")
try:
    khabar.load(sys.argv[2])
except khabar.KhabarError:
    pass
logging.getLogger("khabar.inference.engine").warning("nobody has set up logging, so nobody hears this")
logging.basicConfig(format="%(name)s: %(message)s")
logging.getLogger("khabar.inference.engine").warning("heard")
"""


def test_nothing_is_written_but_through_logging(tiny_model_folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_model_folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[:-40])
    done = run_python(SILENT, tiny_model_folder, broken)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "khabar.inference.engine: heard\n")


IMPORTS = """
import sys
import torch, torch.utils.data, tokenizers, safetensors.torch, huggingface_hub
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
import numpy.typing, transformers.modeling_outputs  # some versions load them by themselves
before = set(sys.modules)
import khabar
khabar.load, khabar.Tagger, khabar.Article, khabar.TaggedArticle, khabar.KhabarError
print(*sorted(set(sys.modules) - before))
"""


def test_khabar_adds_few_modules_to_those_of_torch_and_transformers():
    done = run_python(IMPORTS)
    assert done.returncode == 0, done.stderr
    added = done.stdout.split()
    assert "khabar.inference.tagger" in added
    others = {name for name in added if name.partition(".")[0] not in {"khabar", *sys.stdlib_module_names}}
    assert not others
    assert len(added) < 80


def example(examples: Path, name: str):
    """Import an example by its file."""
    spec = importlib.util.spec_from_file_location(name, examples / "services" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_example_in_a_fastapi_application(examples):
    pytest.importorskip("fastapi", reason="needs khabar[serve]")
    from starlette.testclient import TestClient

    with TestClient(example(examples, "fastapi_app").app) as client, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda text: client.post("/summary", json={"text": text}), TEXTS * 4))
        assert {answer.status_code for answer in answers} == {200}
        bodies = [answer.json() for answer in answers]
        assert bodies == bodies[: len(TEXTS)] * 4
        assert bodies[0] == {"topics": ["statement", "attack"], "places": ["كركوك"]}
        assert bodies[2] == {"topics": [], "places": []}
        wrong = client.post("/summary", content=b'{"text": "a\\ud800"}', headers={"Content-Type": "application/json"})
        assert wrong.status_code == 422


def test_example_of_a_celery_task(examples, monkeypatch):
    pytest.importorskip("celery", reason="needs Celery")
    monkeypatch.setenv("BROKER_URL", "memory://")
    monkeypatch.setenv("RESULT_BACKEND", "cache+memory://")
    module = example(examples, "celery_worker")
    articles = [{"id": f"a{i}", "text": text} for i, text in enumerate(TEXTS)]
    rows = json.loads(json.dumps(module.tag.apply(args=[articles]).get()))
    assert [row["id"] for row in rows] == ["a0", "a1", "a2"]
    assert [entity["text"] for entity in rows[0]["entities"]] == ["وزارة الدفاع العراقية", "داعش", "كركوك"]
    assert module.tagger() is module.tagger()


PARENT = """
import sys
import celery_worker
from celery.signals import worker_ready
app = celery_worker.app
folder = sys.argv[1]
app.conf.broker_transport_options = dict(data_folder_in=folder, data_folder_out=folder, control_folder=folder + "/c")

@app.task
def process():
    import os, time
    celery_worker.tagger()
    time.sleep(0.2)  # or one process may do all of it
    return os.getpid(), os.getppid(), celery_worker.tagger.cache_info().misses

@worker_ready.connect
def ready(**_):
    print("parent has torch:", "torch" in sys.modules, file=sys.__stdout__, flush=True)

if sys.argv[2] == "worker":
    app.worker_main(["worker", "--pool", "prefork", "--concurrency", "2", "--loglevel", "ERROR"])
else:
    articles = [dict(id="a0", text=sys.argv[3])]
    tagged = [celery_worker.tag.delay(articles) for _ in range(6)]
    rows = [task.get(timeout=120) for task in tagged]
    assert rows == [rows[0]] * 6
    pids = [process.delay() for _ in range(20)]
    pids = [task.get(timeout=120) for task in pids]
    print(rows[0][0]["entities"][-1]["text"], len({pid for pid, _, _ in pids}), {loaded for _, _, loaded in pids})
"""


@pytest.mark.slow
def test_example_in_celerys_forked_processes(examples, tmp_path):
    pytest.importorskip("celery", reason="needs Celery")
    script = tmp_path / "parent.py"
    script.write_text(PARENT, encoding="utf-8")
    queue = tmp_path / "queue"
    results = tmp_path / "results"
    for folder in (queue, results):
        folder.mkdir()
    env = os.environ | {
        "PYTHONPATH": str(examples / "services"),
        "BROKER_URL": "filesystem://",
        "RESULT_BACKEND": f"file://{results}",
    }
    call = [sys.executable, str(script), str(queue)]
    worker = subprocess.Popen([*call, "worker"], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        asked = subprocess.run([*call, "ask", TEXTS[0]], env=env, capture_output=True, text=True, check=False)
        assert asked.returncode == 0, asked.stderr
        assert asked.stdout.split() == ["كركوك", "2", "{1}"]
    finally:
        worker.terminate()
        output, _ = worker.communicate(timeout=60)
    assert "parent has torch: False" in output


def test_example_in_frames_as_spark_gives_them(examples):
    pd = pytest.importorskip("pandas", reason="needs pandas")
    module = example(examples, "spark_job")
    texts = [*TEXTS, None]
    frames = [
        pd.DataFrame({"id": [f"a{i}" for i in range(4)], "text": texts}, index=[7, 3, 5, 1]),
        pd.DataFrame({"id": pd.Series([], dtype=str), "text": pd.Series([], dtype=str)}),
        pd.DataFrame({"id": ["b0"], "text": [TEXTS[1]]}),
    ]
    tagged = list(module.tag_frames(iter(frames)))
    assert [len(frame) for frame in tagged] == [4, 0, 1]
    columns = [line.split()[0] for line in module.SCHEMA.strip().split("\n")]
    assert all(list(frame.columns) == columns for frame in tagged)
    first = tagged[0].to_dict("records")
    assert [row["id"] for row in first] == ["a0", "a1", "a2", "a3"]
    assert first[0]["topics"] == ["statement", "attack"]
    assert [entity["text"] for entity in first[0]["entities"]] == ["وزارة الدفاع العراقية", "داعش", "كركوك"]
    assert set(first[0]["entities"][0]) == {"label", "start", "end", "text", "score"}
    assert first[2]["topics"] == first[3]["topics"] == first[3]["entities"] == []
    assert tagged[1].empty


def test_the_function_for_spark_travels_without_its_module(examples, tmp_path):
    cloudpickle = pytest.importorskip("cloudpickle", reason="needs what Spark sends functions with")
    pd = pytest.importorskip("pandas", reason="needs pandas")
    module = example(examples, "spark_job")
    sys.modules[module.__name__] = module
    try:
        cloudpickle.register_pickle_by_value(module)
        content = cloudpickle.dumps(module.tag_frames)
    finally:
        del sys.modules[module.__name__]
    frame = pd.DataFrame({"id": ["a0"], "text": [TEXTS[1]]})
    (tagged,) = pickle.loads(content)(iter([frame]))
    assert tagged["topics"].to_list() == [["protest"]]


def test_the_guide_shows_every_example(examples):
    guide = examples.parent / "docs" / "embedding-khabar.md"
    if not guide.is_file():
        pytest.skip("only a checkout has the guide")
    shown = guide.read_text(encoding="utf-8")
    for path in sorted((examples / "services").glob("*.py")):
        assert f"examples/services/{path.name}" in shown
