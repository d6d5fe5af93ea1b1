"""The pooled towers. Their inner product is the score: latent factors, item bias and popularity by half-life.

An item vector is [latent (d), bias (1), popularity (h)]; a user vector is [latent (d), 1, weight per popularity (h)].
So an index over inner products represents popularity exactly, and each user vector weighs it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offline.recall.two_tower.config import TwoTowerConfig
from recsys.catalogue import NO_YEAR, Catalogue

_DECADES = tuple(range(1890, 2050, 10))
_AGE_HALF_LIVES = (3_600.0, 86_400.0, 7 * 86_400.0, 30 * 86_400.0, 365 * 86_400.0)
_EVENT_FEATURES = 2 + 1 + len(_AGE_HALF_LIVES)
_MASKED = -1e9
INIT_STD = 0.05
"""Standard deviation of untrained item embeddings."""
CLIP_STD = 5.0
"""Standardised ratings are clipped to this many standard deviations."""


@dataclass(frozen=True, slots=True)
class Content:
    """Content features of items, next to their id: genres and decade, one column each."""

    names: tuple[str, ...]
    matrix: NDArray[np.float32]
    """float32[items, names]; a row of genres sums to 1 where there are any."""

    @classmethod
    def of(cls, catalogue: Catalogue) -> Content:
        """Describes every item of the catalogue."""
        genres = catalogue.genres.astype(np.float32)
        genres /= np.maximum(genres.sum(axis=1, keepdims=True), 1)
        decades = np.asarray(_DECADES)
        column = np.clip(np.searchsorted(decades, catalogue.years, side="right") - 1, 0, len(decades) - 1)
        column[catalogue.years == NO_YEAR] = len(decades)
        years = np.eye(len(decades) + 1, dtype=np.float32)[column]
        names = [f"genre {name}" for name in catalogue.genre_names]
        names += [f"decade {decade}" for decade in decades] + ["decade unknown"]
        return cls(tuple(names), np.concatenate([genres, years], axis=1))


@dataclass(frozen=True, slots=True)
class Histories:
    """A batch of histories, oldest first, padded at the left: four tensors [q, L]."""

    rows: Tensor
    """int64: catalogue rows; 0 where there is no event."""
    values: Tensor
    """float32: ratings, NaN where the event has none."""
    ages: Tensor
    """float32: seconds between the event and the request."""
    weights: Tensor
    """float32: weight of the event, 0 where there is none."""

    def to(self, device: torch.device) -> Histories:
        """The same on another device."""
        return Histories(*(part.to(device) for part in (self.rows, self.values, self.ages, self.weights)))


class ItemTower(nn.Module):
    """Item vectors from id, genres and year."""

    def __init__(self, content: Content, config: TwoTowerConfig) -> None:
        super().__init__()
        n_items, n_columns = content.matrix.shape
        self.id_embedding = nn.Embedding(n_items, config.pooled.embedding_size)
        self.id_bias = nn.Embedding(n_items, 1)
        self.content_projection = nn.Linear(n_columns, config.pooled.embedding_size, bias=False)
        self.content_bias = nn.Linear(n_columns, 1, bias=False)
        self.id_dropout = config.pooled.id_dropout
        self.content: Tensor
        self.register_buffer("content", torch.from_numpy(content.matrix), persistent=False)
        nn.init.normal_(self.id_embedding.weight, std=INIT_STD)
        nn.init.zeros_(self.id_bias.weight)
        nn.init.normal_(self.content_projection.weight, std=INIT_STD)
        nn.init.zeros_(self.content_bias.weight)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Latent vectors [n, d] and biases [n, 1] of `rows`; in training some items go without their id."""
        latent, bias, content = self.id_embedding(rows), self.id_bias(rows), self.content[rows]
        if self.training and self.id_dropout:
            kept = (torch.rand(len(rows), 1, device=rows.device) >= self.id_dropout).float()
            latent, bias = latent * kept, bias * kept
        return latent + self.content_projection(content), bias + self.content_bias(content)


class UserTower(nn.Module):
    """User vectors from the history: events are pooled by learned attention, one pool per head."""

    def __init__(self, config: TwoTowerConfig, *, mean: float, deviation: float) -> None:
        super().__init__()
        pooled = config.pooled
        d = pooled.embedding_size
        self.event_dropout = pooled.event_dropout
        self.value_scale: Tensor
        self.register_buffer("value_scale", torch.tensor([mean, deviation]))
        self.event = nn.Linear(_EVENT_FEATURES, d)
        self.position = nn.Embedding(config.history_limit, d)
        self.attention = nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Linear(d, pooled.heads))
        self.pooled = nn.Sequential(
            nn.Dropout(pooled.dropout),
            nn.Linear(d * pooled.heads + _EVENT_FEATURES + 2, pooled.hidden),
            nn.GELU(),
        )
        self.taste = nn.Linear(pooled.hidden, d)
        self.trend = nn.Linear(pooled.hidden, len(pooled.half_lives_days))
        nn.init.normal_(self.position.weight, std=0.02)
        nn.init.zeros_(self.trend.weight)
        nn.init.constant_(self.trend.bias, 1.0 / len(pooled.half_lives_days))

    def forward(self, items: Tensor, histories: Histories) -> Tensor:
        """User vectors [q, d + 1 + h]; `items` are the latent vectors [q, L, d] of the events."""
        features = self._event_features(histories)
        weights = self._thinned(histories.weights).unsqueeze(2)
        present = (weights > 0).to(items.dtype)
        steps = torch.ones_like(histories.rows[0])
        distance = steps.sum() - steps.cumsum(0)
        events = items + self.event(features) + self.position(distance)
        logits = self.attention(events) + torch.log(weights.clamp(min=1e-6)) + (1 - present) * _MASKED
        pooled = (torch.softmax(logits, dim=1) * present).transpose(1, 2) @ events
        hidden = self.pooled(torch.cat([pooled.flatten(1), self._summary(features, present)], dim=1))
        return torch.cat([self.taste(hidden), torch.ones_like(hidden[:, :1]), self.trend(hidden)], dim=1)

    def _thinned(self, weights: Tensor) -> Tensor:
        """The weights; in training some events are hidden."""
        if not self.training or not self.event_dropout:
            return weights
        return weights * (torch.rand_like(weights) >= self.event_dropout)

    def _event_features(self, histories: Histories) -> Tensor:
        """[q, L, _EVENT_FEATURES]: standardised value, whether there is one, log age, decays of age."""
        valued = torch.isnan(histories.values).logical_not()
        values = torch.where(valued, histories.values, self.value_scale[0])
        ages = histories.ages.clamp(min=0.0)
        standard = ((values - self.value_scale[0]) / self.value_scale[1]).clamp(-CLIP_STD, CLIP_STD)
        columns = [standard, valued.to(ages.dtype)]
        columns += [torch.log1p(ages / _AGE_HALF_LIVES[0]) / 10.0]
        columns += [torch.exp(ages * (-math.log(2.0) / half_life)) for half_life in _AGE_HALF_LIVES]
        return torch.stack(columns, dim=2)

    def _summary(self, features: Tensor, present: Tensor) -> Tensor:
        """[q, _EVENT_FEATURES + 2]: mean event features, log of the number of events, whether there are none."""
        count = present.sum(dim=1)
        mean = (features * present).sum(dim=1) / count.clamp(min=1.0)
        return torch.cat([mean, torch.log1p(count) / 5.0, (count == 0).to(mean.dtype)], dim=1)


class TwoTower(nn.Module):
    """Both towers; they share the latent vectors of items."""

    def __init__(self, content: Content, config: TwoTowerConfig, *, mean: float = 0.0, deviation: float = 1.0) -> None:
        super().__init__()
        self.items = ItemTower(content, config)
        self.users = UserTower(config, mean=mean, deviation=deviation)

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
        """float32[items, d + 1 + h] with popularity `trend` (float32[items, h]); not `known` ones go without their id.

        The id embedding of an item without events is untrained, so only genres and year place the item.
        """
        latent, bias = self.items(torch.arange(len(known), device=self.device))
        unknown = torch.from_numpy(np.flatnonzero(~known)).to(self.device)
        latent[unknown] -= self.items.id_embedding(unknown)
        bias[unknown] -= self.items.id_bias(unknown)
        return np.concatenate([latent.cpu().numpy(), bias.cpu().numpy(), trend], axis=1).astype(np.float32)
