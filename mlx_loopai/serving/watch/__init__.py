"""The page that shows a run while it trains, with two buttons: save now, and stop."""

from __future__ import annotations

from pathlib import Path
from string import Template

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from mlx_loopai.language import Language
from mlx_loopai.runs.directory import WISHES, RunDirectory
from mlx_loopai.runs.live import LiveRun
from mlx_loopai.serving.access import Guard
from mlx_loopai.serving.page import content_policy
from mlx_loopai.serving.shapes import ApiError

_FOLDER = Path(__file__).parent
_SCRIPTS = ("words.js", "chart.js", "watch.js")


def build_watch(directory: RunDirectory, language: Language) -> Starlette:
    """The application for the run in `directory`; it talks to the process that trains it through that folder only.

    It answers on the loopback address only, and no page of another origin. language: the page's first language.
    """
    live, page = LiveRun(directory), _page(language)

    async def state(request: Request) -> Response:
        directory.look()
        after = request.query_params.get("after", "0")
        return JSONResponse(live.state(int(after) if after.isdecimal() else 0))

    async def wish(request: Request) -> Response:
        asked = request.path_params["wish"]
        if asked not in WISHES:
            error = ApiError(404, f"{asked[:40]!r}: there is no such request; give one of {', '.join(WISHES)}")
            return JSONResponse(error.body, error.status)
        directory.ask(asked)
        return JSONResponse({"asked": asked})

    async def shown(_: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": content_policy(page)})

    routes = [Route("/", shown), Route("/state", state), Route("/wish/{wish}", wish, methods=["POST"])]
    return Starlette(routes=routes, middleware=[Middleware(Guard, names="loopback", origins=())])


def _page(language: Language) -> str:
    style, script = _read("style.css"), "".join(map(_read, _SCRIPTS))
    return Template(_read("watch.html")).substitute(language=language, style=style, script=script)


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
