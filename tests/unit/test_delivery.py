from __future__ import annotations

import select
import threading

import pytest

from agenthub.runtime.processes.delivery import Delivery

PATIENCE = 10.0


@pytest.fixture
def delivery():
    made = Delivery()
    yield made
    made.close()


def is_woken(delivery, seconds=PATIENCE):
    return bool(select.select([delivery], [], [], seconds)[0])


def test_calls_come_in_order_and_from_one_thread(delivery):
    seen, threads = [], set()

    def listen(kind, value):
        seen.append((kind, value))
        threads.add(threading.get_ident())

    put = delivery.through(listen)
    for number in range(1000):
        put("number", number)
    delivery.finish()
    assert seen == [("number", number) for number in range(1000)]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_nothing_is_made_where_nothing_is_said(delivery):
    before = threading.active_count()
    assert delivery.through(None) is None
    delivery.through(print)
    assert delivery.fileno() == -1
    assert not delivery.is_behind(1 << 30)
    delivery.finish()
    assert threading.active_count() == before


def test_whoever_feeds_it_is_told_when_it_is_behind_and_when_no_longer(delivery):
    gate = threading.Event()
    put = delivery.through(lambda _: gate.wait(PATIENCE))
    put(1)
    assert not delivery.is_behind(10, 100)
    assert delivery.is_behind(100, 100)
    assert not is_woken(delivery, 0)
    gate.set()
    assert is_woken(delivery)
    assert not delivery.is_behind(0, 100)
    put(2)
    delivery.finish()
    assert not delivery.is_behind(90, 100), "what was delivered does not count any more"


def test_what_a_listener_raises_is_raised_and_ends_it(delivery):
    seen = []

    def listen(value):
        seen.append(value)
        raise ZeroDivisionError

    put = delivery.through(listen)
    put(1)
    assert is_woken(delivery)
    put(2)
    with pytest.raises(ZeroDivisionError):
        delivery.finish()
    assert seen == [1]


def test_a_listener_that_does_not_come_back_is_not_waited_for_for_ever(delivery):
    gate = threading.Event()
    seen = []
    put = delivery.through(lambda value: (gate.wait(PATIENCE), seen.append(value)))
    put(1)
    put(2)
    delivery.finish(patience=0.01, hurried=True)
    delivery.close()
    gate.set()
    put(3)
    assert 2 not in seen
    assert 3 not in seen
