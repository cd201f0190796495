"""Reports: what runs did, and why they were slow.

::

    a run ──> Meter, in the caller ──────────┐                        ┌──> _text    print(report)
    a worker ──> BatchMeter ── replies ──────┴──> the dict of a run ──┤
                                                  │ _findings         ├──> _rich    rich.print(report)
                                                  v                   ├──> _page    one HTML file
                                             cause and remedy         └──> _trace   for Perfetto

The first three show the tables of _tables and the figures of _summary. The page also has the charts of _charts, which
assets/page.js draws with uPlot.

docs/report-schema.md describes the dictionary. The package is not named ``report``, because ``shoal.report`` is the
function.
"""
