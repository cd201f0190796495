"""A value that is saved as the file that another store has made, so that nothing of it is unpickled."""

from __future__ import annotations

import shutil
from typing import BinaryIO

_PIECE = 1 << 20


class ValueFile:
    """Takes the place of a value in :meth:`Store.save`."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def copy_to(self, file: BinaryIO) -> None:
        """Write the content to a file."""
        shutil.copyfileobj(self.file, file, _PIECE)
