"""Who may do what, and what was used: organisations, projects, keys, secrets; requests, accounts and the audit log."""

from modelworks.kernel.access.admission import Admission, Demand
from modelworks.kernel.access.allowances import Allowances
from modelworks.kernel.access.audit import AuditLog
from modelworks.kernel.access.ledger import Ledger
from modelworks.kernel.access.members import MemberService
from modelworks.kernel.access.oidc import OidcSignIn
from modelworks.kernel.access.prices import Prices, Rate
from modelworks.kernel.access.schemas import SCOPES, Principal, Reservation, UsageRecord
from modelworks.kernel.access.secrets import Sealer, SecretService
from modelworks.kernel.access.service import AccessService
from modelworks.kernel.access.sessions import SessionService
from modelworks.kernel.access.usage import UsageRecorder

__all__ = [
    "SCOPES",
    "AccessService",
    "Admission",
    "Allowances",
    "AuditLog",
    "Demand",
    "Ledger",
    "MemberService",
    "OidcSignIn",
    "Prices",
    "Principal",
    "Rate",
    "Reservation",
    "Sealer",
    "SecretService",
    "SessionService",
    "UsageRecord",
    "UsageRecorder",
]
