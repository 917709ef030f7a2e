"""The server of `rl-view`: which address shows what. Loopback only, reads only, and nothing is asked of another host.

    /                             all runs, curves of the chosen ones
    /run/<name>                   rollouts of a run, by query
    /run/<name>/rollout?at=…      one rollout; /tokens?at=… its tokens as JSON
    /api/runs  /api/metrics       what the scripts of the pages poll

A page of another site cannot read any of it: only requests to a loopback host are answered (against DNS rebinding), and
no answer allows another origin. Scripts come from this server alone (Content-Security-Policy), never from a page.
"""

from __future__ import annotations

import contextlib
import socket
import webbrowser
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from rl.tracking.svg import STYLE
from rl.view.metric_rows import read_piece
from rl.view.pages import Pages, told_line
from rl.view.rollout_query import BadQuery
from rl.view.run_list import NotThere, Runs

HOST = "127.0.0.1"
HOSTS = [HOST, "localhost", "[::1]"]
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def make_app(runs_dir: Path) -> Starlette:
    """The application on the runs in ``runs_dir``."""
    runs = Runs(runs_dir)
    pages = Pages(runs)

    # Plain functions: Starlette runs them in threads, so a long search keeps nobody waiting.
    def index(request: Request) -> Response:
        return HTMLResponse(pages.run_list(request.query_params.getlist("run")))

    def rollouts(request: Request) -> Response:
        return HTMLResponse(pages.rollouts(request.path_params["name"], request.query_params))

    def rollout(request: Request) -> Response:
        return HTMLResponse(pages.rollout(request.path_params["name"], request.query_params))

    def tokens(request: Request) -> Response:
        return JSONResponse(pages.tokens(request.path_params["name"], request.query_params))

    def run_lines(request: Request) -> Response:
        return JSONResponse([told_line(line) for line in runs.lines()])

    def metrics(request: Request) -> Response:
        run = runs.open(request.query_params.get("run", ""))
        return JSONResponse(asdict(read_piece(run.metrics, request.query_params.get("cursor", ""))))

    def palette(request: Request) -> Response:
        return PlainTextResponse(STYLE, media_type="text/css")

    def failed(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            status, said = error.status_code, error.detail
        else:
            status, said = 404 if isinstance(error, NotThere) else 400, str(error)
        if request.url.path.startswith("/api/") or request.url.path.endswith("/tokens"):
            return JSONResponse({"error": said}, status)
        return HTMLResponse(pages.error(status, said), status)

    return Starlette(
        routes=[
            Route("/", index),
            Route("/run/{name}", rollouts),
            Route("/run/{name}/rollout", rollout),
            Route("/run/{name}/tokens", tokens),
            Route("/api/runs", run_lines),
            Route("/api/metrics", metrics),
            Route("/static/palette.css", palette),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=_with_headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
        ],
        exception_handlers={HTTPException: failed, NotThere: failed, BadQuery: failed},
    )


async def _with_headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await answer(request)
    response.headers.update(HEADERS)
    return response


def listen(port: int) -> socket.socket:
    """A socket on the loopback address; ``port`` 0: a free one. Raises ValueError when the port is taken."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((HOST, port))
        opened.listen(128)
    except OSError as error:
        opened.close()
        raise ValueError(f"port={port}: {error.strerror}; give another, or port=0 for a free one") from error
    return opened


def make_server(runs_dir: Path) -> uvicorn.Server:
    """A server on the runs in ``runs_dir``; its ``run(sockets=[listen(0)])`` answers until ``should_exit``."""
    config = uvicorn.Config(make_app(runs_dir), log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    return uvicorn.Server(config)


def serve(runs_dir: Path, listening: socket.socket, *, browser: bool = False) -> None:
    """Answers until Ctrl-C. Prints the address first, and opens it where ``browser`` says so."""
    address = f"http://{HOST}:{listening.getsockname()[1]}/"
    print(f"runs in {runs_dir}: {address}  (Ctrl-C ends)", flush=True)
    if browser:
        webbrowser.open(address)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again when it has ended
        make_server(runs_dir).run(sockets=[listening])
