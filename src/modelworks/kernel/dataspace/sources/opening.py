"""From what a person wrote to the source behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import cast

from modelworks.contract.errors import PermissionDenied
from modelworks.kernel.catalog.sources import SourcePolicy
from modelworks.kernel.dataspace.sources.folder import local_path
from modelworks.kernel.dataspace.sources.forms import SourceForm, local_uri
from modelworks.kernel.dataspace.sources.source import Source, Surroundings

#: Kind -> class; its module is imported only when such a source is opened.
_SOURCES: Mapping[str, str] = {
    "folder": "folder:FolderSource",
    "archive": "archive:ArchiveSource",
    "web": "web:WebSource",
    "feed": "feed:FeedSource",
    "s3": "bucket:BucketSource",
    "git": "git:GitSource",
    "mbox": "mail:MailboxSource",
    "imap": "mail:ImapSource",
    "sql": "database:DatabaseSource",
    "rest": "rest:RestSource",
}


def open_source(form: SourceForm, surroundings: Surroundings) -> Source:
    """The source that a form describes. Nothing is read yet.

    Raises:
        PermissionDenied: the policy forbids it. MissingExtra: a library that it needs is not installed.
    """
    module, _, name = _SOURCES[form.kind].partition(":")
    make = cast(Callable[..., Source], getattr(import_module(f"modelworks.kernel.dataspace.sources.{module}"), name))
    return make(form, surroundings)


def check_rights(form: SourceForm, policy: SourcePolicy, *, is_operator: bool) -> None:
    """Refuse at once what could never be read: this machine's files outside the allowed folders, or by the wrong person.

    Raises:
        PermissionDenied, InvalidRequest: see `SourcePolicy.check_rights` and `local_path`.
    """
    uri = local_uri(form)
    if uri is not None:
        policy.check_rights(uri, is_operator=is_operator)
        local_path(uri, policy)
    if form.kind == "s3" and form.secret is None and not is_operator:
        raise PermissionDenied(
            "Only administrators of the platform may have this server read a bucket with its own credentials.",
            hint="Store a secret (ACCESS_KEY_ID:SECRET_ACCESS_KEY), and name it.",
            param="secret",
        )
