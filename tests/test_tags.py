import pytest
import torch

from khabar.models import tags


def test_names_follow_the_indices():
    assert tags.tag_names(["PERSON", "DATE"]) == ["O", "B-PERSON", "I-PERSON", "B-DATE", "I-DATE"]
    assert tags.n_tags(2) == 5
    assert [tags.tag_label(tag) for tag in range(1, 5)] == [0, 0, 1, 1]
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


def test_spans_are_read_off_paths():
    paths = torch.tensor([[0, 0, 0, 0], [1, 2, 2, 0], [1, 1, 2, 2], [0, 3, 1, 2], [3, 4, 3, 1]])
    assert tags.spans_from_paths(paths).tolist() == [
        [1, 0, 3, 0],
        [2, 0, 1, 0],
        [2, 1, 4, 0],
        [3, 1, 2, 1],
        [3, 2, 4, 0],
        [4, 0, 2, 1],
        [4, 2, 3, 1],
        [4, 3, 4, 0],
    ]
    assert tags.spans_from_paths(torch.zeros(2, 0, dtype=torch.long)).tolist() == []


@pytest.mark.parametrize("path", [[2], [0, 4], [1, 4], [1, 0, 2]])
def test_an_inside_tag_that_continues_nothing_is_refused(path):
    with pytest.raises(ValueError, match=f"tag {path[-1]} at word {len(path) - 1} continues no entity"):
        tags.spans_from_paths(torch.tensor([[0] * len(path), path]))
