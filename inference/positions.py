"""Counts what an encoder reads: positions, and how many of them hold a piece.

Knows a module that is called with an `attention_mask`; knows nothing of why it is counted.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn


class Positions:
    """The positions that an encoder computes from now on. Passes may run at once.

    Args:
        encoder: Whatever is called with an `attention_mask`.

    Attributes:
        total: Positions, padding included.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self.total = 0
        # A tensor where the encoder is: to read the sum of each batch would make a GPU wait.
        self._pieces = torch.zeros((), dtype=torch.int64)
        self._adding = threading.Lock()
        self._hook = encoder.register_forward_pre_hook(self._count, with_kwargs=True)

    @property
    def pieces(self) -> int:
        """Those that hold a piece: windows' overlaps and special pieces included, padding not."""
        return int(self._pieces)

    def stop(self) -> None:
        """Count no more."""
        self._hook.remove()

    def _count(self, _encoder: nn.Module, _given: tuple[Any, ...], named: dict[str, Any]) -> None:
        mask: Tensor = named["attention_mask"]
        pieces = mask.sum()
        with self._adding:
            self.total += mask.numel()
            self._pieces = self._pieces.to(pieces.device) + pieces
