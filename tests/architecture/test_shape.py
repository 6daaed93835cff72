"""Law 3: every room and every capability has its shape, and files stay small."""

from pathlib import Path

import pytest
from tests.architecture.sources import CAPABILITIES, KERNEL, PACKAGE, PROJECT, capability_folders, python_files, relative, rooms

ROOM_FILES = {"__init__.py", "service.py", "store.py", "routes.py", "schemas.py"}

#: Further files of a room: each is one side of a seam, or one noun that the service would otherwise swallow.
DRIVERS: dict[str, dict[str, str]] = {
    "base": {
        "settings.py": "every setting, read once",
        "database.py": "engines and transactions",
        "ids.py": "ids that say what they name",
        "clock.py": "the one source of time",
        "events.py": "announcements after a commit",
        "changes.py": "what a transaction changes, and who",
        "imports.py": "heavy modules, brought in sooner",
        "parameters.py": "what a request hands on to a task",
        "polling.py": "a thread, or a task, that looks again and again",
        "revision.py": "which migration a database is at, without Alembic",
        "batching.py": "a thread that writes what waits in one go",
        "memory.py": "one heap for all threads",
        "migration.py": "backup, then Alembic in one transaction",
        "migrations/": "Alembic's environment and versions",
        "telemetry.py": "logs, metrics, traces",
        "lock.py": "one server per database",
        "sparing.py": "archives whose headers lie about sizes",
        "egress.py": "guarded outgoing requests",
    },
    "storage": {
        "blobs.py": "the content-addressed store",
        "links.py": "signed links",
        "places.py": "where bytes lie: a folder, or S3 through fsspec",
        "signing.py": "the key that reports are signed with",
    },
    "access": {
        "usage.py": "the recorder of requests: group commit off the hot path",
        "audit.py": "the chain of every change",
        "audit_routes.py": "/api/audit",
        "secrets.py": "secrets of projects, sealed",
        "secret_routes.py": "/api/secrets",
        "sessions.py": "passwords and sessions of browsers",
        "session_routes.py": "/api/session",
        "oidc.py": "sign-in through an OpenID provider",
        "oidc_provider.py": "the provider: its metadata, keys and tokens",
        "oidc_routes.py": "/api/session/oidc",
        "roles.py": "what a role allows, and who has which",
        "members.py": "organisations, accounts and memberships",
        "member_routes.py": "/api/organisations, /api/users, /api/members",
        "ledger.py": "reservations, their settlement, double entries",
        "admission.py": "which budgets, limits and prices a request meets",
        "allowances.py": "budgets and limits",
        "prices.py": "what models cost",
        "invoices.py": "sums of months, and the proof that they agree",
        "account_routes.py": "/api/budgets, limits, prices, invoices",
    },
    "catalog": {
        "discovery.py": "capabilities by entry point",
        "pages.py": "/pages: files that capabilities bring for browsers",
        "references.py": "the grammar of name@alias",
        "checkpoint.py": "safety of files that come from outside",
        "sources/": "one file per scheme: file, https, s3, hf, ms, package",
        "pulling.py": "the job that fetches a source",
        "importing.py": "fetched files, made what a task reads",
        "manifest.py": "the digest of a version",
        "licences.py": "which restrictions a family inherits",
        "lineage.py": "edges, graphs and the family tree",
        "finding.py": "what a reference means, lists and searches",
        "evaluations.py": "what runs measured, and comparisons of it",
        "comparison.py": "the paired bootstrap",
        "gate.py": "which version an alias may move to",
    },
    "jobs": {
        "executors/": "local processes and Ray, behind one protocol",
        "worker.py": "the entry of a run's process",
        "journal.py": "the line format in which a run reports",
        "supervisor.py": "starts, watches and adopts attempts",
        "environment.py": "what a process computed with",
        "repeating.py": "a finished run once more, and compared",
        "folder.py": "the layout of an attempt's folder",
        "shipping.py": "the journal over HTTP from another machine",
        "slots.py": "which runs fit together",
        "gang.py": "one attempt shared by several Ray Train workers",
        "curation.py": "data sets through the functions of their task",
        "memory.py": "what is said of a run that memory ran out on",
        "estimating.py": "what a training will need, and whether it fits",
        "deployments.py": "which deployments a run may ask, and its key for them",
        "asking.py": "a run's questions to deployments",
        "attempts.py": "how a run moves from attempt to attempt",
    },
    "dataspace": {
        "documents.py": "documents, their rights, and what a search may see",
        "builds.py": "where each build stands",
        "learning.py": "models of a space's own, and what they were worth",
        "answers.py": "what answers rest on, noted beside them",
        "forgetting.py": "documents that are forgotten, and where each stands",
        "proofs.py": "what is told of these",
        "filters.py": "OpenAI's filters over attributes",
        "pages.py": "lists between two ids",
        "sourcing.py": "sources: named, scheduled, removed",
        "syncing.py": "looks at sources, taken into the documents",
        "source_routes.py": "/api/spaces/{space}/sources",
        "publications.py": "who may ask a space from elsewhere",
        "feedback.py": "what these say of answers",
        "publication_routes.py": "/api/spaces/{space}/publications and feedback",
        "sources/": "one file per kind: folder, archive, web, feed, s3, git, mail, database, rest",
    },
    "serving": {
        "reconciler.py": "the only writer of observed state",
        "backends/": "local processes and Ray Serve, behind one protocol",
        "worker.py": "a replica's process",
        "place.py": "what the reconciler keeps in mind",
        "adapters.py": "wishes for adapters beside a base",
        "adapting.py": "the reconciler's part for adapters",
        "resolver.py": "guarded DNS for servers elsewhere",
        "pool.py": "which replica answers a request, in memory",
        "target.py": "what a request can be sent to",
        "queue.py": "who is next when a deployment is full",
        "waiting.py": "requests that wait in memory",
        "sharing.py": "what the processes of one server tell each other",
    },
    "gateway": {
        "generation/": "chats and completions",
        "responses/": "/v1/responses and /v1/conversations",
        "messages/": "/v1/messages",
        "answers/": "what these routes answer, for the OpenAPI document",
        "batches/": "/v1/batches",
        "evals/": "/v1/evals and graders",
        "tuning/": "/v1/fine_tuning",
        "files/": "/v1/files and /v1/uploads",
        "retrieval/": "/v1/embeddings and /v1/rerank",
        "spaces/": "data spaces: searching, answering, /v1/vector_stores",
        "publishing/": "/embed and /share: a space asked from other pages",
        "moderation/": "/v1/moderations",
        "mcp/": "/mcp: routes as tools for agents",
        "inside.py": "a route asked in the same process",
        "stream.py": "server-sent events, keep-alive, disconnects",
        "proxy.py": "engines that already speak the protocol",
        "errors.py": "one envelope for every failure",
        "document.py": "the OpenAPI document, with the errors that routes answer",
        "tasks.py": "/v1/tasks",
        "middleware.py": "request ids, body limits, headers against browsers' tricks",
        "protocol.py": "limits of time and size on the wire",
        "shutdown.py": "what is under way when the server ends",
        "processes.py": "the port, and further processes that answer on it",
        "forwarding.py": "what these pass on to the first one",
        "exchange.py": "one request's way to a replica and back",
        "metering.py": "what a request used",
        "idempotency.py": "the header Idempotency-Key, for every route",
        "multipart.py": "forms, read as they arrive",
    },
}

CAPABILITY_FILES = {
    "__init__.py",
    "capability.py",
    "schemas.py",
    "presets.toml",
    "data.py",
    "train.py",
    "evaluate.py",
    "serve.py",
    "page/",
    "prompts/",
    "README.md",
}
CAPABILITY_MUST = {"__init__.py", "capability.py", "schemas.py", "presets.toml", "README.md"}

#: Further files of a capability: what it alone has.
SPECIALITIES: dict[str, dict[str, str]] = {
    "document": {
        "parsing.py": "the job: what is parsed anew, kept and saved",
        "pool.py": "parsing processes, watched",
        "worker.py": "the process in which documents are parsed",
        "signature.py": "what bytes are, and in which encoding",
        "archive.py": "zipped documents of strangers",
        "pages.py": "pages that were read already",
        "blocks.py": "what readers of formats give",
        "ocr.py": "text out of pictures",
        "passages.py": "blocks made passages",
        "language.py": "scripts, sentences and lengths",
        "formats/": "one reader for each family of formats",
        "samples/": "questions and answers made of passages",
        "cleaning/": "copies, boilerplate and personal data taken out of passages",
    },
    "embedding": {
        "encoder.py": "an encoder from its folder: pooling, rows of tokens, batches",
        "engine.py": "what computes rows, for many callers at a time",
        "layout.py": "a new encoder, and the folder that it is written to",
        "importing.py": "a fetched folder recognised",
        "tokenizer.py": "byte-level BPE for texts that are searched",
        "mining.py": "search by words: negatives, and what vectors are held against",
        "batches.py": "what each step reads, and the losses over it",
        "loop.py": "the training loop of both tasks",
        "scores.py": "how good a ranking is, and how sure that is",
    },
    "retrieval": {
        "terms.py": "what is counted of a text",
        "words.py": "search by words",
        "subjects.py": "which documents a query is about",
        "vectors.py": "search by meaning",
        "search.py": "both together, with phrases and filters",
        "encoding.py": "vectors from a deployed encoder, resumable",
        "weighing.py": "how far an index trusts its encoder",
        "layout.py": "the folder of an index",
    },
    "weather": {
        "grid/": "variables, layouts and formats of grids",
        "cyclone/": "tropical cyclones: tracks read and forecast",
        "downscaling/": "a region's finer grid from a coarse one",
        "wave/": "waves at a buoy: records read, heights forecast, spectra",
        "trees.py": "boosted trees as arrays",
        "blending.py": "forecasts of several parts made one",
        "published/": "models of others behind the same interface",
        "model/": "climate, ridge regression, networks, and the roll-out",
        "verification/": "scores, baselines and intervals",
    },
    "text": {
        "engines/": "one file per engine that a deployment may name",
        "form/": "what an answer must be, held while it is written",
        "evaluation/": "what is measured on each kind of test data",
        "tokenizer.py": "byte-level BPE, trained from text",
        "gguf_export.py": "a checkpoint as the file that the embedded engine opens",
        "gguf_file.py": "a GGUF file, read without trusting it",
        "gguf_names.py": "what both formats call the same weights",
        "weights.py": "the weights of a version, whichever format they lie in",
        "gguf_import.py": "a GGUF file made a version",
        "export.py": "a model for other programs",
        "meaning.py": "what a model means, whatever files it lies in",
        "quantise.py": "smaller versions, and what they cost",
        "checkpoint.py": "checks before a checkpoint is opened",
        "chat_examples.py": "turns made from documents",
        "incremental.py": "text from tokens that never splits a character",
        "fill_in_middle.py": "source code with its middle at the end",
        "packing.py": "documents into blocks of tokens",
        "datasets/": "formats of training data: read, validate, clean",
        "prompt.py": "messages into tokens through the model's template",
        "prompt_format.py": "template, tokenizer and stop ids as one object with one digest",
        "sandbox.py": "runs code that a model wrote, with limits",
        "estimate.py": "what a training will need, before it begins",
        "label.py": "a deployed model writes the answers of a data set",
        "grading/": "what judges answers",
        "training/": "the loop that every method shares, and what each puts into it",
    },
}

#: Files of 600 to 1,000 lines, with the reason why they are not split.
LARGE: dict[str, str] = {}
LIMIT, HARD_LIMIT = 600, 1000

#: Floor 0 is what everything stands on; it stays readable in one sitting.
CONTRACT_LIMIT = 2100


def entries(folder: Path) -> set[str]:
    """Names of files and folders; a folder ends with a slash. Build products and empty folders are not seen."""
    found = set()
    for path in folder.iterdir():
        if path.name == "__pycache__" or (path.suffix in (".pyc", ".md") and folder.parent == KERNEL):
            continue
        if path.is_dir():
            if any(each.is_file() and "__pycache__" not in each.parts for each in path.rglob("*")):
                found.add(f"{path.name}/")
        else:
            found.add(path.name)
    return found


def test_the_rooms_are_those_of_the_house() -> None:
    assert {room.name for room in rooms()} == set(DRIVERS)


@pytest.mark.parametrize("room", rooms(), ids=lambda room: room.name)
def test_a_room_has_its_shape(room: Path) -> None:
    here, named = entries(room), set(DRIVERS[room.name])
    assert "__init__.py" in here, "the room has no door"
    strange = here - ROOM_FILES - named
    assert not strange, f"{room.name}: {sorted(strange)} are neither a room's files nor named in DRIVERS with a reason"
    assert not named - here, f"{room.name}: DRIVERS names {sorted(named - here)}, which do not exist"


@pytest.mark.parametrize("folder", capability_folders(), ids=lambda folder: folder.name)
def test_a_capability_has_its_shape(folder: Path) -> None:
    here, named = entries(folder), set(SPECIALITIES.get(folder.name, {}))
    assert here >= CAPABILITY_MUST, f"{folder.name} lacks {sorted(CAPABILITY_MUST - here)}"
    strange = here - CAPABILITY_FILES - named
    assert not strange, f"{folder.name}: {sorted(strange)} are neither a capability's files nor named in SPECIALITIES"
    assert not named - here, f"{folder.name}: SPECIALITIES names {sorted(named - here)}, which do not exist"


def test_every_speciality_belongs_to_a_capability() -> None:
    assert set(SPECIALITIES) <= {folder.name for folder in CAPABILITIES.iterdir()}


def test_files_stay_small() -> None:
    files = [path for top in ("src", "tests", "benchmarks", "demo", "docs") for path in python_files(PROJECT / top)]
    sizes = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    large = {name: size for name, size in sizes.items() if size >= LIMIT}
    assert set(large) == set(LARGE), f"files of {LIMIT} lines or more must be split, or named in LARGE with a reason: {large}"
    assert all(size < HARD_LIMIT for size in large.values()), large


def test_the_contract_stays_small() -> None:
    assert sum(len(path.read_text().splitlines()) for path in python_files(PACKAGE / "contract")) < CONTRACT_LIMIT


def test_no_file_is_empty_but_for_a_door() -> None:
    empty = [relative(path) for path in python_files() if not path.read_text(encoding="utf-8").strip()]
    assert not empty, f"a file that would be empty is left out, a door has a docstring: {empty}"


def test_every_module_says_what_it_is() -> None:
    bad = [
        relative(path) for path in python_files() if not path.read_text(encoding="utf-8").lstrip().startswith(('"""', 'r"""'))
    ]
    assert not bad
