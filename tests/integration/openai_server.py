"""An OpenAI-compatible endpoint on loopback, which remembers what it was asked."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-of-the-tests"


class _Handler(BaseHTTPRequestHandler):
    server: OpenAIServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        if self.path != "/v1/chat/completions":
            self._answer(404, {"error": {"message": f"nothing at {self.path}"}})
        elif self.headers.get("Authorization") != f"Bearer {KEY}":
            self._answer(401, {"error": {"message": "Incorrect API key", "type": "invalid_request_error"}})
        else:
            asked = body["messages"][-1]["content"]
            message = {"role": "assistant", "content": f"answer to: {asked}"}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            self._answer(
                200, {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
            )

    def _answer(self, status: int, document: object) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class OpenAIServer(ThreadingHTTPServer):
    """Use as a context; `url` is what OPENAI_BASE_URL takes, `requests` are path, authorization and body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str | None, dict[str, object]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
