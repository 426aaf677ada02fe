"""Progress is told from a stall, a worker that waits from the one it waits for."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import tensorflow as tf

from mtrec.distributed import heartbeat
from mtrec.distributed.heartbeat import Heart, Pulse, Vigil
from mtrec.heads import metrics
from mtrec.jobs.cluster.mailbox import Mailbox

MOVING = Pulse(silent_s=0.5, idle_s=0.5, in_tensorflow=False, place="_call (train.py:1)")
ASLEEP = replace(MOVING, silent_s=11.0, idle_s=11.0, place="sleep (head.py:2)")
WAITING = replace(ASLEEP, in_tensorflow=True, place="all (strategy.py:3)")


def vigil(**pulses: Pulse) -> Vigil:
    """The vigil over two workers, 10 s each, that has heard some of them move, and is to hear."""
    watched = Vigil(10.0)
    for worker in (0, 1):
        watched.enter(worker, 2)
    for name, pulse in pulses.items():
        assert watched.verdict(int(name[-1]), pulse) == ""
    return watched


def test_a_worker_that_stands_still_is_ended_and_the_one_that_waits_for_it_is_not() -> None:
    watched = vigil(of_0=MOVING, of_1=MOVING)
    for seconds in (3.0, 9.9):
        assert watched.verdict(1, replace(ASLEEP, silent_s=seconds, idle_s=seconds)) == ""
    assert watched.verdict(0, WAITING) == ""
    verdict = watched.verdict(1, ASLEEP)
    assert "worker 1 has made no progress for 11 s" in verdict
    assert "`health_timeout_s`=10" in verdict
    assert "sleep (head.py:2)" in verdict
    # The other goes on waiting until Ray ends it, which is not its fault.
    assert watched.verdict(0, WAITING) == ""


def test_a_worker_waits_for_as_long_as_another_one_moves() -> None:
    watched = vigil(of_0=MOVING, of_1=MOVING)
    for _ in range(3):
        assert watched.verdict(0, replace(WAITING, silent_s=1000.0, idle_s=1000.0)) == ""
        assert watched.verdict(1, MOVING) == ""


def test_an_exchange_that_all_wait_in_is_ended_with_the_place_of_each() -> None:
    watched = vigil(of_0=MOVING, of_1=replace(WAITING, silent_s=9.0))
    assert watched.verdict(0, WAITING) == ""
    verdict = watched.verdict(1, replace(WAITING, place="save (checkpoint.py:4)"))
    assert "exchange has not ended for 11 s" in verdict
    assert "worker 0 at all (strategy.py:3), worker 1 at save (checkpoint.py:4)" in verdict


def test_a_worker_that_is_done_is_not_waited_for() -> None:
    watched = vigil(of_0=MOVING, of_1=MOVING)
    watched.leave(1)
    assert "exchange has not ended" in watched.verdict(0, WAITING)


def test_a_worker_that_begins_in_place_of_another_is_judged_by_its_own_pulse() -> None:
    watched = vigil(of_0=WAITING)
    assert watched.verdict(1, ASLEEP) != ""
    for worker in (0, 1):
        watched.enter(worker, 2)
    assert watched.verdict(0, WAITING) == ""
    assert watched.verdict(1, MOVING) == ""
    assert watched.verdict(0, WAITING) == ""


def test_a_worker_that_never_begins_is_named_after_ten_timeouts() -> None:
    watched = vigil(of_0=replace(WAITING, silent_s=99.0, idle_s=99.0))
    verdict = watched.verdict(0, replace(WAITING, silent_s=101.0, idle_s=101.0))
    assert "worker 1 has not begun while worker 0 waited for 101 s" in verdict


def test_what_computes_without_a_beat_has_ten_timeouts() -> None:
    computing = replace(ASLEEP, silent_s=99.0, idle_s=0.0)
    watched = vigil(of_0=WAITING, of_1=computing)
    assert watched.verdict(0, WAITING) == ""
    assert "for 101 s" in watched.verdict(1, replace(computing, silent_s=101.0))


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.cpu = 100.0
        monkeypatch.setattr(heartbeat.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(heartbeat.time, "process_time", lambda: self.cpu)

    def passes(self, seconds: float, *, cpus: float = 0.0) -> None:
        """Time passes, of which the process uses a share of a CPU."""
        self.now += seconds
        self.cpu += cpus * seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    # Other tests of this process have trained by another clock.
    monkeypatch.setattr(heartbeat, "_beaten_at", 0.0)
    return Clock(monkeypatch)


def beats_of(work: Iterator[object], clock: Clock) -> list[float]:
    """How long no beat had come, after each turn of `work` of one second."""
    heart, silent = Heart(threading.get_ident()), []
    for _ in work:
        clock.passes(1.0)
        silent.append(heart.pulse().silent_s)
    return [*silent, heart.pulse().silent_s]


def test_each_chunk_that_is_done_is_a_beat(clock: Clock) -> None:
    assert beats_of(metrics.chunks(5, 2), clock) == [1.0, 1.0, 1.0, 0.0]
    assert beats_of(iter("abc"), clock) == [1.0, 2.0, 3.0, 3.0]


def test_a_process_that_uses_the_cpu_is_not_idle_and_ray_threads_alone_are(clock: Clock) -> None:
    heart = Heart(threading.get_ident())
    for cpus, idle in ((0.0, 2.0), (0.01, 4.0), (0.3, 0.0), (0.01, 2.0)):
        clock.passes(2.0, cpus=cpus)
        assert heart.pulse().idle_s == pytest.approx(idle), cpus


def pulse_in(work: Callable[[threading.Event], None]) -> Pulse:
    """The pulse of a thread that works until the pulse is taken."""
    done = threading.Event()
    thread = threading.Thread(target=work, args=(done,))
    thread.start()
    time.sleep(0.2)
    pulse = Heart(thread.ident or 0).pulse()
    done.set()
    thread.join()
    return pulse


def test_a_thread_asleep_in_python_is_at_its_own_line() -> None:
    def wait_alone(done: threading.Event) -> None:
        done.wait(60)

    pulse = pulse_in(wait_alone)
    assert not pulse.in_tensorflow
    assert pulse.place.startswith("wait_alone (test_heartbeat.py:")


def test_a_thread_within_tensorflow_may_be_waiting_for_another() -> None:
    def wait_in_an_operation(done: threading.Event) -> None:
        with tf.device("CPU:0"):
            queue = tf.queue.FIFOQueue(1, tf.int32)

        def end() -> None:
            done.wait(60)
            queue.enqueue(1)

        threading.Thread(target=end).start()
        assert int(queue.dequeue()) == 1

    pulse = pulse_in(wait_in_an_operation)
    assert pulse.in_tensorflow
    assert pulse.place.startswith("wait_in_an_operation (test_heartbeat.py:")


def test_the_mailbox_tells_of_a_stall_once_and_forgets_it_with_the_next_workers() -> None:
    mailbox = Mailbox(10.0)
    for worker in (0, 1):
        mailbox.enter(worker, 2)
        assert not mailbox.is_to_end(worker, MOVING)
    assert (mailbox.take(), mailbox.stalled()) == ([], "")
    assert mailbox.is_to_end(1, ASLEEP)
    ((kind, line),) = mailbox.take()
    assert kind == "line"
    assert line.startswith("worker 1 has made no progress for 11 s (cluster.health_timeout_s=10)")
    assert line.startswith(mailbox.stalled())
    mailbox.enter(0, 2)
    assert mailbox.stalled() == ""


def test_of_another_number_of_workers_none_waits_for_one_that_is_no_longer_there() -> None:
    watched = vigil(of_0=MOVING, of_1=MOVING)
    for worker in (0, 1, 2):
        watched.enter(worker, 3)
        assert watched.verdict(worker, MOVING) == ""
    assert watched.verdict(0, WAITING) == watched.verdict(1, WAITING) == ""  # 2 still moves
    for worker in (0, 1):
        watched.enter(worker, 2)
        assert watched.verdict(worker, MOVING) == ""
    assert watched.verdict(0, WAITING) == ""
    assert "exchange has not ended" in watched.verdict(1, WAITING)


def test_the_mailbox_tells_of_another_number_of_workers_once() -> None:
    mailbox = Mailbox(10.0)
    for workers in (2, 2, 3):
        for worker in range(workers):
            mailbox.enter(worker, workers)
    assert mailbox.take() == [("line", "workers: 3, where there were 2")]
