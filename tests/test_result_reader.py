"""A result read back from its JSON is the result, as far as it is written; anything else is refused with its place."""

import json
from dataclasses import replace

import pytest

from khabar.inference.result_reader import read_result
from khabar.inference.results import Entity, Segment, TaggedArticle, Topic
from khabar.inference.tagger import Tagger
from khabar.models.article import Article
from khabar.models.errors import KhabarError

TEXT = "وصل الوزير إلى بغداد."
RESULT = TaggedArticle(
    id="a1",
    text=TEXT,
    topics=(Topic(label="زيارة", score=0.9, segments=(0,)),),
    topic_scores={"زيارة": 0.9, "statement": 0.1234},
    segments=(Segment(start=0, end=len(TEXT), topics=("زيارة",), scores={}),),
    entities=(Entity(label="LOCATION", start=15, end=20, text="بغداد", score=1.0),),
    characters_read=len(TEXT),
    model="fake 1.0",
    uncertain=("statement",),
)


def test_what_is_written_is_read_back_whole():
    assert read_result(json.loads(json.dumps(RESULT.to_json())), TEXT) == RESULT
    assert read_result(RESULT.to_json() | {"story": "a0", "id": None}, TEXT) == replace(RESULT, id=None)


def test_a_taggers_results_are_read_back_as_they_are_written(tiny_model, tokenizer):
    texts = [
        "",
        "عاجل",
        "قتل شخصان بانفجار شمال بغداد.\nوقال المتحدث سالم الحداد إن التحقيق بدأ.",
        "\u200f«الوزارة» 😀",
    ]
    n_entities = 0
    for result in Tagger(tiny_model, tokenizer).tag_many(Article(text=text, id=text[:2] or None) for text in texts):
        row = json.loads(json.dumps(result.to_json()))
        again = read_result(row, result.text)
        assert again.to_json() == row
        assert (again.text, again.characters) == (result.text, result.characters)
        # All that is not written: digits after the fourth, and the segments' probabilities.
        segments = tuple(replace(segment, scores={}) for segment in result.segments)
        scores = {label: round(score, 4) for label, score in result.topic_scores.items()}
        topics = tuple(replace(topic, score=round(topic.score, 4)) for topic in result.topics)
        entities = tuple(replace(entity, score=round(entity.score, 4)) for entity in result.entities)
        assert again == replace(result, segments=segments, topic_scores=scores, topics=topics, entities=entities)
        n_entities += len(entities)
    assert n_entities


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("model"), "model is missing; allowed: str"),
        (lambda row: row.update(id=7), "id is 7; allowed: str or null"),
        (lambda row: row.update(characters=3), "characters is 3; the text has 21"),
        (lambda row: row.update(characters=True), "characters is true; allowed: int"),
        (lambda row: row.update(topics={}), r"topics is \{\}; allowed: list"),
        (lambda row: row.update(uncertain=[1]), "uncertain is 1; allowed: str"),
        (lambda row: row["topics"].append("x"), r'topics\[1\] is "x"; allowed: an object'),
        (lambda row: row["topics"][0].update(segments=[1]), r"topics\[0\].segments has 1; allowed: .* below 1"),
        (lambda row: row["topics"][0].update(segments=[False]), r"topics\[0\].segments has false"),
        (lambda row: row["topics"][0].update(score=1.5), r"topics\[0\].score is 1.5; allowed: a probability"),
        (lambda row: row["topic_scores"].update(x=None), "topic_scores.x is null"),
        (lambda row: row["topic_scores"].update(x=float("nan")), "topic_scores.x is nan; allowed: a probability"),
        (lambda row: row["segments"][0].update(end=22), r"segments\[0\].start and end are 0, 22; .* in \[0, 21\]"),
        (lambda row: row["entities"][0].update(text="بيروت"), r'entities\[0\].text is "بيروت"; the text has "بغداد"'),
        (lambda row: row["entities"][0].update(start="15"), r'entities\[0\].start is "15"; allowed: int'),
    ],
)
def test_what_is_no_result_of_the_text_is_refused_with_its_place(change, message):
    row = json.loads(json.dumps(RESULT.to_json()))
    change(row)
    with pytest.raises(KhabarError, match=message):
        read_result(row, TEXT)
    with pytest.raises(KhabarError, match=r"articles\[3\]."):
        read_result(row, TEXT, place="articles[3].")


def test_a_result_is_an_object():
    with pytest.raises(KhabarError, match=r"a result is \[\]; allowed: an object"):
        read_result([], TEXT)
