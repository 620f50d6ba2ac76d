"""Pages over HTTP, without a browser: what stands in them, who may read them, and what they forbid."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from tests.faults.fleet import Fleet
from tests.servers import PostgresServer
from tests.web.pages.cluster import SCRIPT, TOKEN, cluster, page_of

READ_TOKEN = "a-token-for-reading-91c2"


class Visitor:
    """Asks one replica, and follows nothing."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc

    def get(self, path: str, **headers: str) -> Answer:
        return self._ask("GET", path, None, headers)

    def post(self, path: str, body: bytes = b"", **headers: str) -> Answer:
        return self._ask("POST", path, body, headers)

    def sign_in(self, token: str, **more: str) -> Answer:
        form = urlencode({"token": token, **more}).encode()
        return self.post("/sign-in", form, **{"Content-Type": "application/x-www-form-urlencoded"})

    def events(self, count: int) -> list[str]:
        """Return the names of the first events of the stream."""
        connection = http.client.HTTPConnection(self._address, timeout=30)
        try:
            connection.request("GET", "/events")
            stream = connection.getresponse()
            assert stream.headers["content-type"].startswith("text/event-stream")
            names: list[str] = []
            while len(names) < count:
                line = stream.readline().decode()
                if line.startswith("event: "):
                    names.append(line.removeprefix("event: ").strip())
                if line.startswith("data: "):
                    json.loads(line.removeprefix("data: "))
            return names
        finally:
            connection.close()

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read().decode())
        finally:
            connection.close()


class Answer:
    def __init__(self, status: int, headers: http.client.HTTPMessage, text: str) -> None:
        self.status, self.headers, self.text = status, headers, text


class Elements(HTMLParser):
    """What a page is made of: tags and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))


@pytest.fixture(scope="module")
def open_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One replica on SQLite whose pages everybody may read, with a few runs."""
    folder = tmp_path_factory.mktemp("open")
    with cluster(folder, f"sqlite:///{folder}/scheduler.db") as fleet:
        fleet.start(1)
        fleet.wait_for("run_failed", job="always-fails")
        yield fleet


@pytest.fixture(scope="module")
def guarded_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two replicas on SQLite whose pages need a token."""
    folder = tmp_path_factory.mktemp("guarded")
    with cluster(folder, f"sqlite:///{folder}/scheduler.db", read_token=READ_TOKEN) as fleet:
        fleet.start(2)
        yield fleet


@pytest.fixture
def visitor(open_fleet: Fleet) -> Visitor:
    return Visitor(page_of(open_fleet.replicas[0]))


PAGES = ("/", "/?show=failing&q=fail", "/jobs/always-fails", "/jobs/always-fails/why?at=2026-01-01", "/leadership")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_and_loads_nothing_that_is_not_ours(visitor: Visitor, path: str) -> None:
    page = visitor.get(path)
    assert page.status == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    seen = Elements(page.text)
    assert {tag for tag, _ in seen.found} & {"style", "iframe", "object", "base"} == set()
    attributes = [pair for _, attributes in seen.found for pair in attributes]
    assert not [name for name, _ in attributes if name == "style" or name.startswith("on")]
    loaded = [value or "" for name, value in attributes if name in ("src", "href", "action", "data-action")]
    assert loaded
    assert all(one.startswith(("/", "#")) and not one.startswith("//") for one in loaded)
    scripts = [dict(attributes) for tag, attributes in seen.found if tag == "script"]
    assert scripts
    assert all((one.get("src") or "").startswith("/static/") for one in scripts)


@pytest.mark.parametrize("path", ["/jobs/always-fails", "/?q=" + urlencode({"": SCRIPT})[1:]])
def test_a_script_is_shown_as_text(visitor: Visitor, path: str) -> None:
    page = visitor.get(path)
    assert SCRIPT not in page.text
    assert "&lt;script&gt;document.title=" in page.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/jobs/nobody", 404),
        (f"/jobs/{urlencode({'': SCRIPT})[1:]}", 404),
        ("/jobs/nobody/why?at=2026-01-01", 404),
        ("/runs/999999999", 404),
        ("/runs/99999999999999999999999999", 404),
        ("/runs/x", 404),
        ("/runs/-1", 404),
        ("/static/page.css.map", 404),
        ("/static/..%2fpages.py", 404),
        ("/?page=99999999999999999999&show=nonsense&q=%00", 200),
        ("/?page=-1", 200),
        ("/jobs/heartbeat?before=x", 200),
        ("/jobs/heartbeat/why", 200),
        ("/jobs/heartbeat/why?at=yesterday", 400),
        ("/jobs/heartbeat/why?at=9999-12-31T23:59:59", 400),
        ("/jobs/heartbeat/why?at=0001-01-01T00:00", 400),
        ("/leadership?before=0", 200),
    ],
)
def test_whatever_is_asked_for_has_an_answer(visitor: Visitor, path: str, status: int) -> None:
    page = visitor.get(path)
    assert page.status == status
    assert SCRIPT not in page.text


def test_the_stream_tells_that_something_happened(visitor: Visitor) -> None:
    assert "change" in visitor.events(4)


def test_files_of_a_page_may_be_kept_and_pages_may_not(visitor: Visitor) -> None:
    page, style = visitor.get("/"), visitor.get("/static/page.css")
    assert page.headers["cache-control"] == "no-store"
    assert "max-age" in style.headers["cache-control"]
    assert style.headers["content-type"].startswith("text/css")


@pytest.mark.parametrize("path", [*PAGES, "/runs/1", "/events"])
def test_without_the_token_nothing_is_read(guarded_fleet: Fleet, path: str) -> None:
    page = Visitor(page_of(guarded_fleet.replicas[0])).get(path)
    assert page.status == 401
    assert "heartbeat" not in page.text
    assert guarded_fleet.replicas[0].instance not in page.headers.as_string()


def test_without_the_token_nobody_learns_which_paths_there_are(guarded_fleet: Fleet) -> None:
    visitor = Visitor(page_of(guarded_fleet.replicas[0]))
    assert [visitor.get(path, Accept="text/html").status for path in ("/jobs/heartbeat", "/nothing")] == [401, 401]


def test_whoever_signs_in_reads_on_every_replica_and_writes_on_none(guarded_fleet: Fleet) -> None:
    one, other = (Visitor(page_of(replica)) for replica in guarded_fleet.replicas)
    answer = one.sign_in(READ_TOKEN)
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert READ_TOKEN not in cookie
    session = {"Cookie": cookie.partition(";")[0]}
    for visitor in (one, other):
        page = visitor.get("/", **session)
        assert page.status == 200
        assert "heartbeat" in page.text
        refused = visitor.post(
            "/api/v1/jobs/heartbeat/trigger", b"{}", **session, **{"Content-Type": "application/json"}
        )
        assert refused.status == 401
    left = one.post("/sign-out", **session)
    assert left.headers["set-cookie"].startswith('scheduler_service_reader=""')
    # A form of another site brings no cookie along (SameSite), and so signs nobody out.
    assert one.post("/sign-out").headers["set-cookie"] is None


@pytest.mark.parametrize(
    "path", ["/jobs/heartbeat?before=9", "/?q=a%26b&show=failing", "/runs/1", "/leadership", "/nothing/%3Fx%5C"]
)
def test_whoever_signs_in_comes_to_the_page_that_was_asked_for(guarded_fleet: Fleet, path: str) -> None:
    visitor = Visitor(page_of(guarded_fleet.replicas[0]))
    asked = visitor.get(path, Accept="text/html").text
    for page in (asked, visitor.sign_in("guess", back=path).text):  # a wrong token loses nothing
        fields = [dict(attributes) for tag, attributes in Elements(page).found if tag == "input"]
        (back,) = (one["value"] or "" for one in fields if one["name"] == "back")
        answer = visitor.sign_in(READ_TOKEN, back=back)
        assert (answer.status, answer.headers["location"]) == (303, path)


@pytest.mark.parametrize(
    "back",
    ["//evil.example", "///evil.example", "/\\evil.example", "/x\\y", "\\/evil.example", "https://evil.example/",
     "javascript:alert(1)", "evil", "", "/\t/evil.example", "/\r\nX: 1", "/\x00", "/é", "/ x", "/x\n",
     "/" + "x" * 1001],
)  # fmt: skip
def test_nobody_is_sent_to_another_place_by_signing_in(guarded_fleet: Fleet, back: str) -> None:
    answer = Visitor(page_of(guarded_fleet.replicas[0])).sign_in(READ_TOKEN, back=back)
    assert (answer.status, answer.headers["location"]) == (303, "/")


def test_both_tokens_read_as_a_header(guarded_fleet: Fleet) -> None:
    visitor = Visitor(page_of(guarded_fleet.replicas[0]))
    for token, status in {READ_TOKEN: 200, TOKEN: 200, "guess": 401, "": 401}.items():
        assert visitor.get("/", Authorization=f"Bearer {token}").status == status


def test_a_wrong_token_opens_no_session(guarded_fleet: Fleet) -> None:
    visitor = Visitor(page_of(guarded_fleet.replicas[0]))
    for token in ("guess", "", "x" * 5000, READ_TOKEN + "x"):
        answer = visitor.sign_in(token)
        assert answer.status == 403
        assert answer.headers["set-cookie"] is None


@pytest.mark.parametrize(
    "change", [lambda c: c[:-1], lambda c: c + "0", lambda c: "9" + c, lambda c: "x", lambda c: ""]
)
def test_a_forged_cookie_opens_nothing(guarded_fleet: Fleet, change) -> None:  # type: ignore[no-untyped-def]
    visitor = Visitor(page_of(guarded_fleet.replicas[0]))
    name, _, value = visitor.sign_in(READ_TOKEN).headers["set-cookie"].partition(";")[0].partition("=")
    assert visitor.get("/", Cookie=f"{name}={value}").status == 200
    assert visitor.get("/", Cookie=f"{name}={change(value)}").status == 401


def test_a_page_says_that_the_database_does_not_answer(own_server: PostgresServer, tmp_path: Path) -> None:
    with cluster(tmp_path, own_server.create_database()) as fleet:
        replica = fleet.start(1)[0]
        visitor = Visitor(page_of(replica))
        assert visitor.get("/").status == 200
        own_server.stop("immediate")
        fleet.wait_for("leadership_suspect")
        page = fleet.wait_until(lambda: (found := visitor.get("/")).status == 503 and found)
        assert "The database does not answer" in page.text
        own_server.start()
        fleet.wait_until(lambda: visitor.get("/").status == 200, poll_seconds=0.2)
