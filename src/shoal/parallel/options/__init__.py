"""What the arguments of a run mean: an argument goes before the context, the context before the default.

In: the arguments of ``Parallel``, ``executor`` and ``parallel_config``. Out: a ``Plan``, frozen and checked. Open
``_plan.py`` first, then ``_settings.py``, which has what a context can set. ``_checks.py`` has one check per argument.
"""
