"""Who may do what."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mpreg.errors import ConfigurationError, ForbiddenError, UnauthorizedError
from mpreg.server.auth import Access, Role, check, is_loopback, is_secret
from mpreg.settings import ServerSettings

READ, WRITE, ADMIN = "r" * 16, "w" * 16, "a" * 16
LOCAL = {"host": "localhost:8765"}


def bearer(token: str) -> dict[str, str]:
    return {"host": "node.example", "authorization": f"Bearer {token}"}


@pytest.fixture
def access() -> Access:
    return Access.of(ServerSettings(read_token=READ, write_token=WRITE, admin_token=ADMIN))


@pytest.mark.parametrize(
    ("token", "role"), [(READ, Role.READ), (WRITE, Role.WRITE), (ADMIN, Role.ADMIN)]
)
def test_each_token_has_its_role(access: Access, token: str, role: Role) -> None:
    assert access.role(bearer(token)) is role
    assert access.role({**bearer(token), "authorization": f"bearer  {token} "}) is role


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", f"Basic {READ}", f"Bearer {READ}x", READ, "Bearer r\udcff"],
)
def test_any_other_token_is_none(access: Access, header: str | None) -> None:
    headers = {"host": "localhost"} | ({} if header is None else {"authorization": header})
    with pytest.raises(UnauthorizedError) as caught:
        access.role(headers)
    assert READ not in str(caught.value)


def test_a_role_may_do_what_those_before_it_may() -> None:
    for role in Role:
        for needed in Role:
            if role >= needed:
                check(role, needed)
            else:
                with pytest.raises(ForbiddenError):
                    check(role, needed)


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:8765", "[::1]:8765"])
def test_without_tokens_whoever_is_on_this_machine_may_do_all(host: str) -> None:
    assert Access.of(ServerSettings()).role({"host": host}) is Role.ADMIN


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "", "10.0.0.1", "["])
def test_without_tokens_a_page_whose_name_was_bent_to_this_machine_may_do_nothing(
    host: str,
) -> None:
    with pytest.raises(ForbiddenError):
        Access.of(ServerSettings()).role({"host": host})


def test_a_page_of_another_site_may_do_nothing(access: Access) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:1", "["):
        with pytest.raises(ForbiddenError):
            Access.of(ServerSettings()).role({**LOCAL, "origin": origin})
        with pytest.raises(ForbiddenError):
            access.role({**bearer(ADMIN), "origin": origin})
    own = {**LOCAL, "origin": "http://localhost:8765"}
    assert Access.of(ServerSettings()).role(own) is Role.ADMIN


def token_file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_token_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    path = token_file(tmp_path / "token", f"{READ}\nmore\n")
    access = Access.of(ServerSettings(read_token_file=path))
    assert access.role(bearer(READ)) is Role.READ
    assert READ not in repr(access)


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        (READ, 0o640, "chmod 600"),
        (READ, 0o604, "chmod 600"),
        ("", 0o600, "empty"),
        ("short", 0o600, "16 to 512"),
    ],
)
def test_a_file_that_is_no_secret_is_refused(
    tmp_path: Path, text: str, mode: int, problem: str
) -> None:
    path = token_file(tmp_path / "token", text, mode)
    with pytest.raises(ConfigurationError, match=problem) as caught:
        Access.of(ServerSettings(write_token_file=path))
    assert str(caught.value).startswith("write_token_file: ")
    assert str(path) in str(caught.value)
    assert "short" not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "user", "group", "expected"),
    [
        (0o100600, 1000, 1000, True),
        (0o100400, 0, 0, True),
        # As systemd leaves a credential for a service with a user of its own.
        (0o100440, 0, 0, True),
        (0o100440, 0, 1000, False),
        (0o100440, 1000, 0, False),
        (0o100640, 0, 0, False),
        (0o100444, 0, 0, False),
        (0o100604, 1000, 1000, False),
    ],
)
def test_a_secret_is_what_only_its_owner_may_read_and_what_systemd_gives_to_a_service(
    mode: int, user: int, group: int, expected: bool
) -> None:
    assert is_secret(os.stat_result((mode, 1, 1, 1, user, group, 16, 0, 0, 0))) is expected


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^read_token_file: .*/none cannot be read: No such"
    ):
        Access.of(ServerSettings(read_token_file=tmp_path / "none"))


def test_two_roles_with_one_token_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="same token"):
        Access.of(ServerSettings(read_token=READ, admin_token=READ))


def test_what_is_loopback() -> None:
    for host in ("localhost", "a.localhost", "127.0.0.1", "127.8.8.8", "::1"):
        assert is_loopback(host)
    for host in ("", "0.0.0.0", "localhost.evil.example", "::", "127.0.0.1.evil.example"):
        assert not is_loopback(host)
