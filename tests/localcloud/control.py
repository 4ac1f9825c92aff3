"""The control API under /_localcloud/. README.md has the reference."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .faults import KINDS, FaultError
from .http_server import Request, Response
from .knobs import KnobError
from .plane_api import ControlError

if TYPE_CHECKING:
    from .cloud import LocalCloud

PREFIX = "/_localcloud/"


def answer(cloud: LocalCloud, request: Request) -> Response:
    try:
        status, body = route(cloud, request)
    except (FaultError, KnobError, ValueError) as bad:
        status, body = 400, {"error": str(bad)}
    except ControlError as error:
        status, body = error.status, {"error": str(error)}
    except Exception as error:
        cloud.log("control request failed", target=request.target, error=repr(error))
        status, body = 500, {"error": repr(error)}
    return Response(status, json.dumps(body).encode(), [("content-type", "application/json")])


def parsed(request: Request) -> Any:
    if not request.body:
        return None
    try:
        return json.loads(request.body)
    except ValueError as bad:
        raise ValueError(f"the body is not JSON: {bad}") from None


def sequence(request: Request) -> int:
    value = request.query.get("after", "0")
    if not value.lstrip("-").isdigit():
        raise ValueError(f"after={value!r} is not a sequence number")
    return int(value)


def route(cloud: LocalCloud, request: Request) -> tuple[int, Any]:
    path = request.path.removeprefix(PREFIX).rstrip("/")
    parts = path.split("/")
    method = request.method
    if parts[0] == "plane":
        if cloud.plane is None:
            raise ControlError(404, "this cloud runs without a packet plane; start it with --plane (needs root)")
        return cloud.plane.control(method, "/".join(parts[1:]), request.query, parsed(request))
    match (method, *parts):
        case ("GET", "health"):
            return 200, cloud.health()
        case ("GET", "faults"):
            return 200, cloud.faults.describe()
        case ("GET", "faults", "kinds"):
            return 200, KINDS
        case ("POST", "faults"):
            body = parsed(request)
            rules = [cloud.faults.add(spec) for spec in (body if isinstance(body, list) else [body])]
            described = [rule.describe() for rule in rules]
            return 200, described if isinstance(body, list) else described[0]
        case ("DELETE", "faults"):
            return 200, {"removed": cloud.faults.remove(None)}
        case ("DELETE", "faults", rule):
            return 200, {"removed": cloud.faults.remove(rule)}
        case ("POST", "faults", rule, "release"):
            body = parsed(request) or {}
            return 200, {"released": cloud.faults.release(rule, body.get("count"))}
        case ("GET", "audit"):
            return 200, cloud.audit.after(sequence(request))
        case ("GET", "lateness"):
            return 200, cloud.lateness.since(float(request.query.get("since", "0")))
        case ("GET", "invocations"):
            return 200, cloud.host.after(sequence(request))
        case ("GET", "knobs"):
            return 200, cloud.knobs.as_dict()
        case ("POST", "knobs"):
            return 200, cloud.knobs.set(parsed(request))
        case ("GET", "lambda"):
            return 200, cloud.host.describe()
        case ("POST", "lambda"):
            body = parsed(request)
            if not isinstance(body, dict):
                raise ValueError("wanted a JSON object")
            return 200, cloud.host.control(body)
        case ("POST", "event"):
            body = parsed(request) or {}
            missing = {"source", "detail_type", "detail"} - set(body)
            if missing:
                raise ValueError(f"an event needs {sorted(missing)}; optional: region, resources")
            cloud.events.aws_event(body.get("region", cloud.region), body["source"], body["detail_type"], body.get("resources", []), body["detail"])
            return 200, {}
        case ("GET", "snapshot"):
            return 200, cloud.describe()
        case _:
            raise ControlError(404, f"no {method} {request.path}; see tests/localcloud/README.md, control API")
