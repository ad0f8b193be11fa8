import numpy as np
import pytest

from khabar.models.article import Article, Entity, Segment
from khabar.models.encoding import encode_articles
from khabar.models.model import NOT_ANNOTATED
from khabar.models.tags import tag_names
from khabar.training.corpora import Annotation
from khabar.training.targets import LabelSet, LostEntities, make_targets

LABELS = LabelSet(topics=("attack", "statement"), entity_labels=("DATE", "LOC", "ORG"))
TEXT = "وقال سالم الحداد ببغداد أمس\nتوقعت الهيئة أمطارا"


def entity(surface, label):
    start = TEXT.index(surface)
    return Entity(start=start, end=start + len(surface), label=label)


PLAIN = Annotation(entity_map={label: (label,) for label in LABELS.entity_labels})


def targets_of(article, tokenizer, annotation=PLAIN):
    spans = [(s.start, s.end) for s in article.segments] if article.segments else None
    encoded = encode_articles([article.text], tokenizer, max_segment_words=50, segments=[spans])[0]
    lost = LostEntities()
    return encoded, make_targets(article, encoded, annotation, LABELS, lost), lost


def tags_of(encoded, targets):
    """Allowed tags by the word's text."""
    names = np.array(tag_names(LABELS.entity_labels))
    return {
        TEXT[start:end]: set(names[row].tolist())
        for (start, end), row in zip(encoded.words, targets.allowed_tags, strict=True)
    }


def test_full_labels_allow_one_tag_a_word(tokenizer):
    article = Article(text=TEXT, entities=(entity("بغداد", "LOC"), entity("أمس", "DATE")))
    encoded, targets, lost = targets_of(article, tokenizer)
    allowed = tags_of(encoded, targets)
    assert allowed.pop("ببغداد") == {"B-LOC"}
    assert allowed.pop("أمس") == {"B-DATE"}
    assert set(map(frozenset, allowed.values())) == {frozenset({"O"})}
    word = [TEXT[start:end] for start, end in encoded.words].index("ببغداد")
    assert targets.proclitics[word] == 1
    assert (targets.proclitics != NOT_ANNOTATED).sum() == 2
    assert (lost.n_entities, lost.inside_words, lost.without_pieces) == (2, [], [])


def test_a_coarse_label_allows_each_label_it_may_stand_for(tokenizer):
    annotation = Annotation(
        entity_map={"NAME": ("LOC", "ORG")},
        unannotated=frozenset({"DATE"}),
        ignore=frozenset({"MISC"}),
        proclitics=False,
    )
    article = Article(text=TEXT, entities=(entity("سالم الحداد", "NAME"), entity("أمطارا", "MISC")))
    encoded, targets, _ = targets_of(article, tokenizer, annotation)
    allowed = tags_of(encoded, targets)
    assert allowed["سالم"] == {"B-LOC", "B-ORG"}
    assert allowed["الحداد"] == {"I-LOC", "I-ORG"}
    outside = {"O", "B-DATE", "I-DATE"}
    assert allowed["وقال"] == allowed["أمس"] == allowed["أمطارا"] == outside
    assert (targets.proclitics == NOT_ANNOTATED).all()


def test_what_is_not_annotated_is_masked(tokenizer):
    encoded, targets, _ = targets_of(Article(text=TEXT), tokenizer)
    assert targets.allowed_tags.all()
    assert np.isnan(targets.article_topics).all()
    assert np.isnan(targets.segment_topics).all()
    assert targets.segment_topics.shape == (len(encoded.segments), 2) == (2, 2)


def test_topics_of_segments_and_articles(tokenizer):
    cut = TEXT.index("\n")
    segments = (Segment(start=0, end=cut, topics=("statement",)), Segment(start=cut + 1, end=len(TEXT)))
    _, targets, _ = targets_of(Article(text=TEXT, segments=segments, topics=("statement",)), tokenizer)
    np.testing.assert_array_equal(targets.segment_topics, [[0, 1], [np.nan, np.nan]])
    np.testing.assert_array_equal(targets.article_topics, [0, 1])


def test_an_article_without_topics_has_no_segment_with_any(tokenizer):
    _, targets, _ = targets_of(Article(text=TEXT, topics=()), tokenizer)
    np.testing.assert_array_equal(targets.segment_topics, np.zeros((2, 2)))


def test_entities_that_words_cannot_express_are_counted(tokenizer):
    inner = TEXT.index("الهيئة") + 2
    article = Article(text=TEXT, id="x1", entities=(Entity(start=inner, end=inner + 4, label="ORG"),))
    encoded, targets, lost = targets_of(article, tokenizer)
    assert tags_of(encoded, targets)["الهيئة"] == {"B-ORG"}
    assert lost.inside_words == [f"x1: 'هيئة' at {inner}"]
    assert (targets.proclitics == NOT_ANNOTATED).all()
    marks = Article(text="في \u064b\u064b بغداد", id="x2", entities=(Entity(start=3, end=5, label="LOC"),))
    assert targets_of(marks, tokenizer)[2].without_pieces == ["x2: '\u064b\u064b' at 3"]


@pytest.mark.parametrize("text", ["", " \n ", "\u064b"])
def test_texts_without_words_have_empty_targets(tokenizer, text):
    encoded = encode_articles([text], tokenizer, max_segment_words=50)[0]
    targets = make_targets(Article(text=text, topics=(), entities=()), encoded, Annotation(), LABELS, LostEntities())
    assert targets.allowed_tags.shape == (len(encoded.words), 7)
    assert targets.article_topics.tolist() == [0, 0]


def test_an_entity_across_segments_is_cut_where_one_ends(tokenizer):
    """No path goes from one segment to the next: what is learned must be what can be said."""
    cut = TEXT.index("ببغداد")
    segments = (Segment(start=0, end=cut - 1), Segment(start=cut, end=len(TEXT)))
    start, end = TEXT.index("الحداد"), TEXT.index("\n")
    article = Article(text=TEXT, id="x3", segments=segments, entities=(Entity(start=start, end=end, label="ORG"),))
    encoded, targets, lost = targets_of(article, tokenizer)
    allowed = tags_of(encoded, targets)
    assert [allowed[word] for word in ("الحداد", "ببغداد", "أمس")] == [{"B-ORG"}, {"B-ORG"}, {"I-ORG"}]
    assert lost.across_segments == [f"x3: 'الحداد ببغداد أمس' at {start}"]
