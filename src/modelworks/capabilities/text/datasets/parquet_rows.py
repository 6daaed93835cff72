"""A program: writes the rows of a Parquet file as JSON lines, in a process whose memory has a limit.

    python -P parquet_rows.py FILE BYTES

A Parquet file is unpacked by what it says of itself: a kilobyte may name pages of gigabytes, one long text in a million rows,
or a row of a billion elements, and no part of it that could be read before is bound to tell the truth. So the limit is the
kernel's (RLIMIT_DATA), of whatever is allocated for whatever reason. It imports nothing of the platform: it starts for every
file.

The last line is `.` where every row was written, otherwise `!` and what is wrong, or missing where the process was ended.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any, Final

#: Rows are taken in groups of about that size, as far as the file tells the truth about it.
_GROUP_BYTES: Final = 8 << 20
_MAX_ROWS: Final = 256
#: What is read from the file at a time.
_BUFFER_BYTES: Final = 1 << 20


def _limit_memory(num_bytes: int) -> None:
    """Let this process take so much more than it has."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # where there is no such limit, a file may take what there is
        import resource

        with Path("/proc/self/status").open(encoding="ascii") as status:
            taken = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (taken + num_bytes, taken + num_bytes))


def _named(value: Any) -> Any:
    """What JSON has no word for becomes an object, which is never taken for a text."""
    return {f"<{type(value).__name__}>": str(value)[:100]}


def main() -> None:
    """Write the rows of the file that is named by the arguments."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    _limit_memory(int(sys.argv[2]))
    out = sys.stdout.buffer
    try:
        with pyarrow.parquet.ParquetFile(sys.argv[1], buffer_size=_BUFFER_BYTES, pre_buffer=False) as table:
            about = table.metadata
            said = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
            size = max(1, said // max(1, about.num_rows))
            for batch in table.iter_batches(max(1, min(_MAX_ROWS, _GROUP_BYTES // size)), use_threads=False):
                for row in batch.to_pylist():
                    row = {key: each for key, each in row.items() if each is not None}
                    out.write(json.dumps(row, ensure_ascii=False, default=_named).encode("utf-8") + b"\n")
        last = b"."
    except MemoryError:
        last = b"!memory"
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        last = b"!" + str(error).partition("\n")[0][:300].encode("utf-8", "replace")
    out.write(last + b"\n")
    out.flush()


if __name__ == "__main__":
    main()
