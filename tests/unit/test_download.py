"""Downloads resume, verify, and never leave something that looks finished; archives stay in their folder."""

import errno
import functools
import hashlib
import http.server
import io
import stat
import tarfile
import threading
import zipfile
from unittest import mock

import pytest

from sedflow import download
from sedflow.download import Archive, DownloadError, fetch, fetch_files, fetch_weights, read_sums
from sedflow.files import explain
from sedflow.unpack import ArchiveError, unpack

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves what the test put into ``server.pages``: path → function of the handler."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Range")))
        self.server.pages[self.path](self)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.pages, server.seen = {}, []
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def answer(handler, content=CONTENT, code=200, promised=None, kind="application/octet-stream", **headers):
    handler.send_response(code)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content) if promised is None else promised))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def ranged(handler, content=CONTENT, stop=None):
    """Honours Range; ``stop`` breaks the connection after so many bytes of the file."""
    start = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-")) if handler.headers["Range"] else 0
    if start >= len(content):
        return answer(handler, b"", 416, Content_Range=f"bytes */{len(content)}")
    part = content[start:stop]
    return answer(handler, part, 206 if start else 200, promised=len(content) - start)


quick = functools.partial(fetch, wait_seconds=0.01)


def test_a_download_leaves_the_file_and_nothing_else(server, tmp_path):
    server.pages["/file"] = ranged
    assert quick(f"{server.url}/file", tmp_path / "raw" / "file", DIGEST) == DIGEST
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["file"]
    assert (tmp_path / "raw" / "file").read_bytes() == CONTENT


def test_a_broken_connection_is_continued_where_it_ended(server, tmp_path):
    breaks = iter([100_000, 700_000, None])
    server.pages["/file"] = lambda handler: ranged(handler, stop=next(breaks))
    quick(f"{server.url}/file", tmp_path / "file", DIGEST)
    assert [seen for _, seen in server.seen] == [None, "bytes=100000-", "bytes=700000-"]


def test_a_killed_download_is_continued_by_the_next_run(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:5000])
    server.pages["/file"] = ranged
    assert quick(f"{server.url}/file", tmp_path / "file", DIGEST) == DIGEST
    assert server.seen == [("/file", "bytes=5000-")]


def test_a_complete_part_needs_no_more_bytes(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    server.pages["/file"] = ranged
    assert quick(f"{server.url}/file", tmp_path / "file", DIGEST) == DIGEST


def test_a_server_that_ignores_ranges_starts_over(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:5000])
    server.pages["/file"] = answer
    assert quick(f"{server.url}/file", tmp_path / "file", DIGEST) == DIGEST


@pytest.mark.parametrize("old", [b"of another version", CONTENT + b"and more"])
def test_a_part_of_another_version_is_thrown_away(server, tmp_path, old):
    (tmp_path / "file.part").write_bytes(old)
    server.pages["/file"] = ranged
    assert quick(f"{server.url}/file", tmp_path / "file", DIGEST) == DIGEST


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, tmp_path, code):
    answers = iter([functools.partial(answer, content=b"", code=code), answer])
    server.pages["/file"] = lambda handler: next(answers)(handler)
    assert quick(f"{server.url}/file", tmp_path / "file", DIGEST) == DIGEST


def test_a_truncated_download_is_never_taken_for_whole(server, tmp_path):
    server.pages["/file"] = lambda handler: answer(handler, CONTENT[:1000], promised=len(CONTENT))
    with pytest.raises(DownloadError, match=r"ended after 1000 of 1024000 bytes; .*repeat the command to resume"):
        quick(f"{server.url}/file", tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file.part"]


def test_a_wrong_sum_leaves_nothing(server, tmp_path):
    server.pages["/file"] = answer
    with pytest.raises(DownloadError, match=f"sha256 is {DIGEST}, expected {'0' * 64}"):
        quick(f"{server.url}/file", tmp_path / "file", "0" * 64)
    assert list(tmp_path.iterdir()) == []


def chunked(handler, content=CONTENT, stop=None):
    """As `ranged`, in chunks without a length; ``stop`` ends the connection within one."""
    start = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-")) if handler.headers["Range"] else 0
    handler.protocol_version = "HTTP/1.1"
    handler.close_connection = True
    handler.send_response(206 if start else 200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for begin in range(start, len(content), 100_000):
        part = content[begin : begin + 100_000]
        handler.wfile.write(f"{len(part):x}\r\n".encode() + part[: None if stop is None else max(0, stop - begin)])
        if stop is not None and begin + len(part) > stop:
            return
        handler.wfile.write(b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def test_an_answer_in_chunks_that_breaks_off_is_asked_for_again(server, tmp_path):
    breaks = iter([450_000, 910_000, None])
    server.pages["/file"] = lambda handler: chunked(handler, stop=next(breaks))
    assert quick(f"{server.url}/file", tmp_path / "file", DIGEST) == DIGEST
    server.pages["/file"] = functools.partial(chunked, stop=450_000)
    with pytest.raises(DownloadError, match=r"the response was cut off \(IncompleteRead.*repeat the command to resume"):
        quick(f"{server.url}/file", tmp_path / "never")


def test_a_server_that_speaks_no_http_is_told(server, tmp_path):
    server.pages["/file"] = lambda handler: handler.wfile.write(b"220 welcome\r\n")
    with pytest.raises(DownloadError, match=r"the response was cut off \(BadStatusLine"):
        quick(f"{server.url}/file", tmp_path / "file")


def test_a_web_page_is_no_archive(server, tmp_path):
    server.pages["/file"] = lambda handler: answer(handler, b"<html>log in</html>", kind="text/html; charset=utf-8")
    with pytest.raises(DownloadError, match="received a web page instead of the file"):
        quick(f"{server.url}/file", tmp_path / "file")


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_dead_address_is_named_at_once(server, tmp_path, code):
    server.pages["/gone"] = lambda handler: answer(handler, b"", code)
    with pytest.raises(DownloadError, match=rf"/gone: the server answered {code} .*put it into a mirror"):
        quick(f"{server.url}/gone", tmp_path / "file")
    assert len(server.seen) == 1


def test_no_connection_is_told(tmp_path):
    with pytest.raises(DownloadError, match="no connection"):
        quick("http://127.0.0.1:9/file", tmp_path / "file")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/file", "/etc/hostname"])
def test_only_web_addresses_are_opened(tmp_path, url):
    with pytest.raises(DownloadError, match="only http and https"):
        fetch(url, tmp_path / "file")


# corpora of many files


def table(files):
    return [
        {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "bytes": str(len(data)), "author": "somebody"}
        for path, data in files.items()
    ]


FILES = {"a dog/1.ogg": b"one", "a dog/2.ogg": b"two", "b/3.ogg": b"three"}


def fill(folder, files=FILES):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def zipped(files, prefix=""):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for path, data in files.items():
            file.writestr(prefix + path, data)
    return buffer.getvalue()


@pytest.fixture
def archive(server):
    server.pages["/all.zip"] = lambda handler: answer(handler, zipped(FILES, "all-1/"), kind="application/zip")
    return Archive(f"{server.url}/all.zip", "all-1")


def test_a_whole_mirror_opens_no_connection(server, archive, tmp_path):
    fetch_files(table(FILES), tmp_path / "raw", archive, fill(tmp_path / "mirror"))
    assert server.seen == []
    assert read_sums(tmp_path / "raw" / "files.tsv") == table(FILES)
    assert (tmp_path / "raw" / "a dog/2.ogg").read_bytes() == b"two"


def test_what_the_mirror_lacks_comes_from_the_archive(server, archive, tmp_path):
    fetch_files(table(FILES), tmp_path / "raw", archive, fill(tmp_path / "mirror", {"b/3.ogg": b"three"}))
    assert len(server.seen) == 1
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["a dog", "b", "files.tsv"]


def test_a_wrong_file_in_the_mirror_is_replaced_from_the_archive(archive, tmp_path):
    fetch_files(table(FILES), tmp_path / "raw", archive, fill(tmp_path / "mirror", FILES | {"b/3.ogg": b"worse"}))
    assert (tmp_path / "raw" / "b/3.ogg").read_bytes() == b"three"


def test_a_wrong_file_behind_a_link_stays_where_it_is(server, archive, tmp_path):
    (tmp_path / "other").write_bytes(b"of the user")
    raw = tmp_path / "raw"
    (raw / "b").mkdir(parents=True)
    (raw / "b/3.ogg").symlink_to(tmp_path / "other")
    fetch_files(table(FILES), raw, archive, fill(tmp_path / "mirror"))
    assert (tmp_path / "other").read_bytes() == b"of the user" and (raw / "b/3.ogg").read_bytes() == b"three"


def test_files_that_are_right_already_are_kept(server, archive, tmp_path):
    raw = fill(tmp_path / "raw")
    before = (raw / "b/3.ogg").stat().st_mtime_ns
    fetch_files(table(FILES), raw, archive)
    assert (raw / "b/3.ogg").stat().st_mtime_ns == before
    assert server.seen == []


def test_missing_files_are_listed_and_stop_the_run(server, archive, tmp_path):
    server.pages["/all.zip"] = lambda handler: answer(handler, zipped({"b/3.ogg": b"three"}, "all-1/"))
    with pytest.raises(
        DownloadError, match=r"2 of 3 files are missing, the settings allow 1:\n  a dog/1.ogg\n  a dog/2"
    ):
        fetch_files(table(FILES), tmp_path / "raw", archive, None, allow_missing=1)
    assert not (tmp_path / "raw" / "files.tsv").exists()


def test_missing_files_are_left_out_where_the_settings_allow(server, archive, tmp_path, caplog):
    server.pages["/all.zip"] = lambda handler: answer(handler, zipped({"b/3.ogg": b"three"}, "all-1/"))
    fetch_files(table(FILES), tmp_path / "raw", archive, None, allow_missing=2)
    assert [row["path"] for row in read_sums(tmp_path / "raw" / "files.tsv")] == ["b/3.ogg"]
    assert "continuing without 2 of 3 files: a dog/1.ogg, a dog/2.ogg" in caplog.text


def test_the_reason_stands_in_the_message(server, archive, tmp_path):
    server.pages["/all.zip"] = lambda handler: answer(handler, b"", 404)
    mirror = fill(tmp_path / "mirror", FILES | {"b/3.ogg": b"worse"})
    with pytest.raises(DownloadError, match=r"(?s)3\.ogg: sha256 is .*answered 404.*set SEDFLOW_MIRROR"):
        fetch_files(table(FILES), tmp_path / "raw", archive, mirror)


def test_a_hostile_archive_writes_nothing_outside(server, archive, tmp_path):
    server.pages["/all.zip"] = lambda handler: answer(handler, zipped(FILES | {"../../outside": b"x"}, "all-1/"))
    with pytest.raises(DownloadError, match=r"member 'all-1/../../outside' points outside the folder"):
        fetch_files(table(FILES), tmp_path / "raw", archive)
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "raw" / ".unpacked").exists()


# archives


@pytest.mark.parametrize("name", ["../up", "/etc/absolute", "a/../../up", "C:/windows", "..\\up", "."])
def test_members_outside_the_folder_are_refused(tmp_path, name):
    (tmp_path / "bad.zip").write_bytes(zipped({"good": b"1", name: b"2"}))
    with pytest.raises(ArchiveError, match="points outside the folder"):
        unpack(tmp_path / "bad.zip", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["bad.zip", "good"]


def test_a_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as file:
        member = zipfile.ZipInfo("link")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(member, "/etc/passwd")
    with pytest.raises(ArchiveError, match="'link' is a link or a device"):
        unpack(tmp_path / "link.zip", tmp_path / "out")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "link.tar.gz", "w:gz") as file:
        member = tarfile.TarInfo("odd")
        member.type, member.linkname = kind, "/etc/passwd"
        file.addfile(member)
    with pytest.raises(ArchiveError, match="'odd' is a link or a device"):
        unpack(tmp_path / "link.tar.gz", tmp_path / "out")


def test_a_zip_bomb_stops_at_the_cap(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(50 << 20))
    with pytest.raises(ArchiveError, match="unpacks to more than 1048576 bytes"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out", most_bytes=1 << 20)


def test_too_many_files_are_refused(tmp_path):
    (tmp_path / "many.zip").write_bytes(zipped({f"{k}": b"" for k in range(20)}))
    with pytest.raises(ArchiveError, match="more than 10 files"):
        unpack(tmp_path / "many.zip", tmp_path / "out", most_files=10)


@pytest.mark.parametrize("kind", ["zip", "tar", "html", "empty"])
def test_broken_archives_are_named(tmp_path, kind):
    content = {"html": b"<html>", "empty": b""}
    if kind == "tar":
        with tarfile.open(tmp_path / "whole", "w:gz") as file:
            member = tarfile.TarInfo("file")
            member.size = len(CONTENT)
            file.addfile(member, io.BytesIO(CONTENT))
        content["tar"] = (tmp_path / "whole").read_bytes()[:600]
    content["zip"] = zipped({"file": CONTENT})[:5000]
    (tmp_path / "broken").write_bytes(content[kind])
    with pytest.raises(ArchiveError, match=r"broken: not a complete zip or tar archive .*download it again"):
        unpack(tmp_path / "broken", tmp_path / "out")
    assert not (tmp_path / "out" / "file").exists()


def test_a_locked_archive_is_named(tmp_path):
    content = bytearray(zipped({"file": CONTENT}))
    for head, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(head) + flags] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"locked.zip: .*password"):
        unpack(tmp_path / "locked.zip", tmp_path / "out")


def test_a_full_disk_is_no_broken_archive(tmp_path, monkeypatch):
    (tmp_path / "good.zip").write_bytes(zipped({"file": CONTENT}))
    monkeypatch.setattr("sedflow.unpack._copy", mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left") as raised:
        unpack(tmp_path / "good.zip", tmp_path / "out")
    assert explain(raised.value).startswith("no space left on this disk; free some")


def test_a_folder_that_cannot_be_written_to_is_no_missing_connection(server, tmp_path):
    (tmp_path / "file.part").mkdir()
    server.pages["/file"] = answer
    with pytest.raises(IsADirectoryError):
        fetch(f"{server.url}/file", tmp_path / "file")


def test_a_tar_unpacks(tmp_path):
    with tarfile.open(tmp_path / "good.tar.gz", "w:gz") as file:
        member = tarfile.TarInfo("folder/file")
        member.size = len(CONTENT)
        file.addfile(member, io.BytesIO(CONTENT))
    assert unpack(tmp_path / "good.tar.gz", tmp_path / "out") == [tmp_path / "out/folder/file"]
    assert (tmp_path / "out/folder/file").read_bytes() == CONTENT


# weights


@pytest.fixture
def catalogue(server, monkeypatch):
    entries = {
        "known": {"file": "known.pt", "url": f"{server.url}/known.pt", "sha256": DIGEST, "licence": "MIT"},
        "new": {"file": "new.pt", "url": f"{server.url}/new.pt", "sha256": None, "licence": "MIT"},
    }
    monkeypatch.setattr(download, "pretrained", lambda: entries)
    server.pages["/known.pt"] = server.pages["/new.pt"] = answer
    return entries


def test_weights_come_from_the_mirror_first(server, catalogue, tmp_path):
    mirror = fill(tmp_path / "mirror", {"weights/known.pt": CONTENT})
    assert fetch_weights("known", tmp_path / "out.pt", mirror) == DIGEST
    assert server.seen == []


def test_weights_of_unknown_sum_are_recorded_and_held_to_it(server, catalogue, tmp_path, caplog):
    assert fetch_weights("new", tmp_path / "new.pt") == DIGEST
    assert f"recorded sha256 {DIGEST}" in caplog.text
    (tmp_path / "new.pt").unlink()
    server.pages["/new.pt"] = lambda handler: answer(handler, b"something else")
    with pytest.raises(DownloadError, match=f"expected {DIGEST}"):
        fetch_weights("new", tmp_path / "new.pt")


def test_weights_of_unknown_sum_are_fetched_again_when_their_address_is_another(server, catalogue, tmp_path, caplog):
    fetch_weights("new", tmp_path / "new.pt")
    server.pages["/newer.pt"] = lambda handler: answer(handler, b"a newer release")
    catalogue["new"]["url"] = f"{server.url}/newer.pt"
    found = fetch_weights("new", tmp_path / "new.pt")
    assert (tmp_path / "new.pt").read_bytes() == b"a newer release"
    assert f"recorded sha256 {found}" in caplog.text
    assert fetch_weights("new", tmp_path / "new.pt") == found
    assert [path for path, _ in server.seen] == ["/new.pt", "/newer.pt"]


def test_a_record_of_weights_without_their_address_holds(server, catalogue, tmp_path):
    (tmp_path / "new.pt").write_bytes(CONTENT)
    (tmp_path / "new.pt.sha256").write_text(f"{DIGEST}\n")
    assert fetch_weights("new", tmp_path / "new.pt") == DIGEST
    assert server.seen == []


def test_damaged_weights_are_fetched_again(catalogue, tmp_path):
    (tmp_path / "known.pt").write_bytes(b"damaged")
    assert fetch_weights("known", tmp_path / "known.pt") == DIGEST
    assert (tmp_path / "known.pt").read_bytes() == CONTENT


def test_unknown_weights_are_refused_with_the_list(tmp_path):
    with pytest.raises(DownloadError, match=r"no pretrained weights 'mn5'.*mn04_as"):
        fetch_weights("mn5", tmp_path / "out.pt")


def test_the_catalogue_holds_the_weights_of_the_mirror(mirror_dir):
    entry = download.pretrained()["mn04_as"]
    assert download.sha256(mirror_dir / "weights" / entry["file"]) == entry["sha256"]


def test_the_sums_of_esc10_are_those_of_the_mirror(mirror_dir):
    rows = read_sums(download.DATA / "esc10.tsv")
    assert len(rows) == 320
    assert {row["fold"] for row in rows} == {"1", "2", "3", "4"}
    assert all(row["author"] and row["source_url"].startswith("http") and row["licence"] for row in rows)
    assert all(download.sha256(mirror_dir / "esc10" / row["path"]) == row["sha256"] for row in rows)
