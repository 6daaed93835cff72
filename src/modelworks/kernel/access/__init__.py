"""Who may do what, and what was used: projects, API keys, principals and the record of requests."""

from modelworks.kernel.access.schemas import SCOPES, Principal, UsageRecord
from modelworks.kernel.access.service import AccessService
from modelworks.kernel.access.usage import UsageRecorder

__all__ = ["SCOPES", "AccessService", "Principal", "UsageRecord", "UsageRecorder"]
