import pytest
import torch

from khabar.models import tags


def test_names_follow_the_indices():
    assert tags.tag_names(["PERSON", "DATE"]) == ["O", "B-PERSON", "I-PERSON", "B-DATE", "I-DATE"]
    assert tags.n_tags(2) == 5
    assert [tags.tag_label(tag) for tag in range(1, 5)] == [0, 0, 1, 1]
    assert [tags.is_begin(tag) for tag in range(1, 5)] == [True, False, True, False]
    assert (tags.begin_tag(1), tags.inside_tag(1)) == (3, 4)


def test_inside_only_follows_its_own_label():
    names = tags.tag_names(["A", "B"])
    legal = tags.legal_transitions(2)
    illegal = {(names[previous], names[following]) for previous, following in torch.nonzero(~legal).tolist()}
    assert illegal == {
        ("O", "I-A"),
        ("O", "I-B"),
        ("B-A", "I-B"),
        ("I-A", "I-B"),
        ("B-B", "I-A"),
        ("I-B", "I-A"),
    }
    assert tags.legal_starts(2).tolist() == [True, True, False, True, False]


@pytest.mark.parametrize(
    ("path", "spans"),
    [
        ([], []),
        ([0, 0], []),
        ([1, 2, 2, 0], [(0, 3, 0)]),
        ([1, 1, 2], [(0, 1, 0), (1, 3, 0)]),
        ([0, 3, 1, 2], [(1, 2, 1), (2, 4, 0)]),
    ],
)
def test_spans_are_read_off_a_path(path, spans):
    assert tags.spans_from_tags(path) == spans


@pytest.mark.parametrize("path", [[2], [0, 4], [1, 4], [1, 0, 2]])
def test_an_inside_tag_that_continues_nothing_is_refused(path):
    with pytest.raises(ValueError, match="continues no entity"):
        tags.spans_from_tags(path)
