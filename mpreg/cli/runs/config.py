"""Looking at settings: what is wrong, what is in force, what there is."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpreg.cli.exits import OK, USAGE
from mpreg.cli.options import Common
from mpreg.cli.output import Output
from mpreg.cli.settings import source_of
from mpreg.errors import ConfigurationError
from mpreg.server.auth import Access, read_token
from mpreg.server.tls import check_certificate
from mpreg.settings import MPREGSettings
from mpreg.settings_reading import SettingsReader
from mpreg.settings_source import SettingsSource, dotted
from mpreg.settings_template import template
from mpreg.settings_writing import Setting, tables_in, toml

__all__ = ["check", "print_template", "show"]


async def check(common: Common, output: Output) -> int:
    problems = list(map(str, _problems(common)))
    what = "the environment" if common.config_file is None else str(common.config_file)
    path = None if common.config_file is None else what
    number = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
    lines = [*problems, f"{what}: {number if problems else 'all is right'}"]
    fields = {"path": path, "right": not problems, "problems": problems}
    output.row(fields, "\n".join(lines))
    return USAGE if problems else OK


def _problems(common: Common) -> Iterator[ConfigurationError]:
    try:
        source = source_of(common)
    except ConfigurationError as error:
        yield error
        return
    reader = SettingsReader(source)
    settings = reader.read(MPREGSettings, source.settings)
    yield from reader.problems
    if settings is not None:
        yield from _unusable(settings, source)


def _unusable(settings: MPREGSettings, source: SettingsSource) -> Iterator[ConfigurationError]:
    """Files of tokens, the certificate and its key: what a node would refuse to start with."""
    problems = list(_unusable_tokens(settings, source))
    yield from problems
    if not problems:
        try:
            Access.of(settings.server)
        except ConfigurationError as error:
            yield source.error(str(error), "server")
    certificate, key = settings.server.tls_certificate_file, settings.server.tls_key_file
    if certificate is not None and key is not None:
        try:
            check_certificate(certificate, key)
        except ConfigurationError as error:
            yield _placed(error, source, "server", error.setting or "")


def _unusable_tokens(
    settings: MPREGSettings, source: SettingsSource
) -> Iterator[ConfigurationError]:
    for one in _all(settings):
        if isinstance(one.value, Path) and one.attribute.name.endswith("token_file"):
            try:
                read_token(one.attribute.name, one.value)
            except ConfigurationError as error:
                yield _placed(error, source, *one.keys)


def _placed(
    error: ConfigurationError, source: SettingsSource, *keys: str | int
) -> ConfigurationError:
    """The same with the place where the setting stands."""
    return source.error(str(error).removeprefix(f"{keys[-1]}: "), *keys)


async def show(common: Common, output: Output) -> None:
    source = source_of(common)
    settings = MPREGSettings.from_source(source)
    directory = Path.cwd()
    if not output.is_json:
        output.row({}, toml(settings, directory, lambda one: _origin(source, one)).rstrip())
        return
    for one in _all(settings):
        fields = {
            "setting": dotted(one.keys),
            "value": _plain(one.value, directory),
            "origin": source.origin(*one.keys),
            "secret": one.is_secret,
        }
        output.row(fields, "")


def _origin(source: SettingsSource, one: Setting) -> str:
    origin = source.origin(*one.keys)
    return f"{origin}; a secret, not shown" if one.is_secret and origin != "default" else origin


def _all(settings: MPREGSettings) -> Iterator[Setting]:
    for table in tables_in(settings):
        yield from table.settings


def _plain(value: Any, directory: Path) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return str(directory / value) if isinstance(value, Path) else value


async def print_template(_: Common, output: Output) -> None:
    text = template()
    output.row({"template": text}, text.rstrip())
