"""Bytes by digest: blobs in a local folder or on S3, written atomically, verified when read, shared by signed links."""

from modelworks.kernel.storage.blobs import BlobStore, BlobWriter, GcReport, StoredBlob, parse_digest, referenced_by, safe_path
from modelworks.kernel.storage.links import LinkSigner
from modelworks.kernel.storage.schemas import BlobInfo, Digest
from modelworks.kernel.storage.signing import ReportSigner

__all__ = [
    "BlobInfo",
    "BlobStore",
    "BlobWriter",
    "Digest",
    "GcReport",
    "LinkSigner",
    "ReportSigner",
    "StoredBlob",
    "parse_digest",
    "referenced_by",
    "safe_path",
]
