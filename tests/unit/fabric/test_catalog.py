"""What becomes of a belief as time passes, which way leads to a node, and how much is known."""

from __future__ import annotations

from mpreg.fabric import AWAY_TTLS, HOPS_MAX, NODES_MAX, Catalog, Outcome
from tests.unit.fabric.stories import OWN, PEERS, announcement, belief


def test_a_node_is_alive_then_away_then_forgotten() -> None:
    catalog = Catalog(OWN)
    catalog.learn(belief(announcement(queues=("jobs",)), hops=2), 0.0)
    assert len(catalog.alive(9.9)) == 1
    assert catalog.alive(10.0) == []
    assert catalog.forget(10.0) == []
    assert catalog.holder("jobs", 10.0) is not None
    end = 10.0 + AWAY_TTLS * 10.0
    assert catalog.holder("jobs", end) is None
    assert catalog.forget(end) == ["n1"]
    assert len(catalog) == 0
    assert catalog.holder("jobs", 0.0) is None


def test_what_a_peer_has_is_not_forgotten_as_long_as_the_peer_is_that_node() -> None:
    said = belief(announcement(queues=("jobs",)))
    of_before = belief(announcement("n2", queues=("mails",)), 5.0)
    heard, recalled = Catalog(OWN), Catalog(OWN)
    heard.learn(said, 0.0)
    recalled.recall(said)
    # Of two that were one peer, one after the other, it is the later one.
    recalled.recall(of_before)
    for catalog in (heard, recalled):
        assert catalog.forget(1e9) == ([] if catalog is heard else ["n2"])
        found = catalog.holder("jobs", 1e9)
        assert found is not None
        assert found == catalog.node_of(PEERS[0])
        catalog.learn(belief(announcement("n3"), 2e9), 1e9)
        assert catalog.holder("jobs", 1e9) is None
        assert catalog.forget(1e9) == ["n1"]


def test_queues_of_several_nodes_are_known_as_long_as_they_are() -> None:
    catalog = Catalog(OWN)
    catalog.learn(belief(announcement("n1", queues=("jobs", "mails"))), 0.0)
    catalog.learn(belief(announcement("n2", queues=("jobs",)), 11.0, PEERS[1]), 0.0)
    assert catalog.shared(()) == ["jobs"]
    assert catalog.shared(["mails", "mine"]) == ["jobs", "mails"]
    assert [one.announcement.node for one in catalog.holders("jobs")] == ["n1", "n2"]
    catalog.learn(belief(announcement("n2", number=2), via=PEERS[1]), 0.0)
    assert catalog.shared(()) == []
    assert catalog.shared(["jobs"]) == ["jobs"]


def test_a_node_that_comes_back_is_news_and_one_that_goes_on_is_not() -> None:
    catalog = Catalog(OWN)
    assert catalog.learn(belief(announcement(number=1)), 0.0) is Outcome.NEWS
    assert catalog.learn(belief(announcement(number=2), 11.0), 1.0) is Outcome.KNOWN
    assert catalog.learn(belief(announcement(number=3), 22.0), 12.0) is Outcome.NEWS
    assert catalog.learn(belief(announcement(incarnation=2), 22.0), 12.0) is Outcome.NEWS


def test_what_comes_back_to_its_own_node_or_comes_too_late_is_not_learned() -> None:
    catalog = Catalog(OWN)
    assert catalog.learn(belief(announcement(OWN)), 0.0) is Outcome.OWN
    assert catalog.learn(belief(announcement(), 5.0), 5.0) is Outcome.OLD
    assert catalog.learn(belief(announcement(), hops=HOPS_MAX + 1), 0.0) is Outcome.OLD
    assert len(catalog) == 0


def test_of_two_nodes_with_a_queue_the_first_by_name_that_is_alive_has_it() -> None:
    catalog = Catalog(OWN)
    first = announcement("n2", queues=("jobs",), name="a")
    second = announcement("n1", queues=("jobs",), name="b")
    catalog.learn(belief(second, 20.0), 0.0)
    catalog.learn(belief(first, 10.0), 0.0)
    for now, expected in ((0.0, "a"), (10.0, "b"), (20.0, "a")):
        found = catalog.holder("jobs", now)
        assert found is not None
        assert found.announcement.name == expected


def test_two_nodes_of_one_name_are_two() -> None:
    catalog = Catalog(OWN)
    for node in ("n2", "n1"):
        catalog.learn(belief(announcement(node, queues=("jobs",), name="same")), 0.0)
    assert [one.announcement.node for one in catalog] == ["n1", "n2"]
    found = catalog.holder("jobs", 0.0)
    assert found is not None
    assert found.announcement.node == "n1"


def test_the_shortest_way_is_taken_and_a_longer_one_when_it_is_not_told_of_any_more() -> None:
    catalog = Catalog(OWN)
    direct, around = PEERS
    catalog.learn(belief(announcement(number=1), 10.0, direct, hops=1), 0.0)
    catalog.learn(belief(announcement(number=2), 15.0, around, hops=2), 5.0)
    found = catalog.get("n1")
    assert found is not None
    for now, via in ((5.0, direct), (10.0, around)):
        route = found.route(now)
        assert route is not None
        assert route.via == via
    assert found.route(15.0) is None
    assert found.last_route.via == around


def test_beyond_the_bound_a_node_that_is_alive_takes_the_place_of_one_that_is_away() -> None:
    catalog = Catalog(OWN)
    for number in range(NODES_MAX):
        queues = (f"q{number}",)
        said = belief(announcement(f"node-{number}", queues=queues), 10.0 + number)
        assert catalog.learn(said, 0.0) is Outcome.NEWS
    late = announcement("late")
    assert catalog.learn(belief(late, 10.0), 0.0) is Outcome.NO_ROOM
    assert catalog.learn(belief(late, 30.0), 12.0) is Outcome.NEWS
    assert len(catalog) == NODES_MAX
    assert catalog.get("node-0") is None
    assert catalog.holder("q0", 12.0) is None
    assert catalog.holder("q1", 12.0) is not None
