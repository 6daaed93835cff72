"""The toy's data are words; some are unwanted, and what stays is divided by its first letter."""

from modelworks.contract.data import CleanReport, DataFault, DataReport, SizeStatistics
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.estimate import Estimate


def estimate(params, inputs, cpu):
    if params.rate == 0.125:
        raise RuntimeError("cannot be guessed")
    if params.rate == 0.25 and not inputs.has("base"):
        raise InvalidRequest("This rate needs a base.", param="inputs.base")
    if params.estimated_bytes is None:
        return None
    words = {} if not inputs.has("train") else {"words": len((inputs.folder("train") / "words.txt").read_text())}
    return Estimate(
        memory_bytes=params.estimated_bytes,
        parts={"counter": params.estimated_bytes, **words},
        seconds=params.steps * cpu,
        hints=["fewer steps", "a smaller rate"],
    )


def validate(folder, params, *, model=None, on_progress):
    words = (folder / "words.txt").read_text().split()
    on_progress(len(words), len(words))
    faults = [
        DataFault(
            file="words.txt", line=1, field=None, code="unwanted", severity="error", message=f"{word}.", hint="Remove it."
        )
        for word in words
        if word == params.unwanted
    ]
    return DataReport(
        num_files=1,
        num_bytes=1,
        samples={"word": len(words) - len(faults)},
        num_errors=len(faults),
        num_warnings=0,
        faults_by_code={"unwanted": len(faults)},
        faults=faults,
        size=SizeStatistics(unit="words", total=len(words), is_estimate=model is None),
        epochs=params.epochs,
        cost=len(words) * params.epochs,
    )


def clean(folder, params, *, test=None, into=None, on_progress):
    words = (folder / "words.txt").read_text().split()
    on_progress(len(words), len(words))
    known = set() if test is None else set((test / "words.txt").read_text().split())
    kept = [word for word in words if word != params.unwanted and word not in known]
    parts = {
        "train": [word for word in kept if not word.startswith("v")],
        "validation": [word for word in kept if word.startswith("v")],
    }
    for part, chosen in parts.items():
        if into is not None and chosen:
            (into / part).mkdir(parents=True)
            (into / part / "words.txt").write_text(" ".join(chosen))
    return CleanReport(
        num_read=len(words),
        kept={part: len(chosen) for part, chosen in parts.items()},
        removed={"unwanted": len(words) - len(kept)},
        preview=[],
    )
