"""A model hub on this machine that speaks the few calls that are needed."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "a" * 40


class Hub:
    """Repositories in memory: name -> file -> bytes."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.address = ""
        self.asked: list[str] = []
        self.lengths: dict[str, int] = {}  # of files, in place of their own
        self.public: set[str] = set()

    def serve(self) -> ThreadingHTTPServer:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                parts = self.path.strip("/").split("/")
                hub.asked.append(f"{self.command} {self.path}")
                repository, file = "/".join(parts[:2]), parts[-1]
                if len(parts) == 5 and parts[2] == "resolve":
                    self._file(repository, parts[3], file)
                else:
                    name = "/".join(parts[2:4])
                    self._reply({"id": name, "sha": COMMIT, "siblings": [], "private": name not in hub.public})

            def do_POST(self) -> None:
                hub.asked.append(f"POST {self.path}")
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Authorization") != "Bearer secret":
                    self._reply({"error": "Unauthorized"}, 401)
                elif self.path.endswith("/create"):
                    asked = json.loads(body)
                    assert asked.get("private") is True or asked["visibility"] == "private"  # as its version has it
                    name = f"{asked['organization']}/{asked['name']}"
                    is_there = name in hub.files
                    hub.files.setdefault(name, {})
                    self._reply({"url": f"{hub.address}/{name}"}, 409 if is_there else 200)
                elif "/preupload/" in self.path:
                    files = json.loads(body)["files"]
                    kinds = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                    self._reply({"files": kinds})
                elif "/commit/" in self.path:
                    repository = "/".join(self.path.split("/")[3:5])
                    for line in map(json.loads, body.splitlines()):
                        if line["key"] == "file":
                            value = line["value"]
                            hub.files[repository][value["path"]] = base64.b64decode(value["content"])
                    found = {"commitUrl": f"{hub.address}/{repository}/commit/{COMMIT}", "commitOid": COMMIT}
                    self._reply(found | {"success": True, "hookOutput": ""})
                else:
                    self._reply({"errors": [], "warnings": []})

            def _file(self, repository: str, revision: str, file: str) -> None:
                held = hub.files.get(repository)
                if held is None:
                    self._reply({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})
                elif revision not in ("main", COMMIT):
                    self._reply({"error": "Invalid rev id"}, 404, **{"X-Error-Code": "RevisionNotFound"})
                elif file not in held:
                    self._reply({"error": "Entry not found"}, 404, **{"X-Error-Code": "EntryNotFound"})
                else:
                    self._send(held[file], 200, hub.lengths.get(file, len(held[file])))

            def _reply(self, value: Any, status: int = 200, **headers: str) -> None:
                data = json.dumps(value).encode()
                self._send(data, status, len(data), {"Content-Type": "application/json", **headers})

            def _send(self, data: bytes, status: int, length: int, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                digest = hashlib.sha256(data).hexdigest()
                known = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"', "Content-Length": str(length)}
                for name, value in (known | (headers or {})).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server
