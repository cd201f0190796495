"""What systems do differently: each module has one way for each system, under one name.

::

    files.py         replacing, renaming, removing and syncing files; opening files that others may remove meanwhile
    locks.py         locks between processes: a byte of a file, or a file that is being written
    capabilities.py  whether there are processes, threads and a fork server
    processes.py     sockets for workers; how the end of a process is noticed, and how one is killed; waits for events
    memory.py        memory that processes share, and the end of its files
    cpus.py          which CPUs a process may use, and what Windows says of its CPUs
    pickles.py       the pickler and the unpickler in C, or those of pickles_in_python.py
    posix.py         modules of the standard library from which some systems lack names, without their types

Open :mod:`~shoal._platform.files` first. The rest of shoal asks for what it needs, and not which system it runs on.
"""
