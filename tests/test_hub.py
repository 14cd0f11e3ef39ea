"""Pinned downloads: order of locations, digests, downloads (from a local server and a generated wheel), and errors.

No test needs a network.
"""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pooch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien import downloads, hub
from mien.errors import ArtefactError

BYTES = b"the network's weights" * 1000
SHA = "sha256:" + hashlib.sha256(BYTES).hexdigest()


@dataclass
class Server:
    """Answers each path with the next of its replies, then always with the last one; records requests."""

    address: str
    replies: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def url(self, path: str, *replies: tuple[int, bytes]) -> str:
        self.replies["/" + path] = list(replies)
        return f"{self.address}/{path}"


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            replies = state.replies[self.path]
            code, body = replies.pop(0) if len(replies) > 1 else replies[0]
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        state = Server(f"http://127.0.0.1:{listening.server_port}")
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield state
        listening.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no mirror, and no pauses between attempts."""
    for name in ("MIEN_HUB", "MIEN_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pooch.core.time, "sleep", lambda _: None)
    return tmp_path / "cache"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch):
    """Adds an artefact named `toy` (toy.bin) to the table."""

    def make(*urls: str, digest: str = SHA, **more: object) -> hub.Artefact:
        artefact = hub.Artefact("toy", "toy.bin", digest, 21_000, "MIT", "is a toy", urls=urls, **more)
        monkeypatch.setitem(hub.ARTEFACTS, "toy", artefact)
        return artefact

    return make


def folder(path: Path, content: bytes) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "toy.bin").write_bytes(content)
    return path


# The table


def test_pinned_digests_are_unchanged() -> None:
    pins = {name: a.digest for name, a in hub.ARTEFACTS.items()}
    assert pins == {
        "blazeface": "sha256:bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
        "blazeface-full-range": "sha256:2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
        "facemesh": "sha256:1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        "face-landmarker": "sha256:64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        "ultraface": "sha256:34cd7e60aeff28744c657de7a3dc64e872d506741de66987f3426f2b79f88017",
        "yunet": "sha256:8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        "hsemotion": "git:7ce9d6dd5b82b260bc19bfe7822a6ffa1abb6011",
        "openwakeword-melspectrogram": "sha256:ba2b0e0f8b7b875369a2c89cb13360ff53bac436f2895cced9f479fa65eb176f",
        "openwakeword-embedding": "sha256:ba754db3cd768a524c655ea90655ee5e6055a43b8dfd29366a11e93716ae9e51",
        "silero-vad": "sha256:9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
        "smart-turn": "sha256:2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
    }


@pytest.mark.parametrize("artefact", hub.ARTEFACTS.values(), ids=lambda a: a.name)
def test_every_artefact_has_one_pinned_source_and_a_licence(artefact: hub.Artefact) -> None:
    assert bool(artefact.urls) != bool(artefact.wheel and artefact.member)
    assert "==" in artefact.wheel or not artefact.wheel
    assert all("/main/" not in url and "/master/" not in url for url in artefact.urls)
    assert artefact.licence in ("MIT", "Apache-2.0", "BSD-2-Clause")
    assert artefact.use


@pytest.mark.parametrize("name", ["blazeface", "facemesh"])
def test_pinned_sizes_match_the_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real mirrors and cache
    assert hub.fetch(name).stat().st_size == hub.ARTEFACTS[name].size


# Digests


def test_digests_equal_those_of_other_programs() -> None:
    """`printf 'hello\\n' | git hash-object --stdin` and `| sha256sum`; git's well-known empty blob."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x"
        path.write_bytes(b"hello\n")
        assert downloads.digest_of(path, "git") == "git:ce013625030ba8dba906f756967f9e9ca394464a"
        assert downloads.digest_of(path, "sha256") == (
            "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        )
        path.write_bytes(b"")
        assert downloads.digest_of(path, "git") == "git:e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


@given(
    content=st.binary(max_size=3000),
    kind=st.sampled_from(["sha256", "git"]),
    at=st.integers(0),
    bit=st.integers(0, 7),
)
def test_any_flipped_bit_changes_the_digest(content: bytes, kind: str, at: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x"
        path.write_bytes(content)
        before = downloads.digest_of(path, kind)
        assert downloads.digest_of(path, kind) == before
        if content:
            changed = bytearray(content)
            changed[at % len(content)] ^= 1 << bit
            path.write_bytes(changed)
            assert downloads.digest_of(path, kind) != before


# Locations


def test_a_file_is_digested_again_only_after_it_changed(tmp_path, monkeypatch) -> None:
    path, read = tmp_path / "file", []
    monkeypatch.setattr(downloads, "digest_of", lambda path, kind: read.append(path) or path.read_text())
    path.write_text("a")
    assert downloads.digest_once(path, "sha256") == downloads.digest_once(path, "sha256") == "a"
    assert len(read) == 1
    path.write_text("bb")
    assert downloads.digest_once(path, "sha256") == "bb"


def test_mirrors_are_searched_in_order_before_the_cache(toy, tmp_path, cache, monkeypatch) -> None:
    toy()
    folder(cache, BYTES)
    assert hub.fetch("toy") == cache / "toy.bin"
    second = folder(tmp_path / "second", BYTES)
    monkeypatch.setenv("MIEN_HUB", os.pathsep.join([str(tmp_path / "empty"), str(second)]))
    assert hub.fetch("toy") == second / "toy.bin"
    first = folder(tmp_path / "first", BYTES)
    monkeypatch.setenv("MIEN_HUB", os.pathsep.join([str(first), str(second)]))
    assert hub.fetch("toy") == first / "toy.bin"


def test_a_mirrors_file_with_another_digest_is_refused_with_both_digests(toy, tmp_path, cache, monkeypatch) -> None:
    toy()
    folder(cache, BYTES)
    wrong = folder(tmp_path / "mirror", b"something else")
    monkeypatch.setenv("MIEN_HUB", str(wrong))
    with pytest.raises(ArtefactError) as caught:
        hub.fetch("toy")
    text = str(caught.value)
    assert SHA in text
    assert hashlib.sha256(b"something else").hexdigest() in text
    assert str(wrong / "toy.bin") in text
    assert "MIEN_HUB" in caught.value.remedy


def test_the_cache_folder_is_mien_cache_or_the_platforms(monkeypatch, cache) -> None:
    assert hub.cache_dir() == cache
    monkeypatch.delenv("MIEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert hub.cache_dir().name == "mien"


# Downloads


def test_a_download_is_verified_cached_and_not_repeated(toy, server, cache) -> None:
    toy(server.url("toy.bin", (200, BYTES)))
    assert hub.fetch("toy").read_bytes() == BYTES
    assert hub.fetch("toy") == cache / "toy.bin"
    assert server.requests == ["/toy.bin"]
    assert [p.name for p in cache.iterdir()] == ["toy.bin"]


def test_a_git_blob_digest_is_checked_too(toy, server) -> None:
    blob = hashlib.sha1(b"blob %d\0" % len(BYTES) + BYTES).hexdigest()
    toy(server.url("good", (200, BYTES)), digest="git:" + blob)
    assert hub.fetch("toy").read_bytes() == BYTES
    toy(server.url("bad", (200, b"other")), digest="git:" + "0" * 40)
    with pytest.raises(ArtefactError, match="0" * 40):
        hub.fetch("toy")


def test_a_busy_server_is_retried(toy, server, caplog) -> None:
    toy(server.url("toy.bin", (503, b""), (503, b""), (200, BYTES)))
    assert hub.fetch("toy").read_bytes() == BYTES
    assert len(server.requests) == 3
    assert ".part" not in caplog.text, "names of temporary files are no news"


def test_the_second_url_is_used_if_the_first_fails(toy, server) -> None:
    toy(server.url("gone", (404, b"")), server.url("there", (200, BYTES)))
    assert hub.fetch("toy").read_bytes() == BYTES
    assert server.requests[-1] == "/there"


def test_a_download_with_another_digest_is_refused_and_leaves_no_file(toy, server, cache) -> None:
    toy(server.url("toy.bin", (200, b"<html>please log in</html>")))
    with pytest.raises(ArtefactError) as caught:
        hub.fetch("toy")
    assert SHA.removeprefix("sha256:") in str(caught.value)
    assert hashlib.sha256(b"<html>please log in</html>").hexdigest() in str(caught.value)
    assert not list(cache.iterdir())


def test_a_damaged_cached_file_is_downloaded_again_with_a_warning(toy, server, cache, caplog) -> None:
    toy(server.url("toy.bin", (200, BYTES)))
    folder(cache, BYTES[:100])
    with caplog.at_level(logging.WARNING, logger="mien"):
        assert hub.fetch("toy").read_bytes() == BYTES
    assert SHA in caplog.text


def test_several_processes_download_at_once(toy, server, cache) -> None:
    toy()
    url = server.url("toy.bin", (200, BYTES))
    code = (
        "from mien import hub\n"
        f"hub.ARTEFACTS['toy'] = hub.Artefact('toy', 'toy.bin', {SHA!r}, 1, 'MIT', 'toys', ({url!r},))\n"
        "print(hub.fetch('toy'))"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [p.communicate(timeout=240)[0].strip() for p in running] == [str(cache / "toy.bin")] * 3
    assert [p.name for p in cache.iterdir()] == ["toy.bin"]
    assert (cache / "toy.bin").read_bytes() == BYTES


# Failures


def test_offline_sends_no_request_and_the_error_has_a_remedy(toy, server, cache, monkeypatch) -> None:
    toy(server.url("toy.bin", (200, BYTES)))
    monkeypatch.setenv("MIEN_OFFLINE", "1")
    with pytest.raises(ArtefactError) as caught:
        hub.fetch("toy")
    assert str(caught.value) == (
        f"toy (toy.bin, 21 kB, MIT) is missing: it is not in the cache {cache}, "
        "and MIEN_OFFLINE forbids downloads.\n"
        "It is a toy, which is not possible without it.\n"
        "With internet access: run `mien hub pull toy`. "
        "Without: put toy.bin into a folder and set MIEN_HUB=FOLDER."
    )
    assert not server.requests
    folder(cache, BYTES)
    assert hub.fetch("toy")


def test_an_unreachable_server_gives_the_same_error(toy, cache) -> None:
    toy("http://127.0.0.1:1/toy.bin")
    with pytest.raises(ArtefactError, match=r"toy \(toy.bin, 21 kB, MIT\).*127.0.0.1:1/toy.bin: no answer"):
        hub.fetch("toy")


def test_missing_face_networks_suggest_no_face(monkeypatch) -> None:
    monkeypatch.setenv("MIEN_OFFLINE", "1")
    with pytest.raises(ArtefactError, match="--no-face"):
        hub.fetch("facemesh")


def test_an_unwritable_cache_is_an_error_that_names_mien_cache(toy, server, tmp_path, monkeypatch) -> None:
    toy(server.url("toy.bin", (200, BYTES)))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ArtefactError, match="MIEN_CACHE"):
        hub.fetch("toy")


def test_a_misspelt_name_gets_a_suggestion(monkeypatch) -> None:
    with pytest.raises(ArtefactError, match="Did you mean 'blazeface'"):
        hub.fetch("blazeace")


def test_pull_tries_all_and_reports_every_failure(toy, server, monkeypatch) -> None:
    toy(server.url("toy.bin", (200, BYTES)))
    for name in ("lost", "gone"):
        monkeypatch.setitem(
            hub.ARTEFACTS,
            name,
            hub.Artefact(name, name, SHA, 9, "MIT", "is away", urls=(server.url(name, (404, b"")),)),
        )
    with pytest.raises(ArtefactError) as caught:
        hub.pull(["lost", "toy", "gone"])
    assert "lost (lost," in caught.value.what
    assert "gone (gone," in caught.value.what
    assert "1 of 3" in caught.value.follows
    assert hub.pull(["toy"]) == [hub.cache_dir() / "toy.bin"]


def test_status_and_verify_report_location_and_problem(toy, cache) -> None:
    toy()

    def row(rows: list[hub.ArtefactStatus]) -> hub.ArtefactStatus:
        return next(r for r in rows if r.artefact.name == "toy")

    assert (row(hub.status()).path, row(hub.status()).place, hub.available("toy")) == (None, "", False)
    folder(cache, BYTES)
    assert row(hub.verify()) == hub.ArtefactStatus(hub.ARTEFACTS["toy"], cache / "toy.bin", "cache", "")
    assert hub.available("toy")
    folder(cache, b"damaged")
    assert SHA in row(hub.verify()).problem
    assert {r.artefact.name for r in hub.status()} == set(hub.ARTEFACTS)


# Wheels


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel toys-1.0 with two pinned members and another one, in a folder where pip finds it without an index."""
    links = tmp_path / "links"
    links.mkdir()
    about = "toys-1.0.dist-info/"
    with zipfile.ZipFile(links / "toys-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", "w") as archive:
        archive.writestr("toys/toy.bin", BYTES)
        archive.writestr("toys/other.bin", b"other")
        archive.writestr("toys/not_pinned.so", b"\0" * 1000)
        archive.writestr(about + "METADATA", "Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
        archive.writestr(about + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\n")
        archive.writestr(about + "RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return links


def test_only_pinned_members_of_a_wheel_are_cached(toy, wheel, cache, monkeypatch) -> None:
    toy(wheel="toys==1.0", member="toys/toy.bin")
    digest = "sha256:" + hashlib.sha256(b"other").hexdigest()
    other = hub.Artefact("other", "other.bin", digest, 5, "MIT", "", wheel="toys==1.0", member="toys/other.bin")
    monkeypatch.setitem(hub.ARTEFACTS, "other", other)
    assert hub.fetch("toy").read_bytes() == BYTES
    assert sorted(p.name for p in cache.iterdir()) == ["other.bin", "toy.bin"]


def test_ensurepips_pip_is_used_without_pip(toy, wheel, monkeypatch) -> None:
    toy(wheel="toys==1.0", member="toys/toy.bin")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))
    assert hub.fetch("toy").read_bytes() == BYTES


@pytest.mark.parametrize(
    ("requirement", "member", "digest", "text"),
    [
        ("toys==2.0", "toys/toy.bin", SHA, "pip download toys==2.0"),
        ("toys==1.0", "toys/gone.bin", SHA, "has no toys/gone.bin"),
        ("toys==1.0", "toys/toy.bin", "sha256:" + "0" * 64, SHA),
    ],
    ids=["no such version", "no such member", "another file"],
)
def test_unusable_wheels_are_errors(toy, wheel, cache, requirement, member, digest, text) -> None:
    toy(wheel=requirement, member=member, digest=digest)
    with pytest.raises(ArtefactError) as caught:
        hub.fetch("toy")
    assert text in caught.value.what
    assert "mien hub pull toy" in caught.value.remedy
    assert not list(cache.iterdir())
