"""Pack a model's files into a wheel from which `modelworks pull NAME` takes them, without a network.

    modelworks export starter-lm starter-lm.gguf --to gguf --kind q8_0
    python starter/distribution.py starter-lm.gguf --name starter-lm --card README.md --version 0.1.0 --out dist/
    pip install dist/modelworks_starter_lm-0.1.0-py3-none-any.whl

The wheel (PEP 427) holds a package with one folder of the model's name, and an entry point that announces it. The same files
give the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

#: What one file of a repository may weigh; GitHub refuses more than a hundred.
LARGEST_BYTES = 40 * 1024 * 1024
_DATE = (2020, 1, 1, 0, 0, 0)


def make_wheel(files: dict[str, bytes], *, name: str, version: str, licence: str, out: Path) -> Path:
    """Write the wheel and return its path.

    Args:
        files: the model's files by their path in its folder.
        name: what the model is called; the distribution is modelworks-NAME.

    Raises:
        SystemExit: a file is larger than a shipped one may be.
    """
    large = [path for path, data in files.items() if len(data) > LARGEST_BYTES]
    if large:
        raise SystemExit(f"{', '.join(large)}: more than {LARGEST_BYTES >> 20} MiB. Quantise, or divide the weights.")
    package = "modelworks_" + name.replace("-", "_").replace(".", "_")
    info = f"{package}-{version}.dist-info"
    contents = {
        f"{package}/__init__.py": f'"""The weights of {name}; nothing runs here."""\n'.encode(),
        **{f"{package}/{name}/{path}": data for path, data in files.items()},
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: {version}\n"
            f"Summary: Weights of the model {name} for Modelworks\nLicense: {licence}\n"
        ).encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: modelworks\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[modelworks.models]\n{name} = {package}\n".encode(),
    }
    contents[f"{info}/RECORD"] = "".join([*_records(contents), f"{info}/RECORD,,\n"]).encode()
    out.mkdir(parents=True, exist_ok=True)
    wheel = out / f"{package}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in contents.items():
            archive.writestr(zipfile.ZipInfo(path, _DATE), data, zipfile.ZIP_DEFLATED)
    return wheel


def _records(contents: dict[str, bytes]) -> Iterator[str]:
    for path, data in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        yield f"{path},sha256={digest},{len(data)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a .gguf file, or a folder of model files")
    parser.add_argument("--name", required=True, help="what the model is called")
    parser.add_argument("--card", type=Path, help="its card, README.md, where the source does not hold one")
    parser.add_argument("--version", required=True)
    parser.add_argument("--licence", default="CC-BY-SA-4.0", help="SPDX expression")
    parser.add_argument("--out", type=Path, default=Path("dist"))
    args = parser.parse_args()
    if args.source.is_dir():
        files = {
            place.relative_to(args.source).as_posix(): place.read_bytes()
            for place in sorted(args.source.rglob("*"))
            if place.is_file()
        }
    else:
        files = {"model.gguf": args.source.read_bytes()}
    if args.card is not None:
        files["README.md"] = args.card.read_bytes()
    if "README.md" not in files:
        raise SystemExit("There is no card: a model is not given away without its licences. Give --card README.md.")
    print(make_wheel(files, name=args.name, version=args.version, licence=args.licence, out=args.out))


if __name__ == "__main__":
    main()
