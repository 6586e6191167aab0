"""Every command that shows data has `--json`: one document, with its schema's version, and for errors as well."""

from __future__ import annotations

import argparse
import json

import pytest

from agenthub.cli.app import COMMANDS, functions
from agenthub.cli.parsers import Parser, add_common_options

# `run` makes its parsers by the agent; the others show no data, or are a script for a shell.
WITHOUT = {"run", "completion", "complete", "init", "uninstall", "grant", "revoke"}


def parsers(command):
    """A command's parser and those of its subcommands."""
    parser = Parser(prog=command)
    add_common_options(parser)
    functions(command)[0](parser)
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(one for action in nested for one in action.choices.values())]


def actions(command):
    return [action for parser in parsers(command) for action in parser._actions]


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - WITHOUT))
def test_a_command_that_shows_data_has_json(command):
    assert "--json" in {option for action in actions(command) for option in action.option_strings}


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"run", "complete"}))
def test_every_option_is_explained(command):
    for action in actions(command):
        if action.option_strings and action.help is not argparse.SUPPRESS:
            assert action.help, action.option_strings
    assert COMMANDS[command].summary


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["list", "--json"], {"agents"}),
        (["config", "--json"], {"settings", "home"}),
        (["dir", "--json"], {"path"}),
        (["cache", "dir", "--json"], {"path"}),
        (["cache", "size", "--json"], {"path", "bytes"}),
        (["cache", "clean", "--json"], {"path", "bytes"}),
        (["doctor", "--json"], {"healthy", "checks"}),
    ],
)
def test_a_document(cli, words, keys):
    document = cli.ok(*words).json
    assert set(document) == {*keys, "schema_version"}
    assert document["schema_version"] == 1


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["info", "--json", "nobody"], "AgentNotFoundError"),
        (["dir", "--json", "nobody"], "AgentNotFoundError"),
        (["list", "--json", "--nonsense"], "InvalidInputError"),
        (["validate", "--json", "/nowhere"], "AgentNotFoundError"),
        (["install", "--json", "/nowhere"], "AgentNotFoundError"),
        (["run", "--json", "nobody", "go"], "AgentNotFoundError"),
        (["run", "--json"], "InvalidInputError"),
    ],
)
def test_an_error_is_a_document_too(cli, words, kind):
    finished = cli(*words)
    assert len(finished.out.splitlines()) == 1
    document = json.loads(finished.out)
    assert document["error_type"] == kind
    assert document["exit_code"] == finished.code
    assert document["schema_version"] == 1
    assert document["error"] in finished.err
