"""Who may do what, and what was used: projects, API keys, principals and the record of requests."""

from modelworks.kernel.access.schemas import SCOPES, Principal, UsageRecord

__all__ = ["SCOPES", "Principal", "UsageRecord"]
