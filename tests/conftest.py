"""Turns the machine into a quiet, offline one, and gives tests the data that lies beside a checkout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from khabar.models.model import KhabarModel
    from khabar.training.settings import TrainSettings

# Before anything imports torch or a Hugging Face package.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests' models are too small to share out


@pytest.fixture(autouse=True)
def torchs_precision() -> Iterator[None]:
    """Put torch's precision of float32 products back: commands that tests call choose it for their process."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_float32_matmul_precision("highest")
        for part in (torch.backends.mkldnn, torch.backends.cuda):
            if hasattr(getattr(part, "matmul", None), "fp32_precision"):  # since torch 2.9
                part.matmul.fp32_precision = "none"


def _shared_folder() -> Path:
    given = os.environ.get("KHABAR_SHARED")
    return Path(given) if given else Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The `data` folder of the corpora that are not part of the project; skips where it is absent."""
    folder = _shared_folder() / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the corpora: no folder {folder} (set KHABAR_SHARED)")
    return folder


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder of example articles and corpora."""
    return Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A small vocabulary trained on the tests' own lines of news Arabic."""
    from khabar.models.text import build_tokenizer, train_vocabulary

    lines = (Path(__file__).parent / "data" / "lines.txt").read_text(encoding="utf-8").splitlines()
    return build_tokenizer(train_vocabulary(lines, 400))


@pytest.fixture
def other_vocabularies(tokenizer: PreTrainedTokenizerFast) -> list[list[str]]:
    """Vocabularies that are not the tokenizer's: with fewer pieces, and with two of them in each other's place."""
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    return [pieces[:-20], [*pieces[:-2], pieces[-1], pieces[-2]]]


@pytest.fixture
def recurrent_config(tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """A recurrent encoder small enough to train in a test."""
    from khabar.models.recurrent import RecurrentConfig

    return RecurrentConfig(vocab_size=len(tokenizer), embedding_size=16, context_size=16, hidden_size=32)


@pytest.fixture
def bert_config(tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """A BERT small enough to train in a test."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )


@pytest.fixture(params=["bert_config", "recurrent_config"])
def encoder_config(request: pytest.FixtureRequest) -> PreTrainedConfig:
    """Each kind of encoder in turn."""
    config: PreTrainedConfig = request.getfixturevalue(request.param)
    return config


TOPICS = ["attack", "statement"]
ENTITY_LABELS = ["LOCATION", "PERSON", "تاريخ"]


@pytest.fixture
def tiny_model(encoder_config: PreTrainedConfig) -> KhabarModel:
    """A khabar model with random weights that say something: scores on both sides of the thresholds."""
    import torch

    from khabar.models.config import KhabarConfig
    from khabar.models.model import KhabarModel

    torch.manual_seed(0)
    config = KhabarConfig(
        encoder=encoder_config,
        topics=TOPICS,
        entity_labels=ENTITY_LABELS,
        window=32,
        stride=20,
        max_segment_words=24,
        name="tiny",
    )
    model = KhabarModel(config).eval()
    for head in (model.topic_head, model.entity_head):
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture
def tiny_model_folder(tmp_path: Path, tiny_model: KhabarModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    """The tiny model as a folder."""
    from khabar.models.folder import save_model

    save_model(tiny_model, tokenizer, tmp_path / "tiny-model")
    return tmp_path / "tiny-model"


def _news_rows(n: int) -> Iterator[dict[str, object]]:
    """Give n articles of one to three sentences each, annotated in full: `attack`, `statement` and `LOCATION`."""
    kinds = [
        (["قتل شخصان بانفجار سيارة مفخخة شمال {}.", "أطلق مسلحون النار على دورية في {}."], ["attack"]),
        (
            ["قال المتحدث باسم الحكومة في {} إن المفاوضات ستستأنف.", "أعلنت الوزارة في بيان من {} توقيف مشتبه بهم."],
            ["statement"],
        ),
        (["توقعت هيئة الأرصاد أمطارا غزيرة في {}.", "ارتفعت أسعار القمح في {} بعد موجة جفاف."], []),
    ]
    cities = ["بغداد", "تونس", "طرابلس", "جنيف", "عدن", "الرستن"]
    for index in range(n):
        text, segments, entities = "", [], []
        topics: list[str] = []
        for part in range(1 + index % 3):
            sentences, labels = kinds[(index + part) % 3]
            city = cities[(index * 5 + part) % len(cities)]
            joined = index % 4 == 0
            sentence = sentences[index // 3 % 2].format(("ب" if joined else "") + city)
            start = len(text)
            place = start + sentence.index(city)
            entities.append({"start": place, "end": place + len(city), "label": "LOCATION"})
            segments.append({"start": start, "end": start + len(sentence), "topics": labels})
            topics += [label for label in labels if label not in topics]
            text += sentence + "\n"
        yield {"id": f"a{index}", "text": text, "segments": segments, "topics": topics, "entities": entities}


@pytest.fixture
def news_rows() -> Callable[[int], Iterator[dict[str, object]]]:
    """Call it with a number for so many annotated articles, as JSON objects."""
    return _news_rows


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """24 of those articles as a file."""
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in _news_rows(24)), encoding="utf-8")
    return path


@pytest.fixture
def encoder_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, recurrent_config: PreTrainedConfig) -> Path:
    """The recurrent encoder with random weights, as a folder."""
    import torch
    from transformers import AutoModel

    from khabar.models.folder import save_model

    torch.manual_seed(1)
    save_model(AutoModel.from_config(recurrent_config), tokenizer, tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def train_settings(tmp_path: Path, corpus: Path, encoder_folder: Path) -> TrainSettings:
    """Two epochs of training on `corpus`, which is the dev set too, into tmp_path / "model"."""
    from khabar.training.settings import TrainSettings

    return TrainSettings(
        corpora=(str(corpus),),
        dev=str(corpus),
        encoder=str(encoder_folder),
        output=str(tmp_path / "model"),
        epochs=2,
        batch_pieces=256,
        learning_rate=1e-2,
        head_learning_rate=1e-2,
        window=32,
        device="cpu",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked gpu, with the reason, where torch sees none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU: torch sees no CUDA device")
