"""Runs: which call runs next, which results are due, and what is done about a call that fails.

In: a ``Plan`` and an iterable of calls. Out: their results, as a list, a generator or futures. Open ``_runner.py``
first, then ``_run.py``, which has the loop of every run. ``_schedule.py`` decides without threads or clocks.
"""
