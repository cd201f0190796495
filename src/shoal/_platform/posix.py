"""Modules of the standard library from which some systems lack names. A caller knows that its system has the name.

They have no types, because mypy knows for each system which names it lacks.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
from typing import Any

posix: Any = os
posix_mmap: Any = mmap
posix_select: Any = select
posix_signal: Any = signal
