"""Archives of strangers: their readers in the standard library take the sizes in headers at their word.

The directory of a .zip is read in one piece and becomes objects ten times its size; a .tar may announce a name of gigabytes,
which is unpacked into memory. A file that hands out no large piece stops both.
"""

from __future__ import annotations

import zipfile
from typing import IO, cast

from modelworks.contract.errors import PayloadTooLarge

#: Room for the directory of some 300,000 files.
MAX_PIECE_BYTES = 32 << 20


class Sparing:
    """A file for readers that believe what a header says: a piece larger than a limit is refused.

    Args:
        file: what is read.
        name: what the file is called in the refusal.
        max_piece: the most bytes of one `read`.

    Attributes:
        num_read: bytes since this was last set to 0.
        budget: the most that `num_read` may be; None: any.
    """

    def __init__(self, file: IO[bytes], name: str, *, max_piece: int) -> None:
        self._file = file
        self._max_piece = max_piece
        self._name = name
        self.num_read = 0
        self.budget: int | None = None

    def read(self, size: int | None = -1) -> bytes:
        """As of a file; raises PayloadTooLarge."""
        if size is None or size < 0 or size > self._max_piece:
            size = self._max_piece + 1
        piece = self._file.read(size)
        self.num_read += len(piece)
        if len(piece) > self._max_piece or (self.budget is not None and self.num_read > self.budget):
            raise PayloadTooLarge(
                f"The directory of the archive {self._name!r} is too large.", hint="Pack fewer files, or split it."
            )
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()


def open_zip(file: IO[bytes], name: str) -> zipfile.ZipFile:
    """A .zip from a stranger.

    Raises:
        PayloadTooLarge: its directory would take too much memory. zipfile.BadZipFile: it is none.
    """
    return zipfile.ZipFile(cast(IO[bytes], Sparing(file, name, max_piece=MAX_PIECE_BYTES)))
