"""Notes of running ray tasks. They travel through the cluster's key-value store, to which every process is connected.

::

    worker: post ── put(key, content) ──> the store <── list, get, delete ── Collector, in the program ──> receive
            withdraw ── delete(key) ────────┘

A batch has one key, under which it posts again when the program has deleted what was there. Whoever deletes a content
owns it: so none is lost, and none is received twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from uuid import uuid4

from ray.experimental import internal_kv

from shoal.backends.storing import Postbox

#: The seconds between two looks of the program into the store. Each takes a millisecond or more.
LOOK_SECONDS = 0.25
_NAMESPACE = b"shoal"


class _Postbox:
    """Posts under one key of the store."""

    def __init__(self, prefix: bytes) -> None:
        self._key = prefix + uuid4().hex.encode()
        self._content: bytes | None = None

    def post(self, content: bytes) -> bool:
        if self._content is not None and internal_kv._internal_kv_exists(self._key, namespace=_NAMESPACE):
            return False
        self._content = content
        internal_kv._internal_kv_put(self._key, content, namespace=_NAMESPACE)
        return True

    def withdraw(self) -> bytes | None:
        if self._content is not None and internal_kv._internal_kv_del(self._key, namespace=_NAMESPACE):
            return self._content
        return None


class Collector:
    """Receives, in a thread, what the batches of one executor post.

    Parameters
    ----------
    receive
        Called with each content.

    Attributes
    ----------
    open_postbox
        Makes, in a worker, the other end.
    receiving
        Held from the deletion of a content until it was received. A batch whose content was deleted may end at once,
        and its results must not overtake the content.
    """

    def __init__(self, receive: Callable[[bytes], object]) -> None:
        self._prefix = f"{uuid4().hex}/".encode()
        self.open_postbox: Callable[[], Postbox] = partial(_Postbox, self._prefix)
        self.receiving = threading.Lock()
        self._receive = receive
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="shoal-ray-notes", daemon=True).start()

    def close(self) -> None:
        """Receive nothing more. What is posted is dropped."""
        self._closed.set()

    def _run(self) -> None:
        try:
            while not self._closed.wait(LOOK_SECONDS):
                self._look()
            internal_kv._internal_kv_del(self._prefix, del_by_prefix=True, namespace=_NAMESPACE)
        except Exception:  # the cluster has ended, or this process has left it: nothing can be posted any more
            return

    def _look(self) -> None:
        for key in internal_kv._internal_kv_list(self._prefix, namespace=_NAMESPACE):
            content = internal_kv._internal_kv_get(key, namespace=_NAMESPACE)
            with self.receiving:
                if content is not None and internal_kv._internal_kv_del(key, namespace=_NAMESPACE):
                    self._receive(content)
