"""Where checkpoints come from: `file`, `https`, `s3`, `hf`, `ms`, `package`, one file each behind one protocol."""

from __future__ import annotations

from modelworks.kernel.catalog.sources.opening import open_source
from modelworks.kernel.catalog.sources.source import Progress, Source, SourcePolicy

__all__ = ["Progress", "Source", "SourcePolicy", "open_source"]
