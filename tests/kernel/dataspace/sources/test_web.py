"""Pages, site maps, walks and feeds, against a site that runs."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.dataspace.sources.surroundings import Site, contents, listed, opened, serving, surroundings

from modelworks.contract.errors import Cancelled, InvalidData, NotFound, PayloadTooLarge, PermissionDenied
from modelworks.kernel.catalog.sources import SourcePolicy
from modelworks.kernel.dataspace.sources.forms import SourceLimits
from modelworks.kernel.dataspace.sources.links import PageLinks, canonical


def _page(title: str, *links: str, head: str = "") -> str:
    anchors = "".join(f'<a href="{link}">x</a>' for link in links)
    return f"<html><head><title>{title}</title>{head}</head><body><p>{title}.</p>{anchors}</body></html>"


def _crawl(
    site: Site, tmp_path: Path, cursor: dict[str, Any] | None = None, known: dict[str, str] | None = None, **form: Any
) -> Any:
    around = surroundings(tmp_path, cursor=cursor or {}, known=known or {})
    given = {"kind": "web", "uri": f"{site.url}/docs/", "mode": "crawl", "delay_s": 0} | form
    return around, opened(around, **given)


@pytest.fixture
def docs(site: Site) -> Site:
    site.put("/docs/", _page("Start", "a.html", "b.html#part", "/elsewhere", "http://other.invalid/docs/"), etag='"s1"')
    site.put("/docs/a.html", _page("A", "deep/c.html", "/docs/"), etag='"a1"')
    site.put("/docs/b.html", _page("B", "mailto:x@example.com", "javascript:alert(1)", "manual.pdf", "logo.png"), etag='"b1"')
    site.put("/docs/deep/c.html", _page("C"), etag='"c1"')
    site.put("/docs/manual.pdf", b"%PDF-1.4", "application/pdf", etag='"m1"')
    site.put("/docs/logo.png", b"\x89PNG", "image/png")
    site.put("/elsewhere", _page("Elsewhere"))
    return site


def test_one_page_with_its_title(tmp_path: Path, site: Site) -> None:
    site.put("/p", _page("A  page\n of mine"))
    items = listed(opened(surroundings(tmp_path), kind="web", uri=f"{site.url}/p#part"))
    (item,) = items.values()
    assert (item.key, item.name, item.media_type) == (f"{site.url}/p", "A page of mine", "text/html")
    assert item.attributes["url"] == f"{site.url}/p"


def test_a_walk_stays_below_its_prefix(tmp_path: Path, docs: Site) -> None:
    _, source = _crawl(docs, tmp_path)
    found = contents(source)
    assert {key.removeprefix(docs.url) for key in found} == {
        "/docs/",
        "/docs/a.html",
        "/docs/b.html",
        "/docs/deep/c.html",
        "/docs/manual.pdf",
    }
    assert "/elsewhere" not in docs.paths()


def test_what_has_not_changed_is_not_sent_again_and_still_leads_on(tmp_path: Path, docs: Site) -> None:
    around, source = _crawl(docs, tmp_path)
    known = {key: item.fingerprint for key, item in listed(source).items()}
    docs.put("/docs/deep/c.html", _page("C, anew"), etag='"c2"')
    docs.asked.clear()
    around, source = _crawl(docs, tmp_path, around.cursor, known)
    after = listed(source)
    assert set(after) == set(known)
    assert {key for key in after if after[key].fingerprint != known[key]} == {f"{docs.url}/docs/deep/c.html"}
    assert sum("if-none-match" in sent for _, sent in docs.asked) == 5
    assert after[f"{docs.url}/docs/a.html"].read is None
    # One that is no longer in the space has to be read although the site calls it unchanged.
    del known[f"{docs.url}/docs/a.html"]
    _, source = _crawl(docs, tmp_path, around.cursor, known)
    assert listed(source)[f"{docs.url}/docs/a.html"].read is not None


def test_robots_txt_is_respected(tmp_path: Path, docs: Site) -> None:
    docs.put("/robots.txt", "User-agent: *\nDisallow: /docs/*.pdf$\nDisallow: /docs/deep/\n", "text/plain")
    around, source = _crawl(docs, tmp_path)
    assert {key.removeprefix(docs.url) for key in listed(source)} == {"/docs/", "/docs/a.html", "/docs/b.html"}
    assert not {"/docs/manual.pdf", "/docs/deep/c.html"} & set(docs.paths())
    assert any("robots.txt closes" in note for note in around.notes)
    docs.put("/robots.txt", "User-agent: modelworks\nDisallow: /\n", "text/plain")
    with pytest.raises(PermissionDenied) as caught:
        listed(opened(surroundings(tmp_path), kind="web", uri=f"{docs.url}/docs/"))
    assert caught.value.error_code == "robots_denied"


def test_a_site_whose_rules_cannot_be_read_is_closed(tmp_path: Path, docs: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.kernel.dataspace.sources.asking._MAX_WAIT_S", 0.0)
    docs.put("/robots.txt", "broken", "text/plain", status=503)
    _, source = _crawl(docs, tmp_path)
    with pytest.raises(Exception, match="503"):
        listed(source)
    assert docs.paths() == []


def test_pages_that_do_not_want_to_be_kept_or_followed(tmp_path: Path, site: Site) -> None:
    site.put("/docs/", _page("Start", "list.html", "quiet.html"))
    site.put("/docs/list.html", _page("List", "a.html", head='<meta name="robots" content="noindex">'))
    site.put("/docs/quiet.html", _page("Quiet", "hidden.html", head='<meta name="robots" content="nofollow">'))
    site.put("/docs/a.html", _page("A"))
    site.put("/docs/hidden.html", _page("Hidden"))
    _, source = _crawl(site, tmp_path)
    assert {key.removeprefix(site.url) for key in listed(source)} == {"/docs/", "/docs/quiet.html", "/docs/a.html"}


def test_limits_of_a_walk(tmp_path: Path, docs: Site) -> None:
    around, source = _crawl(docs, tmp_path, max_depth=1)
    assert f"{docs.url}/docs/deep/c.html" not in listed(source)
    assert around.is_complete
    around, source = _crawl(docs, tmp_path, max_pages=2)
    assert len(listed(source)) == 2
    assert not around.is_complete


def test_a_page_that_fails_keeps_what_only_it_leads_to(tmp_path: Path, docs: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.kernel.dataspace.sources.asking._MAX_WAIT_S", 0.0)
    docs.put("/docs/a.html", "busy", status=500)
    around, source = _crawl(docs, tmp_path)
    found = listed(source)
    fault = found[f"{docs.url}/docs/a.html"].fault
    assert fault is not None
    assert "HTTP 500" in fault.message
    assert f"{docs.url}/docs/manual.pdf" in found
    assert not around.is_complete
    assert docs.paths().count("/docs/a.html") == 3


def test_a_page_that_is_gone_is_gone(tmp_path: Path, docs: Site) -> None:
    del docs.pages["/docs/b.html"]
    around, source = _crawl(docs, tmp_path)
    assert f"{docs.url}/docs/b.html" not in listed(source)
    assert around.is_complete
    with pytest.raises(NotFound):
        listed(opened(surroundings(tmp_path), kind="web", uri=f"{docs.url}/nothing"))


def test_redirects_are_looked_at(tmp_path: Path, site: Site) -> None:
    site.put("/docs", "", status=301, location="/docs/")
    site.put("/docs/", _page("Start", "out.html", "in.html"))
    site.put("/docs/out.html", "", status=302, location="/secret")
    site.put("/docs/in.html", "", status=302, location="/docs/real.html")
    site.put("/docs/real.html", _page("Real"))
    site.put("/secret", _page("Secret"))
    _, source = _crawl(site, tmp_path, uri=f"{site.url}/docs")
    assert {key.removeprefix(site.url) for key in listed(source)} == {"/docs/", "/docs/real.html"}
    assert "/secret" not in site.paths()


def test_private_addresses_stay_closed(tmp_path: Path, site: Site) -> None:
    site.put("/", _page("Inside"))
    around = surroundings(tmp_path, policy=SourcePolicy())
    for form in (
        {"kind": "web", "uri": site.url},
        {"kind": "web", "uri": site.url, "mode": "crawl"},
        {"kind": "feed", "uri": site.url},
        {"kind": "rest", "uri": site.url},
    ):
        with pytest.raises(PermissionDenied) as caught:
            listed(opened(around, **form))
        assert caught.value.error_code == "egress_denied"
    assert site.asked == []


def test_a_credential_goes_to_its_own_origin_only(tmp_path: Path, site: Site) -> None:
    with serving() as other:
        site.put("/p", "", status=302, location=f"{other.url}/q")
        other.put("/q", _page("Q"))
        around = surroundings(tmp_path, credential="token-1")
        assert len(listed(opened(around, kind="web", uri=f"{site.url}/p", secret="site"))) == 1
        assert [headers["authorization"] for path, headers in site.asked if path == "/p"] == ["Bearer token-1"]
        assert other.paths() == ["/q"]
        assert all("authorization" not in headers for _, headers in other.asked)


def test_site_maps_and_maps_of_maps(tmp_path: Path, site: Site) -> None:
    namespace = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
    site.put(
        "/sitemap.xml",
        f"<sitemapindex {namespace}><sitemap><loc>{site.url}/m.xml.gz</loc></sitemap></sitemapindex>",
        "text/xml",
    )
    urls = "".join(f"<url><loc>{url}</loc></url>" for url in (f"{site.url}/a", f"{site.url}/gone", "http://other.invalid/x"))
    site.put("/m.xml.gz", gzip.compress(f"<urlset {namespace}>{urls}</urlset>".encode()), "application/gzip")
    site.put("/a", _page("A"))
    around = surroundings(tmp_path)
    form = {"kind": "web", "uri": f"{site.url}/sitemap.xml", "mode": "sitemap", "delay_s": 0}
    assert set(listed(opened(around, **form))) == {f"{site.url}/a"}
    assert any("gone" in note for note in around.notes)
    with pytest.raises(PayloadTooLarge, match="more than 1 pages"):
        listed(opened(surroundings(tmp_path), **form, max_pages=1))


def test_markup_that_grows_is_refused(tmp_path: Path, site: Site) -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><urlset>&b;</urlset>'
    site.put("/sitemap.xml", bomb, "text/xml")
    with pytest.raises(InvalidData) as caught:
        listed(opened(surroundings(tmp_path), kind="web", uri=f"{site.url}/sitemap.xml", mode="sitemap"))
    assert caught.value.error_code == "unsafe_markup"


def test_a_page_larger_than_the_limit_is_refused_before_it_is_read(tmp_path: Path, site: Site) -> None:
    site.put("/big", b"x" * 5000, "text/plain")
    around = surroundings(tmp_path, limits=SourceLimits(max_file_bytes=1000))
    with pytest.raises(PayloadTooLarge):
        listed(opened(around, kind="web", uri=f"{site.url}/big"))


def test_a_walk_can_be_cancelled(tmp_path: Path, docs: Site) -> None:
    around = surroundings(tmp_path, is_cancelled=lambda: len(docs.asked) >= 3)
    with pytest.raises(Cancelled):
        listed(opened(around, kind="web", uri=f"{docs.url}/docs/", mode="crawl", delay_s=0))
    assert len(docs.asked) == 3


RSS = """<?xml version="1.0"?><rss version="2.0" xmlns:content="http://purl.org/rss/1.0/modules/content/"><channel><title>N</title>
<item><guid>1</guid><title>First &amp; best</title><link>{url}/n/1</link><description>Short.</description>
<content:encoded>&lt;p&gt;The whole first entry.&lt;/p&gt;</content:encoded>
<pubDate>Mon, 02 Mar 2026 10:00:00 GMT</pubDate></item>
<item><link>{url}/n/2</link><title>Second</title></item></channel></rss>"""
ATOM = """<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>N</title><entry><id>urn:1</id><title>一</title>
<author><name>Li</name></author><link rel="self" href="{url}/self"/>
<link href="{url}/n/1"/><summary>a &lt; b</summary></entry></feed>"""


def test_entries_of_a_feed(tmp_path: Path, site: Site) -> None:
    site.put("/rss", RSS.format(url=site.url), "application/rss+xml", etag='"r1"')
    around = surroundings(tmp_path)
    source = opened(around, kind="feed", uri=f"{site.url}/rss")
    items, texts = listed(source), contents(source)
    assert set(items) == {"1", f"{site.url}/n/2"}
    assert items["1"].name == "First & best"
    assert items["1"].attributes == {"url": f"{site.url}/n/1", "published": "Mon, 02 Mar 2026 10:00:00 GMT"}
    assert b"<p>The whole first entry.</p>" in texts["1"]
    assert not source.lists_all
    again = surroundings(tmp_path, cursor=around.cursor, known={"1": "x"})
    assert listed(opened(again, kind="feed", uri=f"{site.url}/rss")) == {}
    site.put("/atom", ATOM.format(url=site.url), "application/atom+xml")
    source = opened(surroundings(tmp_path), kind="feed", uri=f"{site.url}/atom")
    (item,) = listed(source).values()
    assert (item.key, item.name, item.attributes["author"], item.attributes["url"]) == ("urn:1", "一", "Li", f"{site.url}/n/1")
    assert b"<p>a &lt; b</p>" in contents(source)["urn:1"]


def test_the_pages_behind_entries(tmp_path: Path, site: Site) -> None:
    site.put("/rss", RSS.format(url=site.url), "application/rss+xml")
    site.put("/n/1", _page("The page"))
    found = listed(opened(surroundings(tmp_path), kind="feed", uri=f"{site.url}/rss", follow=True))
    assert found["1"].num_bytes == len(_page("The page"))
    assert isinstance(found[f"{site.url}/n/2"].fault, NotFound)


def test_links_of_a_page() -> None:
    html = (
        b'<base href="/b/"><a href="x#1">1</a><a href="x">2</a><a href="y" rel="nofollow">3</a><a href="//h.example:80/z">4</a>'
    )
    assert PageLinks.of("http://a.example/p", html, "no-such-charset").links == ["http://a.example/b/x", "http://h.example/z"]
    assert canonical("HTTPS://A.Example:443?q=1#f") == "https://a.example/?q=1"
