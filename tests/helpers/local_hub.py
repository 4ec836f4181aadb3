"""A hub on this machine: the calls of huggingface_hub that publishing and fetching a few small files takes."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_local"


class LocalHub:
    """Repositories in memory, served over HTTP within the block.

    Attributes:
        url: of the server.
        commits: the files of each commit, by repository: a list of mappings from name to bytes, the newest last.
        private: repositories that a token is needed for.
    """

    def __init__(self) -> None:
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def sha(self, repo: str, number: int) -> str:
        """The id of a commit."""
        return hashlib.sha1(f"{repo} {number % len(self.commits[repo])}".encode()).hexdigest()

    def files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit that a revision means, and its files."""
        for number, files in enumerate(self.commits.get(repo, ())):
            if revision in (self.sha(repo, number), f"v{number}"):
                return self.sha(repo, number), files
        return (self.sha(repo, -1), self.commits[repo][-1]) if revision == "main" else None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def answer(self, status: int, content: bytes = b"{}", **headers: str) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def missing(self, code: str) -> None:
                self.answer(404, X_Error_Code=code, X_Error_Message=code)

            def body(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            @property
            def signed_in(self) -> bool:
                return self.headers.get("Authorization") == f"Bearer {TOKEN}"

            def do_POST(self) -> None:
                path, body = urlsplit(self.path).path.strip("/").split("/"), self.body()
                if path == ["api", "validate-yaml"]:
                    return self.answer(200, b'{"errors": [], "warnings": []}')
                if not self.signed_in:
                    return self.answer(401)
                if path == ["api", "repos", "create"]:
                    asked = json.loads(body)
                    repo = f"{asked['organization']}/{asked['name']}"
                    hub.commits.setdefault(repo, [{}])
                    if asked.get("visibility") == "private":
                        hub.private.add(repo)
                    return self.answer(200, json.dumps({"url": f"{hub.url}/{repo}"}).encode())
                repo, call = "/".join(path[2:4]), path[4]
                if call == "preupload":
                    files = [
                        {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for each in json.loads(body)["files"]
                    ]
                    return self.answer(200, json.dumps({"files": files}).encode())
                files = dict(hub.commits[repo][-1])
                for line in body.decode().splitlines():
                    operation = json.loads(line)
                    if operation["key"] == "file":
                        files[operation["value"]["path"]] = base64.b64decode(operation["value"]["content"])
                hub.commits[repo].append(files)
                sha = hub.sha(repo, -1)
                made = {"commitUrl": f"{hub.url}/{repo}/commit/{sha}", "commitOid": sha, "success": True}
                return self.answer(200, json.dumps(made).encode())

            def do_GET(self) -> None:
                path = [unquote(piece) for piece in urlsplit(self.path).path.strip("/").split("/")]
                of_api = path[0] == "api"
                repo = "/".join(path[2:4] if of_api else path[:2])
                if repo not in hub.commits or (repo in hub.private and not self.signed_in):
                    return self.missing("RepoNotFound")
                rest = path[4:] if of_api else path[2:]
                found = hub.files(repo, rest[1] if len(rest) > 1 else "main")
                if found is None:
                    return self.missing("RevisionNotFound")
                sha, files = found
                if rest[:1] == ["tree"]:
                    tree = [
                        {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                        for name, content in files.items()
                    ]
                    return self.answer(200, json.dumps(tree).encode())
                if of_api:
                    info = {"id": repo, "sha": sha, "siblings": [{"rfilename": name} for name in files]}
                    info |= {"private": repo in hub.private, "tags": [], "downloads": 0, "likes": 0}
                    return self.answer(200, json.dumps(info).encode())
                name = "/".join(rest[2:])
                if name not in files:
                    return self.missing("EntryNotFound")
                etag = hashlib.sha1(files[name]).hexdigest()
                return self.answer(200, files[name], ETag=f'"{etag}"', X_Repo_Commit=sha)

            do_HEAD = do_GET  # noqa: N815

        return Handler
