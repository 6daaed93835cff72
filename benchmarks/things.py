"""One of everything that the API's ids can name, made on a running server where it is needed."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import requests
from fuzz_bodies import MODEL
from shelf import Shelf


class Things:
    """What exists for an operation's ids to name; made anew for each operation, as the one before may have ended it."""

    def __init__(self, url: str, http: requests.Session, client: Any) -> None:
        self._url, self._http = url, http
        version = client.models.get(MODEL)["version"]
        (self._run, *_) = client.runs.list(limit=1).data
        self._fixed = {
            "ref": MODEL,
            "model": MODEL,
            "task": "text-generation",
            "version_id": version["id"],
            "subject_id": version["id"],
            "digest": version["files"][0]["digest"],
            "replica_id": client.deployments.get(MODEL)["replicas"][0]["id"],
            "path": "chat.js",
        }
        self.shelf = Shelf(url, http, self.make)
        self._number = itertools.count()
        #: What was made for each parameter, until an operation that changes things has asked for it.
        self._kept: dict[str, dict[str, str]] = {}
        self._bodies: dict[str, Any] = {}
        self._job = ""

    def make(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        answer = self._http.request(method, self._url + path, json=body, timeout=120, **more)
        if answer.status_code >= 300:
            raise SystemExit(f"{method} {path} answered {answer.status_code}: {answer.text[:500]}")
        return answer.json()

    def file(self) -> str:
        """A batch's input."""
        line = {"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"model": MODEL, "prompt": "a"}}
        files = {"file": ("questions.jsonl", json.dumps(line).encode()), "purpose": (None, "batch")}
        return str(self.make("POST", "/v1/files", files=files)["id"])

    def of(self, method: str, path: str, names: list[str]) -> dict[str, str]:
        """Ids for the parameters of a path."""
        shelved = self.shelf.names(method, path)
        if shelved is not None:
            return {name: shelved[name] for name in names if name in shelved}
        found: dict[str, str] = {}
        for name in names:
            if name == "run_id" and path.startswith("/api/runs"):
                found[name] = self._run["id"]
                continue
            # Secrets and deployments are both asked for by name.
            place = "_" + (path.split("/")[2].rstrip("s").replace("-", "_") if name == "name" else name)
            maker: Callable[[], dict[str, str]] | None = getattr(self, place, None)
            if maker is None:
                found |= {name: self._fixed[name]} if name in self._fixed else {}
                continue
            if place not in self._kept:
                self._kept[place] = maker()
            found |= {key: value for key, value in self._kept[place].items() if key in names}
            if method != "GET":
                del self._kept[place]
        return found

    def bodies(self) -> dict[str, Any]:
        """What fields of bodies may name, by their names."""
        if not self._bodies:
            self._bodies = {
                "model": MODEL,
                "input_file_id": self.file(),
                "previous_response_id": self._response_id()["response_id"],
                "conversation": self._conversation_id()["conversation_id"],
                "endpoint": "/v1/completions",
                "mcp_url": f"{self._url}/mcp",
                "mcp_secret": self._mcp_secret(),
                "vector_store_id": self.shelf.standing()["vector_store_id"],
                **self.shelf.fields(),
            }
        return self._bodies

    def tidy(self) -> None:
        """Take away what would refuse everything that follows."""
        for kind in ("budgets", "limits"):
            for each in self.make("GET", f"/api/{kind}")["data"]:
                self._http.delete(f"{self._url}/api/{kind}/{each['id']}", timeout=60)
        self.shelf.tidy()

    def _file_id(self) -> dict[str, str]:
        return {"file_id": self.file()}

    def _upload_id(self) -> dict[str, str]:
        body = {"bytes": 4, "filename": "a.txt", "mime_type": "text/plain", "purpose": "user_data"}
        return {"upload_id": self.make("POST", "/v1/uploads", body)["id"]}

    def _batch_id(self) -> dict[str, str]:
        body = {"input_file_id": self.file(), "endpoint": "/v1/completions", "completion_window": "24h"}
        return {"batch_id": self.make("POST", "/v1/batches", body)["id"]}

    def _conversation_id(self) -> dict[str, str]:
        turn = {"type": "message", "role": "user", "content": "Hello"}
        made = self.make("POST", "/v1/conversations", {"items": [turn]})["id"]
        (item,) = self.make("GET", f"/v1/conversations/{made}/items")["data"]
        return {"conversation_id": made, "item_id": item["id"]}

    def _response_id(self) -> dict[str, str]:
        body = {"model": MODEL, "input": "The river", "max_output_tokens": 16}
        return {"response_id": self.make("POST", "/v1/responses", body)["id"]}

    def _eval_id(self) -> dict[str, str]:
        schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
        check = {"type": "string_check", "name": "same", "operation": "eq", "input": "{{item.a}}", "reference": "{{item.a}}"}
        source = {"type": "custom", "item_schema": schema, "include_sample_schema": False}
        made = self.make("POST", "/v1/evals", {"data_source_config": source, "testing_criteria": [check]})["id"]
        content = {"type": "file_content", "content": [{"item": {"a": "b"}}]}
        run = self.make("POST", f"/v1/evals/{made}/runs", {"data_source": {"type": "jsonl", "source": content}})["id"]
        deadline = time.monotonic() + 60
        while self.make("GET", f"/v1/evals/{made}/runs/{run}")["status"] in ("queued", "in_progress"):
            if time.monotonic() > deadline:
                raise SystemExit("a run of an eval does not end")
            time.sleep(0.1)
        items = self.make("GET", f"/v1/evals/{made}/runs/{run}/output_items")["data"]
        return {"eval_id": made, "run_id": run, "output_item_id": items[0]["id"] if items else ""}

    def _key_id(self) -> dict[str, str]:
        return {"key_id": self.make("POST", "/api/keys", {"name": f"key-{next(self._number)}"})["id"]}

    def _budget_id(self) -> dict[str, str]:
        body = {"metric": "tokens", "period": "day", "amount": 10**12}
        return {"budget_id": self.make("PUT", "/api/budgets", body)["id"]}

    def _limit_id(self) -> dict[str, str]:
        return {"limit_id": self.make("PUT", "/api/limits", {"metric": "requests", "amount": 10**9})["id"]}

    def _user_id(self) -> dict[str, str]:
        project = self.make("GET", "/api/whoami")["project_id"]
        body = {"name": f"robot-{next(self._number)}", "place_id": project, "role": "developer"}
        return {"user_id": self.make("POST", "/api/users", body)["id"]}

    def _secret(self) -> dict[str, str]:
        name = f"secret-{next(self._number)}"
        self.make("PUT", f"/api/secrets/{name}", {"value": "value"})
        return {"name": name}

    def _deployment(self) -> dict[str, str]:
        name = f"elsewhere-{next(self._number)}"
        self.make("POST", "/api/deployments", {"name": name, "base_url": "http://127.0.0.1:9/v1"})
        return {"name": name}

    def _mcp_secret(self) -> str:
        """A secret that holds the key: the tool server is our own door for tools."""
        self.make("PUT", "/api/secrets/mcp-key", {"value": str(self._http.headers["authorization"]).removeprefix("Bearer ")})
        return "mcp-key"

    def _mcp_server(self) -> dict[str, str]:
        name = f"tools-{next(self._number)}"
        body = {"url": f"{self._url}/mcp", "authorization_secret": self._mcp_secret(), "require_approval": "never"}
        self.make("PUT", f"/api/mcp-servers/{name}", body)
        return {"name": name}

    def _fine_tuning_job_id(self) -> dict[str, str]:
        """One for all requests: it trains."""
        if not self._job:
            turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
            files = {"file": ("turns.jsonl", "\n".join([json.dumps({"messages": turns})] * 10)), "purpose": (None, "fine-tune")}
            file_id = self.make("POST", "/v1/files", files=files)["id"]
            method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}
            self._job = self.make("POST", "/v1/fine_tuning/jobs", {"model": MODEL, "training_file": file_id, "method": method})[
                "id"
            ]
        return {"fine_tuning_job_id": self._job}
