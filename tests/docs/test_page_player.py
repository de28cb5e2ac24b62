"""What executes a page: order, sessions, services, and failures with page and line."""

from __future__ import annotations

import os
import socket
import textwrap

import pytest
from scratch_folder import own_network, play

SERVICE = "python -m http.server --bind 127.0.0.1"


@pytest.fixture
def played(tmp_path):
    """Play a text as a page, return what failed."""

    def run(text: str) -> str | None:
        page = tmp_path / "page.md"
        page.write_text(textwrap.dedent(text))
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        return play(page, scratch, root=tmp_path)

    return run


def test_blocks_share_a_shell_and_a_namespace(played, tmp_path):
    failed = played("""\
        <!-- run -->
        ```sh
        name=ada
        cd docs && export WHERE=$PWD && touch from_shell
        ```
        <!-- run -->
        ```python
        from pathlib import Path
        assert Path("report.txt").read_text() and Path("docs/from_shell").exists()
        x = 1
        ```
        <!-- no-run: it would fail -->
        ```sh
        false
        ```
        <!-- run -->
        ```python
        Path("x").write_text(str(x + 1))
        ```
        <!-- run -->
        ```sh
        test "$name" = ada && test "$(cat ../x)" = 2 && test "$PWD" = "$WHERE"
        ```
        """)
    assert failed is None
    assert not (tmp_path / "x").exists()


def test_the_reader_has_an_empty_home_and_the_files_that_pages_name(played):
    assert (
        played("""\
        <!-- run -->
        ```sh
        test -z "$(find "$HOME" -type f)"
        test -f prose.parquet && test -f qa.parquet && test -f README.md && test -d services
        condense --help > help.txt && grep -q serve help.txt
        ```
        """)
        is None
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- run -->\n```sh\ntrue\necho told\nfalse\ntrue\n```\n", "page.md:5: exit status 1"),
        ("<!-- run -->\n```sh\ntrue\nfalse | true\n```\n", "page.md:4: exit status 1"),
        ("<!-- run -->\n```sh\nexit 0\n```\n", "page.md:3: the shell ended"),
        ("<!-- run -->\n```console\n$ echo a\na\n$ false\n```\n", "page.md:5: exit status 1"),
        ("<!-- run, exits 1 -->\n```sh\ntrue\n```\n", "page.md:3: exit status 0"),
        ("<!-- run -->\n```python\nx = 1\nassert x == 2\n```\n", "page.md:4: AssertionError"),
        ("<!-- run -->\n```python\nx = 1\nx = = 2\n```\n", "page.md:4: SyntaxError"),
        ("<!-- run, serves 8300 -->\n```sh\nfalse\n```\n", "page.md:3: the service ended"),
        ("<!-- run, serves 1 2 -->\n```sh\ntrue\n```\n", "page.md:3: 1 services on 2 ports"),
    ],
)  # fmt: skip
def test_a_failure_is_told_with_page_and_line(played, text, message):
    failed = played(text)
    assert failed is not None
    assert message in failed


def test_what_a_failing_block_printed_is_told(played):
    assert "    no such thing" in played(
        "<!-- run -->\n```sh\necho no such thing >&2; false\n```\n"
    )


def test_an_expected_status_is_no_failure(played):
    text = "<!-- run, exits 3 -->\n```sh\nfalse\n(exit 3)\n```\n<!-- run -->\n```sh\ntrue\n```\n"
    assert played(text) is None


def test_services_stay_for_the_page_and_end_with_it(played, tmp_path):
    port = free_port()
    assert (
        played(f"""\
        <!-- run, serves {port} -->
        ```sh
        {SERVICE} {port} \\
            --directory docs    # over two lines
        ```
        <!-- run -->
        ```sh
        curl -sf http://127.0.0.1:{port}/architecture.md > page.md
        ```
        """)
        is None
    )
    assert (tmp_path / "scratch" / "checkout" / "page.md").stat().st_size > 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_an_http_error_is_a_failure(played):
    port = free_port()
    failed = played(f"""\
        <!-- run, serves {port} -->
        ```sh
        {SERVICE} {port}
        ```
        <!-- run -->
        ```sh
        curl -s http://127.0.0.1:{port}/no_such_file
        ```
        """)
    assert failed is not None
    assert "page.md:7: exit status 22" in failed


def test_what_a_block_left_in_the_background_ends_with_the_page(played, tmp_path):
    assert played("<!-- run -->\n```sh\nsleep 600 &\necho $! > pid\n```\n") is None
    pid = int((tmp_path / "scratch" / "checkout" / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_of_alternatives_the_last_stays(played):
    port = free_port()
    assert (
        played(f"""\
        <!-- run, serves each {port} -->
        ```sh
        {SERVICE} {port} --directory docs
        {SERVICE} {port} --directory services
        ```
        <!-- run -->
        ```sh
        curl -sf http://127.0.0.1:{port}/miner_backend/serving/README.md > page.md
        ```
        """)
        is None
    )


@pytest.mark.skipif(not own_network(), reason="this system gives a process no network of its own")
def test_a_page_reaches_nothing_outside(played):
    failed = played("<!-- run -->\n```sh\ncurl -s --max-time 5 http://192.0.2.1/\n```\n")
    assert failed is not None
    assert "exit status 7" in failed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
