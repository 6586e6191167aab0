"""Secrets that must not be published by mistake: told by a file's name, or by what is in it."""

from __future__ import annotations

import re

_OVERLAP = 4096  # bytes; longer than any token, so that none hides between two chunks

_NAMES = re.compile(
    r"\.env(?:\.(?!(?:example|sample|template|dist|defaults)$).*)?|\.envrc"
    r"|id_(?:rsa|dsa|ecdsa|ed25519)(?:_sk)?|[._]netrc|\.pypirc|\.git-credentials|\.htpasswd|\.pgpass"
    r"|.*\.(?:p12|pfx|jks|keystore|kdbx)"
)
_PLACES = re.compile(r"(?:.*/)?\.(?:aws/credentials|docker/config\.json|kube/config|ssh/.*)")

# What is sought, with words of which one is always in it: looking for a word is a hundred times faster.
_TOKENS: tuple[tuple[str, tuple[bytes, ...], bytes], ...] = (
    (
        "a private key",
        (b"PRIVATE KEY",),
        rb"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----(?:\\n|[\s\"',+])+[A-Za-z0-9+/=:]{16}",
    ),
    ("an age secret key", (b"AGE-SECRET-KEY-",), rb"AGE-SECRET-KEY-1[0-9A-Z]{58}"),
    ("a key of AWS", (b"AKIA", b"ASIA"), rb"\bA[KS]IA[0-9A-Z]{16}\b"),
    ("a token of GitHub", (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_"), rb"\bgh[pousr]_[A-Za-z0-9]{36}"),
    ("a token of GitHub", (b"github_pat_",), rb"\bgithub_pat_[A-Za-z0-9_]{60}"),
    ("a token of GitLab", (b"glpat-",), rb"\bglpat-[A-Za-z0-9_-]{20}"),
    ("a key of Anthropic", (b"sk-ant-",), rb"\bsk-ant-[a-z0-9]+-[A-Za-z0-9_-]{60}"),
    ("a key of OpenAI", (b"T3BlbkFJ",), rb"\bsk-[A-Za-z0-9_-]*T3BlbkFJ[A-Za-z0-9_-]{16}"),
    ("a key of Google", (b"AIza",), rb"\bAIza[0-9A-Za-z_-]{35}"),
    ("a token of Slack", (b"xoxb-", b"xoxp-", b"xoxa-", b"xoxs-"), rb"\bxox[abps]-[0-9]+-[0-9A-Za-z-]{20}"),
    ("a key of Stripe", (b"sk_live_", b"rk_live_"), rb"\b[rs]k_live_[0-9A-Za-z]{20}"),
    ("a token of PyPI", (b"pypi-AgE",), rb"\bpypi-AgE[A-Za-z0-9_-]{60}"),
    ("a token of npm", (b"npm_",), rb"\bnpm_[A-Za-z0-9]{36}\b"),
    ("a token of Hugging Face", (b"hf_",), rb"\bhf_[A-Za-z]{34}\b"),
)
_PATTERNS = tuple((what, words, re.compile(pattern)) for what, words, pattern in _TOKENS)
_DOCUMENTATION = (b"EXAMPLE", b"xxxxxxxx", b"XXXXXXXX", b"00000000")


def secret_by_name(path: str) -> str | None:
    """What a file of this name is kept for, where that is secrets; None otherwise."""
    name = path.rpartition("/")[2].lower()
    return "a file that is kept for secrets" if _NAMES.fullmatch(name) or _PLACES.fullmatch(path.lower()) else None


class LeakScanner:
    """Looks for secrets in a file's content while it passes by; `found` says what the first one is."""

    def __init__(self) -> None:
        self.found: str | None = None
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """The next piece of the file."""
        if self.found is not None:
            return
        data = self._tail + chunk
        self.found = next((what for what, words, pattern in _PATTERNS if _holds(data, words, pattern)), None)
        self._tail = data[-_OVERLAP:]


def _holds(data: bytes, words: tuple[bytes, ...], pattern: re.Pattern[bytes]) -> bool:
    if not any(word in data for word in words):
        return False
    return any(not any(mark in match[0] for mark in _DOCUMENTATION) for match in pattern.finditer(data))
