"""A request to stop is heard between two pieces of work; a second one acts at once."""

import signal
import threading

import pytest

from previa.run.stopping import heard


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_acts(kind):
    def act(number, frame):
        raise InterruptedError

    before = signal.signal(kind, act)
    try:
        with pytest.raises(InterruptedError), heard() as stopped:
            assert not stopped()
            signal.raise_signal(kind)
            assert stopped()
            signal.raise_signal(kind)
        assert signal.getsignal(kind) is act
    finally:
        signal.signal(kind, before)


def test_a_thread_hears_nothing_and_changes_nothing():
    found = []

    def work():
        with heard() as stopped:
            found.append(stopped())

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
    assert signal.getsignal(signal.SIGINT) is before
