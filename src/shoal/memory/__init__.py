"""Results on disk: ``Memory`` saves the results of functions, so that no call is computed twice.

::

    in     a function, and the arguments of its calls
    out    the result, loaded from a store or computed and saved

    _memory    Memory: where results lie and how. Read this file first, then _cached
    _cached    the cached functions that Memory.cache returns
    _calls     what they do at each call: find, compute, save
    _results   references to results that users hold; statistics
    _changes   whether the source of a function still is the one in the store
    _texts     what is printed, and arguments as text
    store      the contract of a store, and the names of stores; public

    key/       which call it is        storage/    where results lie, and who may compute them

docs/memory.md describes it for users, and lists the functions that a hit and a miss run through.
"""
