"""The Tagger: raw articles in, topics and entities out, in order and in constant memory.

Loads a model and puts the engine behind a few plain calls. Knows nothing of files or training.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Self, TypeVar

import torch
from transformers import PreTrainedTokenizerFast

from khabar.inference.compiled import compile_encoder
from khabar.inference.decode import Labels
from khabar.inference.engine import Engine, Finish
from khabar.inference.forward import Forward
from khabar.inference.onnx_model import OnnxEncoder, load_onnx
from khabar.inference.planning import LOOK_AHEAD, in_chunks
from khabar.inference.prepared import prepare
from khabar.inference.results import TaggedArticle, unchanged
from khabar.inference.runtimes import check_runtime
from khabar.inference.workers import TextWork, Workers, usual_number
from khabar.models.article import Article, refuse_one_text
from khabar.models.device import choose_device
from khabar.models.errors import KhabarError
from khabar.models.folder import load_model, named_folder
from khabar.models.messages import show
from khabar.models.model import KhabarModel

MOST_AT_ONCE = 8  # forward passes on a CPU: each holds its batch's states, and torch may count too many cores

T = TypeVar("T")
Result = TaggedArticle | KhabarError


def load(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    runtime: str = "torch",
    precision: str = "auto",
    workers: int | None = 0,
) -> Tagger:
    """Load a tagger.

    Args:
        model: A model folder or a hub id; None or "embedded" takes the model that comes with khabar, which
            never reaches the network.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.
        runtime: `torch`; `compiled`, the same through torch.compile: a transformer that is faster on one core, once
            half a minute or more has made it so; or `onnx` for a folder that `khabar export` wrote, which runs on the
            CPU.
        precision: `fp32`; `bf16`, about twice as fast on a processor with AMX, somewhat faster with AVX512-BF16 and
            slower on one with neither; or `auto`: bf16 on a GPU, fp32 on a CPU. An exported folder has a precision of
            its own and takes `auto`.
        workers: Processes that encode texts and read results beside this one: a GPU reads articles faster than one
            process can prepare them. Each takes some 200 MB. None stands for as many as suit the device and the
            machine: for a GPU up to 14, two fewer than processors; a CPU has no use for them. With some, a function
            given to `map_chunks` must be one that can be sent to them.

    Raises:
        ModelFolderError: If the model cannot be loaded.
        DeviceError: If the device is not there, or not one the runtime runs on.
        KhabarError: If the runtime or the precision is unknown, or they do not go together.
        MissingExtraError: If the runtime is not installed.
    """
    check_runtime(runtime, precision, device)
    folder = named_folder("embedded" if model is None else model)
    if runtime == "onnx":
        return Tagger(*load_onnx(folder), workers=workers)
    chosen = choose_device(device)
    loaded, tokenizer = load_model(folder)
    loaded.to(device=chosen)  # type: ignore[call-arg]  # transformers wraps torch's `to` without its types
    bf16 = precision == "bf16" or (precision == "auto" and chosen.type == "cuda")
    return Tagger(loaded, tokenizer, bf16=bf16, workers=workers, compiled=runtime == "compiled")


class Tagger:
    """Tags articles with one model. Safe to use from several threads at once.

    With workers, `close` it, or use it in a `with` statement, where their processes are to end before this one does.

    Args:
        model: A model in evaluation mode, on the device it is to run on.
        tokenizer: Its tokenizer.
        bf16: Whether the model's products are computed in bfloat16.
        workers: Processes that encode texts and read results for `tag_many`, `tag_chunks` and `map_chunks`; None
            stands for as many as suit the device and the machine, from some hundreds of articles on.
        compiled: Whether the model's encoder is compiled with torch.compile, in place, before this returns.

    Raises:
        ValueError: If there are less than none.
        KhabarError: If the encoder cannot be compiled.
    """

    def __init__(
        self,
        model: KhabarModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        bf16: bool = False,
        workers: int | None = 0,
        compiled: bool = False,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.bf16 = bf16
        prepare(model.encoder, bf16=bf16)
        if compiled:
            compile_encoder(model, tokenizer, bf16=bf16)
        # Compiled, torch checks what it has at each call, and two that meet there can make it compile anew; ONNX
        # Runtime's threads are a session's, not a caller's.
        one_by_one = compiled or isinstance(model.encoder, OnnxEncoder)
        self._shares_out = model.device.type == "cpu" and not one_by_one
        # The CRF's steps from word to word are many and small: a processor takes them faster than a GPU.
        self.crf = model.crf if model.device.type == "cpu" else deepcopy(model.crf).cpu()
        work = TextWork(tokenizer=tokenizer, max_segment_words=model.config.max_segment_words, crf=self.crf)
        if workers is None:
            self._workers = Workers(usual_number(model.device.type), work, spare_short=True)
        else:
            self._workers = Workers(workers, work)
        self._alone = self._workers.here()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes, if there are any; the tagger can still be used, which starts new ones."""
        self._workers.close()

    @property
    def workers(self) -> int:
        """Number of worker processes."""
        return self._workers.n

    @property
    def device(self) -> str:
        """Kind of device the model is on: `cpu` or `cuda`."""
        return self.model.device.type

    @property
    def topics(self) -> list[str]:
        """Topics the model knows."""
        return list(self.model.config.topics)

    @property
    def entity_labels(self) -> list[str]:
        """Entity labels the model knows."""
        return list(self.model.config.entity_labels)

    def tag(self, article: str | Article) -> TaggedArticle:
        """Tag one article: its raw text, or an Article, whose segments are kept where it has any.

        Raises:
            KhabarError: If the text is not valid Unicode, or too long for the device's memory.
        """
        return _or_raise(self._engine(self._alone).run_one(_article(article)))

    def tag_many(
        self, articles: Iterable[str | Article], *, batch_pieces: int | None = None
    ) -> Iterator[TaggedArticle]:
        """Tag articles as a stream, in their order.

        Args:
            articles: Raw texts or Articles; any iterable, read a bounded stretch ahead, in the thread that
                takes the results.
            batch_pieces: Most pieces that the encoder reads at a time, padding included, but at least a window. None
                means a number that suits the device.

        Raises:
            ValueError: If batch_pieces is below 1.
            KhabarError: As `tag`, in the place of the article that is meant.
        """
        refuse_one_text(articles)
        chunks = in_chunks(map(_article, articles), lambda article: len(article.text), LOOK_AHEAD[self.device])
        with closing(self.tag_chunks(chunks, batch_pieces=batch_pieces)) as tagged:
            for results in tagged:
                yield from map(_or_raise, results)

    def tag_chunks(
        self, chunks: Iterable[Sequence[str | Article]], *, batch_pieces: int | None = None
    ) -> Generator[list[Result], None, None]:
        """Tag lists of articles, each list by itself: what it holds gives the same results wherever it stands.

        Args:
            chunks: Lists of raw texts or Articles, some hundred each; batches are planned within one.
            batch_pieces: As in `tag_many`.

        Yields:
            A list's results in the order of its articles; a KhabarError stands for an article for which the
            device has too little memory.

        Raises:
            ValueError: If batch_pieces is below 1.
            KhabarError: If a text is not valid Unicode.
        """
        yield from self.map_chunks(unchanged, chunks, batch_pieces=batch_pieces)

    def map_chunks(
        self,
        function: Callable[[TaggedArticle], T],
        chunks: Iterable[Sequence[str | Article]],
        *,
        batch_pieces: int | None = None,
    ) -> Generator[list[T | KhabarError], None, None]:
        """Tag lists of articles as `tag_chunks` does, and give what a function makes of each result.

        With workers it runs in them, so that this process need not hold the results themselves: unpacking those
        costs it more than anything else.

        Args:
            function: Takes a result. With workers, one at the top of a module, or a `functools.partial` of one, and
                what it gives must be something that pickle takes.
            chunks: As in `tag_chunks`.
            batch_pieces: As in `tag_many`.

        Raises:
            As `tag_chunks`, and whatever the function raises.
            KhabarError: If there are workers, and the function cannot be sent to them.
        """
        at_once = min(torch.get_num_threads(), MOST_AT_ONCE) if self._shares_out else 1
        engine = self._engine(self._workers, function, batch_pieces, at_once)
        yield from engine.run([_article(item) for item in chunk] for chunk in chunks)

    def passes(self, *, batch_pieces: int | None = None, at_once: int = 1) -> Forward:
        """Give the model's forward passes over encoded articles, as they are run here: see `Forward`."""
        return Forward(self.model, self.tokenizer, batch_pieces=batch_pieces, bf16=self.bf16, at_once=at_once)

    def _engine(
        self, workers: Workers, finish: Finish = unchanged, batch_pieces: int | None = None, at_once: int = 1
    ) -> Engine:
        passes = self.passes(batch_pieces=batch_pieces, at_once=at_once)
        return Engine(passes, Labels.of(self.model.config), workers, finish)


def _article(item: str | Article) -> Article:
    if isinstance(item, Article):
        return item
    if not isinstance(item, str):
        raise KhabarError(f"an article is {show(item)}; allowed: its text as a str, or a khabar.Article")
    return Article(text=item)


def _or_raise(result: Result) -> TaggedArticle:
    if isinstance(result, KhabarError):
        raise result
    return result
