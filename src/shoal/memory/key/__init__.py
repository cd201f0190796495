"""Which call is it? From a function and its arguments to the key of a result.

::

    in     a function, its options (ignore=, version=, depends=, hash_name=), and the arguments of one call
    out    a Key: the path of the function's entries, and a digest

    _identity    what identifies a function and a call; read this file first
    _arguments   the arguments as a row of values, bound by Python itself
    _source      the path and the source of a function
    _freshness   whether a file still has the text of the code that runs

Nothing here reads or writes a store.
"""
