"""The sequence towers: causal self-attention over the history predicts the next item.

An item vector is [latent (d), bias (1)]; a user vector is [latent (d), 1]. The state after each event is a user vector
of that moment, so that one pass over a history trains as many requests as it has events. An event carries the time
until the next one, or until the request: the tower knows the time of the request, and no event sees a later item.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from offline.recall.two_tower.config import TwoTowerConfig
from offline.recall.two_tower.model import Content, Histories
from offline.recall.two_tower.side_data import ItemSideData, SideTower
from recsys.errors import CannotStart

_GAP_HALF_LIVES = (10.0, 60.0, 600.0, 3_600.0, 86_400.0, 7 * 86_400.0, 30 * 86_400.0, 365 * 86_400.0)
_EVENT_FEATURES = 3 + 1 + len(_GAP_HALF_LIVES)
CLIP_STD = 5.0
"""Standardised ratings are clipped to this many standard deviations."""
INIT_STD = 0.02
"""Standard deviation of untrained embeddings."""
_INPUT_LENGTH = 4.0
"""Item vectors are scaled to this length before the event features are added to them."""
_SPAN = 50.0
"""Attention weights are divided by this many events; layer normalisation evens out other lengths."""


class SequenceItemTower(nn.Module):
    """Item vectors from id, genres, year, people and text."""

    def __init__(self, content: Content, side: ItemSideData, config: TwoTowerConfig) -> None:
        super().__init__()
        n_items, n_columns = content.matrix.shape
        size = config.sequence.size
        self.id_embedding = nn.Embedding(n_items, size)
        self.id_bias = nn.Embedding(n_items, 1)
        self.content_projection = nn.Linear(n_columns, size, bias=False)
        self.side = SideTower(side, size)
        self.id_dropout = config.sequence.id_dropout
        self.content: Tensor
        self.register_buffer("content", torch.from_numpy(content.matrix), persistent=False)
        nn.init.normal_(self.id_embedding.weight, std=INIT_STD)
        nn.init.normal_(self.content_projection.weight, std=INIT_STD)
        nn.init.zeros_(self.id_bias.weight)

    def forward(self, known: Tensor | None = None) -> Tensor:
        """[items, d + 1]: latent vectors of length 1 and biases of all items.

        Items that are not `known` (bool[items]) go without their id, which is untrained where an item has no events. In
        training some others do too (id dropout), so that the content features learn to place an item.
        """
        embedding, bias = self.id_embedding.weight, self.id_bias.weight
        if known is None and self.training and self.id_dropout:
            known = torch.rand(len(embedding), device=embedding.device) >= self.id_dropout
        if known is not None:
            embedding, bias = embedding * known[:, None], bias * known[:, None]
        latent = functional.normalize(self.side(embedding + self.content_projection(self.content)), dim=1)
        return torch.cat([latent, bias], dim=1)


class AttentionBlock(nn.Module):
    """Pointwise gated self-attention without softmax (Zhai et al. 2024, "Actions Speak Louder than Words", HSTU)."""

    def __init__(self, size: int, heads: int, *, limit: int, dropout: float) -> None:
        super().__init__()
        if size % heads:
            raise CannotStart(
                f"two_tower.sequence.heads {heads} does not divide two_tower.sequence.size {size}; choose one that does"
            )
        self.heads = heads
        self.before = nn.LayerNorm(size)
        self.project = nn.Linear(size, 4 * size)
        self.distance = nn.Parameter(torch.zeros(heads, limit))
        self.within = nn.LayerNorm(size)
        self.out = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, distances: Tensor, visible: Tensor) -> Tensor:
        """New states [q, L, d]; `distances` [L, L] in events, `visible` [q, 1, L, L] of 1 and 0."""
        queries, length, size = states.shape
        projected = functional.silu(self.project(self.before(states)))
        query, key, value, gate = torch.split(projected, size, dim=-1)
        query, key, value = (
            part.view(queries, length, self.heads, size // self.heads).transpose(1, 2) for part in (query, key, value)
        )
        weights = query @ key.transpose(2, 3) / math.sqrt(size // self.heads) + self.distance[:, distances]
        mixed = (functional.silu(weights) * visible) @ value
        mixed = mixed.transpose(1, 2).reshape(queries, length, size)
        added: Tensor = self.dropout(self.out(self.within(mixed) * gate))
        return states + added


class SequenceUserTower(nn.Module):
    """User vectors from the history, read in order."""

    def __init__(self, config: TwoTowerConfig, *, mean: float, deviation: float) -> None:
        super().__init__()
        sequence = config.sequence
        size = sequence.size
        self.value_scale: Tensor
        self.register_buffer("value_scale", torch.tensor([mean, deviation]))
        self.cold = nn.Parameter(torch.empty(size))
        self.event = nn.Linear(_EVENT_FEATURES, size)
        self.begin = nn.Dropout(sequence.dropout)
        self.blocks = nn.ModuleList(
            AttentionBlock(size, sequence.heads, limit=config.history_limit, dropout=sequence.dropout)
            for _ in range(sequence.blocks)
        )
        self.end = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, size))
        self.temperature = sequence.temperature
        nn.init.normal_(self.cold, std=INIT_STD)

    def forward(self, items: Tensor, histories: Histories) -> Tensor:
        """User vectors [q, d + 1] at the request; `items` are the latent vectors [q, L, d] of the events."""
        latest = self.states(items, histories)[:, -1]
        known = (histories.weights > 0).any(dim=1, keepdim=True)
        return with_one(torch.where(known, latest, self.scaled(self.cold)))

    def states(self, items: Tensor, histories: Histories) -> Tensor:
        """[q, L, d]: the user after each event, asked when the next one happens, the last one at the request."""
        present = (histories.weights > 0).to(items.dtype)
        steps = torch.ones_like(histories.rows[0]).cumsum(0)
        distances = (steps[:, None] - steps[None, :]).clamp(min=0)
        causal = (steps[:, None] >= steps[None, :]).to(items.dtype)
        visible = causal * present[:, None, None, :] / _SPAN
        states = self.begin(items * _INPUT_LENGTH + self.event(self._event_features(histories)))
        for block in self.blocks:
            states = block(states, distances, visible)
        return self.scaled(self.end(states))

    def scaled(self, states: Tensor) -> Tensor:
        """Of one length, so that a score is a cosine over the temperature, plus the item's bias."""
        return functional.normalize(states, dim=-1) / self.temperature

    def _event_features(self, histories: Histories) -> Tensor:
        """[q, L, _EVENT_FEATURES]: standardised value, whether there is one, weight, and the time until the next."""
        valued = torch.isnan(histories.values).logical_not()
        values = torch.where(valued, histories.values, self.value_scale[0])
        standard = ((values - self.value_scale[0]) / self.value_scale[1]).clamp(-CLIP_STD, CLIP_STD)
        later = functional.pad(histories.ages[:, 1:], (0, 1))
        gaps = (histories.ages - later).clamp(min=0.0)
        columns = [standard, valued.to(gaps.dtype), histories.weights]
        columns += [torch.log1p(gaps) / 10.0]
        columns += [torch.exp(gaps * (-math.log(2.0) / half_life)) for half_life in _GAP_HALF_LIVES]
        return torch.stack(columns, dim=2)


class SequenceTower(nn.Module):
    """Both towers; they share the latent vectors of items."""

    def __init__(
        self,
        content: Content,
        side: ItemSideData,
        config: TwoTowerConfig,
        *,
        mean: float = 0.0,
        deviation: float = 1.0,
    ) -> None:
        super().__init__()
        self.items = SequenceItemTower(content, side, config)
        self.users = SequenceUserTower(config, mean=mean, deviation=deviation)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.items.content.device

    @property
    def latent_size(self) -> int:
        """Width of the part of an item vector that stands for it in a history."""
        return self.items.id_embedding.embedding_dim

    @torch.no_grad()
    def item_vectors(self, trend: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
        """float32[items, d + 1]; not `known` ones go without their id. `trend` is for towers that know trends."""
        del trend
        vectors = self.items(torch.from_numpy(known).to(self.device))
        return np.ascontiguousarray(vectors.cpu().numpy(), np.float32)


def with_one(latent: Tensor) -> Tensor:
    """Appends the column that an item's bias is multiplied by."""
    return torch.cat([latent, torch.ones_like(latent[..., :1])], dim=-1)
