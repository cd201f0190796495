"""``multiprocessing.Pool`` with configurable reducers for the pickling of arguments and results."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from multiprocessing.pool import Pool
from multiprocessing.reduction import ForkingPickler
from pickle import HIGHEST_PROTOCOL
from typing import Any

from shoal._tracebacks import warn

from ._memmapping_reducer import TemporaryResourcesManager, get_memmapping_reducers
from ._multiprocessing_helpers import assert_spawning, mp

__all__ = ["CustomizablePickler", "CustomizablePicklingQueue", "MemmappingPool", "PicklingPool"]

Reducers = dict[type, Callable[[Any], Any]]


class CustomizablePickler(ForkingPickler):
    """A pickler with reducers of its own: a dictionary by class."""

    def __init__(self, writer: Any, reducers: Reducers | None = None, protocol: int = HIGHEST_PROTOCOL) -> None:
        super().__init__(writer, protocol)
        for kind, reduce_func in (reducers or {}).items():
            self.register(kind, reduce_func)

    def register(self, type: type, reduce_func: Callable[[Any], Any]) -> None:  # type: ignore[override]
        """Set the function that reduces objects of a class."""
        self.dispatch_table[type] = reduce_func


class CustomizablePicklingQueue:
    """A pipe with a lock at each end, in a multiprocessing context, with reducers by class."""

    def __init__(self, context: Any, reducers: Reducers | None = None) -> None:
        self._reducers = reducers
        self._reader, self._writer = context.Pipe(duplex=False)
        self._rlock, self._wlock = context.Lock(), context.Lock()

    def __getstate__(self) -> Any:
        assert_spawning(self)
        return self._reader, self._writer, self._rlock, self._wlock, self._reducers

    def __setstate__(self, state: Any) -> None:
        self._reader, self._writer, self._rlock, self._wlock, self._reducers = state

    def empty(self) -> bool:
        """Tell whether the queue is empty."""
        return not self._reader.poll()

    def get(self) -> Any:
        """Wait for the next object and return it."""
        with self._rlock:
            return self._recv()

    def put(self, obj: Any) -> None:
        """Send an object."""
        with self._wlock:
            self._send(obj)

    def _recv(self) -> Any:
        return self._reader.recv()

    def _send(self, obj: Any) -> None:
        buffer = io.BytesIO()
        CustomizablePickler(buffer, self._reducers).dump(obj)
        self._writer.send_bytes(buffer.getbuffer())

    def close(self) -> None:
        """Close both ends."""
        self._reader.close()
        self._writer.close()


class PicklingPool(Pool):
    """A pool with reducers for arguments and for results. Projects may replace its base by another class of pools.

    Parameters
    ----------
    processes
        The number of workers.
    forward_reducers, backward_reducers
        The reducers of arguments and of results, by class.
    **kwargs
        Arguments of the base class.
    """

    def __init__(
        self,
        processes: int | None = None,
        forward_reducers: Reducers | None = None,
        backward_reducers: Reducers | None = None,
        **kwargs: Any,
    ) -> None:
        self._forward_reducers = {} if forward_reducers is None else forward_reducers
        self._backward_reducers = {} if backward_reducers is None else backward_reducers
        super().__init__(**{"processes": processes, **kwargs})

    def _setup_queues(self) -> None:
        context = getattr(self, "_ctx", mp)
        self._inqueue: Any = CustomizablePicklingQueue(context, self._forward_reducers)
        self._outqueue: Any = CustomizablePicklingQueue(context, self._backward_reducers)
        self._quick_put = self._inqueue._send
        self._quick_get = self._outqueue._recv


class MemmappingPool(PicklingPool):
    """A pool whose workers map large arrays.

    Parameters
    ----------
    processes
        The number of workers.
    temp_folder
        The folder for the files of arrays.
    max_nbytes
        Arrays above this number of bytes are mapped. None: no array is.
    mmap_mode
        The mode in which workers map them.
    forward_reducers, backward_reducers
        The reducers of arguments and of results, by class; those of arrays are added.
    verbose
        Accepted for compatibility.
    prewarm
        Whether a new file of an array is read once in this process.
    **kwargs
        Arguments of the base class.
    """

    def __init__(
        self,
        processes: int | None = None,
        temp_folder: str | None = None,
        max_nbytes: int | float | None = 1e6,
        mmap_mode: str | None = "r",
        forward_reducers: Reducers | None = None,
        backward_reducers: Reducers | None = None,
        verbose: int = 0,
        prewarm: Any = False,
        **kwargs: Any,
    ) -> None:
        self._temp_folder_manager = TemporaryResourcesManager(temp_folder)
        self._temp_folder = self._temp_folder_manager.resolve_temp_folder_name()
        forward, backward = get_memmapping_reducers(
            forward_reducers,
            backward_reducers,
            self._temp_folder_manager.folder().path,
            max_nbytes,
            mmap_mode,
            verbose,
            prewarm,
            unlink_on_gc_collect=False,
        )
        super().__init__(processes=processes, forward_reducers=forward, backward_reducers=backward, **kwargs)

    def terminate(self) -> None:
        """End the workers, and remove the files of arrays."""
        for attempt in range(10):
            try:
                super().terminate()
                break
            except PermissionError as error:  # on Windows, while a worker has a file open
                if attempt == 9:
                    warn(f"Failed to terminate worker processes in multiprocessing pool: {error!r}")
                time.sleep(0.1)
        self._temp_folder_manager._clean_temporary_resources()
