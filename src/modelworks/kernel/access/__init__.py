"""Who may do what, and what was used: organisations, projects, keys, secrets, the record of requests and the audit log."""

from modelworks.kernel.access.audit import AuditLog
from modelworks.kernel.access.members import MemberService
from modelworks.kernel.access.schemas import SCOPES, Principal, UsageRecord
from modelworks.kernel.access.secrets import Sealer, SecretService
from modelworks.kernel.access.service import AccessService
from modelworks.kernel.access.usage import UsageRecorder

__all__ = [
    "SCOPES",
    "AccessService",
    "AuditLog",
    "MemberService",
    "Principal",
    "Sealer",
    "SecretService",
    "UsageRecord",
    "UsageRecorder",
]
