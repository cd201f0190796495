"""shoal at 1 to 10,000 workers, simulated: ``python -m benchmarks.scale`` (``make scale``).

The loop of a run, its schedule and its policies are the real ones. Workers, the transport and the clock are simulated::

    _cases ──> Case ──┬──> _shoal:    BatchRun, Schedule, Sizing ──┐
                      ├──> _rules:    joblib's batches, guided      ├──> Machine: workers in virtual time (_world)
                      │               self-scheduling, factoring   ─┘
                      └──> _stealing: work stealing
    Outcome of each ──> the table, results/scale.json ──> _page: docs/scale.md and its pictures
"""
