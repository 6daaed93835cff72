"""Small tables of several kinds as snapshots."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modelworks.tables.card import Card
from modelworks.tables.snapshot import build

Made = Callable[..., tuple[Path, Card]]

SALES = """date,region,product,units,unit price ($),online
2023-01-05,North,Laser Printer,3,199.50,yes
2023-01-20,South,Laser Printer,1,205.00,no
2023-02-03,North,Desk,10,89.00,yes
2024-02-03,East,Desk,2,95.25,no
2024-06-30,South,Office Chair,7,120.00,yes
2024-07-01,North,Office Chair,,125.00,yes
"""
STAFF = """姓名,部门,入职日期,年龄,工资(元)
张伟,研发部,2019-03-01,34,21000
王芳,市场部,2021-07-15,28,15000
李娜,研发部,2020-11-30,41,26000
刘洋,财务部,2018-01-08,50,18000
"""
SHOP = (
    {"table": "customers", "columns": ["id", "name", "city"], "key": ["id"], "texts": ["name", "city"]},
    {
        "table": "orders",
        "columns": ["id", "customer_id", "status", "total"],
        "key": ["id"],
        "references": [["customer_id", "customers", "id"]],
    },
)
SHOP_ROWS = (
    (0, ["1", "Ada", "Paris"]),
    (0, ["2", "Bob", "Rome"]),
    (1, ["10", "1", "paid", "20.5"]),
    (1, ["11", "1", "open", "5"]),
    (1, ["12", "2", "paid", "100"]),
)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Makes the snapshot of a text or of bytes: content, name, kind."""

    def make(content: str | bytes, name: str = "table.csv", kind: str = "csv") -> tuple[Path, Card]:
        number = len([*tmp_path.glob("*.source")])
        source, target = tmp_path / f"{number}.source", tmp_path / f"{number}.sqlite"
        source.write_bytes(content if isinstance(content, bytes) else content.encode())
        return target, build(source, kind, name, target)

    return make


@pytest.fixture
def sales(made: Made) -> Path:
    return made(SALES, "sales.csv")[0]


@pytest.fixture
def staff(made: Made) -> Path:
    return made(STAFF, "员工.csv")[0]


@pytest.fixture
def shop(made: Made) -> Path:
    lines = [json.dumps(each) for each in SHOP]
    lines += [f"[{table},{json.dumps(row)}]" for table, row in SHOP_ROWS]
    return made("\n".join(lines), "shop", "rows")[0]
