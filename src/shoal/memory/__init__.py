"""Results on disk: ``Memory`` saves the results of functions, so that no call is computed twice.

::

    in     a function, and the arguments of its calls
    out    the result, loaded from a store or computed and saved

    _memory    Memory: the location of results, and options. Read this file first, then _cached
    _contents  the methods of Memory for many results; _pruning, _verifying, _transfer, _page do what they say
    _cached    the cached functions that Memory.cache returns
    _calls     finds, computes and saves the result of a call
    _open      what a cached function tells of its results
    _explain   f.explain(): why a result is stored or not
    _parts     describes the arguments of a call by path, for metadata; _differences compares two calls
    _results   references to results, for users; statistics
    _changes   compares the source of a function with the one in the store
    _texts     the printed lines, and arguments as text
    store      the contract of a store, and the names of stores; public
    formats    the formats of results, and their names; public. _tables writes and reads Parquet and Arrow files

    key/       the key of a call        storage/    the stores, and the leases that let one caller compute a result

docs/memory.md describes it for users, and lists the functions that a hit and a miss run through.
"""
