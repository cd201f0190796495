"""Running calls in parallel: the front ends, and everything between a call and its result.

::

    _parallel.py  _executor.py  _async.py       what users call
        │  arguments
        v
    options/     Plan: every argument of a run, settled
        │
        v
    running/     Runner, Run: which call runs when, and what is done if it fails
        │  a batch
        v
    transport/   its way to a worker and back

Open ``_parallel.py`` first. ``_delayed.py`` says what a call is, and ``_batch.py`` what a batch is. Each folder says in
its ``__init__.py`` what comes in, what goes out, and which file to open first.
"""
