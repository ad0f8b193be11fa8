"""Loads labelled corpora: articles, and what each source's labels mean in terms of the model's.

Turns paths (article JSONL, tagged tokens, or a YAML that lists several with their label maps) into
Corpus objects. Knows nothing of words, tags or tensors; the YAML itself is read in corpus_file.py.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from khabar.models.article import Article
from khabar.models.article_reader import read_articles
from khabar.models.errors import CorpusError, KhabarError, Problem
from khabar.models.messages import nearest
from khabar.training.conll import read_conll
from khabar.training.corpus_file import SourceSpec, format_of, read_corpus_file

_YAML_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """How a source's entity labels say which of the model's labels a word may have.

    In an article whose `entities` are given, a word may have:

    - inside an entity with a mapped label: B- (its first word) or I- of any label in `labels_of(label)`;
    - outside every entity: O, or any tag of a label in `unannotated`, which this source never marks;
    - inside an entity with a label in `ignore`: the same as outside, for `labels_of` gives () there. The
      source says only that the word is none of the labels that it does mark.

    An article without `entities` says nothing about any word.

    Attributes:
        entity_map: Source label to the model's labels that it may stand for.
        unannotated: The model's labels that this source never marks.
        ignore: Source labels that stand for none of the model's.
        proclitics: Whether spans leave out joined proclitics, so that their length can be learned here.
        weight: Factor on this source's losses.
    """

    entity_map: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unannotated: frozenset[str] = frozenset()
    ignore: frozenset[str] = frozenset()
    proclitics: bool = True
    weight: float = 1.0

    def labels_of(self, source_label: str) -> tuple[str, ...]:
        """The model's labels that a source label may stand for; () for an ignored one.

        Raises:
            KeyError: If the label is neither mapped nor ignored, which loading a corpus rules out.
        """
        return () if source_label in self.ignore else self.entity_map[source_label]

    @property
    def entity_labels(self) -> tuple[str, ...]:
        """The model's labels that this source's labels stand for, sorted."""
        return tuple(sorted({label for labels in self.entity_map.values() for label in labels}))


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The articles of one source, with the source's own entity labels, and what those mean.

    Attributes:
        name: Where it came from, for messages and reports.
        articles: `topics`, `segments` or `entities` None where the source does not annotate them.
    """

    name: str
    articles: list[Article]
    annotation: Annotation

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that occur, on articles or segments, sorted; () when topics are not annotated."""
        found: set[str] = set()
        for article in self.articles:
            found.update(article.topics or ())
            for segment in article.segments or ():
                found.update(segment.topics or ())
        return tuple(sorted(found))

    @property
    def entity_labels(self) -> tuple[str, ...]:
        """The model's labels that this source can teach, sorted."""
        return self.annotation.entity_labels


def load_corpus(path: str | Path) -> list[Corpus]:
    """Load one path as `load_corpora` does: one Corpus, or several when it is a YAML of sources."""
    return load_corpora([path])


def load_corpora(
    paths: Iterable[str | Path],
    *,
    topics: Collection[str] | None = None,
    entity_labels: Collection[str] | None = None,
) -> list[Corpus]:
    """Load corpora that are to be used together.

    The model's entity labels are `entity_labels` where given; else they are the targets of all label maps
    and the labels found in sources without a map.

    Args:
        paths: Article JSONL (.jsonl, .json), tagged tokens (.bio, .conll, .iob, .tsv, .txt) or YAML.
        topics: The topics that may occur; None accepts any.
        entity_labels: The labels of a model that exists already; None takes them from the corpora.

    Raises:
        CorpusError: If an article, a YAML, or a label cannot be used; lists every such place.
        KhabarError: If a file cannot be read or has no articles.
    """
    specs = [spec for path in paths for spec in _specs(path)]
    problems: list[Problem] = []
    loaded: list[tuple[SourceSpec, list[Article]]] = []
    for spec in specs:
        try:
            loaded.append((spec, _read(spec, topics)))
        except CorpusError as error:
            problems += error.problems
        except KhabarError as error:
            problems.append(_problem(spec, str(error)))
    if problems:
        raise CorpusError(problems)
    counts = [_label_counts(articles) for _, articles in loaded]
    known = set(entity_labels) if entity_labels is not None else _model_labels(specs, counts)
    corpora: list[Corpus] = []
    for (spec, articles), found in zip(loaded, counts, strict=True):
        problems += [_problem(spec, message) for message in _label_problems(spec, found, known)]
        corpora.append(Corpus(name=str(spec.path), articles=articles, annotation=_annotation(spec, found)))
    if problems:
        raise CorpusError(problems)
    return corpora


def as_gold(corpus: Corpus) -> list[Article]:
    """Give a corpus's articles with the model's labels, to measure predictions against.

    Raises:
        KhabarError: If the source cannot serve: a label of it stands for several of the model's, or it
            leaves some of the model's labels unannotated, so that right predictions would count as wrong.
    """
    annotation = corpus.annotation
    coarse = [label for label, targets in annotation.entity_map.items() if len(targets) > 1]
    if coarse or annotation.unannotated:
        reasons = [f"{label} stands for {' or '.join(annotation.entity_map[label])}" for label in coarse]
        reasons += [f"{label} is not annotated" for label in sorted(annotation.unannotated)]
        raise KhabarError(
            f"{corpus.name} cannot be evaluated exactly: {'; '.join(reasons)}; "
            "allowed: sources whose labels are the model's, one to one"
        )
    return [
        article
        if article.entities is None
        else replace(
            article,
            entities=tuple(
                replace(entity, label=annotation.labels_of(entity.label)[0])
                for entity in article.entities
                if entity.label not in annotation.ignore
            ),
        )
        for article in corpus.articles
    ]


def _specs(path: str | Path) -> Sequence[SourceSpec]:
    if Path(path).suffix.lower() in _YAML_ENDINGS:
        return read_corpus_file(path)
    kind = format_of(path)
    if kind is None:
        raise KhabarError(
            f"{path}: a corpus's ending says what it is; allowed: .jsonl, .json, .bio, .conll, .iob, .tsv, "
            ".txt, or a .yaml that names its format"
        )
    return [SourceSpec(path=Path(path), format=kind, proclitics=kind == "articles")]


def _read(spec: SourceSpec, topics: Collection[str] | None) -> list[Article]:
    if spec.format == "conll":
        articles = read_conll(spec.path, ignore=spec.ignore)
    else:
        articles = read_articles(spec.path, topics=topics)
    if not articles:
        raise KhabarError(f"{spec.path} has no articles")
    return articles


def _label_counts(articles: Iterable[Article]) -> Counter[str]:
    return Counter(entity.label for article in articles for entity in article.entities or ())


def _model_labels(specs: Sequence[SourceSpec], counts: Sequence[Counter[str]]) -> set[str]:
    labels: set[str] = set()
    for spec, found in zip(specs, counts, strict=True):
        if spec.entities is None:
            labels.update(label for label in found if label not in spec.ignore)
        else:
            labels.update(target for targets in spec.entities.values() for target in targets)
    return labels


def _label_problems(spec: SourceSpec, found: Counter[str], known: set[str]) -> list[str]:
    """Say which labels of a source have no meaning for the model, and which of its claims are untrue."""
    mapped = spec.entities or {}
    stray = [(label, n) for label, n in found.most_common() if label not in {*mapped, *spec.ignore, *known}]
    messages = []
    if stray:
        listed = ", ".join(f"{label} ({n})" for label, n in stray)
        messages.append(
            f"{spec.path} has entity labels of unknown meaning: {listed}; allowed: the model's labels "
            f"({', '.join(sorted(known)) or 'none'}), or an entry for each under `entities` or `ignore`"
        )
    messages += [
        f'unannotated names "{label}", which is not a label of the model{nearest(label, sorted(known))}'
        for label in sorted(spec.unannotated - known)
    ]
    messages += [
        f'{spec.path} marks "{label}" ({found[label]}), which unannotated says it never does'
        for label in sorted(spec.unannotated & found.keys() - mapped.keys() - spec.ignore)
    ]
    targets = sorted({target for labels in mapped.values() for target in labels} - known)
    messages += [
        f'entities maps to "{target}", which is not a label of the model{nearest(target, sorted(known))}'
        for target in targets
    ]
    return messages


def _annotation(spec: SourceSpec, found: Counter[str]) -> Annotation:
    mapped = dict(spec.entities or {})
    for label in sorted(found):
        if label not in spec.ignore:
            mapped.setdefault(label, (label,))
    return Annotation(
        entity_map=mapped,
        unannotated=spec.unannotated,
        ignore=spec.ignore,
        proclitics=spec.proclitics,
        weight=spec.weight,
    )


def _problem(spec: SourceSpec, message: str) -> Problem:
    """Place a problem at the YAML's line where there is one: that is what the user has to change."""
    if spec.declared_in is None:
        return Problem(file=str(spec.path), message=message.removeprefix(f"{spec.path}: "))
    return Problem(file=str(spec.declared_in), line=spec.line, message=message)
