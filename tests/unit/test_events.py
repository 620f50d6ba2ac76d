"""The stream of events."""

from __future__ import annotations

import pytest

from scheduler_service.events import CATALOGUE, Event, Events, Outage


class StillClock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def events(told: list[Event]) -> Events:
    stream = Events()
    stream.subscribe(told.append)
    return stream


def test_a_bound_view_adds_its_fields_to_the_same_stream(events: Events, told: list[Event]) -> None:
    events.bind(instance="a").bind(other=1).emit("leader_observed", leader="b", term=3)
    assert told[0].fields == {"instance": "a", "other": 1, "leader": "b", "term": 3}


def test_whoever_subscribes_to_a_view_hears_the_whole_stream(events: Events, told: list[Event]) -> None:
    events.bind(instance="a").subscribe(told.append)
    events.emit("leader_observed", leader="b", term=3)
    assert len(told) == 2


def test_an_unknown_event_is_a_mistake(events: Events) -> None:
    with pytest.raises(KeyError):
        events.emit("leader_elect", term=1)


def test_a_wrong_field_is_a_mistake(events: Events) -> None:
    with pytest.raises(ValueError, match="no field trem"):
        events.emit("leader_observed", leader="b", term=3, trem=3)
    with pytest.raises(ValueError, match="needs term"):
        events.emit("leader_observed", leader="b")


@pytest.mark.parametrize("name", CATALOGUE)
def test_names_say_what_happened_in_lower_case(name: str) -> None:
    assert name == name.lower()
    assert " " not in name


def test_an_outage_is_told_when_it_begins_each_minute_and_when_it_ends(events: Events, told: list[Event]) -> None:
    clock = StillClock()
    outage = Outage(events, "part", clock)
    outage.over()
    for second in range(125):
        clock.now = float(second)
        outage.failed(RuntimeError("no"))
    outage.over()
    assert [(event.name, event.fields.get("count")) for event in told] == [
        ("store_unavailable", None),
        ("store_unavailable", 61),
        ("store_unavailable", 121),
        ("store_recovered", None),
    ]
    assert told[-1].fields["outage_seconds"] == 124.0


def test_an_outage_that_comes_and_goes_is_told_three_times_and_then_once_a_minute(
    events: Events, told: list[Event]
) -> None:
    clock = StillClock()
    outage = Outage(events, "part", clock)
    for second in range(130):
        clock.now = float(second)
        outage.failed(RuntimeError("no room"))
        outage.over()
    pair = ("store_unavailable", "store_recovered")
    assert tuple(event.name for event in told) == pair * 5
    assert [event.fields.get("count") for event in told[::2]] == [None, None, None, 63, 123]


def test_one_of_them_that_lasts_is_told_though_it_is_the_fourth_within_a_minute(
    events: Events, told: list[Event]
) -> None:
    clock = StillClock()
    outage = Outage(events, "part", clock)
    for _ in range(3):
        outage.failed(RuntimeError("no"))
        outage.over()
    del told[:]
    for second in range(8):
        clock.now = float(second)
        outage.failed(RuntimeError("no"))
    outage.over()
    assert [(event.name, event.fields.get("count")) for event in told] == [
        ("store_unavailable", 9),
        ("store_recovered", None),
    ]
    assert told[-1].fields["outage_seconds"] == 7.0


def test_after_a_minute_without_one_an_outage_is_as_new_as_the_first(events: Events, told: list[Event]) -> None:
    clock = StillClock()
    outage = Outage(events, "part", clock)
    for _ in range(5):
        outage.failed(RuntimeError("no"))
        outage.over()
    del told[:]
    clock.now += 60
    outage.failed(RuntimeError("no"))
    assert [(event.name, event.fields.get("count")) for event in told] == [("store_unavailable", None)]
