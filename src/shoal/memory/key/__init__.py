"""From a function and its arguments to the key of a result.

::

    in     a function, its options (ignore=, version=, depends=, hash_name=), and the arguments of one call
    out    a Key: the path of the function's entries, and a digest

    _identity    the identity of a function, and the keys of its calls; read this file first
    _arguments   the arguments as a row of values, bound by Python itself
    _source      the path and the source of a function
    _depends     what depends= names
    _reach       what a function reaches in the user's project, for depends="auto"; _names reads code, _project
                 says what is the user's
    _freshness   checks whether a file has changed since its code was loaded

No module here reads or writes a store.
"""
