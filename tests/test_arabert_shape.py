"""The whole path on a folder of AraBERT-base's exact shape: its vocabulary, 12 layers of 768, random weights."""

import json
import shutil

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from khabar.inference.tagger import load
from khabar.models.folder import load_encoder
from khabar.training.settings import TrainSettings
from khabar.training.train import train

TEXTS = [
    "قتل شخصان بانفجار سيارة مفخخة شمال بغداد.\nوقال المتحدث إن التحقيق بدأ.",
    "شهدت العاصمة تونس مظاهرة شارك فيها المئات.",
]


@pytest.fixture
def arabert_folder(shared_data, tmp_path):
    """A folder laid out as the hub's: a masked-LM checkpoint, vocab.txt, tokenizer_config.json."""
    folder = tmp_path / "bert-base-arabertv02"
    folder.mkdir()
    vocabulary = shared_data / "tokenizers" / "arabert-v01" / "vocab.txt"
    shutil.copy(vocabulary, folder)
    pieces = vocabulary.read_text(encoding="utf-8").splitlines()
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(pieces), pad_token_id=pieces.index("[PAD]"))
    assert (config.num_hidden_layers, config.hidden_size, len(pieces)) == (12, 768, 64_000)
    BertForMaskedLM(config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "tokenizer_class": "BertTokenizer"}')
    return folder


@pytest.mark.slow
def test_it_trains_saves_loads_and_scores(arabert_folder, tmp_path):
    encoder, tokenizer = load_encoder(arabert_folder)
    assert sum(parameter.numel() for parameter in encoder.parameters()) > 134_000_000
    assert tokenizer.tokenize("قال: http://a.b/c") == ["قال", ":", "[رابط]"]
    before = encoder.state_dict()["encoder.layer.0.output.dense.weight"].clone()
    rows = []
    for index, text in enumerate(TEXTS * 2):
        cut = text.index("\n") if "\n" in text else len(text)
        city = "بغداد" if "بغداد" in text else "تونس"
        start = text.index(city)
        rows.append(
            {
                "id": str(index),
                "text": text,
                "segments": [{"start": 0, "end": cut, "topics": ["attack"] if "قتل" in text else ["protest"]}],
                "entities": [{"start": start, "end": start + len(city), "label": "LOCATION"}],
            }
        )
    corpus = tmp_path / "train.jsonl"
    corpus.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    settings = TrainSettings(
        corpora=(str(corpus),),
        dev=str(corpus),
        encoder=str(arabert_folder),
        output=str(tmp_path / "model"),
        epochs=2,
        batch_pieces=32,
        device="cpu",
    )
    result = train(settings, progress_bar=False)
    assert result.metrics["steps"] > 2
    tagger = load(result.folder, device="cpu")
    after = tagger.model.encoder.state_dict()["encoder.layer.0.output.dense.weight"]
    assert not torch.equal(before, after)
    for text, tagged in zip(TEXTS, tagger.tag_many(TEXTS), strict=True):
        assert tagged.characters_read == len(text)
        assert tagged.topic_scores.keys() == {"attack", "protest"}
        assert all(0 < score < 1 for score in tagged.topic_scores.values())
