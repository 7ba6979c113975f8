"""The writing page at `/`, put together from the files here, and the policy that lets a browser run nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import asdict
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from starlette.responses import HTMLResponse, Response

from mlx_loopai.config import GenerationOptions
from mlx_loopai.generation.genres import GENRES
from mlx_loopai.generation.lineup import Lineup

_FOLDER = Path(__file__).parent
# In the order in which a browser reads them: each uses what those before it define.
_SCRIPTS = (
    "words.js",
    "conversations.js",
    "answer.js",
    "settings.js",
    "judging.js",
    "pictures.js",
    "draft.js",
    "page.js",
)


def page_response() -> Response:
    html, policy = _page()
    return HTMLResponse(html, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})


def page_settings(lineup: Lineup, options: GenerationOptions, feedback: bool) -> dict[str, Any]:
    """What the page offers: who can answer, the genres, and the server's defaults. feedback: whether it is kept."""
    return {
        "model": lineup.names[0],
        "writers": _writers(lineup),
        "feedback": feedback,
        "sees": lineup.loaded.vision is not None,
        "temperature": options.temperature,
        "scripts": options.scripts,
        "genres": [asdict(genre) for genre in GENRES],
    }


def _writers(lineup: Lineup) -> list[dict[str, str]]:
    """Who can answer, the default first: a model, and when its adapter is on."""
    found = []
    for name, session in lineup.sessions.items():
        ways = ["never"] if session.adapter is None else ["always", "auto"] if name in lineup.switches else ["always"]
        if session.switch is not None:
            ways.reverse()
        found += [{"name": f"{name} {way}" if way == "auto" else name, "model": name, "when": way} for way in ways]
    return found


@cache
def _page() -> tuple[str, str]:
    style, script = _read("style.css"), "".join(map(_read, _SCRIPTS))
    html = Template(_read("page.html")).substitute(style=style, script=script)
    return html, content_policy(html)


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def content_policy(html: str) -> str:
    """A Content-Security-Policy that allows the page's own script and style, by hash, and requests to its server."""
    rules = {
        "default-src": "'none'",
        "script-src": _hashes(html, "script"),
        "style-src": _hashes(html, "style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hashes(html: str, tag: str) -> str:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
