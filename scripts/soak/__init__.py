"""Everything at random, for a long time, and nothing may be left: ``python -m scripts.soak`` (``make soak``).

::

    seed ──> actions, in several threads ──> each checks its results      _actions
               │ a round: some seconds, until each thread has ended one
               v
    Watch: descriptors, threads, processes, memory, files ──> a line      _watch
               │
               v
    the verdict: no result was wrong, nothing hung, no line rises

    --rows: millions of calls, runs, deaths and stored results            _rows
"""
