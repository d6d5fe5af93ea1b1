"""The table of peers: what is searched is also published, and what is tried fits what is searched."""

import pytest
from peers.models import PEERS


@pytest.mark.parametrize("name", sorted(PEERS))
def test_published_settings_lie_within_the_space_and_name_all_of_it(name: str) -> None:
    """Settings outside the space could be tried, but never improved on."""
    peer = PEERS[name]
    for settings in peer.published:
        assert set(peer.space) <= set(settings)
        for key, distribution in peer.space.items():
            assert distribution._contains(distribution.to_internal_repr(settings[key])), (key, settings[key])


def test_every_period_of_popularity_is_tried_once() -> None:
    peer = PEERS["popularity"]
    days = [settings["days"] for settings in peer.published]
    assert len(set(days)) == len(days) == peer.max_trials
    assert {0, 7, 30} <= set(days)


def test_sequence_peers_learn_by_epochs_and_have_a_kind() -> None:
    assert {name for name, peer in PEERS.items() if peer.epochs} == {"sasrec", "bert4rec", "hstu"}
    assert all(PEERS[name].kind == name for name in ("sasrec", "bert4rec", "hstu"))
