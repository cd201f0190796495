"""The stores of shoal, and the leases that let one caller compute a result.

::

    in     a Key, and a value with its Meta
    out    the value, or KeyError; a lease, which lets one caller compute while the others wait

    _filestore    entries on a file system; read this file first
    _staging      the folder in which entries are written and deleted, so that no reader sees half of one
    _values       the file of a value: a pickle, or a file in another format
    _paths        the paths and permissions of a cache
    _leases       select the thread or task that computes a value      _locks    select the process
    _edges        which leases wait for which, so that no deadlock arises
    _index        sizes and times of use, for stores with limits
    _fsspecstore  entries on any file system of fsspec         _fsspecfiles   its files

The contract, :class:`~shoal.memory.store.Store`, is one folder above. No module here makes keys.
"""
