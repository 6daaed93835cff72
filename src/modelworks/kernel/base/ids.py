"""Ids that say what they name and sort by time: a prefix and a ULID."""

from __future__ import annotations

from typing import Literal

from ulid import ULID

Prefix = Literal[
    "run",
    "mdl",
    "ds",
    "art",
    "dep",
    "key",
    "prj",
    "usr",
    "req",
    "eval",
    "cmpl",
    "chatcmpl",
    "evt",
    "rep",
    "src",
    "usg",
    "call",
    "file",
    "upload",
    "part",
    "ftjob",
    "evalrun",
    "adp",
    "rerank",
    "modr",
    "resp",
    "msg",
    "rs",
    "fc",
    "fco",
    "fs",
    "ctc",
    "ctco",
    "mcpl",
    "mcp",
    "mcpr",
    "mcpa",
    "conv",
    "org",
    "ses",
    "prc",
    "bud",
    "lim",
    "hld",
    "batch",
    "batch_req",
    "vs",
    "vsfb",
    "doc",
    "build",
    "learn",
    "forget",
    "pub",
    "fdbk",
]


def new_id(prefix: Prefix) -> str:
    """A fresh id such as `run_01K…`; ids of one process made in different milliseconds sort by creation."""
    return f"{prefix}_{ULID()}"
