"""The servers of the benchmark, in a process of their own: a token endpoint as slow as told, and an API.

Every token request is counted. `POST /control` sets `latency` and `lifetime`, in seconds; a lifetime resets the count.
"""

import asyncio
import contextlib
import itertools
import json
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

settings = {"latency": 0.0, "lifetime": 3600}
requests = 0
serial = itertools.count()


async def token(_: Request) -> Response:
    global requests
    requests += 1
    await asyncio.sleep(settings["latency"])
    return JSONResponse(
        {"access_token": f"token-{next(serial)}", "token_type": "Bearer", "expires_in": settings["lifetime"]}
    )


async def control(request: Request) -> Response:
    global requests
    if request.method == "POST":
        change = json.loads(await request.body())
        settings.update(change)
        if "lifetime" in change:
            requests = 0
    return JSONResponse({"requests": requests})


async def api(request: Request) -> Response:
    if "authorization" not in request.headers:
        return PlainTextResponse("who are you?", 401)
    await asyncio.sleep(0.1)
    return PlainTextResponse("ok")


async def openid(request: Request) -> Response:
    """What msal asks for before anything else; it insists on https."""
    base = f"https://{request.url.netloc}"
    return JSONResponse(
        {"issuer": f"{base}/tenant", "token_endpoint": f"{base}/token", "authorization_endpoint": f"{base}/authorize"}
    )


app = Starlette(
    routes=[
        Route("/token", token, methods=["POST"]),
        Route("/api", api),
        Route("/control", control, methods=["GET", "POST"]),
        Route("/tenant/.well-known/openid-configuration", openid),
    ]
)

if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listener])
