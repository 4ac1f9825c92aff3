"""One AWS API request, understood: service, Region, action, caller's key, parameters."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote

from moto.core.request import Request as MotoRequest
from moto.core.routing import get_service_router
from werkzeug.exceptions import NotFound

from .http_server import Request

CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/\d{8}/([^/]+)/([^/]+)/aws4_request")
REST_SERVICES = {"lambda", "s3", "route53", "scheduler", "apigateway"}  # services whose action is in method and path
JSON_SERVICES_PREFIX = "application/x-amz-json"


class DirectRequest(MotoRequest):
    from_wsgi_server = True


@dataclass
class Call:
    request: Request
    service: str
    region: str
    access_key: str
    action: str
    params: dict[str, Any] = field(default_factory=dict)
    applied_at: float = 0.0  # wall clock, once applied

    @property
    def token(self) -> str:
        return self.request.headers.get("x-amz-security-token", "")


def environ(request: Request, port: int) -> dict[str, Any]:
    """The WSGI environ of a request, for moto."""
    import io

    env: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(request.raw_path, "latin-1"),
        "QUERY_STRING": request.query_string,
        "REQUEST_URI": request.target,
        "RAW_URI": request.target,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": request.peer,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": None,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "CONTENT_LENGTH": str(len(request.body)),
    }
    for name, value in request.headers.items():
        key = name.upper().replace("-", "_")
        if key == "CONTENT_TYPE":
            env["CONTENT_TYPE"] = value
        elif key != "CONTENT_LENGTH":
            env["HTTP_" + key] = value
    return env


def parse(request: Request) -> Call | None:
    """None if the request is not signed: nothing that an SDK sends."""
    found = CREDENTIAL.search(request.headers.get("authorization", ""))
    if found:
        access_key, region, service = found.groups()
    elif "X-Amz-Credential=" in request.query_string:  # presigned
        parts = request.query["X-Amz-Credential"].split("/")
        if len(parts) != 5:
            return None
        access_key, region, service = parts[0], parts[2], parts[3]
    else:
        return None
    service = {"eventbridge": "events"}.get(service.lower(), service.lower())
    target = request.headers.get("x-amz-target")
    params: dict[str, Any] = {}
    if target:
        action = target.rsplit(".", 1)[-1]
        params = _json_object(request.body)
    elif service in REST_SERVICES:
        action, uri = rest_action(service, request)
        params = {**_json_object(request.body), **request.query, **uri} if service != "s3" else dict(uri)
    else:
        form = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True)) or request.query
        action = form.pop("Action", "")
        form.pop("Version", None)
        params = dict(form)
    return Call(request, service, region, access_key, action, params)


def rest_action(service: str, request: Request) -> tuple[str, dict[str, Any]]:
    try:
        operation, uri = _router(service).match(DirectRequest(environ(request, 0)))
        return operation.name, dict(uri)
    except (NotFound, NotImplementedError, KeyError):
        return "", {}


@lru_cache
def _router(service: str) -> Any:
    return get_service_router(service)


def _json_object(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
