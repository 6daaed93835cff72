"""The declaration of capability `document`."""

from __future__ import annotations

from modelworks.capabilities.document.cleaning.schemas import CleanPassages
from modelworks.capabilities.document.samples.schemas import SampleOutput, SampleRequest
from modelworks.capabilities.document.schemas import ParsingOutput, ParsingRequest
from modelworks.contract import Capability, Resources, Task

_PACKAGE = "modelworks.capabilities.document"

capability = Capability(
    name="document",
    summary="Documents of any form made passages that know their page, their cells or their lines.",
    package=_PACKAGE,
    extra="documents",
    tasks=(
        Task(
            name="document-parsing",
            input=ParsingRequest,
            output=ParsingOutput,
            predictor=f"{_PACKAGE}.parsing:parse_documents",
            mode="job",
            cleaner=f"{_PACKAGE}.cleaning.cleaning:clean",
            clean_params=CleanPassages,
            resources=Resources(cpu=1.0, memory_bytes=1 << 30),
        ),
        Task(
            name="sample-making",
            input=SampleRequest,
            output=SampleOutput,
            predictor=f"{_PACKAGE}.samples.making:make_samples",
            mode="job",
            resources=Resources(cpu=1.0, memory_bytes=1 << 30),
        ),
    ),
)
