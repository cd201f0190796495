"""Where do results lie, and who may compute them? The stores that shoal brings along.

::

    in     a Key, and a value with its Meta
    out    the value, or KeyError; a lease, which lets one caller compute while the others wait

    _filestore    entries on a file system; read this file first
    _staging      the folder in which entries are written and deleted, so that nobody sees half of one
    _paths        which paths and permissions belong to a cache
    _leases       which thread computes a value        _locks    which process does
    _index        sizes and times of use, for stores with limits
    _fsspecstore  entries on any file system of fsspec

The contract, :class:`~shoal.memory.store.Store`, is one folder above. Nothing here knows how a key is made.
"""
