"""AWS warns before it takes the active's machine: a spot interruption in two minutes, a retirement that AWS Health announces. The
holder is alive, so it hands over in order (R300), before anything happens to it. And an event that nobody can handle is not
lost: it is kept in the failures queue, for a person to read."""

import json
import time

import pytest

from .conftest import TTL_S


def _spot(instance):
    return "aws.ec2", "EC2 Spot Instance Interruption Warning", {"instance-id": instance, "instance-action": "terminate"}


def _retirement(instance):
    return "aws.health", "AWS Health Event", {
        "eventArn": "arn:aws:health:ap-northeast-1::event/EC2/AWS_EC2_PERSISTENT_INSTANCE_RETIREMENT_SCHEDULED/1",
        "service": "EC2", "eventTypeCode": "AWS_EC2_PERSISTENT_INSTANCE_RETIREMENT_SCHEDULED", "eventTypeCategory": "scheduledChange",
        "statusCode": "upcoming", "startTime": "Sat, 05 Dec 2026 15:00:00 GMT",
        "eventDescription": [{"language": "en_US", "latestDescription": "EC2 has detected degradation of the underlying hardware."}],
        "affectedEntities": [{"entityValue": instance}]}  # fmt: skip


@pytest.mark.parametrize("warning", [_spot, _retirement], ids=["spot interruption", "scheduled retirement"])
def test_the_holder_hands_over(scene, warning):
    instance = scene.network.nodes[scene.active].instance
    source, detail_type, detail = warning(instance)
    scene.cloud.control("POST", "event", {"source": source, "detail_type": detail_type, "detail": detail, "resources": [instance]})
    scene.taken_over(limit_s=3 * TTL_S)
    assert "R300" in scene.rules() and "R210" not in scene.rules(), scene.history()
    assert "active -> handing-over" in scene.logs()[scene.active], scene.logs()[scene.active]
    assert scene.gap().seconds <= 1.0
    scene.whole_again()


def test_a_warning_of_the_standby_s_machine_moves_nothing(scene):
    instance = scene.network.nodes[scene.standby].instance
    source, detail_type, detail = _retirement(instance)
    scene.cloud.control("POST", "event", {"source": source, "detail_type": detail_type, "detail": detail, "resources": [instance]})
    scene.no_takeover(for_s=2 * TTL_S)
    assert scene.failed_requests() == 0


def test_an_event_that_nobody_can_handle_is_kept(scene):
    sqs = scene.cloud.client("sqs")
    queue = sqs.get_queue_url(QueueName=f"{scene.cluster.deployment}-failures")["QueueUrl"]
    # A node's own account of its peer, from a later version of the program that this deployment does not understand yet.
    detail = json.dumps({"v": 99, "cluster": scene.cluster.name, "node": scene.standby})
    put = scene.cloud.client("events").put_events(Entries=[
        {"EventBusName": scene.cluster.deployment, "Source": "leasehold", "DetailType": "Holder Suspected", "Detail": detail}])  # fmt: skip
    assert put["FailedEntryCount"] == 0
    kept, until = [], time.monotonic() + 15
    while not kept and time.monotonic() < until:
        received = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        kept = [message for message in received if '"v": 99' in message["Body"] or '"v":99' in message["Body"]]
        time.sleep(0.2)
    assert kept, "the event is in no queue: nobody would ever know of it"
    body = json.loads(kept[0]["Body"])
    assert "99" in json.dumps(body["responsePayload"]), body
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=kept[0]["ReceiptHandle"])
    assert scene.failed_requests() == 0
