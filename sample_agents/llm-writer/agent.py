#!/usr/bin/env python3
"""llm-writer: writes, summarizes and translates text with any OpenAI-compatible endpoint.

Called as `python agent.py '{"method": ..., "parameters": {...}}'`; prints `{"result": ...}` or `{"error": ...}`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

DEFAULT_MODEL = "gpt-4o-mini"
TIMEOUT = 60.0  # seconds for one attempt
RETRIES = 1


class WriterError(Exception):
    """Something the caller can put right; the message says what."""


class LLMWriter:
    """The methods of the agent: each is one request to the endpoint."""

    def write(self, prompt: str, style: str = "", model: str = "") -> str:
        """A text as `prompt` asks, in `style` where one is given."""
        instructions = "Write what the user asks for. Answer with the text alone."
        if style:
            instructions += f" Style: {style}."
        return self._complete(instructions, prompt, model)

    def summarize(self, text: str, max_words: int = 100, model: str = "") -> str:
        """A summary of `text` in about `max_words` words at most."""
        instructions = f"Summarize the user's text in at most {max_words} words. Keep its language."
        instructions += " Answer with the summary alone."
        return self._complete(instructions, text, model)

    def translate(self, text: str, language: str, model: str = "") -> str:
        """`text` in `language`."""
        instructions = f"Translate the user's text into {language}. Keep its layout. Answer with the translation alone."
        return self._complete(instructions, text, model)

    def _complete(self, instructions: str, text: str, model: str) -> str:
        if not text.strip():
            raise WriterError("the text is empty")
        if not os.environ.get("OPENAI_API_KEY"):
            raise WriterError("OPENAI_API_KEY is not set")
        import openai  # takes most of a second: only once the request is known to be good

        model = model or os.environ.get("OPENAI_MODEL") or DEFAULT_MODEL
        client = openai.OpenAI(timeout=TIMEOUT, max_retries=RETRIES)
        try:
            response = client.chat.completions.create(
                model=model,
                messages=[{"role": "system", "content": instructions}, {"role": "user", "content": text}],
            )
        except openai.OpenAIError as error:
            raise WriterError(_explain(error, str(client.base_url), model)) from error
        choices = getattr(response, "choices", None)  # some servers answer 200 with something else
        answer: str | None = choices[0].message.content if choices else None
        if not answer:
            raise WriterError(f"{client.base_url} answered without a text")
        return answer.strip()


def _explain(error: Exception, url: str, model: str) -> str:
    """What went wrong, for someone who knows the endpoint and not the library."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return f"{url} did not answer in {TIMEOUT:.0f} s"
    if isinstance(error, openai.APIConnectionError):
        return f"cannot reach {url}: {error.__cause__ or error}"
    if isinstance(error, openai.AuthenticationError):
        return f"{url} refused the key in OPENAI_API_KEY"
    if isinstance(error, openai.NotFoundError):
        return f"{url} has no model {model!r}, or is not an OpenAI-compatible endpoint (does its path end in /v1?)"
    if isinstance(error, openai.RateLimitError):
        return f"{url} refused: quota or rate limit reached"
    if isinstance(error, openai.APIStatusError):
        return f"{url}: {error.message}"
    return f"{url}: {error}"


def main() -> int:
    """Runs the request in the first argument; returns the exit status."""
    if len(sys.argv) != 2:
        print(json.dumps({"error": "Invalid arguments"}))
        return 1
    try:
        request: dict[str, Any] = json.loads(sys.argv[1])
        method, parameters = request.get("method"), request.get("parameters") or {}
        agent = LLMWriter()
        if method == "write":
            result = agent.write(**parameters)
        elif method == "summarize":
            result = agent.summarize(**parameters)
        elif method == "translate":
            result = agent.translate(**parameters)
        else:
            raise WriterError(f"Unknown method: {method}")
    except (WriterError, ValueError, TypeError, AttributeError) as error:
        print(json.dumps({"error": str(error)}))
        return 1
    print(json.dumps({"result": result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
