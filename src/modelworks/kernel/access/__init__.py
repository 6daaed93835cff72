"""Who may do what, and what was used: projects, API keys, principals the record of requests and the audit log."""

from modelworks.kernel.access.audit import AuditLog
from modelworks.kernel.access.members import MemberService
from modelworks.kernel.access.schemas import SCOPES, Principal, UsageRecord
from modelworks.kernel.access.service import AccessService
from modelworks.kernel.access.usage import UsageRecorder

__all__ = ["SCOPES", "AccessService", "AuditLog", "MemberService", "Principal", "UsageRecord", "UsageRecorder"]
