"""Cron lines as Kubeflow reads them."""

from datetime import UTC, datetime, timedelta

import pytest

from medloop import cron, params
from medloop.errors import Refused

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)  # a Wednesday


def fires(line: str, count: int = 1, after: datetime = NOW) -> list[str]:
    found = []
    for _ in range(count):
        moment = cron.parse(line).after(after)
        assert moment is not None
        found.append(f"{moment:%Y-%m-%d %H:%M:%S}")
        after = moment
    return found


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("0 30 2 * * *", ["2026-03-05 02:30:00", "2026-03-06 02:30:00"]),
        ("8 6 5 * * *", ["2026-03-04 05:06:08", "2026-03-05 05:06:08"]),
        ("7 6 5 * * *", ["2026-03-05 05:06:07"]),
        ("*/20 * * * * *", ["2026-03-04 05:06:20", "2026-03-04 05:06:40", "2026-03-04 05:07:00"]),
        ("0 50/5 23 * * ?", ["2026-03-04 23:50:00", "2026-03-04 23:55:00", "2026-03-05 23:50:00"]),
        ("0 0 2 * * MON-FRI", ["2026-03-05 02:00:00", "2026-03-06 02:00:00", "2026-03-09 02:00:00"]),
        ("0 0 2 ? * 0", ["2026-03-08 02:00:00"]),
        ("0 0 0 31 * *", ["2026-03-31 00:00:00", "2026-05-31 00:00:00"]),
        ("0 0 0 29 feb *", ["2028-02-29 00:00:00"]),
        ("0 0 0 13 * fri", ["2026-03-06 00:00:00", "2026-03-13 00:00:00", "2026-03-20 00:00:00"]),  # either of the two
        ("0 0 0 1,15 1,7 *", ["2026-07-01 00:00:00", "2026-07-15 00:00:00", "2027-01-01 00:00:00"]),
    ],
)
def test_the_next_times(line, wanted):
    assert fires(line, len(wanted)) == wanted


def test_a_time_in_another_zone_is_the_same_moment():
    there = NOW.astimezone(datetime.now().astimezone().tzinfo)
    assert cron.parse("0 0 6 * * *").after(there) == datetime(2026, 3, 4, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("30 2 * * *", r"six fields .*not 5; seconds come first: '0 30 2 \* \* \*'"),
        ("@daily", "six fields"),
        ("0 60 2 * * *", "minute of a cron line must be within 0 to 59, got '60'"),
        ("0 0 2 * * 7", "day of the week of a cron line must be within 0 to 6"),
        ("0 0 2 0 * *", "day of the month"),
        ("0 0 2 * xyz *", "month of a cron line cannot be read: 'xyz'"),
        ("0 0 5-2 * * *", "hour of a cron line must be within"),
        ("*/0 * * * * *", "second"),
        ("0 0 -1 * * *", "hour of a cron line cannot be read"),
        ("0 0 1, * * *", "hour of a cron line cannot be read"),
    ],
)
def test_a_line_that_cannot_be_read_is_refused(line, message):
    with pytest.raises(ValueError, match=message):
        cron.parse(line)


def refusal(*schedules) -> str:
    with pytest.raises(Refused) as caught:
        params.check({"schema_version": 1, "schedule": list(schedules)}, where="params.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cron": "0 0 0 30 2 *"}, "schedule nightly never fires: there is no day for '0 0 0 30 2 *'"),
        (
            {"cron": "0 0 0 1 1 *", "start": "2027-02-01T00:00:00Z", "end": "2027-03-01T00:00:00Z"},
            "schedule nightly has no firing between start and end: '0 0 0 1 1 *', 2027-02-01 00:00:00 UTC and 2027-03",
        ),
        ({"cron": "0 0 2 * *"}, "params.yaml: schedule.0.cron: a cron line has six fields"),
        ({}, "schedule nightly needs either cron or interval_s"),
        ({"cron": "0 0 2 * * *", "interval_s": 5}, "needs either"),
        ({"interval_s": 5, "start": "2027-01-02T00:00:00Z", "end": "2027-01-01T00:00:00Z"}, "ends before it starts"),
        ({"interval_s": 5, "start": "2027-01-02T00:00:00"}, "timezone"),
        ({"interval_s": 0}, "greater than or equal to 1"),
        ({"interval_s": 5, "max_concurrency": 11}, "less than or equal to 10"),
        ({"corn": "0 0 2 * * *"}, "unknown parameter schedule.0.corn; did you mean 'cron'?"),
        ({"interval_s": 5, "xyzzy": 1}, "unknown parameter schedule.0.xyzzy; known: catch_up, cron, "),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_name(changes, message):
    assert message in refusal({"name": "nightly"} | changes)


def test_two_schedules_of_one_name_are_refused():
    assert "schedule: two schedules are named 'a'" in refusal(
        {"name": "a", "interval_s": 5}, {"name": "a", "interval_s": 6}
    )


def test_an_interval_counts_from_its_start():
    start = datetime(2026, 3, 4, 0, 0, 1, tzinfo=UTC)
    every = params.Schedule(name="a", interval_s=3600, start=start, end=start + timedelta(hours=7))
    assert every.after(NOW) == start + timedelta(hours=6)
    assert every.after(start - timedelta(days=9)) == start
    assert every.after(start) == start + timedelta(hours=1)
    assert every.after(start + timedelta(hours=7)) is None


def test_a_schedule_without_a_firing_ahead_says_why_in_true_words():
    soon = NOW + timedelta(days=1)
    assert params.Schedule(name="a", interval_s=60, end=soon).over(NOW) is None
    assert "it ended at" in str(params.Schedule(name="a", interval_s=60, end=soon).over(soon))
    said = params.Schedule(name="a", cron="0 0 0 1 1 *", end=soon).over(NOW)
    assert said is not None
    assert said.startswith("there is no firing between now and its end, 20")


def test_two_who_count_an_interval_without_a_start_come_to_the_same_times():
    every = params.Schedule(name="a", interval_s=7)
    assert every.after(NOW) == every.after(NOW + timedelta(microseconds=500))
