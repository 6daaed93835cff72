"""Files of other programs: our part is merged into what is there, what was there is kept beside it, nothing is half-written."""

from __future__ import annotations

import difflib
import io
import json
import os
import re
import secrets
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelworks.contract.errors import Conflict, InvalidData, InvalidRequest, MissingExtra

_VARIABLE = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)=")
_HINT = "Leave --write away and put what is printed into the file by hand."


def read(path: Path) -> str | None:
    """The text of a file, or None where there is none.

    Raises:
        InvalidRequest: it is a folder, cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}.", hint="Give another path with --to.") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not UTF-8: byte {error.start}.", hint=_HINT) from error


def merged(
    old: str | None, new: str, syntax: str, path: Path, *, replaced: Collection[str] = (), stays: Collection[str] = ()
) -> str:
    """`new` put into `old`: objects by their fields, lists of objects by `id` or `name`; other values are replaced.

    Args:
        old: what the file holds, None or blank where nothing. new: our part, in the same syntax.
        syntax: `json`, `yaml`, `toml` (comments and order of the last two stay), `env`; no other can be merged.
        path: named in errors.
        replaced: dotted fields of `old` that are taken out first. stays: names of fields, at any depth, that are left
            as they are found.

    Raises:
        InvalidData: the file does not parse, or its outermost value is of another kind than ours.
        Conflict: files of this syntax cannot be merged, and this one holds something else.
        MissingExtra: the library that keeps comments of YAML or TOML is not installed.
    """
    if old is None or not old.strip() or old == new:
        return new
    merge = _Merge(path, replaced, stays)
    if syntax == "json":
        return _merged_json(old, new, merge)
    if syntax == "toml":
        return _merged_toml(old, new, merge)
    if syntax == "yaml":
        return _merged_yaml(old, new, merge)
    if syntax == "env":
        return _merged_variables(old, new)
    raise Conflict(f"{path} exists and cannot be merged with.", hint="Give another path with --to, or move it away.")


def difference(old: str | None, new: str, path: Path) -> str:
    """What would change, as a unified diff; empty where nothing would."""
    before = (old or "").splitlines(keepends=True)
    lines = difflib.unified_diff(before, new.splitlines(keepends=True), str(path), str(path))
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def write(path: Path, old: str | None, new: str, *, private: bool = False) -> Path | None:
    """Replace the file in one step and keep the former one beside it; returns where.

    A new file is its owner's alone, and so is with `private` one that others could read before.

    Raises:
        InvalidRequest: it cannot be written.
    """
    target = path.resolve()  # a link, as of kept dot files, stays a link
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    backup = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = 0o600 if old is None else target.stat().st_mode & (0o700 if private else 0o777)
        if old is not None:
            backup = _keep(target, old, mode)
        _create(temporary, new, mode)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}.", hint="Give another path with --to.") from error
    return backup


def _keep(path: Path, text: str, mode: int) -> Path:
    number = 0
    while (backup := path.with_name(f"{path.name}.bak{number or ''}")).exists():
        number += 1
    _create(backup, text, mode)
    return backup


def _create(path: Path, text: str, mode: int) -> None:
    """A new file that never was readable by more than `mode` allows; FileExistsError where there is one."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8", newline="") as file:
        file.write(text)
    path.chmod(mode)


def _merged_json(old: str, new: str, merge: _Merge) -> str:
    try:
        value = json.loads(old)
    except ValueError as error:
        raise InvalidData(f"{merge.path} is not plain JSON ({error}); comments are not either.", hint=_HINT) from error
    found = re.search(r"\n([ \t]+)\S", old)
    whole = merge.outermost(value, json.loads(new))
    return json.dumps(whole, ensure_ascii=False, indent=found[1] if found else 2) + "\n"


def _merged_toml(old: str, new: str, merge: _Merge) -> str:
    try:
        import tomlkit
        from tomlkit.exceptions import TOMLKitError
    except ImportError as error:
        raise MissingExtra.of("tomlkit", "clients") from error
    try:
        document = tomlkit.parse(old)
    except TOMLKitError as error:
        raise InvalidData(f"{merge.path} is not TOML: {error}.", hint=_HINT) from error
    merge.outermost(document, tomlkit.parse(new).unwrap())
    return tomlkit.dumps(document)


def _merged_yaml(old: str, new: str, merge: _Merge) -> str:
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError
    except ImportError as error:
        raise MissingExtra.of("ruamel.yaml", "clients") from error
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 4096
    dash = re.search(r"^( *)- ", old, re.MULTILINE)
    offset = len(dash[1]) if dash else 2
    yaml.indent(mapping=2, sequence=offset + 2, offset=offset)
    try:
        document = yaml.load(old)
    except YAMLError as error:
        raise InvalidData(f"{merge.path} is not YAML: {' '.join(str(error).split())}.", hint=_HINT) from error
    whole = merge.outermost(document, yaml.load(new))
    text = io.StringIO()
    yaml.dump(whole, text)
    return text.getvalue()


def _merged_variables(old: str, new: str) -> str:
    ours = {found[1]: line for line in new.splitlines() if (found := _VARIABLE.match(line))}
    lines = [ours.pop(found[1], line) if (found := _VARIABLE.match(line)) else line for line in old.splitlines()]
    return "\n".join([*lines, *ours.values()]) + "\n"


@dataclass(frozen=True, slots=True)
class _Merge:
    """Puts our fields into those of a file; `stays` are names of fields that are left as they are found, at any depth."""

    path: Path
    replaced: Collection[str]
    stays: Collection[str]

    def outermost(self, old: Any, new: Any) -> Any:
        """`old` with `new` in it; the same object, so that comments stay where a library keeps them there."""
        if isinstance(new, list) and isinstance(old, list):
            self.lists(old, new)
        elif isinstance(new, Mapping) and isinstance(old, MutableMapping):
            for field in self.replaced:
                *parents, last = field.split(".")
                inner: Any = old
                for parent in parents:
                    inner = inner.get(parent) if isinstance(inner, Mapping) else None
                if isinstance(inner, MutableMapping):
                    inner.pop(last, None)
            self.objects(old, new)
        else:
            kind = "a list" if isinstance(new, list) else "an object"
            raise InvalidData(f"{self.path} holds something else than {kind}.", hint=_HINT)
        return old

    def objects(self, old: MutableMapping[str, Any], new: Mapping[str, Any]) -> None:
        for key, value in new.items():
            there = old.get(key)
            if there is None:
                old[key] = value
            elif isinstance(value, Mapping) and isinstance(there, MutableMapping):
                self.objects(there, value)
            elif isinstance(value, list) and isinstance(there, list):
                self.lists(there, value)
            elif isinstance(value, list | Mapping):
                raise InvalidData(f"{self.path}: {key!r} is of another kind than it should be.", hint=_HINT)
            elif key not in self.stays:
                old[key] = value

    def lists(self, old: list[Any], new: list[Any]) -> None:
        for item in new:
            same = next((there for there in old if _identity(there) == _identity(item)), None)
            if same is None:
                old.append(item)
            elif isinstance(item, Mapping):
                self.objects(same, item)


def _identity(item: Any) -> Any:
    if not isinstance(item, Mapping):
        return item
    return (item["id"],) if "id" in item else (item.get("name"), item.get("vendor"))
