"""just preview-link: a link that the function accepts, and a unique token."""

import re

import pytest

import preview_link
import shell_secrets

TOKEN = "0123456789abcdef"


def test_a_link_has_the_token_of_the_environment(monkeypatch, capsys):
    monkeypatch.setenv(shell_secrets.TOKEN_VARIABLE, TOKEN)
    for page, expected in (
        ("https://www.example.com", "https://www.example.com/?redirect-preview={}"),
        ("https://www.example.com/a?b=c#d", "https://www.example.com/a?b=c&redirect-preview={}#d"),
    ):
        assert preview_link.main([page]) == 0
        shown, ended = capsys.readouterr().out.splitlines()
        assert shown.endswith(" " + expected.format(TOKEN)) and ended.endswith(" " + expected.format("off"))


@pytest.mark.parametrize(
    ("current", "beta", "page", "expected"),
    [
        ("/site", "/site/beta", "https://a.example/site/about.html?b#c", "https://a.example/about.html?b#c"),
        ("/site", "/site/beta", "https://a.example/site", "https://a.example"),
        ("/site", "/site/beta", "https://a.example/site/beta/about.html", "https://a.example/site/beta/about.html"),
        ("/site", "/site/beta", "https://a.example/site-map", "https://a.example/site-map"),
        ("/a/b", "/new", "https://a.example/a/b/c", "https://a.example/c"),
        ("/", "/beta", "https://a.example/site/about.html", "https://a.example/site/about.html"),
    ],
)
def test_a_link_enters_the_site_where_a_function_reads_it(current, beta, page, expected):
    assert preview_link.entrance(page, current, beta) == expected


def test_without_a_token_each_call_makes_one(monkeypatch, capsys):
    monkeypatch.delenv(shell_secrets.TOKEN_VARIABLE, raising=False)
    tokens = set()
    for _ in range(2):
        assert preview_link.main([]) == 0
        out = capsys.readouterr().out
        (token,) = re.findall(r"export REDIRECT_PREVIEW_TOKEN=([A-Za-z0-9._-]{16,128})\n", out)
        assert f"https://YOUR-SITE/?redirect-preview={token}\n" in out
        tokens.add(token)
    assert len(tokens) == 2


@pytest.mark.parametrize("wrong", [TOKEN[1:], "a" * 129, "0123456789 abcdef", "0123456789abcdé0"])
def test_an_invalid_token_is_rejected_and_not_shown(monkeypatch, capsys, wrong):
    monkeypatch.setenv(preview_link.TOKEN_VARIABLE, wrong)
    assert preview_link.main([]) == 1
    printed = capsys.readouterr()
    assert "REDIRECT_PREVIEW_TOKEN is not a valid preview token" in printed.err
    assert wrong not in printed.out + printed.err
