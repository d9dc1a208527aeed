"""A web server for tests: serves a folder, well or badly."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Manners:
    """How a server behaves; `seen` is the Range of every request, "" without one."""

    breaks_after: list[int] = field(default_factory=list)
    """Bytes that each of the first answers sends before the connection ends."""
    stalls: bool = False
    """Whether it keeps such a connection open instead, and sends no more."""
    ranges: bool = True
    """Whether it can begin in the middle."""
    refuses: list[int] = field(default_factory=list)
    """Status codes of the first answers."""
    seen: list[str] = field(default_factory=list)


@contextmanager
def served(folder: Path, manners: Manners | None = None) -> Iterator[str]:
    """Serve the files of `folder`; yield the address of the folder."""
    how, over = manners or Manners(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            how.seen.append(asked := self.headers.get("Range", ""))
            path = folder / self.path.lstrip("/")
            code = how.refuses.pop(0) if how.refuses else 200
            if code != 200 or not path.is_file():
                self.send_error(code if code != 200 else 404)
                return
            content, start = path.read_bytes(), 0
            if asked and how.ranges:
                found = re.fullmatch(r"bytes=(\d+)-", asked)
                assert found
                start = int(found[1])
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206)
                last = len(content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            most = how.breaks_after.pop(0) if how.breaks_after else None
            self.wfile.write(content[start:][:most])
            if most is not None and how.stalls:
                self.wfile.flush()
                over.wait(10)
            self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            over.set()
            server.shutdown()
            thread.join()
