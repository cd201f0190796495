"""Reports: what runs did, and why they were slow.

::

    a run ──> Meter, in the caller ──────────┐                        ┌──> _text    print(report)
    a worker ──> BatchMeter ── replies ──────┴──> the dict of a run ──┤
                                                  │ _findings         ├──> _page    one HTML file
                                                  v                   └──> _trace   for Perfetto
                                             cause and remedy

docs/report-schema.md describes the dictionary. The package is not named ``report``, because ``shoal.report`` is the
function.
"""
