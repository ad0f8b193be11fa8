"""The CRF against brute force: every quantity summed or maximised over all tag paths."""

import itertools
import math

import pytest
import torch

from khabar.models import tags
from khabar.models.crf import LinearChainCRF

N_LABELS = 2
LENGTHS = [4, 1, 3, 2]


def random_crf(seed=0):
    torch.manual_seed(seed)
    crf = LinearChainCRF(N_LABELS)
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    return crf.requires_grad_(False)


def random_batch(seed=0):
    torch.manual_seed(seed)
    emissions = torch.randn(len(LENGTHS), max(LENGTHS), tags.n_tags(N_LABELS))
    mask = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]
    return emissions, mask


def legal_paths(length):
    starts, moves = tags.legal_starts(N_LABELS), tags.legal_transitions(N_LABELS)
    for path in itertools.product(range(tags.n_tags(N_LABELS)), repeat=length):
        if starts[path[0]] and all(moves[a, b] for a, b in itertools.pairwise(path)):
            yield path


def path_score(crf, emissions, path):
    score = crf.start[path[0]] + crf.end[path[-1]]
    score = score + sum(emissions[position, tag] for position, tag in enumerate(path))
    return float(score + sum(crf.transition[a, b] for a, b in itertools.pairwise(path)))


def log_sum(scores):
    top = max(scores)
    return top + math.log(sum(math.exp(score - top) for score in scores))


@pytest.mark.parametrize("seed", range(3))
def test_loss_equals_brute_force_over_allowed_paths(seed):
    crf = random_crf(seed)
    emissions, mask = random_batch(seed)
    allowed = torch.rand(emissions.shape) < 0.6
    allowed[..., tags.OUTSIDE] = True
    losses = crf.loss(emissions, mask, allowed)
    for row, length in enumerate(LENGTHS):
        scores = {path: path_score(crf, emissions[row], path) for path in legal_paths(length)}
        inside = [s for path, s in scores.items() if all(allowed[row, i, tag] for i, tag in enumerate(path))]
        assert float(losses[row]) == pytest.approx(log_sum(scores.values()) - log_sum(inside), abs=1e-4)


def test_everything_allowed_costs_nothing_and_teaches_nothing():
    crf = random_crf()
    emissions, mask = random_batch()
    emissions.requires_grad_()
    loss = crf.loss(emissions, mask, torch.ones_like(emissions, dtype=torch.bool)).sum()
    loss.backward()
    assert float(loss) == 0.0
    assert float(emissions.grad.abs().max()) < 1e-6


def test_one_allowed_path_is_the_usual_negative_log_likelihood():
    crf = random_crf()
    emissions, mask = random_batch()
    gold = [[1, 2, 0, 3], [3, 0, 0, 0], [0, 1, 2, 0], [1, 1, 0, 0]]
    allowed = torch.nn.functional.one_hot(torch.tensor(gold), tags.n_tags(N_LABELS)).bool()
    losses = crf.loss(emissions, mask, allowed)
    for row, length in enumerate(LENGTHS):
        everything = log_sum([path_score(crf, emissions[row], path) for path in legal_paths(length)])
        expected = everything - path_score(crf, emissions[row], gold[row][:length])
        assert float(losses[row]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_viterbi_finds_the_best_path(seed):
    crf = random_crf(seed)
    emissions, mask = random_batch(seed)
    paths = crf.viterbi(emissions, mask)
    for row, length in enumerate(LENGTHS):
        best = max(legal_paths(length), key=lambda path: path_score(crf, emissions[row], path))
        assert tuple(paths[row, :length].tolist()) == best
        assert not paths[row, length:].any()


@pytest.mark.parametrize("seed", range(3))
def test_marginals_equal_brute_force(seed):
    crf = random_crf(seed)
    emissions, mask = random_batch(seed)
    marginals = crf.marginals(emissions, mask)
    for row, length in enumerate(LENGTHS):
        scores = {path: path_score(crf, emissions[row], path) for path in legal_paths(length)}
        everything = log_sum(scores.values())
        expected = torch.zeros(length, tags.n_tags(N_LABELS))
        for path, score in scores.items():
            for position, tag in enumerate(path):
                expected[position, tag] += math.exp(score - everything)
        torch.testing.assert_close(marginals[row, :length], expected, atol=1e-5, rtol=0)
        assert not marginals[row, length:].any()


@pytest.mark.parametrize("seed", range(4))
def test_an_entitys_probability_is_that_of_all_paths_that_hold_exactly_it(seed):
    crf = random_crf(seed)
    emissions, mask = random_batch(seed)
    paths = torch.tensor([[1, 2, 2, 1], [3, 0, 0, 0], [0, 3, 4, 0], [1, 3, 0, 0]])
    spans = tags.spans_from_paths(paths)
    probabilities = crf.entity_probabilities(emissions, mask, spans)
    assert len(spans) == len(probabilities) == 6
    for (row, *span), probability in zip(spans.tolist(), probabilities.tolist(), strict=True):
        scores = {path: path_score(crf, emissions[row], path) for path in legal_paths(LENGTHS[row])}
        holding = [score for path, score in scores.items() if span in spans_of(path)]
        expected = math.exp(log_sum(holding) - log_sum(scores.values()))
        assert probability == pytest.approx(expected, abs=1e-5)


def spans_of(path):
    return [span for _, *span in tags.spans_from_paths(torch.tensor([path])).tolist()]


def test_padding_changes_nothing():
    crf = random_crf()
    emissions, mask = random_batch()
    allowed = torch.ones_like(emissions, dtype=torch.bool)
    allowed[..., 1] = False
    whole = crf.loss(emissions, mask, allowed), crf.viterbi(emissions, mask), crf.marginals(emissions, mask)
    for row, length in enumerate(LENGTHS):
        one = emissions[row : row + 1, :length], mask[row : row + 1, :length]
        torch.testing.assert_close(crf.loss(*one, allowed[row : row + 1, :length])[0], whole[0][row])
        assert torch.equal(crf.viterbi(*one)[0], whole[1][row, :length])
        torch.testing.assert_close(crf.marginals(*one)[0], whole[2][row, :length])


def test_a_sequence_without_words_costs_nothing():
    crf = random_crf()
    emissions = torch.randn(1, 1, tags.n_tags(N_LABELS))
    mask = torch.zeros(1, 1, dtype=torch.bool)
    allowed = torch.ones_like(emissions, dtype=torch.bool)
    assert float(crf.loss(emissions, mask, allowed)) == 0.0
    assert crf.viterbi(emissions, mask).tolist() == [[0]]
    assert crf.entity_probabilities(emissions, mask, torch.zeros(0, 4, dtype=torch.long)).shape == (0,)


def test_long_sequences_stay_finite():
    crf = random_crf()
    emissions = 20 * torch.randn(2, 500, tags.n_tags(N_LABELS))
    mask = torch.ones(2, 500, dtype=torch.bool)
    spans = tags.spans_from_paths(crf.viterbi(emissions, mask))
    probabilities = crf.entity_probabilities(emissions, mask, spans)
    assert len(spans)
    assert torch.isfinite(probabilities).all()
    assert float(probabilities.max()) <= 1.0
    torch.testing.assert_close(crf.marginals(emissions, mask).sum(-1), torch.ones(2, 500))


def test_sequences_without_words_have_no_tags():
    crf, mask = LinearChainCRF(2), torch.zeros(3, 4, dtype=torch.bool)
    assert crf.viterbi(torch.randn(3, 4, 5), mask).eq(0).all()
    assert crf.marginals(torch.randn(3, 4, 5), mask).eq(0).all()
    assert crf.viterbi(torch.randn(3, 0, 5), mask[:, :0]).shape == (3, 0)
