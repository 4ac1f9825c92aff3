"""CloudFormation: what an ordinary deployer relies on. The CDK CLI itself is tried in the end-to-end tests."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud.cloudformation.template import Resolver, TemplateError, order, parse

from .conftest import REGION, Kit, bootstrap_zip

# --- templates ---


def resolver(template: dict[str, Any], **parameters: Any) -> Resolver:
    return Resolver(template, parameters, {"AWS::Region": REGION, "AWS::Partition": "aws"}, ref=lambda n: f"id-{n}", attribute=lambda n, a: f"{n}/{a}",
                    imports=lambda n: f"import-{n}")  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"Ref": "Thing"}, "id-Thing"),
        ({"Ref": "P"}, "given"),
        ({"Fn::GetAtt": ["Thing", "Arn"]}, "Thing/Arn"),
        ({"Fn::Sub": "a-${P}-${Thing.Arn}-${Thing}-${!literal}-${AWS::Region}"}, f"a-given-Thing/Arn-id-Thing-${{literal}}-{REGION}"),
        ({"Fn::Sub": ["${x}/${P}", {"x": {"Ref": "Thing"}}]}, "id-Thing/given"),
        ({"Fn::Join": [":", ["a", {"Ref": "P"}]]}, "a:given"),
        ({"Fn::Select": [1, {"Fn::Split": [",", "a,b"]}]}, "b"),
        ({"Fn::If": ["Yes", 1, 2]}, 1),
        ({"Fn::If": ["No", 1, {"Ref": "AWS::NoValue"}], "keep": 1}, None),
        ({"a": {"Ref": "AWS::NoValue"}, "b": 1}, {"b": 1}),
        ({"Fn::FindInMap": ["M", {"Ref": "AWS::Region"}, "k"]}, "mapped"),
        ({"Fn::ImportValue": "E"}, "import-E"),
        ({"Fn::Base64": "x"}, "eA=="),
        ({"Fn::ToJsonString": {"a": 1}}, '{"a": 1}'),
    ],
)
def test_intrinsic_functions(value: Any, expected: Any) -> None:
    template = {"Resources": {"Thing": {"Type": "T"}}, "Mappings": {"M": {REGION: {"k": "mapped"}}},
                "Conditions": {"Yes": {"Fn::Equals": [{"Ref": "P"}, "given"]}, "No": {"Fn::Not": [{"Condition": "Yes"}]}}}  # fmt: skip
    if expected is None:
        value = {"inner": {"Fn::If": ["No", 1, {"Ref": "AWS::NoValue"}]}, "keep": 1}
        expected = {"keep": 1}
    assert resolver(template, P="given").resolve(value) == expected


def test_an_unknown_function_is_an_error() -> None:
    with pytest.raises(TemplateError, match="Fn::Magic"):
        resolver({"Resources": {"A": {"Type": "T"}}}).resolve({"Fn::Magic": 1})


def test_yaml_with_short_forms() -> None:
    text = "Resources:\n  A:\n    Type: T\n    Properties:\n      X: !GetAtt B.Arn\n      Y: !Sub '${B}'\n      V: 2012-10-17\n      Z: !If [C, !Ref B, 1]\n"
    props = parse(text)["Resources"]["A"]["Properties"]
    assert props == {"X": {"Fn::GetAtt": ["B", "Arn"]}, "Y": {"Fn::Sub": "${B}"}, "V": "2012-10-17", "Z": {"Fn::If": ["C", {"Ref": "B"}, 1]}}


def test_order_and_cycles() -> None:
    resources = {"A": {"Type": "T", "Properties": {"x": {"Fn::GetAtt": ["B", "Arn"]}}}, "B": {"Type": "T", "DependsOn": "C"}, "C": {"Type": "T"}}
    assert order({"Resources": resources}, resources) == ["C", "B", "A"]
    resources["C"] = {"Type": "T", "Properties": {"x": {"Fn::Sub": "${A}"}}}
    with pytest.raises(TemplateError, match="Circular dependency"):
        order({"Resources": resources}, resources)


# --- stacks ---


def name() -> str:
    return "stack-" + uuid.uuid4().hex[:8]


def template(resources: dict[str, Any], **sections: Any) -> str:
    return json.dumps({"Resources": resources, **sections})


QUEUE = {"Type": "AWS::SQS::Queue", "Properties": {"MessageRetentionPeriod": 60}}


def status(kit: Kit, stack: str) -> str:
    return kit.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]


def deploy(kit: Kit, stack: str, body: str, kind: str = "CREATE", **options: Any) -> dict[str, Any]:
    """As the CDK CLI does it: change set, look at it, execute. Returns the change set's description."""
    cfn, change = kit.client("cloudformation", read_timeout=60), "cs-" + uuid.uuid4().hex[:6]
    cfn.create_change_set(StackName=stack, ChangeSetName=change, ChangeSetType=kind, TemplateBody=body, **options)
    found = cfn.describe_change_set(StackName=stack, ChangeSetName=change)
    if found["Status"] == "CREATE_COMPLETE":
        cfn.execute_change_set(StackName=stack, ChangeSetName=change)
    return found


def test_create_update_and_delete(kit: Kit) -> None:
    cfn, stack = kit.client("cloudformation"), name()
    found = deploy(kit, stack, template({"Q": QUEUE}, Outputs={"Url": {"Value": {"Ref": "Q"}}, "Arn": {"Value": {"Fn::GetAtt": ["Q", "Arn"]}}}))
    assert [c["ResourceChange"]["Action"] for c in found["Changes"]] == ["Add"]
    described = cfn.describe_stacks(StackName=stack)["Stacks"][0]
    assert described["StackStatus"] == "CREATE_COMPLETE"
    outputs = {o["OutputKey"]: o["OutputValue"] for o in described["Outputs"]}
    sqs = kit.client("sqs")
    assert sqs.get_queue_attributes(QueueUrl=outputs["Url"], AttributeNames=["MessageRetentionPeriod"])["Attributes"]["MessageRetentionPeriod"] == "60"
    longer = {"Type": "AWS::SQS::Queue", "Properties": {"MessageRetentionPeriod": 90}}
    found = deploy(kit, stack, template({"Q": longer, "Second": QUEUE}), "UPDATE")
    assert sorted((c["ResourceChange"]["Action"], c["ResourceChange"]["LogicalResourceId"]) for c in found["Changes"]) == [("Add", "Second"), ("Modify", "Q")]
    assert status(kit, stack) == "UPDATE_COMPLETE"
    assert sqs.get_queue_attributes(QueueUrl=outputs["Url"], AttributeNames=["MessageRetentionPeriod"])["Attributes"]["MessageRetentionPeriod"] == "90"
    deploy(kit, stack, template({"Second": QUEUE}), "UPDATE")
    with pytest.raises(ClientError, match="NonExistentQueue"):
        sqs.get_queue_attributes(QueueUrl=outputs["Url"])
    stack_id = described["StackId"]
    cfn.delete_stack(StackName=stack)
    assert status(kit, stack_id) == "DELETE_COMPLETE", "a deleted stack is found by its id"
    with pytest.raises(ClientError, match="does not exist"):
        status(kit, stack)


def test_nothing_to_change_is_a_failed_change_set(kit: Kit) -> None:
    stack = name()
    deploy(kit, stack, template({"Q": QUEUE}))
    found = deploy(kit, stack, template({"Q": QUEUE}), "UPDATE")
    assert found["Status"] == "FAILED" and "didn't contain changes" in found["StatusReason"]
    assert status(kit, stack) == "CREATE_COMPLETE"


@pytest.mark.parametrize(
    ("resources", "reason"),
    [
        ({"X": {"Type": "AWS::Quantum::Computer"}}, "Unrecognized resource types: .'AWS::Quantum::Computer'"),
        ({"Q": {"Type": "AWS::SQS::Queue", "Properties": {"FifoQueue": True}}}, "does not honour the property FifoQueue"),
        ({"Q": QUEUE, "P": {"Type": "AWS::SSM::Parameter", "Properties": {"Type": "String", "Value": {"Fn::GetAtt": ["Q", "Colour"]}}}}, "does not know the attribute Colour"),
        ({"Q": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": {"Fn::Magic": 1}}}}, "Fn::Magic"),
        ({"Q": {"Type": "AWS::SQS::Queue", "CreationPolicy": {}}}, "CreationPolicy"),
    ],
)
def test_what_is_not_known_fails_the_change_set_before_anything_is_made(kit: Kit, resources: dict[str, Any], reason: str) -> None:
    stack = name()
    queues = kit.client("sqs").list_queues().get("QueueUrls", [])
    found = deploy(kit, stack, template({"First": QUEUE, **resources}))
    assert found["Status"] == "FAILED"
    import re

    assert re.search(reason, found["StatusReason"])
    assert kit.client("sqs").list_queues().get("QueueUrls", []) == queues
    assert status(kit, stack) == "REVIEW_IN_PROGRESS"


def test_a_failed_creation_rolls_back(kit: Kit) -> None:
    cfn, stack, queue = kit.client("cloudformation"), name(), "q-" + uuid.uuid4().hex[:8]
    bad = {"Type": "AWS::Lambda::Permission", "DependsOn": "Q", "Properties": {"Action": "lambda:InvokeFunction", "FunctionName": "nobody", "Principal": "events.amazonaws.com"}}
    deploy(kit, stack, template({"Q": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": queue}}, "Bad": bad}))
    assert status(kit, stack) == "ROLLBACK_COMPLETE"
    with pytest.raises(ClientError):
        kit.client("sqs").get_queue_url(QueueName=queue)
    events = cfn.describe_stack_events(StackName=stack)["StackEvents"]
    failed = [e for e in events if e["ResourceStatus"] == "CREATE_FAILED"]
    assert [e["LogicalResourceId"] for e in failed] == ["Bad"] and "ResourceNotFoundException" in failed[0]["ResourceStatusReason"]
    with pytest.raises(ClientError, match="can not be updated"):
        deploy(kit, stack, template({"Q": QUEUE}), "UPDATE")


def test_a_failed_update_restores_what_was(kit: Kit) -> None:
    stack = name()
    deploy(kit, stack, template({"Q": QUEUE}, Outputs={"Url": {"Value": {"Ref": "Q"}}}))
    url = kit.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]["Outputs"][0]["OutputValue"]
    bad = {"Type": "AWS::Lambda::Permission", "DependsOn": "Q", "Properties": {"Action": "lambda:InvokeFunction", "FunctionName": "nobody", "Principal": "events.amazonaws.com"}}
    deploy(kit, stack, template({"Q": {"Type": "AWS::SQS::Queue", "Properties": {"MessageRetentionPeriod": 99}}, "Bad": bad}), "UPDATE")
    assert status(kit, stack) == "UPDATE_ROLLBACK_COMPLETE"
    assert kit.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["MessageRetentionPeriod"])["Attributes"]["MessageRetentionPeriod"] == "60"


def test_a_replaced_resource_is_made_before_the_old_one_goes(kit: Kit) -> None:
    stack, first, second = name(), "q-" + uuid.uuid4().hex[:8], "q-" + uuid.uuid4().hex[:8]
    deploy(kit, stack, template({"Q": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": first}}}))
    deploy(kit, stack, template({"Q": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": second}}}), "UPDATE")
    kit.client("sqs").get_queue_url(QueueName=second)
    with pytest.raises(ClientError):
        kit.client("sqs").get_queue_url(QueueName=first)


def test_retained_resources_stay(kit: Kit) -> None:
    stack, queue = name(), "q-" + uuid.uuid4().hex[:8]
    deploy(kit, stack, template({"Q": {"Type": "AWS::SQS::Queue", "DeletionPolicy": "Retain", "Properties": {"QueueName": queue}}}))
    kit.client("cloudformation").delete_stack(StackName=stack)
    kit.client("sqs").get_queue_url(QueueName=queue)


def test_parameters_conditions_and_exports(kit: Kit) -> None:
    cfn, stack, export = kit.client("cloudformation"), name(), "export-" + uuid.uuid4().hex[:6]
    ssm = "/p/" + uuid.uuid4().hex[:6]
    kit.client("ssm").put_parameter(Name=ssm, Type="String", Value="23")
    body = template(
        {"Q": QUEUE, "Never": {**QUEUE, "Condition": "Off"}},
        Parameters={"Stage": {"Type": "String", "AllowedValues": ["dev", "prod"]}, "Version": {"Type": "AWS::SSM::Parameter::Value<String>", "Default": ssm}},
        Conditions={"Off": {"Fn::Equals": [{"Ref": "Stage"}, "prod"]}},
        Rules={"R": {"Assertions": [{"Assert": {"Fn::Not": [{"Fn::Contains": [["1", "2"], {"Ref": "Version"}]}]}, "AssertDescription": "bootstrap again"}]}},
        Outputs={"V": {"Value": {"Ref": "Version"}, "Export": {"Name": export}}},
    )
    found = deploy(kit, stack, body, Parameters=[{"ParameterKey": "Stage", "ParameterValue": "dev"}])
    assert found["Status"] == "CREATE_COMPLETE", found
    assert [r["LogicalResourceId"] for r in cfn.list_stack_resources(StackName=stack)["StackResourceSummaries"]] == ["Q"]
    assert {e["Name"]: e["Value"] for e in cfn.list_exports()["Exports"]}[export] == "23"
    importer = template({"P": {"Type": "AWS::SSM::Parameter", "Properties": {"Type": "String", "Value": {"Fn::ImportValue": export}}}})
    user = name()
    deploy(kit, user, importer)
    assert status(kit, user) == "CREATE_COMPLETE"
    with pytest.raises(ClientError, match="in use by"):
        cfn.delete_stack(StackName=stack)
    bad = deploy(kit, name(), body, Parameters=[{"ParameterKey": "Stage", "ParameterValue": "moon"}])
    assert bad["Status"] == "FAILED" and "AllowedValues" in bad["StatusReason"]
    assert deploy(kit, name(), body)["StatusReason"] == "Parameters: [Stage] must have values"


def test_termination_protection(kit: Kit) -> None:
    cfn, stack = kit.client("cloudformation"), name()
    deploy(kit, stack, template({"Q": QUEUE}))
    cfn.update_termination_protection(StackName=stack, EnableTerminationProtection=True)
    with pytest.raises(ClientError, match="TerminationProtection"):
        cfn.delete_stack(StackName=stack)


def test_the_roles_permissions_bind_what_a_stack_makes(kit: Kit) -> None:
    stack = name()
    role = kit.role([{"Effect": "Allow", "Action": "ssm:*", "Resource": "*"}], service="cloudformation.amazonaws.com")
    deploy(kit, stack, template({"Q": QUEUE}), RoleARN=role)
    assert status(kit, stack) == "ROLLBACK_COMPLETE"
    reasons = [e.get("ResourceStatusReason", "") for e in kit.client("cloudformation").describe_stack_events(StackName=stack)["StackEvents"]]
    assert any("is not authorized to perform: sqs:CreateQueue" in r for r in reasons)


# --- custom resources ---

CUSTOM = """
def handle(event):
    kind, props = event["RequestType"], event["ResourceProperties"]
    if props.get("Silent") == "true": return "no answer"
    if props.get("Crash") == "true": sys.exit(1)
    bad = kind != "Delete" and props["Config"] == "bad"
    answer = {"Status": "FAILED" if bad else "SUCCESS", "Reason": "vip inside the VPC" if bad else "", "PhysicalResourceId": props.get("Id", "web"),
              "StackId": event["StackId"], "RequestId": event["RequestId"], "LogicalResourceId": event["LogicalResourceId"], "Data": {"Seen": kind}}
    urllib.request.urlopen(urllib.request.Request(event["ResponseURL"], json.dumps(answer).encode(), method="PUT")).read()
"""


def custom(kit: Kit, function: str, **props: Any) -> str:
    arn = kit.client("lambda").get_function(FunctionName=function)["Configuration"]["FunctionArn"]
    return template({"C": {"Type": "Custom::LeaseholdCluster", "Properties": {"ServiceToken": arn, **props}}}, Outputs={"Seen": {"Value": {"Fn::GetAtt": ["C", "Seen"]}}})


def test_a_custom_resource_is_made_changed_and_removed_by_its_function(kit: Kit) -> None:
    function, stack = kit.function(CUSTOM), name()
    cfn = kit.client("cloudformation")
    deploy(kit, stack, custom(kit, function, Config="one", Number=5, Flag=True))
    assert cfn.describe_stacks(StackName=stack)["Stacks"][0]["Outputs"][0]["OutputValue"] == "Create"
    deploy(kit, stack, custom(kit, function, Config="two"), "UPDATE")
    deploy(kit, stack, custom(kit, function, Config="three", Id="other"), "UPDATE")
    cfn.delete_stack(StackName=stack)
    asked = [(r["request"]["RequestType"], r["request"].get("PhysicalResourceId"), r["request"]["ResourceProperties"]["Config"]) for r in kit.runs(function)]
    assert asked == [("Create", None, "one"), ("Update", "web", "two"), ("Update", "web", "three"), ("Delete", "web", "two"), ("Delete", "other", "three")]
    first, second = kit.runs(function)[0]["request"], kit.runs(function)[1]["request"]
    assert first["ResourceType"] == "Custom::LeaseholdCluster" and first["ResourceProperties"]["Number"] == "5" and first["ResourceProperties"]["Flag"] == "true"
    assert second["OldResourceProperties"]["Config"] == "one"


def test_failed_makes_the_stack_fail_with_the_functions_reason(kit: Kit) -> None:
    function, stack = kit.function(CUSTOM), name()
    deploy(kit, stack, custom(kit, function, Config="bad"))
    assert status(kit, stack) == "ROLLBACK_COMPLETE"
    events = kit.client("cloudformation").describe_stack_events(StackName=stack)["StackEvents"]
    assert any("vip inside the VPC" in e.get("ResourceStatusReason", "") for e in events if e["ResourceStatus"] == "CREATE_FAILED")
    assert [r["request"]["RequestType"] for r in kit.runs(function)] == ["Create", "Delete"]


def test_a_failed_update_asks_for_the_old_properties_again(kit: Kit) -> None:
    function, stack = kit.function(CUSTOM), name()
    deploy(kit, stack, custom(kit, function, Config="good"))
    deploy(kit, stack, custom(kit, function, Config="bad"), "UPDATE")
    assert status(kit, stack) == "UPDATE_ROLLBACK_COMPLETE"
    assert [(r["request"]["RequestType"], r["request"]["ResourceProperties"]["Config"]) for r in kit.runs(function)] == [
        ("Create", "good"), ("Update", "bad"), ("Update", "good")]  # fmt: skip


def test_a_function_that_does_not_answer_or_crashes_fails_the_stack(kit: Kit) -> None:
    function, silent, crashed = kit.function(CUSTOM), name(), name()
    begun = time.monotonic()
    deploy(kit, silent, custom(kit, function, Config="x", Silent=True, ServiceTimeout="1"))
    assert time.monotonic() - begun < 5 and status(kit, silent) == "ROLLBACK_COMPLETE"
    deploy(kit, crashed, custom(kit, function, Config="x", Crash=True))
    assert status(kit, crashed) == "ROLLBACK_COMPLETE"


# --- the types of the product's stack ---


def test_every_type_of_the_products_stack(kit: Kit) -> None:
    stack, tag = name(), uuid.uuid4().hex[:6]
    bucket = "assets-" + tag
    s3 = kit.client("s3", s3={"addressing_style": "path"})
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket=bucket, Key="fn.zip", Body=bootstrap_zip("def handle(event): return event"))

    def trust(service: str) -> dict[str, Any]:
        return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}]}

    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "dynamodb:GetItem", "Resource": {"Fn::GetAtt": ["Table", "Arn"]}}]}
    table = {"KeySchema": [{"AttributeName": "cluster", "KeyType": "HASH"}], "AttributeDefinitions": [{"AttributeName": "cluster", "AttributeType": "S"}],
             "BillingMode": "PAY_PER_REQUEST"}  # fmt: skip

    def resources(memory: int) -> dict[str, Any]:
        return {
            "Table": {"Type": "AWS::DynamoDB::Table", "Properties": {**table, "TableName": "t-" + tag, "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
                                                                     "DeletionProtectionEnabled": memory == 128}},
            "TableV2": {"Type": "AWS::DynamoDB::GlobalTable", "Properties": {**table, "Replicas": [{"Region": REGION}]}},
            "Bus": {"Type": "AWS::Events::EventBus", "Properties": {"Name": "bus-" + tag}},
            "Role": {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": trust("lambda.amazonaws.com")}},
            "RolePolicy": {"Type": "AWS::IAM::Policy", "Properties": {"PolicyName": "P", "PolicyDocument": policy, "Roles": [{"Ref": "Role"}]}},
            "Managed": {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": policy, "Roles": [{"Ref": "Role"}]}},
            "NodeRole": {"Type": "AWS::IAM::Role", "Properties": {"RoleName": "node-" + tag, "AssumeRolePolicyDocument": trust("ec2.amazonaws.com"),
                                                                  "Policies": [{"PolicyName": "inline", "PolicyDocument": policy}]}},
            "Profile": {"Type": "AWS::IAM::InstanceProfile", "Properties": {"InstanceProfileName": "node-" + tag, "Roles": [{"Ref": "NodeRole"}]}},
            "Logs": {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": "/aws/lambda/fn-" + tag, "RetentionInDays": 30}},
            "Dead": {"Type": "AWS::SQS::Queue"},
            "DeadPolicy": {"Type": "AWS::SQS::QueuePolicy", "Properties": {"Queues": [{"Ref": "Dead"}], "PolicyDocument": policy}},
            "Function": {"Type": "AWS::Lambda::Function", "DependsOn": ["RolePolicy"], "Properties": {
                "FunctionName": "fn-" + tag, "Code": {"S3Bucket": bucket, "S3Key": "fn.zip"}, "Role": {"Fn::GetAtt": ["Role", "Arn"]}, "Runtime": "provided.al2023",
                "Handler": "bootstrap", "MemorySize": memory, "Timeout": 10, "Architectures": ["x86_64"], "Environment": {"Variables": {"T": {"Ref": "Table"}, "B": {"Ref": "Bus"}}},
                "LoggingConfig": {"LogGroup": {"Ref": "Logs"}}}},
            "Invokes": {"Type": "AWS::Lambda::EventInvokeConfig", "Properties": {
                "FunctionName": {"Ref": "Function"}, "Qualifier": "$LATEST", "MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60,
                "DestinationConfig": {"OnFailure": {"Destination": {"Fn::GetAtt": ["Dead", "Arn"]}}}}},
            "OnBus": {"Type": "AWS::Events::Rule", "Properties": {"EventBusName": {"Ref": "Bus"}, "EventPattern": {"source": ["leasehold"]}, "State": "ENABLED", "Targets": [
                {"Id": "T0", "Arn": {"Fn::GetAtt": ["Function", "Arn"]}, "DeadLetterConfig": {"Arn": {"Fn::GetAtt": ["Dead", "Arn"]}}, "RetryPolicy": {"MaximumRetryAttempts": 3}}]}},
            "OnTime": {"Type": "AWS::Events::Rule", "Properties": {"ScheduleExpression": "rate(1 minute)", "Targets": [{"Id": "T0", "Arn": {"Fn::GetAtt": ["Function", "Arn"]}}]}},
            "MayBus": {"Type": "AWS::Lambda::Permission", "Properties": {"Action": "lambda:InvokeFunction", "FunctionName": {"Fn::GetAtt": ["Function", "Arn"]},
                                                                         "Principal": "events.amazonaws.com", "SourceArn": {"Fn::GetAtt": ["OnBus", "Arn"]}}},
            "Schedule": {"Type": "AWS::Scheduler::Schedule", "Properties": {"ScheduleExpression": "rate(1 hour)", "FlexibleTimeWindow": {"Mode": "OFF"}, "Target": {
                "Arn": {"Fn::GetAtt": ["Function", "Arn"]}, "RoleArn": {"Fn::GetAtt": ["Role", "Arn"]}}}},
            "Topic": {"Type": "AWS::SNS::Topic"},
            "Alarm": {"Type": "AWS::CloudWatch::Alarm", "Properties": {"ComparisonOperator": "GreaterThanThreshold", "EvaluationPeriods": 1, "MetricName": "m", "Namespace": "n",
                                                                       "Period": 60, "Statistic": "Sum", "Threshold": 1, "AlarmActions": [{"Ref": "Topic"}]}},
        }  # fmt: skip

    outputs = {"Rule": {"Value": {"Ref": "OnBus"}}}
    found = deploy(kit, stack, template(resources(128), Outputs=outputs))
    assert found["Status"] == "CREATE_COMPLETE", found["StatusReason"]
    cfn = kit.client("cloudformation")
    assert status(kit, stack) == "CREATE_COMPLETE", [e for e in cfn.describe_stack_events(StackName=stack)["StackEvents"] if "FAILED" in e["ResourceStatus"]]
    described = cfn.describe_stacks(StackName=stack)["Stacks"][0]
    assert described["Outputs"][0]["OutputValue"].startswith(f"bus-{tag}|"), "Ref of a rule on a bus of one's own"
    assert kit.client("dynamodb").describe_continuous_backups(TableName="t-" + tag)["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    kit.client("events").put_events(Entries=[{"Source": "leasehold", "DetailType": "x", "Detail": "{}", "EventBusName": "bus-" + tag}])
    from .conftest import until

    assert until(lambda: kit.runs("fn-" + tag))[0]["request"]["source"] == "leasehold"
    with pytest.raises(ClientError):
        kit.client("dynamodb").delete_table(TableName="t-" + tag)
    deploy(kit, stack, template(resources(256), Outputs=outputs), "UPDATE")
    assert status(kit, stack) == "UPDATE_COMPLETE"
    assert kit.client("lambda").get_function_configuration(FunctionName="fn-" + tag)["MemorySize"] == 256
    stack_id = described["StackId"]
    cfn.delete_stack(StackName=stack)
    assert status(kit, stack_id) == "DELETE_COMPLETE", [e for e in cfn.describe_stack_events(StackName=stack_id)["StackEvents"] if "FAILED" in e["ResourceStatus"]]
    assert "t-" + tag not in kit.client("dynamodb").list_tables()["TableNames"]
    assert "node-" + tag not in [r["RoleName"] for r in kit.client("iam").list_roles()["Roles"]]
