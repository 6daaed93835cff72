"""Settings: where they come from, what is refused, what is never shown."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from modelworks.contract.errors import InvalidRequest, StorageFull
from modelworks.kernel.base.settings import Settings, describe, load_settings, without_secrets


@pytest.fixture(autouse=True)
def empty_home(settings: Settings) -> Path:
    return settings.home


def test_the_defaults_live_in_the_home_folder(empty_home: Path) -> None:
    settings = load_settings()
    assert settings.home == empty_home
    assert settings.effective_database_url == f"sqlite:///{empty_home}/modelworks.db"
    assert settings.effective_storage_url == str(empty_home / "blobs")
    assert settings.local_url == "http://127.0.0.1:8400"
    assert load_settings(host="0.0.0.0", port=9).local_url == "http://127.0.0.1:9"


def test_arguments_win_over_the_environment_and_it_over_the_file(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_home / "modelworks.toml").write_text('port = 1001\nlog_level = "debug"\nmax_queue = 3\n')
    monkeypatch.setenv("MODELWORKS_PORT", "1002")
    monkeypatch.setenv("MODELWORKS_LOG_LEVEL", "error")
    settings = load_settings(port=1003)
    assert (settings.port, settings.log_level, settings.max_queue) == (1003, "error", 3)


def test_each_setting_says_where_it_came_from(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_home / "modelworks.toml").write_text("max_queue = 3\n")
    monkeypatch.setenv("MODELWORKS_PORT", "1002")
    rows = {row["name"]: row for row in describe(load_settings(host="::1"))}
    origins = {name: rows[name]["origin"] for name in ("port", "max_queue", "host", "executor")}
    assert origins == {"port": "MODELWORKS_PORT", "max_queue": "modelworks.toml", "host": "argument", "executor": "default"}
    assert all(row["help"] for row in rows.values() if row["name"] != "home")


def test_secrets_are_never_shown() -> None:
    settings = load_settings(
        database_url="postgresql+psycopg://me:hunter2@db/x?password=hunter2", storage_options={"secret": "hunter2"}
    )
    shown = str(describe(settings))
    assert "hunter2" not in shown
    assert "postgresql+psycopg://me:***@db/x" in shown
    assert "hunter2" not in str(describe(load_settings(oidc_client_secret="hunter2")))


def test_workers_get_no_secret_of_the_server() -> None:
    environment = {"MODELWORKS_HOME": "/home", "MODELWORKS_OIDC_CLIENT_SECRET": "x", "MODELWORKS_DATABASE_URL": "y"}
    assert without_secrets(environment) == {"MODELWORKS_HOME": "/home"}


def test_one_role_may_stand_without_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWORKS_OIDC_ROLES", '{"ml": "viewer@default", "leads": ["admin@a", "admin@b"]}')
    assert load_settings().oidc_roles == {"ml": ["viewer@default"], "leads": ["admin@a", "admin@b"]}
    for issuer in ("https://id.plant.example/realms/a", "http://127.0.0.1:8080", "http://localhost"):
        assert load_settings(oidc_issuer=issuer, oidc_client_id="modelworks").oidc_issuer == issuer


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "high"),
        ("PORT", "70000"),
        ("LOG_LEVEL", "loud"),
        ("DATABASE_URL", "mysql://me:hunter2@x"),
        ("STORAGE_OPTIONS", "{"),
        ("TRUSTED_PROXIES", '["proxy.plant.lan"]'),
        ("OIDC_ISSUER", "http://id.plant.example"),
        ("OIDC_ISSUER", "https://me:hunter2@id.plant.example"),
        ("OIDC_ISSUER", "https://id.plant.example/?a=hunter2"),
        ("OIDC_ISSUER", "https://id.plant.example"),  # without a client
    ],
)
def test_bad_values_are_named_but_not_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MODELWORKS_{name}", value)
    with pytest.raises(InvalidRequest) as caught:
        load_settings()
    assert caught.value.error_code == "invalid_settings"
    assert name.lower() in caught.value.message.lower()
    assert "hunter2" not in caught.value.message


def test_a_broken_or_misspelt_file_is_named(empty_home: Path) -> None:
    for content, said in (("port = ", "cannot be read"), ("prot = 1", "prot"), ("\udcff", "cannot be read")):
        (empty_home / "modelworks.toml").write_bytes(content.encode("utf-8", "surrogateescape"))
        with pytest.raises(InvalidRequest, match=said):
            load_settings()


def test_a_home_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="cannot be written") as caught:
        load_settings(home=tmp_path / "file" / "home").prepare_home()
    assert caught.value.error_code == "home_not_writable"


def test_the_home_folder_is_private(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "new" / "home")
    settings.prepare_home()
    settings.prepare_home()
    assert settings.home.stat().st_mode & 0o777 == 0o700
    assert list(settings.home.iterdir()) == []


def test_a_full_disk_is_told_before_anything_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(home=tmp_path / "home")
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if data:  # an empty file still finds its place
            write(path, b"")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageFull, match=r"home folder .* is full") as caught:
        settings.prepare_home()
    assert "Free some space" in (caught.value.hint or "")
    assert list(settings.home.iterdir()) == []
