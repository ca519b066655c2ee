"""Signals: asked about, asked about too late, one Stop inside another."""

import signal

import pytest

from r1jax.base.stop import Stop


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT])
def number(request):
    return request.param


@pytest.fixture
def passed_on(number):
    """What reaches the handler that was there before."""
    had = []
    before = signal.signal(number, lambda *_: had.append(number))
    yield had
    signal.signal(number, before)


def test_a_signal_is_only_noted(number, passed_on):
    with pytest.raises(RuntimeError), Stop() as stop:
        assert not stop.asked()
        signal.raise_signal(number)
        assert stop.asked()
        raise RuntimeError  # as the loop does with Stopped, when it has saved
    assert passed_on == []


def test_a_signal_that_nobody_asked_about_is_passed_on(number, passed_on):
    with Stop():
        signal.raise_signal(number)
        assert passed_on == []
    assert passed_on == [number]


def test_one_inside_another(number, passed_on):
    with Stop() as outer:
        with Stop() as inner:
            signal.raise_signal(number)
            assert inner.asked() and not outer.asked()
        assert outer.asked() and passed_on == []
        with Stop() as inner:
            assert inner.asked()
    assert passed_on == [number]


def test_a_second_ctrl_c_does_not_wait():
    with pytest.raises(KeyboardInterrupt), Stop():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
