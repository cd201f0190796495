"""The way of a batch to a worker and of its results back, through sockets and shared memory.

In: a batch of calls. Out: a ``Reply`` with results, or the call that failed. Open ``_contract.py`` first, then
``_processes.py``, which is the caller's side for worker processes, and ``_worker.py``, which is the worker's.
"""
