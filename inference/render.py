"""Shows a tagged article to a person at a terminal, as plain text.

Turns a TaggedArticle into lines. What is written left to right comes first on a line and Arabic last, so
that a terminal that orders mixed text shows the same as one that does not.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict

from khabar.inference.results import TaggedArticle

_EVIDENCE_CHARACTERS = 160  # at most, of a segment shown under a topic
# Embeddings, overrides and isolates reach past the line they stand in.
_BIDI_CONTROLS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])


def render(article: TaggedArticle) -> str:
    """Lay out an article's topics with the segments that show them, and its entities by label."""
    name = plain(article.id) if article.id else "article"
    lines = [f"{name}  ({article.characters:,} characters; {article.model})", ""]
    if article.characters_read < article.characters:
        lines[1:1] = [f"only {article.characters_read:,} of {article.characters:,} characters were read"]
    lines += [*_topics(article), "", *_entities(article)]
    return "\n".join(lines)


def plain(text: str) -> str:
    """Put a text on one line, without what could move the cursor or turn the line round."""
    visible = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    return " ".join(visible.translate(_BIDI_CONTROLS).split())


def shorten(text: str, n_characters: int) -> str:
    """Cut a text at a space so that it has at most so many characters, the mark of the cut included."""
    if len(text) <= n_characters:
        return text
    cut = text[: max(n_characters - 1, 0)]
    # A word of its own that is longer than all there is room for is cut inside.
    return (cut.rsplit(" ", 1)[0] if " " in cut else cut) + "…"


def _topics(article: TaggedArticle) -> list[str]:
    lines = ["Topics" if article.topics else "Topics: none"]
    for topic in article.topics:
        lines.append(f"  {topic.label}  {topic.score:.2f}")
        for index in topic.segments:
            segment = article.segments[index]
            evidence = shorten(plain(article.text[segment.start : segment.end]), _EVIDENCE_CHARACTERS)
            lines.append(f"    [{index}] {evidence}")
    if article.uncertain:
        uncertain = ", ".join(f"{label} {article.topic_scores[label]:.2f}" for label in article.uncertain)
        lines.append(f"Uncertain  {uncertain}")
    return lines


def _entities(article: TaggedArticle) -> list[str]:
    by_label: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for entity in article.entities:
        by_label[entity.label][plain(entity.text)].append(entity.score)
    lines = ["Entities" if by_label else "Entities: none"]
    for label, names in by_label.items():
        lines.append(f"  {label}")
        for name, scores in names.items():
            count = f"{len(scores)}x" if len(scores) > 1 else ""
            lines.append(f"    {max(scores):.2f} {count:>3} {name}")
    return lines
