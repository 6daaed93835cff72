"""Pack a model's files into a wheel from which `modelworks pull NAME` takes them, without a network.

    modelworks export starter-lm starter-lm.gguf --to gguf --kind q8_0
    python starter/distribution.py starter-lm.gguf --name starter-lm --card README.md --version 0.1.0 --out dist/
    pip install dist/modelworks_starter_lm-0.1.0-py3-none-any.whl

Several folders are packed at once, each under its own name. `--lay FOLDER` writes the files to FOLDER/NAME instead of a wheel,
as they lie in `starter/weights`; `--bf16` halves weights in f32:

    python starter/distribution.py trained/ --name starter-embed --bf16 --lay starter/weights
    python starter/distribution.py starter/weights/*/ --version 0.1.0 --out dist/

The wheel (PEP 427) holds a package with one folder of the model's name, and an entry point that announces it. The same files
give the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
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
    parser.add_argument("source", type=Path, nargs="+", help="a .gguf file, or folders of model files")
    parser.add_argument("--name", help="what the model is called; the folder's name where it is not given")
    parser.add_argument("--card", type=Path, help="its card, README.md, where the source does not hold one")
    parser.add_argument("--version", default="0.1.0")
    parser.add_argument("--licence", help="SPDX expression; what the card says where it is not given")
    parser.add_argument("--bf16", action="store_true", help="store tensors of f32 in bf16: half the size, three digits")
    parser.add_argument("--lay", type=Path, help="write the files below this folder, by the model's name, and no wheel")
    parser.add_argument("--out", type=Path, default=Path("dist"))
    args = parser.parse_args()
    if len(args.source) > 1 and (args.name or args.card):
        raise SystemExit("--name and --card are of one model; give one source.")
    for source in args.source:
        name = args.name or source.resolve().name
        files = _files(source)
        if args.card is not None:
            files["README.md"] = args.card.read_bytes()
        if "README.md" not in files:
            raise SystemExit(f"{name}: no card. A model is not given away without its licences. Give --card README.md.")
        if args.bf16:
            files = {path: in_bf16(data) if path.endswith(".safetensors") else data for path, data in files.items()}
        if args.lay is not None:
            for path, data in files.items():
                (args.lay / name / path).parent.mkdir(parents=True, exist_ok=True)
                (args.lay / name / path).write_bytes(data)
            print(args.lay / name)
            continue
        licence = args.licence or _licence(files["README.md"].decode("utf-8"))
        print(make_wheel(files, name=name, version=args.version, licence=licence, out=args.out))


def in_bf16(data: bytes) -> bytes:
    """A file of safetensors with its tensors of f32 in bf16, rounded to the nearest."""
    import torch
    from safetensors.torch import load, save

    tensors = {name: each.to(torch.bfloat16) if each.dtype == torch.float32 else each for name, each in load(data).items()}
    return bytes(save(tensors, metadata={"format": "pt"}))


def _files(source: Path) -> dict[str, bytes]:
    if not source.is_dir():
        return {"model.gguf": source.read_bytes()}
    return {place.relative_to(source).as_posix(): place.read_bytes() for place in sorted(source.rglob("*")) if place.is_file()}


def _licence(card: str) -> str:
    """What the front matter of a card says, else what the recipes' weights have."""
    found = re.search(r"\A---\n(?:.*\n)*?license: *(\S+)", card)
    return found[1].upper() if found else "CC-BY-SA-4.0"


if __name__ == "__main__":
    main()
