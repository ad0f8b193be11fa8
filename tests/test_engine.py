"""The engine over a tiny model: memory that runs out, errors, several threads, chunks by themselves."""

import itertools
import threading
import time

import pytest
import torch

from khabar.inference.forward import BATCH_PIECES
from khabar.inference.planning import LOOK_AHEAD, in_chunks, plan_batches
from khabar.inference.tagger import Tagger, load
from khabar.models.article import Article
from khabar.models.batch import WindowSettings, collate
from khabar.models.encoding import encode_articles
from khabar.models.errors import KhabarError

TEXTS = [
    "قتل شخصان بانفجار سيارة مفخخة شمال بغداد.\nوقال المتحدث سالم الحداد إن التحقيق بدأ.",
    "",
    "عاجل",
    "شهدت العاصمة تونس مظاهرة شارك فيها المئات. " * 6,
    "أعلنت الوزارة في بيان أن الاجتماع بدأ صباح اليوم.",
]
ARTICLES = [Article(text=TEXTS[n % len(TEXTS)], id=str(n)) for n in range(40)]


@pytest.fixture
def encoder_config(bert_config):
    """One kind of encoder is enough here."""
    return bert_config


@pytest.fixture
def three_threads():
    """As on a machine of three processors: forward passes run at once."""
    usual = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(usual)


@pytest.fixture(params=["one thread", "three threads"])
def tagger(request, tiny_model, tokenizer):
    if request.param == "three threads":
        request.getfixturevalue("three_threads")
    return Tagger(tiny_model, tokenizer)


def stage_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("khabar-stage")]


def short_of_memory(model, most_windows, error):
    """Let a model fail as a device does whose memory holds no more than so many windows."""
    sizes = []

    def limit(_encoder, _given, named):
        sizes.append(len(named["input_ids"]))
        if sizes[-1] > most_windows:
            raise error

    model.encoder.register_forward_pre_hook(limit, with_kwargs=True)
    return sizes


def places(results):
    return [[(entity.label, entity.start, entity.end) for entity in result.entities] for result in results]


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("could not create a primitive"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_halves_the_batch(tagger, error, caplog):
    whole = list(tagger.tag_many(ARTICLES))
    sizes = short_of_memory(tagger.model, 12, error)
    halved = list(tagger.tag_many(ARTICLES))
    assert [result.id for result in halved] == [article.id for article in ARTICLES]
    assert places(halved) == places(whole)
    for one, other in zip(halved, whole, strict=True):
        assert one.topic_scores == pytest.approx(other.topic_scores, abs=1e-5)
    assert max(sizes) > 12
    assert "out of memory on cpu" in caplog.text


def test_later_batches_are_planned_smaller(tagger):
    sizes = short_of_memory(tagger.model, 12, MemoryError())
    chunks = [ARTICLES] * 6
    assert [len(results) for results in tagger.tag_chunks(chunks)] == [40] * 6
    in_the_end = sizes[-10:]
    assert max(in_the_end) <= 12, "the device's limit was learnt"


@pytest.mark.parametrize("most_windows", [1, 2, 5])
def test_a_long_article_is_read_some_windows_at_a_time(tagger, most_windows):
    long = Article(text=TEXTS[3] * 20, id="long")
    sizes = short_of_memory(tagger.model, 1000, MemoryError())
    (whole,) = tagger.tag_many([long], batch_pieces=100_000)
    (n_windows,) = sizes
    assert n_windows > 20
    sizes.clear()
    (read,) = tagger.tag_many([long], batch_pieces=most_windows * tagger.model.config.window)
    assert sum(sizes) == n_windows
    assert max(sizes) == most_windows
    assert places([read]) == places([whole])
    assert read.topic_scores == pytest.approx(whole.topic_scores, abs=1e-5)


def test_an_article_that_does_not_fit_is_read_fewer_windows_at_a_time(tagger, caplog):
    long = Article(text=TEXTS[3] * 20, id="long")
    whole = tagger.tag(long)
    sizes = short_of_memory(tagger.model, 2, MemoryError())
    read = tagger.tag(long)
    assert sizes[-1] <= 2
    assert places([read]) == places([whole])
    assert read.topic_scores == pytest.approx(whole.topic_scores, abs=1e-5)
    assert places(tagger.tag_many([long])) == places([whole])
    assert "a long text goes on 2 windows at a time" in caplog.text


def test_a_stream_that_is_left_leaves_the_rest_of_a_long_article(tagger):
    encode, sizes, begun, go_on = tagger.model.encode, [], threading.Event(), threading.Event()

    def held_up(*windows):
        sizes.append(len(windows[0]))
        if len(sizes) == 3:
            begun.set()
            go_on.wait(timeout=60)
        return encode(*windows)

    def articles():
        yield from [[ARTICLES[0]], [Article(text=TEXTS[3] * 20)]]
        begun.wait(timeout=60)
        threading.Timer(1.0, go_on.set).start()
        raise KeyboardInterrupt

    tagger.model.encode = held_up
    with pytest.raises(KeyboardInterrupt):
        list(tagger.tag_chunks(articles(), batch_pieces=tagger.model.config.window))
    assert len(sizes) <= 4, "one that had begun, and at most one more"
    assert not stage_threads()


def test_an_article_that_does_not_fit_by_itself_fails_alone(tagger):
    """As where the heads, which read all of it at once, have too little memory for it."""
    read, sizes = tagger.model.read, short_of_memory(tagger.model, 1000, MemoryError())

    def of_few_pieces(states, piece_states, **rest):
        if len(piece_states) > 300:
            raise MemoryError
        return read(states, piece_states, **rest)

    tagger.model.read = of_few_pieces
    long = Article(text=TEXTS[3] * 20, id="long")
    ((first, second, third),) = tagger.tag_chunks([[ARTICLES[0], long, ARTICLES[2]]])
    assert (first.id, third.id) == ("0", "2")
    assert isinstance(second, KhabarError)
    assert f"a text of {len(long.text):,} characters needs more memory than cpu has" in str(second)
    with pytest.raises(KhabarError, match="needs more memory"):
        list(tagger.tag_many([ARTICLES[0], long]))
    sizes.clear()
    with pytest.raises(KhabarError, match="needs more memory"):
        tagger.tag(long)
    assert len(sizes) % 2 == 0, "tried twice, and not again with fewer windows, which would not help"
    assert len(set(sizes)) <= 2


@pytest.mark.parametrize("message", ["shapes do not fit", "could not create a primitive descriptor for a product"])
def test_other_errors_of_the_model_are_raised(tagger, message):
    short_of_memory(tagger.model, 0, RuntimeError(message))
    with pytest.raises(RuntimeError, match=message):
        list(tagger.tag_many(ARTICLES))
    with pytest.raises(RuntimeError, match=message):
        tagger.tag("بغداد")


def test_empty_chunks_give_empty_results(tagger):
    assert list(tagger.tag_chunks([])) == []
    lengths = [len(results) for results in tagger.tag_chunks([[], ARTICLES[:3], [], []])]
    assert lengths == [0, 3, 0, 0]


def test_a_chunk_gives_the_same_wherever_it_stands(tagger):
    (alone,) = tagger.tag_chunks([ARTICLES[10:20]])
    _, later, _ = tagger.tag_chunks([ARTICLES[:10], ARTICLES[10:20], ARTICLES[:25]])
    assert [result.to_json() for result in alone] == [result.to_json() for result in later]
    assert alone == later, "not a bit is different"


def test_several_threads_may_share_a_tagger(tagger):
    expected = places(tagger.tag_many(ARTICLES))
    found = {}

    def work(name):
        if name % 2:
            found[name] = places(tagger.tag_many(ARTICLES, batch_pieces=300))
        else:
            found[name] = places(tagger.tag(article) for article in ARTICLES)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[name] for name in range(4)] == [expected] * 4


def test_leaving_a_stream_early_ends_its_threads(tagger):
    results = tagger.tag_many(ARTICLES * 100)
    next(results)
    assert stage_threads()
    results.close()
    assert not stage_threads()


@pytest.mark.parametrize("at_end", [[ARTICLES[0], Article(text="\ud800")], None])
def test_results_before_an_error_are_out_first(tagger, at_end):
    """Be it of a text or of the source: what was asked before it has its results, and the error is its own."""

    def chunks():
        yield ARTICLES
        yield ARTICLES[:7]
        if at_end is None:
            raise OSError("the disk is gone")
        yield at_end

    n_results = []
    with pytest.raises((KhabarError, OSError), match=r"the disk is gone|half a surrogate pair"):
        n_results.extend(len(results) for results in tagger.tag_chunks(chunks(), batch_pieces=100))
    assert n_results == [40, 7]
    assert not stage_threads()


def test_an_article_fails_for_want_of_memory_only_by_itself(three_threads, tiny_model, tokenizer):
    """Beside others there may be too little for it; alone there is enough."""
    encode, running, lock = tiny_model.encode, [], threading.Lock()

    def shared_memory(*windows):
        with lock:
            running.append(windows)
            together = len(running)
        time.sleep(0.02)
        try:
            if together > 1:
                raise MemoryError
            return encode(*windows)
        finally:
            with lock:
                running.pop()

    tiny_model.encode = shared_memory
    (results,) = Tagger(tiny_model, tokenizer).tag_chunks([ARTICLES])
    assert [result.id for result in results] == [article.id for article in ARTICLES]


def test_passes_run_at_once_on_a_processor_each(three_threads, tiny_model, tokenizer):
    together = threading.Barrier(3)
    encode, threads = tiny_model.encode, []

    def together_or_never(*windows):
        threads.append(torch.get_num_threads())
        together.wait(timeout=60)
        return encode(*windows)

    tiny_model.encode = together_or_never
    same_length = [ARTICLES[0]] * 9
    (results,) = Tagger(tiny_model, tokenizer).tag_chunks([same_length])
    assert len(results) == 9
    assert threads == [1, 1, 1]


def test_many_processors_are_shared_out_among_a_few_passes(three_threads, tiny_model, tokenizer, monkeypatch):
    monkeypatch.setattr("khabar.inference.tagger.MOST_AT_ONCE", 2)
    torch.set_num_threads(5)
    encode, threads = tiny_model.encode, []

    def counted(*windows):
        threads.append((threading.current_thread().name, torch.get_num_threads()))
        return encode(*windows)

    tiny_model.encode = counted
    list(Tagger(tiny_model, tokenizer).tag_chunks([ARTICLES] * 3, batch_pieces=100))
    assert {n for _, n in threads} == {2}
    assert {name for name, _ in threads} <= {"khabar-lane-0", "khabar-lane-1"}


def test_an_article_alone_has_all_processors(three_threads, tiny_model, tokenizer):
    encode, threads = tiny_model.encode, []

    def counted(*windows):
        threads.append(torch.get_num_threads())
        return encode(*windows)

    tiny_model.encode = counted
    tagger = Tagger(tiny_model, tokenizer)
    tagger.tag(ARTICLES[0])
    list(tagger.tag_chunks([[ARTICLES[0]]]))
    assert threads == [3, 3]
    assert torch.get_num_threads() == 3, "the caller keeps its own"


def test_passes_that_have_not_begun_are_dropped_with_the_stream(three_threads, tiny_model, tokenizer):
    encode, seen, go_on = tiny_model.encode, [], threading.Event()

    def held_up(*windows):
        seen.append(len(windows[0]))
        go_on.wait(timeout=60)
        return encode(*windows)

    tiny_model.encode = held_up
    results = Tagger(tiny_model, tokenizer).tag_chunks([ARTICLES] * 9, batch_pieces=100)
    threading.Timer(0.5, go_on.set).start()
    next(results)
    go_on.clear()
    threading.Timer(0.5, go_on.set).start()
    n_seen = len(seen)
    results.close()
    assert len(seen) - n_seen <= 3 + 3, "what was running, and at most one more for each"
    assert not stage_threads()


def test_bfloat16_keeps_no_cast_weights(tiny_model, tokenizer):
    """The lock of that cache and torch.compile in another thread can wait for each other for ever."""
    encode, seen = tiny_model.encode, []

    def watched(*windows):
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()))
        return encode(*windows)

    tiny_model.encode = watched
    Tagger(tiny_model, tokenizer, bf16=True).tag(ARTICLES[0])
    assert seen == [(True, False)]


@pytest.mark.gpu
def test_a_gpu_that_runs_out_of_memory_goes_on(tiny_model, tokenizer):
    tiny_model.cuda()
    short_of_memory(tiny_model, 12, torch.cuda.OutOfMemoryError("CUDA out of memory"))
    (results,) = Tagger(tiny_model, tokenizer).tag_chunks([ARTICLES])
    assert [result.id for result in results] == [article.id for article in ARTICLES]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_little_of_what_the_model_reads_of_real_news_is_padding(shared_data, device):
    zstandard = pytest.importorskip("zstandard", reason="needs khabar[formats]")
    tagger = load(device="cpu")
    with zstandard.open(shared_data / "text" / "news.txt.zst", "rt", encoding="utf-8") as stream:
        articles = [list(lines) for blank, lines in itertools.groupby(itertools.islice(stream, 50_000), str.isspace)]
    texts = ["".join(lines) for lines in articles if not lines[0].isspace()][:2048]
    assert len(texts) == 2048
    n_filled = n_pieces = 0
    config = tagger.model.config
    windows = WindowSettings.from_tokenizer(tagger.tokenizer, window=config.window, stride=config.stride)
    for chunk in in_chunks(texts, len, LOOK_AHEAD[device]):
        encoded = encode_articles(chunk, tagger.tokenizer, max_segment_words=config.max_segment_words)
        lengths = [article.n_pieces for article in encoded]
        for indices in plan_batches(
            lengths, window=config.window, stride=config.stride, batch_pieces=BATCH_PIECES[device]
        ):
            batch = collate([encoded[index] for index in indices], windows)
            n_filled += int(batch.attention_mask.sum())
            n_pieces += batch.attention_mask.numel()
    assert n_filled > 0.95 * n_pieces
