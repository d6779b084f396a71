"""The HTML file: page.html with its style, its scripts and its data inside, which asks nobody for anything.

The page's policy (Content-Security-Policy) allows the very style and script that were put in, by their hashes, and
pictures that stand in the page: nothing else is loaded or run, whatever a file's name may contain.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAD = b"<!doctype html>\n<!-- nstcore report"  # what every page begins with
MOST_BYTES = 5_000_000

_HERE = Path(__file__).resolve().parent
_SCRIPTS = ("dom.js", "compare.js", "player.js", "chart.js", "facts.js", "main.js")
_DATA = re.compile(rb'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def page(data: Mapping[str, Any], live: bool = False) -> bytes:
    """The file's content.

    Parameters
    ----------
    data : mapping
        As `Recorder.data` gives it; for a live page, with `token`.
    live : bool
        Whether it may ask where it came from for news.
    """
    style = _read("page.css")
    script = (
        "(() => {\n'use strict';\n" + "\n".join(map(_read, (*_SCRIPTS, *(["live.js"] if live else [])))) + "\n})();"
    )
    policy = [
        "default-src 'none'",
        "img-src data:",
        f"style-src {_hash(style)}",
        f"script-src {_hash(script)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    if live:
        policy.append("connect-src 'self'")
    parts = {
        "policy": "; ".join(policy),
        "title": html.escape(str(data.get("title", "nstcore"))),
        "style": style,
        "data": _json(data),
        "script": script,
    }
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read("page.html"))
    return text.encode("utf-8", "backslashreplace")


def read_page(path: str | Path) -> dict[str, Any] | None:
    """The data of a page that was written before; None where there is none that can be read."""
    try:
        content = Path(path).read_bytes() if Path(path).stat().st_size <= 2 * MOST_BYTES else b""
        found = _DATA.search(content) if content.startswith(HEAD) else None
        data = json.loads(found[1]) if found else None
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _json(data: Mapping[str, Any]) -> str:
    """JSON in which nothing can end the script around it: "<" and the like stand as escapes, which mean the same."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
