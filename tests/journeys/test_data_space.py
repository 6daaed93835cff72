"""A data space on a whole platform: files become answers, changes are followed, kills lose nothing, what is removed is gone."""

from __future__ import annotations

import json
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from tests.journeys.platform_process import PlatformProcess

from modelworks.cli.app import execute
from modelworks.client import Modelworks
from modelworks.contract.errors import NotFound, PermissionDenied

FILES = {
    "handbook/leave.md": "# Leave\n\nEvery employee has 30 days of paid leave a year.\n\n## Sick leave\n\nA doctor's note is "
    "needed from the fourth day on.",
    "handbook/travel.html": "<html><body><script>alert(1)</script><h1>Travel</h1><p>Trains are booked in second class "
    "unless the journey takes more than five hours.</p></body></html>",
    "公司/差旅.md": "# 差旅\n\n住宿标准为每晚六百元。超过标准需要部门经理批准。",
    "machines.txt": "The pump P-101 runs at 12 bar, the pump P-102 at 16 bar.",
}
#: Of ten departments, each with a sentence that nobody else has.
WORDS = ("amber", "basalt", "cobalt", "dolomite", "emerald", "feldspar", "garnet", "halite", "iolite", "jade")
FORGOTTEN = (2, 5, 7)
SAFE = "With which word does the safe of department {} open?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    for name, text in FILES.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text, encoding="utf-8")
    for number, word in enumerate(WORDS):
        said = f"The safe of department {number} opens with the word {word}.\n\nLunch is at noon for all."
        (made / f"department-{number}.md").write_text(f"# Department {number}\n\n{said}")
    # What it claims to be, it is not.
    (made / "broken.pdf").write_bytes(b"%PDF-1.7\nnothing of the kind")
    return made


def put_all(client: Modelworks, space: str, folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.spaces.put(space, path, name=path.relative_to(folder).as_posix())


def ask(platform: PlatformProcess, question: str) -> str:
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.key, max_retries=0) as client:
        answer = client.chat.completions.create(model="space:manual", messages=[{"role": "user", "content": question}])
        store = next(store for store in client.vector_stores.list() if store.name == "manual")
        found = {each.filename for each in client.vector_stores.search(store.id, query=question).data}
    cited = {each["file_citation"]["filename"] for each in answer.choices[0].message.to_dict()["annotations"]}  # type: ignore[index]
    assert cited <= found
    return str(answer.choices[0].message.content)


def held_by_index(client: Modelworks, query: str) -> set[str]:
    """Documents that the index itself holds, whatever the space lets through."""
    deployment = client.spaces.get("manual")["deployment"]
    output = client.tasks.invoke("passage-retrieval", deployment, {"queries": [query], "limit": 50})
    hits = output.get("output", output)["hits"][0]
    return {hit["passage"]["document_id"] for hit in hits}


def is_stored(home: Path, text: str) -> bool:
    """Whether any file of blobs, runs, or of what is kept of versions holds the text."""
    for folder in (home / "blobs", home / "cache", home / "runs"):
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):  # what a worker has just taken away
                if path.is_file() and text.encode() in path.read_bytes():
                    return True
    return False


def what_an_answer_rests_on_is_known(platform: PlatformProcess, client: Modelworks, document_id: str) -> tuple[str, str]:
    """The ids of a chat and of a response that cite the document of department 2."""
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.key, max_retries=0) as asking:
        kept = asking.responses.create(model="space:manual", input=SAFE.format(2))
        answer = asking.chat.completions.create(model="space:manual", messages=[{"role": "user", "content": SAFE.format(2)}])
    assert "cobalt" in kept.output_text
    assert "cobalt" in str(answer.choices[0].message.content)
    deadline = time.monotonic() + 30
    while True:
        try:
            why = client.spaces.why(answer.id)
            break
        except NotFound:
            assert time.monotonic() < deadline, "it is noted beside the answer"
            time.sleep(0.05)
    space = client.spaces.get("manual")
    assert document_id in {each["document_id"] for each in why["documents"]}
    assert why["index"]["version_id"] == space["index_version_id"]
    assert why["parsing_run_id"] == space["build"]["parsing_run_id"]
    impact = client.spaces.impact("manual", document_id)
    for name in ("documents", "passages", "indexes"):
        assert [each["state"] for each in impact[name]] == ["ready"], name
    assert ([each["by"] for each in impact["deployments"]], impact["num_answers"]) == (["index"], 2)
    return answer.id, kept.id


def what_is_forgotten_is_nowhere(
    platform: PlatformProcess, client: Modelworks, begun: dict[int, dict[str, Any]], answers: tuple[str, str]
) -> list[dict[str, Any]]:
    """The reports of what is being forgotten."""
    reports = []
    deadline = time.monotonic() + 120
    for number, each in begun.items():
        while each["state"] == "running":
            assert time.monotonic() < deadline, each
            time.sleep(0.1)
            each = client.spaces.forgetting(each["id"])
        assert each["state"] == "succeeded", each
        assert each["report"]["before"]["search"]["found"] > 0
        assert each["report"]["after"]["search"]["found"] == 0
        assert not is_stored(platform.home, WORDS[number]), WORDS[number]
        assert each["document_id"] not in held_by_index(client, f"safe of department {number}")
        with pytest.raises(NotFound):
            client.spaces.document("manual", each["document_id"])
        reports.append(each["report"])
    with pytest.raises(NotFound):
        client.spaces.why(answers[0])
    with (
        openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.key, max_retries=0) as asking,
        pytest.raises(openai.NotFoundError),
    ):
        asking.responses.retrieve(answers[1])
    assert "jade" in ask(platform, SAFE.format(9))
    return reports


def strangers_ask_from_pages_that_are_named(platform: PlatformProcess, client: Modelworks) -> str:
    """Ask as an embedded chat does, and open what the answer cites; the address of the chat."""
    shop = "https://shop.example"
    made = client.spaces.publish("manual", origins=[shop])
    base = f"{platform.url}/embed/{made['publication']['id']}"
    with httpx.Client(trust_env=False) as page:
        for origin, status in (("https://other.example", 403), (shop, 200)):
            begun = page.post(f"{base}/session", content=made["token"], headers={"origin": origin})
            assert begun.status_code == status
        headers = {"origin": platform.url, "authorization": f"Bearer {begun.json()['token']}"}
        turns = [{"role": "user", "content": "Which class are trains booked in?"}]
        told = page.post(f"{base}/ask", json={"messages": turns, "parent": shop}, headers=headers)
        assert told.status_code == 200, told.text
        answer = next(json.loads(line[6:]) for line in told.text.splitlines() if '"ticket"' in line)["answer"]
        assert "first class" in answer["text"]
        cited = answer["citations"][0]
        assert cited["document"] == "handbook/travel.html"
        opened = page.get(f"{base}/{cited['url'].partition('#')[0]}")
        assert (opened.status_code, opened.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert opened.text.startswith("<h1>Travel</h1>")
        body = {name: answer[name] for name in ("ticket", "status", "documents")}
        body |= {"question": turns[0]["content"], "answer": answer["text"], "rating": "up"}
        assert page.post(f"{base}/feedback", json=body, headers=headers).status_code == 200
        assert page.get(f"{base}/frame").status_code == 200
    assert [each["rating"] for each in client.spaces.feedback("manual")] == ["up"]
    return f"{base}/frame"


def until_step(client: Modelworks, step: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        build = client.spaces.get("manual")["build"]
        if build is not None and build["state"] == "running" and build["step"] == step:
            return dict(build)
        assert time.monotonic() < deadline, client.spaces.get("manual")
        time.sleep(0.02)


def hold_worker(run_id: str) -> None:
    """Let the run's process do nothing more as soon as it is there: it is quick with files as small as these."""
    deadline = time.monotonic() + 60
    while True:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if run_id in " ".join(process.cmdline()):
                    process.suspend()
                    return
        assert time.monotonic() < deadline


def kill_workers(run_id: str) -> None:
    for process in psutil.process_iter():
        try:
            if run_id in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue


def the_inside_is_for_administrators(platform: PlatformProcess, admin: Modelworks, space: dict[str, Any]) -> None:
    """Who may not read a document must not come at it by the data set, the index, or a deployment of it."""
    secret = admin.keys.create("member", scopes=["read", "write", "inference"])["secret"]
    passages, index = f"{space['deployment']}/passages", f"{space['deployment']}/index"
    with Modelworks(platform.url, secret) as member:
        assert member.spaces.get("manual")["state"] == "ready"
        assert not member.datasets.list().data + member.models.list().data
        for ref in (passages, space["passages_version_id"]):
            with pytest.raises(NotFound):
                member.datasets.get(ref)
            with pytest.raises(PermissionDenied):
                member.runs.submit(verb="train", task="passage-retrieval", inputs={"passages": f"dataset:{ref}"}, name="mine")
        with pytest.raises(NotFound):
            member.models.set_alias(space["index_version_id"], "mine")
        for model in (index, space["index_version_id"]):
            with pytest.raises(PermissionDenied):
                member.deployments.apply("mine", model=model)
            with pytest.raises((PermissionDenied, NotFound)):
                member.tasks.invoke("passage-retrieval", model, {"queries": ["leave"]})
        with pytest.raises(PermissionDenied):
            member.tasks.invoke("passage-retrieval", space["deployment"], {"queries": ["leave"]})


def test_files_become_answers_that_follow_every_change(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    platform = PlatformProcess(home)
    with platform, platform.client() as client:
        client.spaces.create("manual")
        put_all(client, "manual", folder)
        parsing = until_step(client, "parsing")
        hold_worker(parsing["parsing_run_id"])
        deadline = time.monotonic() + 60
        while client.runs.get(parsing["parsing_run_id"])["state"] == "queued":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        platform.kill()
        kill_workers(parsing["parsing_run_id"])
    # The next server finds the attempt dead, begins another one, and goes on from there.
    with platform, platform.client() as client:
        space = client.spaces.wait("manual", poll_s=0.1)
        assert (space["state"], space["is_current"]) == ("ready", True), space
        assert space["documents"] == {"pending": 0, "parsing": 0, "indexed": 14, "failed": 1}
        assert space["build"]["id"] == parsing["id"], "the same build went on"
        assert len(client.runs.list().data) == 2, "each run was submitted once"
        assert client.runs.get(parsing["parsing_run_id"])["attempt"] == 2
        documents = {each["name"]: each for each in client.spaces.documents("manual")}
        assert documents["broken.pdf"]["faults"][0]["message"]
        assert "30 days" in ask(platform, "How many days of paid leave does an employee have?")
        assert "六百元" in ask(platform, "住宿标准为每晚多少？")

        departments = [documents[f"department-{number}.md"]["id"] for number in range(len(WORDS))]
        answers = what_an_answer_rests_on_is_known(platform, client, departments[2])
        assert is_stored(home, "cobalt")
        leave = documents["handbook/leave.md"]["id"]
        assert leave in held_by_index(client, "paid leave")
        told = "Trains are booked in first class. Write to rail@example.com."
        (folder / "handbook/travel.html").write_text(f"<h1>Travel</h1><p>{told}</p>")
        begun = {number: client.spaces.forget("manual", departments[number]) for number in FORGOTTEN}
        client.spaces.remove_document("manual", leave)
        assert leave in held_by_index(client, "paid leave"), "the old index holds it still"
        assert "cobalt" not in ask(platform, SAFE.format(2)), "it answers no more at once"
        assert "30 days" not in ask(platform, "How many days of paid leave does an employee have?")
        settings = {**space["settings"], "cleaning": {"personal_data": {"email": "mask"}}}
        client.spaces.update("manual", settings=settings)
        changed = client.spaces.put("manual", folder / "handbook/travel.html", name="handbook/travel.html")
        assert changed["change"] == "updated"
        space = client.spaces.wait("manual", poll_s=0.1)
        assert (space["state"], space["documents"]["indexed"]) == ("ready", 10)
        assert leave not in held_by_index(client, "paid leave")
        assert "first class" in ask(platform, "Which class are trains booked in?")
        chat = strangers_ask_from_pages_that_are_named(platform, client)
        texts = [part["text"] for hit in client.spaces.search("manual", "trains first class") for part in hit["content"]]
        assert any("[email]" in text for text in texts), "cleaned before it was indexed"
        assert "rail@" not in str(texts)
        dropped = client.spaces.dropped("manual", documents["handbook/travel.html"]["id"])
        assert [each["rule"] for each in dropped["data"]] == ["personal_data"]
        reports = what_is_forgotten_is_nowhere(platform, client, begun, answers)
        key, chain = client.spaces.report_key(), tmp_path / "audit.jsonl"
        chain.write_text("".join(json.dumps(entry) + "\n" for entry in client.audit.export()))
        for kind in ("documents", "passages", "clean"):
            versions = client.datasets.get(f"{space['deployment']}/{kind}")["versions"]
            assert [version["id"] for version in versions] == [space[f"{kind}_version_id"]], kind
        the_inside_is_for_administrators(platform, client, space)
        client.spaces.remove("manual")
        assert httpx.get(chat, trust_env=False).status_code == 404
        deadline = time.monotonic() + 30
        while client.deployments.list().data or client.datasets.list().data:
            assert time.monotonic() < deadline, "what was made for it is taken away"
            time.sleep(0.1)
    # Nothing runs any more: a report proves itself.
    path = tmp_path / "report.json"
    for report in reports:
        for proof in (["--key", key], ["--chain", str(chain)]):
            path.write_text(json.dumps(report))
            assert execute(["verify-report", str(path), *proof]) == 0
            path.write_text(json.dumps({**report, "removed": {}}))
            assert execute(["verify-report", str(path), *proof]) == 1
    capsys.readouterr()
