"""The two-tower model: training, export, and the files that the vector channel serves."""

from __future__ import annotations

from offline.recall.two_tower.config import TwoTowerConfig
from offline.recall.two_tower.side_data import ItemSideData
from offline.recall.two_tower.training import index_items, train

__all__ = ["ItemSideData", "TwoTowerConfig", "index_items", "train"]
