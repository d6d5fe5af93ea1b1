"""DIN + DCN-V2 + MMoE over the menu of the rank server.

Zhou et al. 2018, "Deep Interest Network": each candidate weighs the events of the history by itself.
Wang et al. 2021, "DCN V2": x ← x₀ ∘ (U V x + b) + x, crosses of any inputs, of low rank.
Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning with MMoE": three tasks mix shared experts.

The attention unit is v · gelu(Q c + K h) + (A c) · (B h) for candidate c and event h: its linear parts Q, A and K, B
are computed once per candidate and once per event, and only sums, products and one gelu per pair of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offline.ranking.rankers.network.config import NetworkConfig
from recsys.features import MISSING

TASKS = ("interact", "like", "rating")
OUTPUTS = ("base", *TASKS)
"""The network's outputs for a candidate: the fused order that it corrects, and one number per task."""
KNOTS = 12
"""Quantiles of each feature; between two of them its distribution function is interpolated linearly."""
FLOOR = 0.05
"""Smallest deviation within a request that differences are divided by."""
CLIP_STD = 4.0
"""Standard deviations at which a standardised feature is clipped."""
_AGE_HALF_LIVES = (3_600.0, 86_400.0, 7 * 86_400.0, 30 * 86_400.0, 365 * 86_400.0)
_EVENT_FEATURES = 2 + 1 + len(_AGE_HALF_LIVES)
_MASKED = -1e9


@dataclass(frozen=True, slots=True)
class Scales:
    """What is known of the distribution of inputs before training: how features and values are made comparable."""

    mean: NDArray[np.float32]
    """float32[F]: of the values that are not `MISSING`."""
    spread: NDArray[np.float32]
    """float32[F]: standard deviation, 1 where there is none."""
    knots: NDArray[np.float32]
    """float32[F, KNOTS]: ascending quantiles."""
    values: tuple[float, float]
    """Mean and standard deviation of ratings."""

    @classmethod
    def of(cls, features: NDArray[np.float32], values: NDArray[np.float32]) -> Scales:
        """From features float32[n, F], and from the ratings of events, NaN where there is none."""
        known = np.where(features == np.float32(MISSING), np.nan, features)
        counted = np.isfinite(known).sum(axis=0)
        mean = np.nansum(known, axis=0) / np.maximum(counted, 1)
        spread = np.sqrt(np.nansum((known - mean) ** 2, axis=0) / np.maximum(counted, 1))
        knots = np.quantile(features, np.linspace(0, 1, KNOTS), axis=0).T
        rated = values[np.isfinite(values)]
        of_values = (float(rated.mean()), float(rated.std()) or 1.0) if len(rated) else (0.0, 1.0)
        return cls(
            mean.astype(np.float32), np.where(spread > 1e-6, spread, 1.0).astype(np.float32), knots.astype(np.float32),
            of_values,
        )  # fmt: skip


class FeatureScaling(nn.Module):
    """Features as [n, 3 F], all within ±`CLIP_STD`: against the other candidates of the request, standardised and by
    their distribution function; then the request's mean, which for a feature of the user is the feature.

    Candidates only compete within a request, and counts and ranks drift from one cut-off to the next: what is relative
    to the request does not.
    """

    def __init__(self, scales: Scales) -> None:
        super().__init__()
        widths = np.diff(scales.knots, axis=1)
        slope = np.where(widths > 1e-6, 1.0 / np.maximum(widths, 1e-6), 0.0)
        self.mean: Tensor
        self.spread: Tensor
        self.lower: Tensor
        self.slope: Tensor
        self.register_buffer("mean", torch.from_numpy(scales.mean))
        self.register_buffer("spread", torch.from_numpy(scales.spread))
        self.register_buffer("lower", torch.from_numpy(np.ascontiguousarray(scales.knots[:, :-1])))
        self.register_buffer("slope", torch.from_numpy(slope.astype(np.float32)))

    def forward(self, features: Tensor, member: Tensor, query_index: Tensor) -> Tensor:
        """`member` [q, n] is the share of each candidate in its request's mean."""
        # Standardised and clipped, 0 where missing; then the piecewise linear distribution function, from -1 to 1.
        missing = (features == MISSING).to(features.dtype)
        standard = ((features - self.mean) / self.spread).clamp(-CLIP_STD, CLIP_STD) * (1 - missing)
        steps = ((features.unsqueeze(2) - self.lower) * self.slope).clamp(0.0, 1.0)
        both = torch.cat([standard, steps.sum(dim=2) * (2.0 / (KNOTS - 1)) - 1.0], dim=1)
        # Against the other candidates of the request: less their mean, divided by their standard deviation.
        means = member @ both
        centred = both - means[query_index]
        deviations = (member @ (centred * centred)).clamp(min=FLOOR**2).sqrt()
        relative = (centred / deviations[query_index]).clamp(-CLIP_STD, CLIP_STD)
        return torch.cat([relative, means[query_index, : features.shape[1]]], dim=1)


class HistoryEncoder(nn.Module):
    """Events as vectors [q, L, d]: the item's, moved by the rating and by how long ago it was."""

    def __init__(self, config: NetworkConfig, values: tuple[float, float]) -> None:
        super().__init__()
        self.limit = config.history_limit
        self.mean, self.deviation = values
        self.event = nn.Linear(_EVENT_FEATURES, config.embedding_size)

    def latest(self, mask: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        """Mask and parts [q, limit] of the last `limit` events, oldest first; the menu has them left-aligned."""
        lengths = mask.sum(dim=1, keepdim=True)
        position = (
            torch.arange(self.limit, device=mask.device).unsqueeze(0) + (lengths - self.limit).clamp(min=0).long()
        )
        present = (position < lengths).to(mask.dtype)
        position = torch.minimum(position, (mask.shape[1] - 1) * torch.ones_like(position))
        return present, *(part.gather(1, position) for part in parts)

    def forward(self, items: Tensor, values: Tensor, ages: Tensor) -> Tensor:
        """`items` are the vectors [q, L, d] of the events' items; values NaN where there is none."""
        # Per event: standardised rating, whether there is one, and its age on a logarithmic and on decaying scales.
        valued = torch.isnan(values).logical_not()
        standard = (torch.where(valued, values, torch.full_like(values, self.mean)) - self.mean) / self.deviation
        columns = [
            standard.clamp(-CLIP_STD, CLIP_STD),
            valued.to(ages.dtype),
            torch.log1p(ages / _AGE_HALF_LIVES[0]) / 10.0,
        ]
        columns += [torch.exp(ages * (-math.log(2.0) / half_life)) for half_life in _AGE_HALF_LIVES]
        moved: Tensor = items + self.event(torch.stack(columns, dim=2))
        return moved


class Attention(nn.Module):
    """DIN's local activation unit; its weights are made to sum to 1, 0 where there is no event."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d, h = config.embedding_size, config.attention_size
        self.candidate, self.event = nn.Linear(d, 2 * h), nn.Linear(d, 2 * h)
        self.unit = nn.Linear(h, 1, bias=False)
        self.size = h

    def forward(self, items: Tensor, events: Tensor, present: Tensor, query_index: Tensor) -> Tensor:
        """[n, d]: what candidates `items` [n, d] find in `events` [q, L, d] of their query."""
        # logits = v · gelu(Q c + K h) + (A c) · (B h) / sqrt(size), softmax over the events that are there.
        of_items, of_events = self.candidate(items), self.event(events)
        keys, products = of_events[:, :, : self.size], of_events[:, :, self.size :]
        hidden = nn.functional.gelu(of_items[:, : self.size].unsqueeze(1) + keys[query_index])
        similar = products[query_index] @ of_items[:, self.size :].unsqueeze(2)
        logits = (self.unit(hidden) + similar / math.sqrt(self.size)).squeeze(2)
        there = present[query_index]
        weights = torch.softmax(logits + (1 - there) * _MASKED, dim=1) * there
        return (weights.unsqueeze(1) @ events[query_index]).squeeze(1)


class Crosses(nn.Module):
    """DCN-V2's cross layers, of low rank."""

    def __init__(self, width: int, config: NetworkConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, config.cross_rank, bias=False), nn.Linear(config.cross_rank, width))
            for _ in range(config.cross_layers)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, width]."""
        crossed = inputs
        for layer in self.layers:
            crossed = inputs * layer(crossed) + crossed
        return crossed


class Experts(nn.Module):
    """MMoE: a gate per task mixes the experts, a tower per task gives one number. One expert: one task, no gates."""

    def __init__(self, width: int, config: NetworkConfig) -> None:
        super().__init__()
        self.tasks = len(TASKS) if config.experts > 1 else 1
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, config.hidden), nn.GELU())
            for _ in range(config.experts)
        )
        self.gates = nn.ModuleList(nn.Linear(width, config.experts) for _ in range(self.tasks))
        self.towers = nn.ModuleList(nn.Linear(config.hidden, 1) for _ in range(self.tasks))
        for parameter in self.towers.parameters():
            nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, len(TASKS)]; tasks that are not learned give 0."""
        found = torch.stack([expert(inputs) for expert in self.experts], dim=1)
        outputs = [
            tower((torch.softmax(gate(inputs), dim=1).unsqueeze(1) @ found).squeeze(1))
            for gate, tower in zip(self.gates, self.towers, strict=True)
        ]
        outputs += [torch.zeros_like(outputs[0])] * (len(TASKS) - self.tasks)
        return torch.cat(outputs, dim=1)


class RankingNetwork(nn.Module):
    """All of it: from the menu's inputs to one number per task."""

    def __init__(self, n_items: int, scales: Scales, config: NetworkConfig, *, fused_column: int) -> None:
        super().__init__()
        d, n_features = config.embedding_size, len(scales.mean)
        self.fused_column = fused_column
        self.items = nn.Embedding(n_items, d)
        self.scaling = FeatureScaling(scales)
        self.histories = HistoryEncoder(config, scales.values)
        self.attention = Attention(config) if config.attention else None
        width = 3 * n_features + 3 * d
        self.crosses = Crosses(width, config) if config.crosses else None
        self.deep = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(width, config.hidden), nn.GELU(),
            nn.Linear(config.hidden, config.hidden), nn.GELU(),
        )  # fmt: skip
        self.experts = Experts(config.hidden + (width if config.crosses else 0), config)
        self.fused_weight = config.fused_weight
        nn.init.zeros_(self.items.weight)

    def forward(self, *menu: Tensor, shown: Tensor | None = None) -> Tensor:
        """[n, len(OUTPUTS)]: the base; the correction of it that gives the logit of interacting within the request; the
        logit of a like; the standardised rating.

        `menu` is the rank server's, the mask as numbers. With `shown` only the candidates at these positions
        have outputs, which training draws; the others still count in what they are compared with.
        """
        features, item_row, query_index, *history = menu
        rows, values, ages, mask = history
        # Scaling compares all candidates of a request, so it comes before `shown` selects some.
        scaled = self._scaled(features, query_index, mask.shape[0])
        if shown is not None:
            features, item_row, query_index, scaled = (
                part[shown] for part in (features, item_row, query_index, scaled)
            )
        # DIN: what each candidate finds in the history; without attention the mean of the history.
        present, rows, values, ages = self.histories.latest(mask, rows, values, ages)
        events = self.histories(self.items(rows), values, ages)
        items = self.items(item_row)
        if self.attention is not None:
            interest = self.attention(items, events, present, query_index)
        else:
            total = (events * present.unsqueeze(2)).sum(dim=1)
            interest = (total / present.sum(dim=1, keepdim=True).clamp(min=1.0))[query_index]
        # Deep layers and DCN-V2 read the same inputs, MMoE reads both; the base is added outside of what is learned.
        inputs = torch.cat([scaled, items, interest, items * interest], dim=1)
        found = self.deep(inputs)
        if self.crosses is not None:
            found = torch.cat([self.crosses(inputs), found], dim=1)
        outputs = self.experts(found)
        base = self.fused_weight * features[:, self.fused_column : self.fused_column + 1]
        return torch.cat([base, outputs], dim=1)

    def _scaled(self, features: Tensor, query_index: Tensor, q: int) -> Tensor:
        queries = torch.arange(q, device=features.device).unsqueeze(1)
        member = (query_index.unsqueeze(0) == queries).to(features.dtype)
        member = member / member.sum(dim=1, keepdim=True).clamp(min=1.0)
        scaled: Tensor = self.scaling(features, member, query_index)
        return scaled
