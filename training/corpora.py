"""Loads labelled corpora: articles, and what each source's labels mean in terms of the model's.

Turns paths (article JSONL, tagged tokens, or a YAML that lists several with their label maps) into
Corpus objects, which stream. Knows nothing of words, tags or tensors; the YAML itself is read in corpus_file.py.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from khabar.models.article import Article
from khabar.models.config import KhabarConfig
from khabar.models.errors import CorpusError, KhabarError, Problem
from khabar.models.messages import show
from khabar.training.conll import says_spacing
from khabar.training.corpus_file import read_corpus_file
from khabar.training.label_checks import label_problems, lookalikes, model_labels, model_topics
from khabar.training.source import SourceArticles, SourceCounts, count_source
from khabar.training.source_spec import ENDINGS, SPLITS, SourceSpec, Split, format_of, is_yaml, refuse_repeated

logger = logging.getLogger(__name__)


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
        unannotated_topics: The model's topics that this source never gives, of articles that have topics.
        ignore: Source labels that stand for none of the model's.
        proclitics: Whether spans leave out joined proclitics, so that their length can be learned here.
        weight: Factor on this source's losses.
    """

    entity_map: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unannotated: frozenset[str] = frozenset()
    unannotated_topics: frozenset[str] = frozenset()
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
        articles: Reads the file anew at each iteration. `topics`, `segments` or `entities` None where the source
            does not annotate them; topics are the model's.
        counts: What those articles hold.
        licence: Under what terms the texts and labels are, as the YAML says; None where nobody has said.
    """

    name: str
    articles: SourceArticles
    annotation: Annotation
    counts: SourceCounts
    licence: str | None = None

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that this source can teach, sorted: those that occur, and those that its map names."""
        return tuple(sorted({*self.counts.topics, *(self.articles.spec.topics or {}).values()}))

    @property
    def entity_labels(self) -> tuple[str, ...]:
        """The model's labels that this source can teach, sorted."""
        return self.annotation.entity_labels


def load_corpus(path: str | Path, *, split: Split | None = None, models: Iterable[KhabarConfig] = ()) -> list[Corpus]:
    """Load one path as `load_corpora` does: one Corpus, or several when it is a YAML of sources.

    Args:
        path: See there.
        split: See there.
        models: Models that are to be measured on it: their topics and labels need no entry in a map.
    """
    known = list(models)
    return load_corpora(
        [path],
        split=split,
        more_topics={topic for model in known for topic in model.topics},
        more_entity_labels={label for model in known for label in model.entity_labels},
    )


def load_corpora(
    paths: Iterable[str | Path],
    *,
    split: Split | None = None,
    topics: Collection[str] | None = None,
    entity_labels: Collection[str] | None = None,
    more_topics: Collection[str] = (),
    more_entity_labels: Collection[str] = (),
) -> list[Corpus]:
    """Load corpora that are to be used together.

    Every source is read once, to check and count it; no article is kept. Labels of a new model that are spelt alike
    are named in the log: one of them may be a slip of the pen.

    The model's entity labels are `entity_labels` where given; else they are the targets of all label maps,
    the labels found in sources without a map, and `more_entity_labels`. Topics go likewise.

    Args:
        paths: Article JSONL (.jsonl, .json), tagged tokens (.bio, .conll, .iob, .iob2, .tsv, .txt) or YAML.
        split: Of a YAML with a split on any source, take this one alone; sources without are of train. None
            takes all.
        topics: The topics of a model that exists already; None takes them from the corpora.
        entity_labels: The labels of a model that exists already; None takes them from the corpora.
        more_topics: The topics of a model that these corpora are to teach more, or to measure.
        more_entity_labels: The labels of such a model.

    Raises:
        CorpusError: If an article, a YAML, or a label cannot be used; lists every such place.
        KhabarError: If a file cannot be read, has no articles or is there twice, or a YAML has no source of the split.
    """
    paths = list(paths)
    refuse_repeated(paths)  # a YAML may name a file several times, to have it read so often or with other maps
    specs = [spec for path in paths for spec in _specs(path, split)]
    problems: list[Problem] = []
    n_more = 0
    loaded: list[tuple[SourceSpec, SourceArticles, SourceCounts]] = []
    for spec in specs:
        try:
            loaded.append((spec, *count_source(spec)))
        except CorpusError as error:
            problems += error.problems
            n_more += error.n_more
        except KhabarError as error:
            problems.append(_problem(spec, str(error)))
    if problems:
        raise CorpusError(problems, n_more=n_more)
    declared = [(spec, counts) for spec, _, counts in loaded]
    labels = set(entity_labels) if entity_labels is not None else {*model_labels(declared), *more_entity_labels}
    known_topics = set(topics) if topics is not None else {*model_topics(declared), *more_topics}
    for kind, given, names, more in (
        ("entity labels", entity_labels, labels, more_entity_labels),
        ("topics", topics, known_topics, more_topics),
    ):
        for one, other in lookalikes(names) if given is None else ():
            if one not in more or other not in more:  # what a model has learnt as two is two
                logger.warning("%s %s and %s are spelt alike: one label, or two?", kind, show(one), show(other))
    for spec, counts in declared:
        messages = label_problems(spec, counts, labels=labels, topics=known_topics)
        problems += [_problem(spec, message) for message in messages]
    if problems:
        raise CorpusError(problems)
    return [
        Corpus(
            name=str(spec.path),
            articles=articles,
            annotation=_annotation(spec, counts),
            counts=counts,
            licence=spec.licence,
        )
        for spec, articles, counts in loaded
    ]


def choose_split(
    path: str | Path, split: str | None = None, *, default: Sequence[Split] = ("test", "dev")
) -> Split | None:
    """Choose which sources of a corpus to measure on; None stands for all, where the corpus names no splits.

    Args:
        path: The corpus.
        split: The split that is wanted; None takes the first of `default` that the corpus names.
        default: See there.

    Raises:
        CorpusError: If it is a YAML that is malformed.
        KhabarError: If it has no source of a split that is wanted.
    """
    offered = _splits(path)
    if split is None and not offered:
        return None
    wanted = default if split is None else (split,)
    for name in wanted:
        for one in offered:
            if one == name:
                return one
    allowed = ", ".join(name for name in SPLITS if name in offered) or "no split, for it names none"
    raise KhabarError(f"{path} has no source for {' or '.join(wanted)}; allowed: {allowed}")


def dev_corpus(paths: Iterable[str | Path]) -> str | None:
    """Find the YAML among corpora that names sources for dev; None where none does.

    Raises:
        CorpusError: If a YAML is malformed.
        KhabarError: If more than one does.
    """
    naming = [str(path) for path in paths if is_yaml(path) and "dev" in _splits(path)]
    if len(naming) > 1:
        raise KhabarError(f"{' and '.join(naming)} each name sources for dev; allowed: one, or --dev beside them")
    return naming[0] if naming else None


def as_gold(corpus: Corpus, *, entities: bool = True) -> list[Article]:
    """Give a corpus's articles with the model's labels, to measure predictions against.

    Args:
        corpus: The corpus.
        entities: Whether they are to be measured; without, whatever the source calls them, it will do.

    Raises:
        KhabarError: If the source cannot serve: a label of it stands for several of the model's, or it
            leaves some of the model's labels unannotated, so that right predictions would count as wrong.
    """
    annotation = corpus.annotation
    coarse = [label for label, targets in annotation.entity_map.items() if entities and len(targets) > 1]
    missing = sorted(annotation.unannotated_topics | (annotation.unannotated if entities else frozenset()))
    if coarse or missing:
        reasons = [f"{label} stands for {' or '.join(annotation.entity_map[label])}" for label in coarse]
        reasons += [f"{label} is not annotated" for label in missing]
        raise KhabarError(
            f"{corpus.name} cannot be evaluated exactly: {'; '.join(reasons)}; "
            "allowed: sources whose labels are the model's, one to one"
        )
    if not entities:
        return [replace(article, entities=None) for article in corpus.articles]
    if not annotation.proclitics and any(article.entities for article in corpus.articles):
        logger.warning(
            "%s: its names keep the و ف ب ل ك joined to them, which the model leaves out: such a name, found rightly, "
            "counts as wrong",
            corpus.name,
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


def _specs(path: str | Path, split: Split | None) -> list[SourceSpec]:
    if is_yaml(path):
        specs = read_corpus_file(path)
        if split is None or all(spec.split is None for spec in specs):
            return specs
        chosen = [spec for spec in specs if (spec.split or "train") == split]
        if not chosen:
            raise KhabarError(f"{path} has no source for {split}; allowed: at least one with `split: {split}`")
        return chosen
    kind = format_of(path)
    if kind is None:
        allowed = f"{', '.join(ENDINGS)}, or a .yaml that names its format"
        raise KhabarError(f"{path}: a corpus's ending says what it is; allowed: {allowed}")
    return [SourceSpec(path=Path(path), format=kind)]


def _splits(path: str | Path) -> set[Split]:
    """The splits that a corpus's sources are for; none where no source says so."""
    specs = _specs(path, None)
    return {spec.split or "train" for spec in specs} if any(spec.split for spec in specs) else set()


def _annotation(spec: SourceSpec, counts: SourceCounts) -> Annotation:
    mapped = dict(spec.entities or {})
    for label in sorted(counts.entities.keys() - spec.ignore):
        mapped.setdefault(label, (label,))
    return Annotation(
        entity_map=mapped,
        unannotated=spec.unannotated,
        unannotated_topics=spec.unannotated_topics,
        ignore=spec.ignore,
        proclitics=_leaves_out_proclitics(spec),
        weight=spec.weight,
    )


def _leaves_out_proclitics(spec: SourceSpec) -> bool:
    """Whether a name's و ف ب ل ك stand outside it: in tagged tokens only where a token may begin without a space."""
    if spec.proclitics is not None:
        return spec.proclitics
    return spec.format == "articles" or says_spacing(spec.path)


def _problem(spec: SourceSpec, message: str) -> Problem:
    """Place a problem at the YAML's line where there is one: that is what the user has to change."""
    if spec.declared_in is None:
        return Problem(file=str(spec.path), message=message.removeprefix(str(spec.path)).lstrip(": "))
    return Problem(file=str(spec.declared_in), line=spec.line, message=message)
