"""What a loop tells its callbacks: begin, every step, end."""

from __future__ import annotations

import numpy as np
import pytest

from isac_toolbox.inference import Callbacks, TurboLoop, sparse_recover


class Countdown(TurboLoop):
    """A loop that has converged after eight steps, and notes what happens to it."""

    def __init__(self, fault=None, **settings):
        super().__init__(**({"max_iter": 50, "tol": 0.01} | settings))
        self.fault, self.notes = fault, []

    def setup(self):
        self.notes.append("setup")
        self.change, self.noise_variance = 1.0, 1.0

    def step(self):
        self.notes.append("step")
        self.change, self.objective = 0.5 * self.change, self.change
        if self.n_iter == 2 and self.fault is not None:
            self.fault(self)


class Watcher:
    """A callback with begin and end that writes into the notes of its loop."""

    def __init__(self, name="", stop_at=None):
        self.name, self.stop_at = name, stop_at

    def begin(self, loop):
        loop.notes.append(f"begin{self.name}")

    def __call__(self, loop):
        loop.notes.append(f"call{self.name}")
        return loop.n_iter == self.stop_at

    def end(self, loop):
        loop.notes.append(f"end{self.name} {loop.status}")


def singular(_):
    raise np.linalg.LinAlgError("singular")


def poison(loop):
    loop.objective = np.nan


def interrupt(_):
    raise KeyboardInterrupt


STEP = ["step", "call"]


@pytest.mark.parametrize(
    ("settings", "stop_at", "steps", "status"),
    [
        ({}, None, 8 * STEP, "converged"),
        ({"max_iter": 3}, None, 3 * STEP, "iteration limit"),
        ({}, 2, 2 * STEP, "stopped by callback"),
        ({"fault": singular}, None, [*STEP, *STEP, "step"], "numerical failure"),
        ({"fault": poison}, None, [*STEP, *STEP, "step"], "numerical failure"),
    ],
)
def test_a_callback_hears_of_begin_and_end(settings, stop_at, steps, status):
    """Begin after the set-up, end after the last step with its reason; once a run, also in the next one."""
    loop = Countdown(**settings)
    expected = ["setup", "begin", *steps, f"end {status}"]
    assert loop.run(Watcher(stop_at=stop_at)) == status
    assert loop.notes == expected
    loop.run(Watcher(stop_at=stop_at))
    assert loop.notes == 2 * expected


def test_the_end_comes_also_when_something_is_raised():
    loop = Countdown(fault=interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run(Watcher())
    assert loop.notes == ["setup", "begin", *STEP, *STEP, "step", "end "]

    class Fragile(Watcher):
        def __call__(self, loop):
            raise RuntimeError("no more")

    loop = Countdown()
    with pytest.raises(RuntimeError, match="no more"):
        loop.run(Fragile())
    assert loop.notes == ["setup", "begin", "step", "end "]


def test_a_set_up_that_fails_begins_nothing():
    class Hopeless(Countdown):
        def setup(self):
            raise ValueError("no data")

    loop = Hopeless()
    with pytest.raises(ValueError, match="no data"):
        loop.run(Watcher())
    assert loop.notes == []


def test_begin_sees_the_loop_before_its_first_step():
    seen = {}

    class Look(Watcher):
        def begin(self, loop):
            seen.update(n_iter=loop.n_iter, n_active=loop.n_active, change=loop.change, status=loop.status)

    loop = Countdown()
    loop.run()
    loop.run(Look())
    assert seen == {"n_iter": 0, "n_active": 0, "change": 1.0, "status": ""}


def test_plain_callables_need_no_methods():
    counted = []
    assert Countdown().run(lambda loop: counted.append(loop.n_iter)) == "converged"
    assert counted == list(range(1, 9))
    assert Countdown().run(counted.append) == "converged"

    class OnlyEnd:
        def __call__(self, loop): ...

        def end(self, loop):
            counted.append("end")

    assert Countdown().run(OnlyEnd()) == "converged"
    assert counted[-1] == "end"


def test_several_callbacks_are_one():
    loop = Countdown()
    plain = []
    together = Callbacks(Watcher(1), None, plain.append, Watcher(2, stop_at=1), Watcher(3))
    assert loop.run(together) == "stopped by callback"
    inside = ["step", "call1", "call2", "call3"]
    ends = [f"end{i} stopped by callback" for i in (1, 2, 3)]
    assert loop.notes == ["setup", "begin1", "begin2", "begin3", *inside, *ends]
    assert plain == [loop]
    assert Countdown().run(Callbacks()) == "converged"
    nested = Countdown(max_iter=1)
    nested.run(Callbacks(Callbacks(Watcher()), None))
    assert nested.notes == ["setup", "begin", "step", "call", "end iteration limit"]


def test_sparse_recovery_takes_such_callbacks():
    moments = []

    class Note:
        def begin(self, loop):
            moments.append(("begin", loop.n_iter, loop.n))

        def __call__(self, loop):
            moments.append(("step", loop.n_iter, loop.n))

        def end(self, loop):
            moments.append(("end", loop.n_iter, loop.n))

    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((20, 40))
    result = sparse_recover(matrix, matrix[:, 3] + 0.1 * rng.standard_normal(20), callback=Note())
    steps = [("step", i + 1, 40) for i in range(result.n_iter)]
    assert moments == [("begin", 0, 40), *steps, ("end", result.n_iter, 40)]


# --- deadlines ---------------------------------------------------------------------------------------


class Slow(Countdown):
    """A loop whose steps have parts; each part takes a tenth of a second of a clock that tests set."""

    def step(self):
        super().step()
        for _ in range(40):
            self.clock[0] += 0.1
            if self.deadline.reached():
                self.notes.append("cut")
                return


@pytest.fixture
def slow(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("isac_toolbox.inference.turbo.time.perf_counter", lambda: clock[0])

    def make(**settings):
        loop = Slow(**settings)
        loop.clock = clock
        return loop

    return make


@pytest.mark.parametrize(("seconds", "rows", "cut"), [(1.0, 1, 1), (4.5, 2, 1), (7.5, 2, 1), (1e3, 8, 0)])
def test_a_time_limit_acts_inside_a_step(slow, seconds, rows, cut):
    loop = slow(max_seconds=seconds)
    status = loop.run()
    assert status == ("time limit" if cut else "converged") and loop.converged == (not cut)
    assert (loop.n_iter, loop.notes.count("cut")) == (rows, cut)
    assert loop.run() == status  # every run has the whole time


def test_a_time_limit_also_counts_the_set_up(slow):
    loop = slow(max_seconds=3.0)
    setup = loop.setup
    loop.setup = lambda: (setup(), loop.clock.__setitem__(0, loop.clock[0] + 5.0))
    assert loop.run() == "time limit" and loop.n_iter == 1


def test_a_callback_is_asked_once_a_second_inside_a_step_and_stops_it(slow):
    loop = slow()
    asked = []

    def stop(loop):
        asked.append((loop.n_iter, round(loop.clock[0], 1)))
        return loop.clock[0] > 6.5

    assert loop.run(stop) == "stopped by callback"
    inside_first = [at for n, at in asked if n == 0]
    np.testing.assert_allclose(inside_first, [1.0, 2.0, 3.0], atol=0.21)
    assert loop.n_iter == 2 and loop.clock[0] < 7.5


def test_a_callback_hears_of_short_steps_once():
    calls = []
    loop = Countdown(max_iter=3)
    loop.run(lambda loop: calls.append(loop.n_iter))
    assert calls == [1, 2, 3]


@pytest.mark.parametrize("bad", [0, -1.0, np.inf, np.nan, True, "1"])
def test_max_seconds_is_a_positive_number(bad):
    with pytest.raises((TypeError, ValueError), match="max_seconds"):
        Countdown(max_seconds=bad)
