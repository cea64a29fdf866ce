"""Engine: many live calls on one model, all of them one step further at every tick."""

from __future__ import annotations

import gc
import logging
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Literal

import torch

from s2s.checkpoint import Bundle, Defaults, Speed
from s2s.engine.batch import Batch, Said
from s2s.engine.grid import Grid
from s2s.engine.session import Session, SessionConfig
from s2s.engine.stats import EngineStats, StepTimes
from s2s.engine.transcript import Transcript
from s2s.engine.warmup import agreeing_sizes, bucket_sizes, measure_groups, measure_threads, on_cpu, run_once
from s2s.models.graphed import OFTEN
from s2s.models.step import Step
from s2s.nn.sampling import Controls
from s2s.streams import AGENT_TEXT
from s2s.text import Tokenizer

logger = logging.getLogger(__name__)

PATIENCE_S = 0.4
"""How long a session waits for its caller's first step before it joins whichever group is next."""

SPARE_S = 0.003
"""How long before its group's tick a caller's step has to be complete: packets do not come on the dot."""

MAX_PHASES = 8
"""Ticks 5 ms apart, at frames of 40 ms: closer ones could not tell callers apart any more."""

TOTAL_SHARE = 0.7
"""How much of a frame the steps of all groups may take together where an engine chooses how many there are."""


class EngineFull(RuntimeError):
    """No further session can be opened now."""


@dataclass(frozen=True)
class EngineConfig:
    """How an engine runs.

    max_sessions: how many may be open. clock: "live" ticks by wall time and conceals what has not arrived; "virtual"
    ticks when told and waits. max_buffered_s, max_unread_s: how much input and output of a session may wait.
    threads: of a live engine's steps; None: measured. exact: a caller's output is the same to the last bit whoever else
    calls (CPU). max_late_ticks: how many overdue ticks are made up for. phases: into how many groups a live engine
    parts its sessions, each with ticks of its own between those of the others; None: measured.
    """

    max_sessions: int = 8
    clock: Literal["live", "virtual"] = "live"
    max_buffered_s: float = 2.0
    max_unread_s: float = 30.0
    threads: int | None = None
    exact: bool = True
    max_late_ticks: int = 5
    phases: int | None = None

    def __post_init__(self) -> None:
        if self.max_sessions < 1:
            raise ValueError(f"max_sessions is {self.max_sessions}, allowed is 1 and above")
        if self.clock not in ("live", "virtual"):
            raise ValueError(f"clock is {self.clock!r}, allowed are 'live' and 'virtual'")
        if self.max_buffered_s <= 0 or self.max_unread_s <= 0:
            raise ValueError(
                f"max_buffered_s {self.max_buffered_s} and max_unread_s {self.max_unread_s} must be above 0"
            )
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}, allowed is 1 and above, or none to measure")
        if self.max_late_ticks < 0:
            raise ValueError(f"max_late_ticks is {self.max_late_ticks}, allowed is 0 and above")
        if self.phases is not None and not 1 <= self.phases <= MAX_PHASES:
            raise ValueError(f"phases is {self.phases}, allowed are 1 to {MAX_PHASES}, or none to measure")


@dataclass
class _Seat:
    """A session in its row, and what its tokens have become."""

    session: Session
    transcripts: dict[str, Transcript]


@dataclass
class Waiting:
    """A session that has no row yet, and since when it has been allowed to begin; None: it is not."""

    session: Session
    controls: Controls
    since_s: float | None = None


@dataclass
class _Group:
    """Sessions that tick together. seats: in the order of their rows."""

    batch: Batch
    seats: list[_Seat] = field(default_factory=list)
    grid: Grid | None = None


class Engine:
    """Open sessions from any thread. Either `start` ticks by wall time in a thread, or the owner calls `tick`."""

    def __init__(
        self,
        step: Step,
        config: EngineConfig | None = None,
        tokenizer: Tokenizer | None = None,
        defaults: Defaults | None = None,
    ):
        """Args: defaults: how sessions sample that do not say it. Without a tokenizer there are no text events."""
        self.config = config or EngineConfig()
        self.sample_rate, self.step_size = step.sample_rate, step.step_size
        self._step, self._tokenizer, self._defaults = step, tokenizer, defaults or Defaults()
        self._actions = {token: name for name, token in tokenizer.actions.items()} if tokenizer else {}
        self._lock = threading.Lock()  # of what other threads see; never held while a step runs
        self._waiting: list[Waiting] = []
        self._groups: list[_Group] = []  # none before the engine is warm
        self._buckets: tuple[int, ...] = ()
        self._thread: threading.Thread | None = None
        self._warm, self._stopping = threading.Event(), threading.Event()
        self._failure: Exception | None = None
        self._threads = torch.get_num_threads()
        self._times = StepTimes()
        self._ticks = self._opened = self._refusals = self._failures = self._underruns = 0
        self._last_tick_s = 0.0

    @classmethod
    def of(cls, bundle: Bundle, config: EngineConfig | None = None, speed: Speed | None = None) -> Engine:
        """The engine of a checkpoint's model, as fast as the model likes it."""
        step = bundle.step(speed or bundle.defaults.speed)
        return cls(step, config, bundle.tokenizer, bundle.defaults)

    def open(self, config: SessionConfig | None = None) -> Session:
        """A session that joins at the next tick, or at the one after its `begin` where its config leaves it open.

        Raises:
            EngineFull: `max_sessions` are open, or the engine has been stopped.
            ValueError: controls that no model takes.
        """
        config = config or SessionConfig()
        controls, rate = self._controls(config), self.sample_rate
        buffered, unread = round(self.config.max_buffered_s * rate), round(self.config.max_unread_s * rate)
        session = Session(uuid.uuid4().hex, rate, self.step_size, buffered, unread, config.opening)
        with self._lock:
            if self._stopping.is_set() or self._num_open() >= self.config.max_sessions:
                self._refusals += 1
                stopped = "the engine is stopped" if self._stopping.is_set() else ""
                raise EngineFull(stopped or f"all {self.config.max_sessions} sessions are taken")
            self._opened += 1
            self._waiting.append(Waiting(session, controls))
        return session

    def tick(self) -> None:
        """One step of all sessions; with a virtual clock only of those whose input is there."""
        if self._stopping.is_set():
            raise RuntimeError("the engine is stopped")
        self.warm_up()
        for group in self._groups:
            self._tick(group)

    def warm_up(self) -> None:
        """Choose threads and numbers of rows and run each once; does nothing the second time."""
        if self._groups:
            return
        rows = self.config.max_sessions
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        elif self.config.clock == "live" and on_cpu(self._step):
            measure_threads(self._step, rows, torch.get_num_threads())
        self._threads = torch.get_num_threads()  # of this thread: others have numbers of their own
        self._buckets = bucket_sizes(rows)
        if self.config.exact and on_cpu(self._step):
            # Threads may round differently too, so they are chosen before.
            self._buckets = agreeing_sizes(self._step, rows)
        for size in self._buckets or (1,):
            run_once(self._step, size)
        self._groups = [_Group(self._new_batch()) for _ in range(self._num_groups())]
        if not on_cpu(self._step):
            for group in self._groups:
                group.batch.rehearse(OFTEN + 1)
        logger.info(
            "up to %d sessions in %d groups, in steps of %s rows",
            rows,
            len(self._groups),
            self._buckets or "one by one, 1",
        )
        self._warm.set()

    def _num_groups(self) -> int:
        if self.config.clock == "virtual":
            return 1
        if self.config.phases is not None:
            return self.config.phases
        most_s = TOTAL_SHARE * self.step_size / self.sample_rate
        return measure_groups(self._step, self.config.max_sessions, self._buckets, MAX_PHASES, most_s)

    def _new_batch(self) -> Batch:
        return Batch(self._step, self.config.max_sessions, self._buckets)

    def start(self) -> None:
        """Warm up and then tick by wall time, in a thread of its own; returns at once."""
        if self.config.clock != "live" or self._thread is not None or self._stopping.is_set():
            raise RuntimeError("only an engine with a live clock can be started, and only once")
        self._thread = threading.Thread(target=self._live, name="s2s-engine", daemon=True)
        self._thread.start()

    def wait_until_warm(self, timeout_s: float | None = None) -> bool:
        """Whether the engine is warm before the time is over; RuntimeError if warming up failed."""
        warm = self._warm.wait(timeout_s)
        if self._failure is not None:
            raise RuntimeError(f"the engine could not warm up: {self._failure!r}") from self._failure
        return warm

    def stop(self) -> None:
        """End all sessions and the thread; an engine does not start again."""
        with self._lock:
            self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._end_all("engine stopped")

    @property
    def stats(self) -> EngineStats:
        latest, counts, total = self._times.snapshot()
        with self._lock:
            sessions = self._sessions()
            underruns = self._underruns + sum(session.stats.underruns for session in sessions)
            grids, num_open = [group.grid for group in self._groups if group.grid], self._num_open()
            return EngineStats(
                warm=self._warm.is_set() and self._failure is None,
                running=self._thread is not None and self._thread.is_alive(),
                sessions=num_open,
                free=0 if self._stopping.is_set() else self.config.max_sessions - num_open,
                ticks=self._ticks,
                deadline_misses=sum(grid.misses for grid in grids),
                left_out=sum(grid.left_out for grid in grids),
                step_ms=latest,
                step_ms_counts=counts,
                step_ms_sum=total,
                last_tick_s=self._last_tick_s,
                opened=self._opened,
                refusals=self._refusals,
                failures=self._failures,
                underruns=underruns,
                threads=self._threads,
                buckets=self._buckets,
                phases=len(self._groups),
            )

    def _live(self) -> None:
        try:
            self.warm_up()
        except Exception as error:
            logger.exception("the engine could not warm up")
            with self._lock:
                self._failure = error
                self._stopping.set()
            self._end_all("failed", f"the engine could not warm up: {error!r}")
            self._warm.set()  # whoever waits for it need not go on waiting
            return
        gc.collect()
        gc.freeze()  # libraries and graphs live as long as the engine; looking through them again would cost a tick
        frame_s, start_s = self.step_size / self.sample_rate, time.monotonic()
        for number, group in enumerate(self._groups):
            # Apart, so that what one group waits for and sends is out of the way before the next one's turn.
            begin_s = start_s + number * frame_s / len(self._groups)
            group.grid = Grid(self.step_size, self.sample_rate, self.config.max_late_ticks, begin_s)
        while True:
            group, grid = min(((g, g.grid) for g in self._groups if g.grid), key=lambda pair: pair[1].due_s)
            if self._stopping.wait(max(0.0, grid.due_s - time.monotonic())):
                return
            try:
                self._tick(group, grid.due_s)
            except Exception as error:  # no caller may take the others along, not even by a mistake of ours
                logger.exception("a tick failed")
                self._end_all("failed", repr(error))
                for each in self._groups:
                    each.batch = self._new_batch()
            left_out = grid.done(time.monotonic())
            if left_out:
                logger.warning("%d ticks left out", left_out)
                for seat in group.seats:
                    seat.session.fell_behind(left_out)

    def _tick(self, group: _Group, due_s: float | None = None) -> None:
        start_s = time.monotonic()
        self._change_seats(group, start_s)
        wait = self.config.clock == "virtual"
        inputs = [seat.session.next_step(wait) for seat in group.seats]
        if inputs:
            self._deliver(group, group.batch.run(inputs))
            # A step that has to wait for another group's takes the longer: what counts is when its callers hear it.
            self._times.add(1000 * (time.monotonic() - (start_s if due_s is None else due_s)))
        self._ticks += 1
        self._last_tick_s = time.monotonic()

    def _change_seats(self, group: _Group, now_s: float) -> None:
        """Let closed sessions go and waiting ones in."""
        for row in reversed(range(len(group.seats))):
            if group.seats[row].session.closing:
                self._leave(group, row, "closed")
        given_up, failed = list[Session](), list[tuple[Session, Exception]]()
        with self._lock:  # all in one go: whoever counts finds every session in one of the two lists
            slots, staying = group.batch.slots, list[Waiting]()
            for waiting in self._waiting:
                session, opening = waiting.session, waiting.session.opening
                if session.closing:
                    given_up.append(session)
                elif opening is None or slots.count == slots.num_rows or not self._is_its_turn(waiting, now_s):
                    staying.append(waiting)
                else:
                    try:
                        slots.join(waiting.controls, opening)
                    except ValueError as error:
                        failed.append((session, error))
                        continue
                    group.seats.append(_Seat(session, {}))
            self._waiting = staying
        for session in given_up:
            self._end(session, "closed")
        for session, problem in failed:
            self._end(session, "failed", str(problem))

    def _is_its_turn(self, waiting: Waiting, now_s: float) -> bool:
        """Whether a session joins the group whose tick it is.

        Among several it joins the one that ticks soonest after a step of its caller is complete: the caller's packets
        come at the same distance from all ticks that follow, and every millisecond of it is one more to the answer.
        A caller who sends nothing yet is not waited for long: the agent may have to speak first.
        """
        if len(self._groups) == 1:
            return True
        waiting.since_s = now_s if waiting.since_s is None else waiting.since_s
        ready_s = waiting.session.ready_s
        if ready_s is None:
            return now_s >= waiting.since_s + PATIENCE_S
        return now_s >= ready_s + SPARE_S

    def _deliver(self, group: _Group, results: list[Said | Exception | None]) -> None:
        failed: dict[int, Exception] = {}
        for row, (seat, result) in enumerate(zip(group.seats, results, strict=True)):
            if isinstance(result, Said):
                try:
                    action = self._actions.get(result.ids.get(AGENT_TEXT, -1))
                    seat.session.add(result.pcm, self._text(seat, result.ids), action)
                except Exception as error:
                    failed[row] = error
            elif result is not None:
                failed[row] = result
        for row in sorted(failed, reverse=True):
            self._leave(group, row, "failed", str(failed[row]) or repr(failed[row]))

    def _text(self, seat: _Seat, ids: dict[str, int]) -> dict[str, str]:
        if self._tokenizer is None:
            return {}
        for stream in ids.keys() - seat.transcripts.keys():
            seat.transcripts[stream] = Transcript(self._tokenizer)
        return {stream: seat.transcripts[stream].add(token) for stream, token in ids.items()}

    def _leave(self, group: _Group, row: int, reason: Literal["closed", "failed"], error: str = "") -> None:
        """The last session takes the row."""
        group.batch.slots.leave(row)
        with self._lock:
            session = group.seats[row].session
            group.seats[row] = group.seats[-1]
            group.seats.pop()
        self._end(session, reason, error)

    def _end(self, session: Session, reason: Literal["closed", "failed", "engine stopped"], error: str = "") -> None:
        with self._lock:
            self._underruns += session.stats.underruns
            self._failures += reason == "failed"
        if reason == "failed":
            logger.warning("session %s failed: %s", session.id, error)
        try:
            session.end(reason, error)
        except Exception as problem:  # whoever cannot even be told cannot be helped
            logger.warning("session %s could not be told that it ended: %r", session.id, problem)

    def _end_all(self, reason: Literal["failed", "engine stopped"], error: str = "") -> None:
        with self._lock:
            sessions, self._waiting = self._sessions(), []
            for group in self._groups:
                group.seats = []
        for session in sessions:
            self._end(session, reason, error)

    def _sessions(self) -> list[Session]:
        seated = [seat.session for group in self._groups for seat in group.seats]
        return [waiting.session for waiting in self._waiting] + seated

    def _num_open(self) -> int:
        return sum(not session.closing for session in self._sessions())

    def _controls(self, config: SessionConfig) -> Controls:
        temperature = self._defaults.temperature if config.temperature is None else config.temperature
        top_k = self._defaults.top_k if config.top_k is None else config.top_k
        return Controls.uniform(1, temperature, top_k, config.seed)
