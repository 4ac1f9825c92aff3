"""Errors in the shape that each service's protocol has, so that SDKs see AWS's codes."""

from __future__ import annotations

import json
import uuid
from xml.sax.saxutils import escape

from .http_server import Response

JSON_TARGET = {"dynamodb", "events", "logs", "ssm", "kms", "ecr", "cloudwatch", "monitoring", "sqs", "secretsmanager", "tagging", "states"}
REST_JSON = {"lambda", "scheduler", "apigateway"}

# What each service says when it throttles: code, HTTP status.
THROTTLE = {
    "dynamodb": ("ProvisionedThroughputExceededException", 400),
    "ec2": ("RequestLimitExceeded", 503),
    "events": ("ThrottlingException", 400),
    "lambda": ("TooManyRequestsException", 429),
    "s3": ("SlowDown", 503),
    "route53": ("Throttling", 400),
}
# What each service says when a policy does not allow the call.
DENIED = {"ec2": ("UnauthorizedOperation", 403), "dynamodb": ("AccessDeniedException", 400), "events": ("AccessDeniedException", 400),
          "logs": ("AccessDeniedException", 400), "ssm": ("AccessDeniedException", 400), "lambda": ("AccessDeniedException", 403),
          "scheduler": ("AccessDeniedException", 403)}  # fmt: skip
# ... and when the credentials are unknown or expired.
EXPIRED = {"ec2": ("RequestExpired", 400), "dynamodb": ("ExpiredTokenException", 400), "events": ("ExpiredTokenException", 400),
           "lambda": ("ExpiredTokenException", 403), "s3": ("ExpiredToken", 400)}  # fmt: skip
UNKNOWN_KEY = {"ec2": ("AuthFailure", 401), "dynamodb": ("UnrecognizedClientException", 400), "events": ("UnrecognizedClientException", 400),
               "lambda": ("UnrecognizedClientException", 403), "s3": ("InvalidAccessKeyId", 403)}  # fmt: skip


def error(service: str, code: str, message: str, status: int) -> Response:
    request_id = str(uuid.uuid4())
    if service in JSON_TARGET:
        prefix = "com.amazon.coral.service#" if service == "dynamodb" else ""
        kind = "application/x-amz-json-1.0" if service == "dynamodb" else "application/x-amz-json-1.1"
        body = json.dumps({"__type": prefix + code, "message": message}).encode()
        return Response(status, body, [("content-type", kind), ("x-amzn-requestid", request_id)])
    if service in REST_JSON:
        body = json.dumps({"Type": "User" if status < 500 else "Service", "Message": message, "message": message}).encode()
        headers = [("content-type", "application/json"), ("x-amzn-errortype", code), ("x-amzn-requestid", request_id)]
        return Response(status, body, headers)
    if service == "ec2":
        xml = (f"<Response><Errors><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error></Errors>"
               f"<RequestID>{request_id}</RequestID></Response>")  # fmt: skip
    elif service == "s3":
        xml = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message><RequestId>{request_id}</RequestId></Error>"
    else:
        kind = "Sender" if status < 500 else "Receiver"
        xml = (f"<ErrorResponse><Error><Type>{kind}</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
               f"<RequestId>{request_id}</RequestId></ErrorResponse>")  # fmt: skip
    return Response(status, b'<?xml version="1.0" encoding="UTF-8"?>\n' + xml.encode(), [("content-type", "text/xml"), ("x-amzn-requestid", request_id)])


def throttled(service: str) -> Response:
    code, status = THROTTLE.get(service, ("Throttling", 400))
    return error(service, code, "Rate exceeded", status)


def denied(service: str, message: str) -> Response:
    code, status = DENIED.get(service, ("AccessDenied", 403))
    if service == "ec2":
        message = "You are not authorized to perform this operation. " + message
    return error(service, code, message, status)


def expired(service: str) -> Response:
    code, status = EXPIRED.get(service, ("ExpiredToken", 403))
    return error(service, code, "The security token included in the request is expired", status)


def unknown_key(service: str) -> Response:
    code, status = UNKNOWN_KEY.get(service, ("InvalidClientTokenId", 403))
    return error(service, code, "The security token included in the request is invalid.", status)


def not_implemented(service: str, what: str) -> Response:
    """501: SDKs do not retry it, and the text says whose gap it is."""
    return error(service, "LocalCloudNotImplemented",
                 f"The local cloud does not implement {what}. Add it in tests/localcloud or do not use it; nothing was changed.", 501)  # fmt: skip
