"""S3, SQS, SNS, SSM, ECR and CloudWatch resources: the bootstrap stack's, and dead letters and alarms."""

from __future__ import annotations

from .providers import Context, Json, Made, Provider, gone, pick, provides, text


@provides("AWS::S3::Bucket")
class Bucket(Provider):
    # Lifecycle, encryption and public-access settings are kept by moto or have no meaning on one machine.
    properties = {"BucketName", "AccessControl", "BucketEncryption", "PublicAccessBlockConfiguration", "VersioningConfiguration",
                  "LifecycleConfiguration", "Tags"}  # fmt: skip
    replace_on = {"BucketName"}
    attributes = {"Arn", "DomainName", "RegionalDomainName"}

    def create(self, ctx: Context, props: Json) -> Made:
        name = props.get("BucketName") or ctx.name(63).lower()
        s3 = ctx.client("s3")
        where = {} if ctx.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": ctx.region}}
        s3.create_bucket(Bucket=name, **where)
        self.settle(ctx, name, props)
        return Made(name, {"Arn": f"arn:aws:s3:::{name}", "DomainName": f"{name}.s3.amazonaws.com",
                           "RegionalDomainName": f"{name}.s3.{ctx.region}.amazonaws.com"})  # fmt: skip

    def settle(self, ctx: Context, name: str, props: Json) -> None:
        s3 = ctx.client("s3")
        if "VersioningConfiguration" in props:
            s3.put_bucket_versioning(Bucket=name, VersioningConfiguration=props["VersioningConfiguration"])
        encryption = props.get("BucketEncryption", {}).get("ServerSideEncryptionConfiguration")
        if encryption:
            rules = [{"ApplyServerSideEncryptionByDefault": r["ServerSideEncryptionByDefault"]} for r in encryption]
            s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": rules})

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        self.settle(ctx, made.physical, new)
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        gone(ctx.client("s3").delete_bucket, Bucket=made.physical)


@provides("AWS::S3::BucketPolicy")
class BucketPolicy(Provider):
    """Kept by the stack, not put on the bucket: moto judges bucket policies without their conditions, and would refuse everyone."""

    properties = {"Bucket", "PolicyDocument"}
    replace_on = {"Bucket"}

    def create(self, ctx: Context, props: Json) -> Made:
        return Made(props["Bucket"])

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        pass


@provides("AWS::SQS::Queue")
class Queue(Provider):
    numbers = {"MessageRetentionPeriod", "VisibilityTimeout", "DelaySeconds", "ReceiveMessageWaitTimeSeconds", "MaximumMessageSize"}
    properties = {"QueueName", "SqsManagedSseEnabled", "Tags", *numbers}
    replace_on = {"QueueName"}
    attributes = {"Arn", "QueueName", "QueueUrl"}

    def settings(self, props: Json) -> dict[str, str]:
        out = {k: str(v) for k, v in pick(props, *self.numbers).items()}
        if "SqsManagedSseEnabled" in props:
            out["SqsManagedSseEnabled"] = str(props["SqsManagedSseEnabled"]).lower()
        return out

    def create(self, ctx: Context, props: Json) -> Made:
        name = props.get("QueueName") or ctx.name(80)
        url = ctx.client("sqs").create_queue(QueueName=name, Attributes=self.settings(props))["QueueUrl"]
        return Made(url, {"Arn": ctx.arn("sqs", name), "QueueName": name, "QueueUrl": url})

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        ctx.client("sqs").set_queue_attributes(QueueUrl=made.physical, Attributes=self.settings(new))
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        gone(ctx.client("sqs").delete_queue, QueueUrl=made.physical)


@provides("AWS::SQS::QueuePolicy")
class QueuePolicy(Provider):
    properties = {"Queues", "PolicyDocument"}
    replace_on = {"Queues"}

    def create(self, ctx: Context, props: Json) -> Made:
        for url in props["Queues"]:
            ctx.client("sqs").set_queue_attributes(QueueUrl=url, Attributes={"Policy": text(props["PolicyDocument"])})
        return Made(ctx.name())

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        self.create(ctx, new)
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        for url in props["Queues"]:
            gone(ctx.client("sqs").set_queue_attributes, QueueUrl=url, Attributes={"Policy": ""})


@provides("AWS::SNS::Topic")
class Topic(Provider):
    properties = {"TopicName", "DisplayName", "Tags"}
    replace_on = {"TopicName"}
    attributes = {"TopicArn", "TopicName"}

    def create(self, ctx: Context, props: Json) -> Made:
        name = props.get("TopicName") or ctx.name(256)
        arn = ctx.client("sns").create_topic(Name=name)["TopicArn"]
        return Made(arn, {"TopicArn": arn, "TopicName": name})

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        return made  # display name and tags only

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        gone(ctx.client("sns").delete_topic, TopicArn=made.physical)


@provides("AWS::SNS::TopicPolicy")
class TopicPolicy(Provider):
    properties = {"Topics", "PolicyDocument"}
    replace_on = {"Topics"}

    def create(self, ctx: Context, props: Json) -> Made:
        for arn in props["Topics"]:
            ctx.client("sns").set_topic_attributes(TopicArn=arn, AttributeName="Policy", AttributeValue=text(props["PolicyDocument"]))
        return Made(ctx.name())

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        self.create(ctx, new)
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        pass  # goes with its topic


@provides("AWS::SNS::Subscription")
class Subscription(Provider):
    properties = {"TopicArn", "Protocol", "Endpoint"}
    replace_on = properties

    def create(self, ctx: Context, props: Json) -> Made:
        return Made(ctx.client("sns").subscribe(**props, ReturnSubscriptionArn=True)["SubscriptionArn"])

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        gone(ctx.client("sns").unsubscribe, SubscriptionArn=made.physical)


@provides("AWS::SSM::Parameter")
class Parameter(Provider):
    properties = {"Name", "Type", "Value", "Description"}
    replace_on = {"Name"}
    attributes = {"Type", "Value"}

    def create(self, ctx: Context, props: Json) -> Made:
        name = props.get("Name") or ctx.name()
        ctx.client("ssm").put_parameter(**{**props, "Name": name, "Value": str(props["Value"])}, Overwrite=True)
        return Made(name, {"Type": props["Type"], "Value": str(props["Value"])})

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        return self.create(ctx, {**new, "Name": made.physical})

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        gone(ctx.client("ssm").delete_parameter, Name=made.physical)


@provides("AWS::ECR::Repository")
class Repository(Provider):
    properties = {"RepositoryName", "ImageTagMutability", "LifecyclePolicy", "RepositoryPolicyText", "ImageScanningConfiguration"}
    replace_on = {"RepositoryName"}
    attributes = {"Arn", "RepositoryUri"}

    def create(self, ctx: Context, props: Json) -> Made:
        name = props.get("RepositoryName") or ctx.name().lower()
        found = ctx.client("ecr").create_repository(repositoryName=name)["repository"]
        return Made(name, {"Arn": found["repositoryArn"], "RepositoryUri": found["repositoryUri"]})

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        return made  # nothing here ever pushes an image

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        gone(ctx.client("ecr").delete_repository, repositoryName=made.physical, force=True)


@provides("AWS::CloudWatch::Alarm")
class Alarm(Provider):
    properties = {"AlarmName", "AlarmDescription", "AlarmActions", "OKActions", "InsufficientDataActions", "ActionsEnabled", "ComparisonOperator",
                  "DatapointsToAlarm", "Dimensions", "EvaluationPeriods", "MetricName", "Metrics", "Namespace", "Period", "Statistic",
                  "ExtendedStatistic", "Threshold", "TreatMissingData", "Unit"}  # fmt: skip
    replace_on = {"AlarmName"}
    attributes = {"Arn"}

    def create(self, ctx: Context, props: Json) -> Made:
        name = props.get("AlarmName") or ctx.name(255)
        ctx.client("cloudwatch").put_metric_alarm(**{**props, "AlarmName": name})
        return Made(name, {"Arn": ctx.arn("cloudwatch", f"alarm:{name}")})

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        return self.create(ctx, {**new, "AlarmName": made.physical})

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        gone(ctx.client("cloudwatch").delete_alarms, AlarmNames=[made.physical])


@provides("AWS::CDK::Metadata")
class Metadata(Provider):
    properties = {"Analytics"}

    def create(self, ctx: Context, props: Json) -> Made:
        return Made(ctx.name())

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        pass


