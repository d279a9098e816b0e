"""The scheduler: APScheduler with its jobs on disk, one copy at work, each time to run claimed before it is used."""

import fcntl
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from apscheduler.events import EVENT_JOB_MAX_INSTANCES
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from medloop import workspace
from medloop.errors import Refused
from medloop.params import Schedule
from medloop.scheduling import execution, history
from medloop.scheduling.execution import Outcome

LOOK_SECONDS = 0.5
Run = Callable[[Schedule, datetime, threading.Event], Outcome]


class Fires(BaseTrigger):
    """The times of a schedule, as APScheduler asks for them."""

    def __init__(self, schedule: str) -> None:
        self.schedule = schedule

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
        return Schedule.model_validate_json(self.schedule).after(previous or now)


class Claiming(ThreadPoolExecutor):
    """Runs what is due, one after the other, each time once."""

    def __init__(self, run: Run, stop: threading.Event, say: Callable[[str], None]) -> None:
        super().__init__(1)  # a folder holds one `medloop repro` at a time
        self.run, self.stop, self.say = run, stop, say

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        def work() -> list[Any]:
            for due in run_times:
                self._one(Schedule.model_validate_json(job.trigger.schedule), due)
            return []

        future = self._pool.submit(work)
        future.add_done_callback(
            lambda done: (
                self._run_job_error(job.id, done.exception(), None)
                if done.exception()
                else self._run_job_success(job.id, done.result())
            )
        )

    def _one(self, schedule: Schedule, due: datetime) -> None:
        if not history.claim(schedule.name, due):
            return
        if self.stop.is_set():
            history.end(schedule.name, due, "interrupted", "the scheduler was stopped before it began")
            return
        self.say(f"{schedule.name}: running what is due at {due:%Y-%m-%d %H:%M:%S} UTC")
        try:
            outcome = self.run(schedule, due, self.stop)
        except Exception as error:  # its text may hold a patient's name; the scheduler goes on
            outcome = Outcome("failed", f"unexpected {type(error).__name__}")
        history.end(schedule.name, due, outcome.result, outcome.reason)
        self.say(f"{schedule.name}: {outcome.result}{f': {outcome.reason}' if outcome.reason else ''}")


def serve(schedules: tuple[Schedule, ...], *, say: Callable[[str], None], run: Run = execution.run) -> None:
    """Run schedules when they are due, until SIGTERM or SIGINT; a second copy waits until the first has gone.

    Args:
        schedules: what params.yaml declares.
        say: told what happens, one line at a time.
        run: what a schedule runs.

    Raises:
        Refused: no schedule, one whose profile does not fit, or none that is left to run.
    """
    if not schedules:
        raise Refused("no schedules: declare one under `schedule:` in params.yaml")
    for each in schedules:
        workspace.scheduled(each)
    stop = threading.Event()
    with _stopping(stop), _alone(stop, say) as alone:
        if not alone:
            return
        if broken := history.close_open_ones("the scheduler that ran it is gone"):
            say(f"{broken} runs of an earlier scheduler were interrupted")
        scheduler = _scheduler(Claiming(run, stop, say))
        scheduler.start(paused=True)  # what is stored may no longer be declared
        _declare(scheduler, schedules, say)
        scheduler.resume()
        try:
            while scheduler.get_jobs() and not stop.wait(LOOK_SECONDS):
                pass
        except BaseException:
            stop.set()
            raise
        finally:
            scheduler.shutdown(wait=True)  # the last run of all comes to its end
        if not stop.is_set():
            raise Refused("no schedule is left to run: move an end in params.yaml, or declare another schedule")
        say("stopped")


def _scheduler(executor: Claiming) -> BackgroundScheduler:
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # what matters is said and kept here
    scheduler = BackgroundScheduler(
        jobstores={"default": SQLAlchemyJobStore(url=f"sqlite:///{history.folder() / 'jobs.db'}")},
        executors={"default": executor},
        job_defaults={"misfire_grace_time": None},  # however late: better than never
        timezone=UTC,
    )
    scheduler.add_listener(lambda event: _skipped(event, executor.say), EVENT_JOB_MAX_INSTANCES)
    return scheduler


def _declare(scheduler: BackgroundScheduler, schedules: tuple[Schedule, ...], say: Callable[[str], None]) -> None:
    """Make the stored jobs those of `schedules`; one that has not changed keeps the time that it is due next."""
    wanted = {each.name: each for each in schedules}
    for job in scheduler.get_jobs():
        if job.id not in wanted:
            job.remove()
            say(f"{job.id}: no longer declared")
    for name, each in wanted.items():
        text, job = each.model_dump_json(), scheduler.get_job(name)
        if (why := each.over(datetime.now(UTC))) and not (job and job.trigger.schedule == text):
            say(f"{name}: fires no more: {why}")
        elif job is None or job.trigger.schedule != text:
            scheduler.add_job(
                _placeholder,
                Fires(text),
                id=name,
                name=name,
                coalesce=not each.catch_up,
                max_instances=each.max_concurrency,
                replace_existing=True,
                **({} if each.enabled else {"next_run_time": None}),
            )
        job = scheduler.get_job(name)
        if job:
            say(f"{name}: next {job.next_run_time:%Y-%m-%d %H:%M:%S} UTC" if job.next_run_time else f"{name}: paused")


def _placeholder() -> None:
    """Stand where APScheduler keeps what a job calls: the executor knows what to run."""


def _skipped(event: Any, say: Callable[[str], None]) -> None:
    for due in event.scheduled_run_times:
        if history.claim(event.job_id, due):
            history.end(event.job_id, due, "skipped", "an earlier run of it was still under way")
            say(f"{event.job_id}: skipped what was due at {due:%Y-%m-%d %H:%M:%S} UTC: an earlier run is under way")


@contextmanager
def _alone(stop: threading.Event, say: Callable[[str], None]) -> Iterator[bool]:
    """Hold the place of the one scheduler at work, after waiting for it; False where `stop` came first."""
    with (history.folder() / "serve.lock").open("w") as lock:
        waiting = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    say("another scheduler is at work in this folder: standing by")
                waiting = True
                if stop.wait(LOOK_SECONDS):
                    yield False
                    return
        yield True


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda *_: stop.set())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
