"""Objects on disk: ``dump`` writes one to a file in joblib's format, ``load`` rebuilds it, ``inspect`` describes it.

::

    _dump.py ──────> writing/ ──┬──> compression/ ──> the file
    _load.py ──┬───> reading/ ──┤
    _inspect.py└───> trust/ ────┘    _format.py draws the layout of a file, and encodes and decodes its footer

Open ``_dump.py`` or ``_load.py`` first: they say what the arguments mean, and call the folders. Each folder says in its
``__init__.py`` what comes in, what goes out, and which file to open first. ``trust`` builds on ``reading``, and both
build on ``compression``; nothing imports the other way round.
"""
