"""gc: what would go, and what went."""

from __future__ import annotations

from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer


def test_garbage_is_counted_and_collected(cli: Cli, server: FakeServer) -> None:
    report = {"object": "blob.collection", "dry_run": False, "num_deleted": 3, "num_kept": 7, "bytes_freed": 2048}
    server.on("POST", "/api/blobs/collect", report)
    done = cli("gc", "--dry-run", "--grace-h", "48")
    assert done.code == 0
    assert "Would delete" in done.out or "would delete" in done.out.lower()
    assert server.calls("POST", "/api/blobs/collect")[-1].json == {"dry_run": True, "grace_s": 48 * 3600}
    assert cli("gc", "-o", "name").out.strip() == "3"
    assert cli("gc", "--grace-h", "0.1").code == 2
