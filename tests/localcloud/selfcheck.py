"""At start: is this the moto that the patches were written for, and does every patched name still exist?"""

from __future__ import annotations

import importlib
import importlib.metadata

MOTO = "5.2.5"

# module, attribute path: what this package replaces or reaches into.
PATCHED = [
    ("moto.core.responses", "method_names_from_class"),
    ("moto.core.routing", "get_service_router"),
    ("moto.core.request", "Request.raw_url"),
    ("moto.moto_server.werkzeug_app", "DomainDispatcherApplication"),
    ("moto.moto_server.werkzeug_app", "create_backend_app"),
    ("moto.sts.models", "STSBackend.assume_role"),
    ("moto.sts.models", "sts_backends"),
    ("moto.iam.models", "Role.attached_managed_policies"),
    ("moto.iam.models", "InstanceProfile"),
    ("moto.awslambda.models", "LambdaFunction.invoke"),
    ("moto.awslambda.models", "LambdaFunction.save_logs"),
    ("moto.events.models", "EventsBackend.put_events"),
    ("moto.events.models", "EventsBackend.put_rule"),
    ("moto.events.models", "Rule.send_to_targets"),
    ("moto.events.models", "EventPattern.matches_event"),
    ("moto.events.models", "EventTemplateParser.parse"),
    ("moto.scheduler.models", "scheduler_backends"),
    ("moto.ec2.models.route_tables", "RouteBackend.create_route"),
    ("moto.ec2.models.route_tables", "RouteBackend.replace_route"),
    ("moto.ec2.models.route_tables", "RouteBackend.delete_route"),
    ("moto.ec2.models.route_tables", "RouteTable.get_filter_value"),
    ("moto.ec2.models.route_tables", "RouteTable.routes"),
    ("moto.ec2.models.route_tables", "Route.state"),
    ("moto.ec2.models.route_tables", "Route.instance_id"),
    ("moto.ec2.models.route_tables", "Route.network_interface_id"),
    ("moto.ec2.models.instances", "Instance.start"),
    ("moto.ec2.models.instances", "Instance.stop"),
    ("moto.ec2.models.instances", "Instance.terminate"),
    ("moto.ec2.models.instances", "Instance.reboot"),
    ("moto.ec2.models.instances", "InstanceBackend.run_instances"),
    ("moto.ec2.responses.instances", "InstanceResponse.stop_instances"),
    ("moto.ec2.responses.instances", "InstanceResponse.start_instances"),
    ("moto.ec2.responses.instances", "InstanceResponse.terminate_instances"),
    ("moto.ec2.models.elastic_network_interfaces", "NetworkInterface"),
    ("moto.ec2.models.availability_zones_and_regions", "RegionsAndZonesBackend.zones"),
]


class SelfCheckFailed(Exception):
    pass


def check(version: str = MOTO, patched: list[tuple[str, str]] = PATCHED) -> None:
    found = importlib.metadata.version("moto")
    problems = []
    if found != version:
        problems.append(f"moto is {found}, the patches are for {version}: install tests/requirements.txt into the venv")
    for module, path in patched:
        try:
            target = importlib.import_module(module)
            for part in path.split("."):
                target = getattr(target, part)
        except (ImportError, AttributeError) as missing:
            problems.append(f"{module}.{path} is gone ({missing}): adapt the patch")
    if problems:
        raise SelfCheckFailed("local cloud: " + "; ".join(problems))
