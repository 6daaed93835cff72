"""The one Python client: an async core and a sync shell over the same methods. Needs httpx only.

    from modelworks.client import Modelworks

    with Modelworks() as client:                      # MODELWORKS_URL and MODELWORKS_API_KEY, or the local server
        run = client.runs.submit(task="text-generation", verb="train", inputs={"train": "corpus"}, name="base")
        for event in client.runs.events(run["id"]):
            print(event)

Answers are the server's JSON objects as dictionaries (their fields are those of the OpenAPI document), lists are `Page`s.
Every failure is a class of `modelworks.contract.errors`, rebuilt from the server's error envelope. Calls that may be
repeated without harm are retried with a growing, jittered wait on connection failures, 408, 429 and 5xx.
"""

from modelworks.client.modelworks import FINISHED, Artifacts, AsyncModelworks, Modelworks
from modelworks.client.transport import Page, Record

__all__ = ["FINISHED", "Artifacts", "AsyncModelworks", "Modelworks", "Page", "Record"]
