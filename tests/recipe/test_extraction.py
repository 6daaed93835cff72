"""Plain text out of HTML, manual pages, Mallard help and JSON lines."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest

from modelworks.contract.errors import InvalidData
from modelworks.recipe.extraction import html_text, mallard_text, man_text, pages, tidy


def test_html_keeps_content_and_loses_what_stands_around_it() -> None:
    page = """<html><head><title>x</title><style>p {}</style></head><body>
    <nav><ul><li>Home</li></ul></nav><div class="navheader"><table><tr><td>Prev</td></tr></table></div>
    <h1>第 1 章 安装</h1><p>先下载\n 软件包 &amp; 校验。</p><ul><li><p>One</p></li><li>Two</li></ul>
    <pre>$ ls  -l
total 0</pre><footer>© us</footer><script>bad()</script></body></html>"""
    assert tidy(html_text(page)) == "# 第 1 章 安装\n\n先下载 软件包 & 校验。\n\n- One\n\n- Two\n\n$ ls  -l\ntotal 0"


def test_html_with_unclosed_tags_is_read_to_its_end() -> None:
    assert tidy(html_text("a<br>b<nav><p>menu</nav><p>after")) == "a\nb\n\nafter"


MAN = r""".\" comment
.TH LS 1 2022-09 "GNU coreutils"
.SH 名称
ls \- 列出目录内容
.SH "SEE ALSO"
\fBls\fP [\fI\,选项\/\fP]...
.PP
列出信息
（默认为当前目录）。
.TP
\fB\-a\fP, \fB\-\-all\fP
do not ignore
entries
.BR kill (2),
.B bash
.IP (1) 4
first
.EX
$ ls
  x
.EE
"""


def test_a_manual_page_becomes_sections_options_and_text() -> None:
    text = tidy(man_text(MAN))
    assert text == (
        "LS(1)\n\n# 名称\n\nls - 列出目录内容\n\n# SEE ALSO\n\nls [选项]...\n\n列出信息（默认为当前目录）。\n\n"
        "-a, --all\ndo not ignore entries kill(2), bash\n\n(1)\nfirst\n\n$ ls\n  x"
    )
    assert man_text(".so man1/other.1") == ""


def test_mallard_loses_its_credits() -> None:
    page = """<page xmlns="http://projectmallard.org/1.0/"><info><credit><name>Somebody</name></credit></info>
    <title>鼠标</title><p>先晃动
    鼠标。</p><section><title>More</title><list><item><p>one</p></item></list></section></page>"""
    assert tidy(mallard_text(page)) == "# 鼠标\n\n先晃动鼠标。\n\n## More\n\none"


def test_lists_of_a_record_become_lines(tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_text('{"agenda": "A", "said": [["one", "two"], ["three"]]}\n')
    (page,) = pages(file, "talks", "jsonl", "# {agenda}\n\n{said}")
    assert page.text == "# A\n\none\ntwo\nthree"


def test_json_lines_follow_the_template_and_name_their_line(tmp_path: Path) -> None:
    file = tmp_path / "poems.jsonl.gz"
    file.write_bytes(gzip.compress('{"title": "静夜思", "text": "床前明月光"}\n\n'.encode()))
    (page,) = pages(file, "poems", "jsonl", "{title}\n{text}")
    assert (page.name, page.text) == ("poems:1", "静夜思\n床前明月光")
    with pytest.raises(InvalidData, match="author"):
        list(pages(file, "poems", "jsonl", "{author}"))


def test_an_archive_gives_its_markdown_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "docs.zip", "w") as archive:
        archive.writestr("b.mdx", "# B\r\n\r\n\r\n\r\ntext")
        archive.writestr("a.png", b"\x89PNG")
    assert [(page.name, page.text) for page in pages(tmp_path / "docs.zip", "docs", "zip")] == [("docs/b.mdx", "# B\n\ntext")]


def test_what_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InvalidData, match=r"latin\.txt is not UTF-8"):
        list(pages(tmp_path / "latin.txt", "latin", "text"))
