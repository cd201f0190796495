"""The events of a run, and the listeners that show them to the user.

The loop of a run calls the methods of a Teller; the Teller makes events of them; each listener receives each event and
prints lines, draws a bar, or calls a function of the user. Open ``events.py`` first.

::

    parallel/running/_run ──> _teller.Teller ──events──> _printer.Printer       verbose=
                                            └──> _progress               progress=: a bar, lines, or the user's function
    worker processes ──> _terminal     print their lines above a bar that the calling process draws
    calls in a worker ──> _recording   log, warn and print; _saying.deliver does it again in the calling process
                          _adopting    gives the worker the log levels and warning filters of the caller
    calls send ─────> _messages        and _receiving, in the run: on_message=, and the steps of the bar
    objects ──> _logger.Logger         write to the logging module; also how values are shown as text
"""
