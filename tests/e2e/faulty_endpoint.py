"""A server of chat completions that knows the solutions, and fails in every way as it tells them.

    python -m tests.e2e.faulty_endpoint PORT TASKS_FOLDER      # for sweeps by hand

Model `solver` solves each task; `half` solves those whose `solves` says so, and else lists files.
About a third of the calls meet a fault: 429, 500, no answer in time, no JSON, a body that is cut.
"""

import base64
import hashlib
import io
import json
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAULTS = ("429", "500", "late", "no json", "cut")
LATE_S = 6.0
"""More than the `model.timeout_s` of the test."""


def solves(model: str, task: str) -> bool:
    """Whether the model's rollouts of this task end with reward 1."""
    return model == "solver" or hashlib.sha256(task.encode()).digest()[0] % 2 == 0


def solution(folder: Path) -> str:
    """One command that lays the folder's solution down and runs it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(folder / "solution", arcname=".")
    text = base64.b64encode(packed.getvalue()).decode()
    lay = f"mkdir -p /solution && echo {text} | base64 -d | tar xz --no-same-owner -C /solution"
    return f"{lay} && sh /solution/solve.sh"


class Server(ThreadingHTTPServer):
    """Knows tasks by their instructions; keeps what it was asked and what it told, whole."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, tasks: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.tasks = {
            (folder / "instruction.md").read_text().strip(): folder
            for folder in sorted(tasks.iterdir())
            if (folder / "instruction.md").exists()
        }
        self.lock = threading.Lock()
        self.calls = 0
        self.faults: dict[str, int] = dict.fromkeys(FAULTS, 0)
        self.told: dict[str, dict[str, Any]] = {}
        """By the mark in its text: the request that each reply was for, and the reply."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def next_fault(self) -> str | None:
        with self.lock:
            self.calls += 1
            fault = FAULTS[self.calls // 3 % len(FAULTS)] if self.calls % 3 == 0 else None
            if fault:
                self.faults[fault] += 1
            return fault

    def reply_to(self, body: dict[str, Any]) -> dict[str, Any]:
        mark = hashlib.sha256(json.dumps(body).encode() + str(time.time()).encode()).hexdigest()
        message = self._message(body, mark)
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        reply = {
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3},
        }
        with self.lock:
            self.told[mark] = {"asked": body, "reply": reply}
        return reply

    def _message(self, body: dict[str, Any], mark: str) -> dict[str, Any]:
        messages = body["messages"]
        asked = "\n".join(m["content"] for m in messages if m["role"] == "user")
        folder = next(folder for text, folder in self.tasks.items() if text in asked)
        if any(m["role"] == "assistant" for m in messages):
            return {"role": "assistant", "content": f"DONE {mark}"}
        command = solution(folder) if solves(body["model"], folder.name) else "ls"
        if not body.get("tools"):
            return {"role": "assistant", "content": f"{mark}\n```bash\n{command}\n```"}
        arguments = json.dumps({"command": command})
        call = {"id": "c", "type": "function", "function": {"name": "bash", "arguments": arguments}}
        return {"role": "assistant", "content": mark, "tool_calls": [call]}


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.server.next_fault()
        if fault == "late":
            time.sleep(LATE_S)
        if fault == "429":
            self.answer(429, b"slow down", **{"Retry-After": "0.1"})
        elif fault == "500":
            self.answer(500, b"oh")
        elif fault == "no json":
            self.answer(200, b"<html>")
        elif fault in ("cut", "late"):
            self.answer(200, b'{"choices": [', length=9_999)
            self.close_connection = True
        else:
            self.answer(200, json.dumps(self.server.reply_to(body)).encode())

    def answer(self, status: int, body: bytes, *, length: int = 0, **headers: str) -> None:
        try:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(length or len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # whoever asked has given up

    def log_message(self, *words: object) -> None: ...


if __name__ == "__main__":
    made = Server(Path(sys.argv[2]), int(sys.argv[1]))
    try:
        made.serve_forever()
    except KeyboardInterrupt:
        print(f"{made.calls} calls, {len(made.told)} replies, faults: {made.faults}")
