import threading

import torch
from torch import nn

from khabar.inference.service.metrics import _Pieces


class Encoder(nn.Module):
    def forward(self, attention_mask):
        return attention_mask


def test_batches_that_run_at_once_lose_no_pieces():
    encoder, mask = Encoder(), torch.ones(2, 8, dtype=torch.int64)
    pieces = _Pieces(encoder)
    threads = [threading.Thread(target=lambda: [encoder(attention_mask=mask) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (family,) = pieces.collect()
    assert family.samples[0].value == 8 * 500 * 16
