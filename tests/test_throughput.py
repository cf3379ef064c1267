"""The doubling of the batch, by timers whose times are known."""

import itertools

import pytest

from wfbench.measure.throughput import Doubling, double


class Machine:
    """Timers of batches: each takes ``seconds(batch)``, times what the call number does to all batches."""

    def __init__(self, seconds, noise=(1.0,), room=10**9, compiler=0.0):
        self.seconds, self.noise, self.room, self.compiler = seconds, itertools.cycle(noise), room, compiler
        self.log, self.made, self.alive = [], [], []

    def timer_of(self, batch):
        if batch > self.room:
            raise MemoryError(f"no room for {batch}")
        self.made.append(batch)
        return Timer(self, batch)


class Timer:
    def __init__(self, machine, batch):
        self.machine, self.batch, self.call_seconds = machine, batch, 0.0

    def warm(self):
        self.call_seconds += self.machine.compiler + 2 * self.machine.seconds(self.batch)
        return self.machine.seconds(self.batch)

    def sample(self):
        self.machine.log.append(self.batch)
        seconds = self.machine.seconds(self.batch) * next(self.machine.noise)
        self.call_seconds += seconds
        return seconds


def find(machine, **changes):
    return double(machine.timer_of, **{"rounds": 5, "gain": 0.05, "most": 1024, "budget": 1e6, **changes})


def saturating(batch):
    """Overhead that a batch of 8 halves away, then one second for each image: gains fall from 80 % to under 5 % after 32."""
    return 8 + batch


def test_it_ends_at_the_second_doubling_in_a_row_that_surely_gains_little():
    found = find(Machine(saturating))
    gains = [2 * saturating(b) / saturating(2 * b) - 1 for b in found.batches[:-1]]
    assert found.stopped_by == "gain"
    assert [gain < 0.05 for gain in gains] == [False] * (len(gains) - 2) + [True, True]


def test_one_slow_batch_does_not_end_it():
    """A size that suits the kernels badly: a rule that looks at one doubling would end at 4."""
    found = find(Machine(lambda batch: 8 + batch + 10 * (batch == 4)))
    assert found.batches[-1] > 8
    assert found.batches[:4] == [1, 2, 4, 8]


def test_noise_that_hides_the_gain_does_not_end_it():
    """No doubling gains anything, but the times scatter by a factor of 2: that is not sure, so it goes on to the limit."""
    found = find(Machine(lambda batch: batch, noise=(1.0, 2.0, 1.1, 0.6, 1.7, 0.9, 1.3)), most=16)
    assert (found.stopped_by, found.batches) == ("limit", [1, 2, 4, 8, 16])
    assert find(Machine(lambda batch: batch), most=16).stopped_by == "gain"


def test_a_lack_of_memory_ends_it_and_what_was_measured_stays():
    found = find(Machine(saturating, room=7))
    assert (found.stopped_by, found.batches) == ("memory", [1, 2, 4])
    with pytest.raises(MemoryError):
        find(Machine(saturating, room=0))


def test_another_error_of_a_larger_batch_is_not_taken_for_a_lack_of_memory():
    machine = Machine(saturating)

    def timer_of(batch):
        if batch == 4:
            raise ValueError("no such kernel")
        return machine.timer_of(batch)

    with pytest.raises(ValueError, match="no such kernel"):
        double(timer_of, rounds=5, gain=0.05, most=1024, budget=1e6)


def test_a_step_that_the_budget_does_not_hold_is_not_begun():
    found = find(Machine(saturating), budget=400.0)
    assert found.stopped_by == "time"
    assert found.call_seconds <= 400
    assert found.call_seconds + found.seconds_of_next(5) > 400
    short = find(Machine(saturating), budget=50.0)  # the first step takes the rounds that there is time for: (50 - 18) / 9
    assert (short.stopped_by, short.batches, len(short.seconds[0])) == ("time", [1], 3)
    compiled = find(Machine(lambda batch: 0.01, compiler=40.0), budget=100.0)  # a third compilation would exceed it
    assert (compiled.stopped_by, compiled.batches) == ("time", [1, 2])
    with pytest.raises(TimeoutError, match="no time for one round"):
        find(Machine(saturating), budget=20.0)


def test_each_round_times_one_image_the_batch_before_and_the_new_one_in_random_order():
    machine = Machine(saturating)
    found = find(machine, most=8)
    log = machine.log
    assert log[:5] == [1] * 5
    assert [sorted(log[5 + 2 * k : 7 + 2 * k]) for k in range(5)] == [[1, 2]] * 5
    steps = [log[15 + 15 * i : 30 + 15 * i] for i in range(2)]
    for batch, step in zip((4, 8), steps, strict=True):
        assert [sorted(step[3 * k : 3 * k + 3]) for k in range(5)] == [[1, batch // 2, batch]] * 5
        assert len({tuple(step[3 * k : 3 * k + 3]) for k in range(5)}) > 1
    assert [len(rounds) for rounds in found.before] == [0, 5, 5, 5]
    assert found.before[2] == pytest.approx([saturating(2)] * 5)
    assert found.alone[2] == pytest.approx([saturating(1)] * 5)
    assert found.seconds[2] == pytest.approx([saturating(4)] * 5)
    assert machine.made == [1, 2, 4, 8]
    assert found.call_seconds == pytest.approx(sum(map(saturating, log)) + 2 * sum(map(saturating, machine.made)))


def test_a_gain_that_is_small_on_the_average_alone_is_not_surely_small():
    """Twice the images in twice the time, on the average; but some rounds gained 20 %."""
    steady, scattered = [1.0] * 5, [2.4, 2 / 1.2, 2.4, 2 / 1.2, 2.0]
    surely = Doubling([1, 2, 4], [[1.0] * 5, [2.0] * 5, [4.0] * 5], [steady] * 3, [[], [1.0] * 5, [2.0] * 5])
    hardly = Doubling([1, 2, 4], [[1.0] * 5, [2.0] * 5, [2 * s for s in scattered]], [steady] * 3, [[], [1.0] * 5, [2.0] * 5])
    assert surely.saturated(0.05)
    assert not hardly.saturated(0.05)
    assert hardly.saturated(0.5)


def test_two_batches_that_gain_little_are_not_two_doublings():
    found = Doubling([1, 2], [[1.0] * 5, [2.0] * 5], [[1.0] * 5] * 2, [[], [1.0] * 5])
    assert not found.saturated(0.05)
