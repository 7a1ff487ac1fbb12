"""Cron lines."""

import re

MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
DAYS = "sun mon tue wed thu fri sat".split()
FIELDS = [
    (0, 59, {}),
    (0, 23, {}),
    (1, 31, {}),
    (1, 12, {name: at for at, name in enumerate(MONTHS, start=1)}),
    (0, 7, {name: at for at, name in enumerate(DAYS)}),
]
ITEM = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?")


def number(text, low, high, names):
    value = names.get(text.lower())
    if value is None:
        if not re.fullmatch("[0-9]+", text):
            raise ValueError(f"{text!r} is no number")
        value = int(text)
    if not low <= value <= high:
        raise ValueError(f"{text!r} is not from {low} to {high}")
    return value


def item(text, low, high, names):
    found = ITEM.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no item of a cron line")
    star, first, last, step = found.groups()
    if step is not None and (int(step) == 0 or not (star or last)):
        raise ValueError(f"{text!r} has a step it cannot have")
    if star:
        start, end = low, high
    else:
        start = number(first, low, high, names)
        end = number(last, low, high, names) if last else start
    if end < start:
        raise ValueError(f"{text!r} runs backwards")
    return set(range(start, end + 1, int(step or 1)))


def field(text, low, high, names):
    return set().union(*(item(part, low, high, names) for part in text.split(",")))


def matches(line, moment):
    texts = line.split()
    if len(texts) != len(FIELDS):
        raise ValueError(f"{line!r} has not five fields")
    minute, hour, day, month, weekday = (
        field(text, *limits) for text, limits in zip(texts, FIELDS)
    )
    today = moment.isoweekday() % 7
    day_fits = moment.day in day
    weekday_fits = today in weekday or (today == 0 and 7 in weekday)
    if texts[2].startswith("*") or texts[4].startswith("*"):
        days_fit = day_fits and weekday_fits
    else:
        days_fit = day_fits or weekday_fits
    return moment.minute in minute and moment.hour in hour and moment.month in month and days_fit
