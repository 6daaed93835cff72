"""Questions over tables: how many are answered rightly, wrongly, or left to the documents.

    python benchmarks/tables.py --shared ../shared               # both halves
    python benchmarks/tables.py --shared ../shared --half tuned -v

The tables are real ones of ../shared/data: Melbourne's daily temperatures, the air of Beijing with Chinese headings, a
leaderboard, endpoints of ADMET, Song ci, building KPIs, credit cards, and a shop's database with customers, orders and items.
Questions are those of `tables_questions.py`. Right answers are queries written by a person, over tables that this script loads
by itself, with csv and sqlite3 alone. An answer is right when its rows hold the right ones, no fewer and no more, in any
order, with at most two further columns. Every second question is held out: nothing was tuned on it.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import re
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tables_questions import QUESTIONS

from modelworks.tables.answering import answer
from modelworks.tables.snapshot import build

#: Table of the right answers, and the document that holds it.
FILES = {
    "temperatures": "daily-min-temperatures.csv",
    "air": "北京奥体中心空气质量.csv",
    "leaderboard": "rpbench-leaderboard.csv",
    "admet": "admet-properties.csv",
    "ci": "宋词.csv",
    "kpi": "bestest-air-kpi.csv",
    "credit": "credit-card-clients.csv",
}
_AIR = """
序号 年 月 日 小时 PM2.5(μg/m³) PM10(μg/m³) SO2(μg/m³) NO2(μg/m³) CO(μg/m³) O3(μg/m³) 温度(℃)
气压(hPa) 露点(℃) 降雨量(mm) 风向 风速(m/s) 站点
"""
_TABLES = {
    "customers": ["user_id", "first_name", "last_name", "city", "state"],
    "orders": ["order_id", "user_id", "status", "total"],
    "items": ["item_no", "order_id", "product", "price"],
}
_REFERENCES = {"orders": [["user_id", "customers", "user_id"]], "items": [["order_id", "orders", "order_id"]]}


def write_files(shared: Path, folder: Path) -> None:
    """The documents, as a person would have them."""
    data = shared / "data"
    plain = {
        "temperatures": "11-weather/daily-min-temperatures.csv",
        "leaderboard": "16-npc/rpbench_leaderboard.csv",
        "admet": "12-molecules/admet.csv",
        "kpi": "13-buildings/boptest/baselines/df_kpi_bestest_air.csv",
    }
    for name, place in plain.items():
        (folder / FILES[name]).write_bytes((data / place).read_bytes())
    (folder / FILES["credit"]).write_bytes(gzip.decompress((data / "14-finance/uci_credit_card_18k.csv.gz").read_bytes()))
    lines = gzip.decompress((data / "13-buildings/beijing_aotizhongxin_2013-2015.csv.gz").read_bytes()).decode().splitlines()
    (folder / FILES["air"]).write_text("\n".join([",".join(_AIR.split()), *lines[1:]]) + "\n", "utf-8")
    poems = io.StringIO()
    writer = csv.writer(poems)
    writer.writerow(["词牌", "作者", "字数"])
    for line in gzip.decompress((data / "07-text/pretrain/song_ci_15k.jsonl.gz").read_bytes()).decode().splitlines():
        each = json.loads(line)
        writer.writerow([each["title"], each["author"], sum(char.isalpha() for char in each["text"])])
    (folder / FILES["ci"]).write_text(poems.getvalue(), "utf-8")
    with (folder / "shop.rows").open("w", encoding="utf-8") as file:
        for name, columns in _TABLES.items():
            described = {"table": name, "columns": columns, "key": columns[:1], "references": _REFERENCES.get(name, [])}
            file.write(json.dumps(described) + "\n")
        for number, name in enumerate(_TABLES):
            for row in shop(shared)[name]:
                file.write(json.dumps([number, [str(cell) for cell in row]]).replace(" ", "", 1) + "\n")


def shop(shared: Path) -> dict[str, list[list[Any]]]:
    """The shop's database, from tau-bench's retail domain."""
    folder = shared / "data/03-toolcall/tau-bench/retail"
    users, orders = (json.loads(gzip.decompress((folder / f"{name}.json.gz").read_bytes())) for name in ("users", "orders"))
    found: dict[str, list[list[Any]]] = {"customers": [], "orders": [], "items": []}
    for key, user in users.items():
        found["customers"].append([key, *user["name"].values(), user["address"]["city"], user["address"]["state"]])
    for key, order in orders.items():
        found["orders"].append([key, order["user_id"], order["status"], round(sum(i["price"] for i in order["items"]), 2)])
        for item in order["items"]:
            found["items"].append([len(found["items"]) + 1, key, item["name"], item["price"]])
    return found


def right_answers(folder: Path, shared: Path) -> sqlite3.Connection:
    """The same tables, loaded without the platform."""
    connection = sqlite3.connect(":memory:")
    for name, file in FILES.items():
        with (folder / file).open(encoding="utf-8-sig", newline="") as opened:
            rows = [row for row in csv.reader(opened) if row]
        _load(connection, name, rows[0], rows[1:])
    for name, loaded in shop(shared).items():
        _load(connection, name, _TABLES[name], loaded)
    return connection


def _load(connection: sqlite3.Connection, name: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    columns = ", ".join('"' + (each or "column") + '"' for each in header)
    connection.execute(f"CREATE TABLE {name} ({columns})")
    marks = ", ".join("?" * len(header))
    connection.executemany(f"INSERT INTO {name} VALUES ({marks})", [[_typed(cell) for cell in row] for row in rows])


def _typed(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    if cell in ("", "NA", "-"):
        return None
    try:
        return float(cell) if cell.lower() not in ("inf", "-inf", "nan") else cell
    except ValueError:
        return cell


def rows_of(truth: sqlite3.Connection, sql: str) -> list[list[Any]]:
    """The rows of a right answer; of several that are the highest or lowest all are right together."""
    found = re.fullmatch(r"SELECT (.+?) FROM (.+) ORDER BY (.+?)( DESC)? LIMIT 1", sql)
    if found is None:
        return [[*row] for row in truth.execute(sql)]
    told, rest, rank, direction = found.groups()
    rows = [
        row
        for row in truth.execute(f"SELECT {told}, {rank} FROM {rest} ORDER BY {rank}{direction or ''}")
        if row[-1] is not None
    ]
    return [[*row[:-1]] for row in rows if row[-1] == rows[0][-1]]


def same(wanted: list[list[Any]], found: list[list[Any]]) -> bool:
    """Whether the rows found hold the wanted ones, each once."""
    if len(wanted) != len(found) or (found and len(found[0]) > len(wanted[0]) + 2):
        return False
    left = [Counter(_form(cell) for cell in row) for row in found]
    for row in wanted:
        want = Counter(_form(cell) for cell in row)
        hit = next((place for place, held in enumerate(left) if want <= held), None)
        if hit is None:
            return False
        left.pop(hit)
    return True


def _form(cell: Any) -> str:
    return f"{float(cell):.5g}" if isinstance(cell, int | float) else str(cell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--half", choices=("tuned", "held-out", "both"), default="both")
    parser.add_argument("-v", "--verbose", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:  # the documents and their snapshots
        folder = Path(name)
        write_files(args.shared, folder)
        started = time.perf_counter()
        snapshots = []
        for file in [*FILES.values(), "shop.rows"]:
            kind = "rows" if file.endswith(".rows") else "csv"
            target = folder / f"{len(snapshots)}.sqlite"
            build(folder / file, kind, file, target)
            snapshots.append(target)
        print(f"{len(snapshots)} snapshots in {time.perf_counter() - started:.1f} s")
        truth = right_answers(folder, args.shared)
        halves = {"tuned": QUESTIONS[::2], "held-out": QUESTIONS[1::2]}
        for half, questions in halves.items():
            if args.half not in (half, "both"):
                continue
            counts: Counter[str] = Counter()
            times = []
            for question, sql in questions:
                started = time.perf_counter()
                told = answer(snapshots, question)
                times.append(time.perf_counter() - started)
                if told is None:
                    verdict = "rightly left" if not sql else "left"
                elif not sql:
                    verdict = "WRONG (no answer)"
                else:
                    verdict = "right" if same(rows_of(truth, sql), told.result.rows) else "WRONG"
                counts[verdict] += 1
                if args.verbose:
                    shown = "" if told is None else f"{told.sql} -> {told.result.rows[:3]}"
                    print(f"  {verdict:18} {question}  {shown}")
            num = sum(1 for _, sql in questions if sql)
            print(
                f"{half:9} {len(questions)} questions: of {num} that the tables answer {counts['right']} right, "
                f"{counts['WRONG']} wrong, "
                f"{counts['left']} left; of {len(questions) - num} others {counts['rightly left']} left, "
                f"{counts['WRONG (no answer)']} wrongly answered; median {sorted(times)[len(times) // 2] * 1000:.1f} ms"
            )


if __name__ == "__main__":
    main()
