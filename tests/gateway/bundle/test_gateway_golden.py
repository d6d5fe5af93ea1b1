"""A gateway that reads other answers from its files than were recorded refuses the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.bundle.gateway_golden import check_gateway
from gateway.bundle.served import ServedBundle
from gateway.pipeline.fallback import Fallback
from recsys.errors import BundleMismatch
from tests.gateway.toy import POPULAR, policy, write_bundle


def check(folder: Path, served: ServedBundle, fallback: Fallback) -> None:
    check_gateway(folder, catalogue=served.catalogue, texts=served.texts, histories=served.histories, fallback=fallback)


def test_what_was_recorded_is_what_is_served(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, "v1", policy=policy())
    served = ServedBundle.load(bundle, "")
    check(bundle.folder, served, served.fallback)


def test_another_order_is_refused_by_name(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, "v1", policy=policy())
    served = ServedBundle.load(bundle, "")
    reversed_list = Fallback(served.catalogue, np.asarray(POPULAR[::-1], np.int64))
    with pytest.raises(BundleMismatch, match=r"golden/gateway.json: user 4: popular_item_ids is .* expected \[3, 4, 5"):
        check(bundle.folder, served, reversed_list)
