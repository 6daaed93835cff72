"""What a version that was trained as an adapter says about itself, and the shape of a predictor that serves many of them.

An adapter is a small set of weights that changes one base model. A predictor that is an `AdapterHost` holds a base model once
and any number of its adapters beside it; each request says which of them answers, or none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelworks.contract.errors import InvalidRequest, ModelworksError
from modelworks.contract.run import LocalModel

#: The key of the record in a version's metadata.
METADATA_KEY = "adapter"


class AdapterRecord(BaseModel):
    """Written by the trainer with `run.save`; the kernel reads the base, the capability the rest."""

    model_config = ConfigDict(extra="ignore")

    #: The base version's reference and the digest of its files.
    base: str
    base_digest: str
    #: The folder of the version's files that holds the adapter; the others are the merged weights.
    folder: str | None = None
    #: `sha256:…` by file name, within that folder.
    files: dict[str, str] = Field(default_factory=dict)
    prompt_format: str | None = None
    rank: int | None = None
    alpha: int | None = None
    targets: list[str] | None = None

    @classmethod
    def of(cls, model: LocalModel) -> AdapterRecord:
        """The record of a version.

        Raises:
            InvalidRequest: it was not trained as an adapter.
        """
        return cls.in_metadata(model.ref, model.metadata)

    @classmethod
    def in_metadata(cls, ref: str, metadata: Mapping[str, object]) -> AdapterRecord:
        """As `of`, from a version's metadata."""
        try:
            return cls.model_validate(metadata.get(METADATA_KEY))
        except ValidationError:
            raise InvalidRequest(
                f"{ref!r} is no adapter: it was not trained as one.",
                hint="Train with method=lora, or deploy it as a model of its own.",
                param="model",
                code="not_an_adapter",
            ) from None


def check_base(ref: str, record: AdapterRecord, base_ref: str, base_digest: str) -> None:
    """Refuse an adapter on a base that it was not trained on.

    Raises:
        InvalidRequest: the message names both bases.
    """
    if record.base_digest != base_digest:
        raise InvalidRequest(
            f"The adapter {ref!r} was trained on {record.base!r} ({record.base_digest[:19]}…), and the deployment serves "
            f"{base_ref!r} ({base_digest[:19]}…).",
            hint=f"Deploy {record.base!r} and add the adapter there.",
            param="model",
            code="adapter_of_another_base",
        )


@runtime_checkable
class AdapterHost(Protocol):
    """A predictor that may have these methods; its `stream` (or `predict`) then takes `adapter`, a version's id or None.

    For a process that speaks OpenAI's protocol, `ServerCommand.adapters` opens one. The methods are called from a thread, one
    at a time, while requests are answered.
    """

    @property
    def holds_adapters(self) -> bool:
        """Whether this instance does: not every engine of a predictor may."""
        ...

    def load_adapters(self, models: Sequence[LocalModel]) -> Mapping[str, ModelworksError]:
        """Load adapters beside those that are there, and prove that each one answers as it was trained.

        Returns:
            Why some were refused, by version id; the others answer from now on.
        """
        ...

    def unload_adapters(self, version_ids: Collection[str]) -> None:
        """Accept no more requests for these; those under way are finished. Unknown ids are no error."""
        ...
