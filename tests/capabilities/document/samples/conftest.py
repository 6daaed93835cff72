"""A small library of passages, English and Chinese, as the parser would have made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from modelworks.capabilities.document.samples.makers import Read
from modelworks.contract.passages import DOCUMENTS_FILE, PASSAGES_FOLDER, ParsedDocument, Passage, Place

#: Name of a document: heading and text of each of its passages.
LIBRARY: Mapping[str, Sequence[tuple[str, str]]] = {
    "pump.md": [
        (
            "Warranty",
            "The warranty of the Aquila pump lasts 24 months from delivery. It covers parts and labour.\n"
            "Claims are sent to the service desk in Gothenburg within 30 days.",
        ),
        ("1.2 Seals", "A labyrinth seal is a seal without contact between rotor and housing. Replace it every 8,000 hours."),
        (
            "Data",
            "| Model | Flow rate | Power |\n| - | - | - |\n"
            "| Aquila 40 | 40 l/min | 1.5 kW |\n| Aquila 60 | 60 l/min | 2.2 kW |",
        ),
    ],
    "travel.md": [
        ("Allowances", "Employees who travel abroad receive a daily allowance of 62 euros. Receipts for meals are not needed."),
        ("How do I book?", "Flights are booked through the portal Skyline at least 14 days before departure."),
    ],
    "server.md": [
        ("Backups", "Backups of the database run every night at 02:30 and are kept for 45 days on encrypted disks."),
        ("Access", "Administrators sign in with a hardware token. A hardware token is a device that proves who signs in."),
    ],
    "garden.md": [
        ("Watering", "Young olive trees need about 20 litres of water each week during their first summer."),
        ("Pruning", "Lavender is pruned in August, right after flowering, and never into the old wood."),
    ],
    "年假.md": [
        ("一、年假天数", "员工入职满一年后每年享有12天带薪年假。未休完的年假可以顺延到次年3月31日。"),
        ("申请", "年假申请单是员工在办公系统里填写的电子表格。申请须至少提前5个工作日提交给直属上级。"),
    ],
    "量子.md": [
        ("定义", "量子纠缠是一种物理现象，两个粒子的状态彼此关联。爱因斯坦曾把它称作“鬼魅般的超距作用”。"),
        ("应用", "量子密钥分发利用单光子传输密钥，在2017年由“墨子号”卫星完成了1200公里的实验。"),
    ],
}


def read_all(names: Sequence[str] = tuple(LIBRARY)) -> list[Read]:
    """The library, or some of it."""
    return [_read(f"doc_{[*LIBRARY].index(name)}", name, LIBRARY[name]) for name in names]


def write_library(folder: Path) -> Path:
    """The library as a data set of passages, with a document that could not be read beside it."""
    (folder / PASSAGES_FOLDER).mkdir(parents=True)
    failed = ParsedDocument(id="doc_bad", name="bad.pdf", digest="sha256:bad", parser="test", state="failed")
    lines = [failed.model_dump_json()]
    for read in read_all():
        lines.append(read.document.model_dump_json())
        text = "".join(passage.model_dump_json() + "\n" for passage in read.passages)
        (folder / PASSAGES_FOLDER / f"{read.document.id}.jsonl").write_text(text, "utf-8")
    (folder / DOCUMENTS_FILE).write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def _read(document_id: str, name: str, parts: Sequence[tuple[str, str]]) -> Read:
    passages = [
        Passage(
            id=f"{document_id}:{number}",
            document_id=document_id,
            ordinal=number,
            kind="table" if text.startswith("|") else "text",
            text=text,
            place=Place(headings=(heading,)),
            section=(number, number),
        )
        for number, (heading, text) in enumerate(parts)
    ]
    title = name.partition(".")[0].capitalize()
    parsed = ParsedDocument(
        id=document_id, name=name, digest=f"sha256:{document_id}", parser="test", state="parsed", title=title,
        num_passages=len(passages),
    )  # fmt: skip
    return Read(parsed, passages)
