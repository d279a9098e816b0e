"""Kubeflow's cron lines: six fields, seconds first, read as Kubeflow's own scheduler reads them, in UTC.

A day must fit both the day of the month and the day of the week where one of the two is `*` or `?`, and either of them
where both are given.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

FIELDS = ("second", "minute", "hour", "day of the month", "month", "day of the week")
RANGES = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
NAMES = {
    4: {name: number for number, name in enumerate(MONTHS, start=1)},
    5: dict(zip(WEEKDAYS, range(7), strict=True)),
}
HORIZON_DAYS = 5 * 366  # a line that does not fire within five years never does, to Kubeflow


@dataclass(frozen=True)
class Cron:
    """The values that each field of a line lets through, and whether a day field is left open."""

    line: str
    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    open_day: bool

    def after(self, moment: datetime) -> datetime | None:
        """Return the first time to fire after `moment`, in UTC; None where it never fires."""
        moment = moment.astimezone(UTC)
        for ahead in range(HORIZON_DAYS):
            date = moment.date() + timedelta(days=ahead)
            if date.month in self.months and self._on(date.day, date.isoweekday() % 7):
                found = self._time(moment.time() if ahead == 0 else None)
                if found is not None:
                    return datetime.combine(date, found, UTC)
        return None

    def _on(self, day: int, weekday: int) -> bool:
        fits = (day in self.days, weekday in self.weekdays)
        return all(fits) if self.open_day else any(fits)

    def _time(self, after: time | None) -> time | None:
        """Return the first time of a day, or the first one after `after`."""
        for hour in self.hours:
            for minute in self.minutes:
                if after is not None and (hour, minute) < (after.hour, after.minute):
                    continue
                for second in self.seconds:
                    found = time(hour, minute, second)
                    if after is None or found > after:
                        return found
        return None


def parse(line: str) -> Cron:
    """Return a line as what it lets through.

    Raises:
        ValueError: not six fields, or a field that cannot be read.
    """
    fields = line.split()
    if len(fields) != len(FIELDS):
        hint = f"; seconds come first: '0 {line}'" if len(fields) == len(FIELDS) - 1 else ""
        raise ValueError(f"a cron line has six fields ({', '.join(FIELDS)}), not {len(fields)}{hint}")
    values = [_values(place, text) for place, text in enumerate(fields)]
    open_day = any(re.search(r"[*?]", fields[place]) for place in (3, 5))
    seconds, minutes, hours = (tuple(sorted(each)) for each in values[:3])
    days, months, weekdays = map(frozenset, values[3:])
    return Cron(line, seconds, minutes, hours, days, months, weekdays, open_day)


def _values(place: int, text: str) -> set[int]:
    return {value for part in text.split(",") for value in _part(place, part)}


def _part(place: int, text: str) -> range:
    """Return what one of `*`, `5`, `mon-fri`, `*/10`, `3/10` or `0-30/10` lets through."""
    low, high = RANGES[place]
    span, slash, step = text.partition("/")
    first, dash, last = span.partition("-")
    if span in ("*", "?"):
        start, end = low, high
    else:
        start = _number(place, first, text)
        end = _number(place, last, text) if dash else high if slash else start
    every = int(step) if re.fullmatch(r"\d{1,4}", step) else 0 if slash else 1
    if not (low <= start <= end <= high and every > 0):
        raise ValueError(f"{FIELDS[place]} of a cron line must be within {low} to {high}, got {text!r}")
    return range(start, end + 1, every)


def _number(place: int, text: str, whole: str) -> int:
    named = NAMES.get(place, {}).get(text.lower())
    if named is None and not re.fullmatch(r"\d{1,4}", text):
        raise ValueError(f"{FIELDS[place]} of a cron line cannot be read: {whole!r}")
    return int(text) if named is None else named
