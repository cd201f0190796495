"""The events of a run, and the listeners that show them to the user.

The loop of a run calls the methods of a Teller; the Teller makes events of them; each listener receives each event and
prints lines, draws a bar, or calls a function of the user. Open ``events.py`` first.

::

    parallel/running/_run ──> _teller.Teller ──events──> _printer.Printer       verbose=
                                            └──> _progress               progress=: a bar, lines, or the user's function
    worker processes ──> _terminal     print their lines above a bar that the calling process draws
    what calls say in a worker ──> _recording.Recorder ──> _saying.deliver: loggers, warning filters, streams of the caller
    objects ──> _logger.Logger         write to the logging module; also how values are shown as text
"""
