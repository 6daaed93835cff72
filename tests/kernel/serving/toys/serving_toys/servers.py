from __future__ import annotations

import sys

from modelworks.contract.capability import ServerCommand
from modelworks.contract.run import LocalModel
from serving_toys.capability import Options


def command(model: LocalModel | None, options: Options) -> ServerCommand:
    return ServerCommand(
        argv=(sys.executable, "-m", "serving_toys.openai_server", "{port}", str(options.load_s)),
        model="inner-name",
        env={"TOY_GREETING": "port {port}"},
        health_path=options.health,
        start_timeout_s=20.0 if options.health == "/health" else 1.0,
    )


def absent(model: LocalModel | None, options: Options) -> ServerCommand:
    return ServerCommand(argv=("/nowhere/vllm", "serve"), model="x")


def dying(model: LocalModel | None, options: Options) -> ServerCommand:
    return ServerCommand(argv=(sys.executable, "-c", "import sys; sys.exit('address already in use')"), model="x")
