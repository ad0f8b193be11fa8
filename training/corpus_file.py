"""Reads the YAML that lists a corpus's sources: what its labels mean and what they leave unannotated.

Turns the file into SourceSpecs, or into the list of all that is wrong with it. Opens no source.

    sources:
      - path: gold/train.jsonl
      - path: gold/dev.jsonl
        split: dev
      - path: news.bio
        entities: {PERS: PERSON, ORG: [ORGANIZATION, MILITARY]}
        unannotated: [DATE]
        ignore: [MISC]
        proclitics: false
        weight: 0.5
        licence: CC BY 4.0
      - path: reports.jsonl
        topics: {bombing: attack, ambush: attack}
        unannotated_topics: [statement]
        ignore_topics: [weather]
"""

from pathlib import Path

import yaml

from khabar.models.article_reader import read_bytes
from khabar.models.errors import CorpusError, Problem
from khabar.models.messages import nearest, show
from khabar.training.source_spec import SourceChecker, SourceSpec


def read_corpus_file(path: str | Path) -> list[SourceSpec]:
    """Read a YAML of sources; their paths are relative to the YAML's folder.

    Raises:
        CorpusError: If the YAML is malformed, or a key or value is not allowed; lists every such place.
        KhabarError: If the file cannot be read.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _error(path, None, f"not UTF-8: byte 0x{error.object[error.start]:02x}") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_double_keys(root)
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # the latter for what looks like a date and is none
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        raise _error(path, mark.line + 1 if mark else None, f"not YAML: {reason}") from None
    if not isinstance(document, dict):
        raise _error(path, None, "a corpus file is a mapping with the key `sources`")
    problems = [
        Problem(file=str(path), message=f"{show(key)} is not a known key{nearest(str(key), ['sources'])}")
        for key in document
        if key != "sources"
    ]
    sources = document.get("sources")
    if not isinstance(sources, list) or not sources:
        message = f"sources is {show(sources)}; allowed: a list of one or more sources"
        raise CorpusError([*problems, Problem(file=str(path), message=message)])
    specs: list[SourceSpec] = []
    for i, (source, line) in enumerate(zip(sources, _source_lines(root, len(sources)), strict=True)):
        checker = SourceChecker(f"sources[{i}]")
        spec = checker.check(source, Path(path), line)
        problems += [Problem(file=str(path), line=line, message=message) for message in checker.messages]
        if spec is not None:
            specs.append(spec)
    if problems:
        raise CorpusError(problems)
    return specs


def _refuse_double_keys(root: yaml.Node) -> None:
    """Raise for two equal keys in one mapping: PyYAML lets the last one win."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))  # an alias is the same node again, and may even lead round in a circle
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):  # safe_load refuses others
                if key.value in keys:
                    problem = f"key {show(key.value)} stands twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                keys.add(key.value)
            waiting.append(value)


def _source_lines(root: yaml.Node, n_sources: int) -> list[int | None]:
    """Give the line at which each source begins; None when they come by way of a merge key."""
    for key, value in root.value:
        if key.value == "sources":
            return [item.start_mark.line + 1 for item in value.value]
    return [None] * n_sources


def _error(path: str | Path, line: int | None, message: str) -> CorpusError:
    return CorpusError([Problem(file=str(path), line=line, message=message)])
