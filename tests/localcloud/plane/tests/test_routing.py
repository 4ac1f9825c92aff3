"""The pure part: described tables to kernel routes."""

from localcloud.plane.routing import BLACKHOLE, EVERYONE_TABLE, FIRST_PIN_TABLE, Hop, Port, batch, desired
from localcloud.plane.tests.fake_cloud import REGION, snapshot

A = Port("a", "v1", "subnet-1", "10.0.1.10", ("10.0.1.10",), False, "i-a", "eni-a")
B = Port("b", "v2", "subnet-2", "10.0.2.10", ("10.0.2.10", "10.0.2.77"), False, "i-b", "eni-b")
CLIENT = Port("client", "v3", "subnet-3", "10.0.3.254", ("10.0.3.254",), True, pin=(("10.99.0.10/32", "b"),))
NUMBERS = {"rtb-main": 1000, "rtb-client": 1001, "pin of client": 1002}


def plan(ports, region=None):
    region = region or snapshot()["regions"][REGION]
    return desired(region, "vpc-1", ports, NUMBERS.__getitem__, {"10.254.0.2": Hop("aws0", "10.254.1.2")}, "aws0")


def test_each_subnet_is_looked_up_in_its_own_table_and_else_in_the_main_one():
    rules = plan([A, B, CLIENT]).rules
    assert (100, "v1", 1000) in rules and (100, "v2", 1000) in rules and (100, "v3", 1001) in rules


def test_a_virtual_ip_goes_to_the_link_of_its_eni():
    assert plan([A, B]).routes[(1001, "10.99.0.10/32")] == Hop("v1", "10.0.1.10")


def test_a_route_to_an_instance_without_power_is_a_blackhole():
    routes = plan([B]).routes
    assert routes[(1001, "10.99.0.10/32")] == BLACKHOLE
    assert (1001, "10.0.1.10/32") not in routes and routes[(1001, "10.0.0.0/16")] == BLACKHOLE


def test_local_reaches_every_address_of_an_interface():
    routes = plan([A, B]).routes
    assert routes[(1000, "10.0.2.77/32")] == Hop("v2", "10.0.2.10") == routes[(EVERYONE_TABLE, "10.0.2.77/32")]


def test_a_route_more_specific_than_local_wins():
    region = snapshot()["regions"][REGION]
    region["route_tables"][0]["routes"].append({"destination": "10.0.2.0/24", "kind": "eni", "target": "eni-a", "instance": None, "state": "active"})
    routes = plan([A, B], region).routes
    assert (1000, "10.0.2.10/32") not in routes and routes[(1000, "10.0.2.0/24")] == Hop("v1", "10.0.1.10")
    assert routes[(1001, "10.0.2.10/32")] == Hop("v2", "10.0.2.10")


def test_a_pinned_host_has_a_table_of_its_own_before_its_subnets():
    want = plan([A, B, CLIENT])
    assert (90, "v3", FIRST_PIN_TABLE + 2) in want.rules
    assert want.routes[(FIRST_PIN_TABLE + 2, "10.99.0.10/32")] == Hop("v2", "10.0.2.10")


def test_what_cannot_be_carried_is_dropped_and_named():
    region = snapshot()["regions"][REGION]
    region["route_tables"][0]["routes"].append({"destination": "0.0.0.0/0", "kind": "igw", "target": "igw-1", "instance": None, "state": "active"})
    want = plan([A], region)
    assert want.routes[(1000, "default")] == BLACKHOLE
    assert any("igw" in text for text in want.unsupported)


def test_make_before_break():
    before, after = plan([A, B]), plan([B, CLIENT])
    lines = batch(before.routes, after.routes, before.rules, after.rules)
    order = [line.split()[0] + " " + line.split()[1] for line in lines]
    assert order == sorted(order, key=["route replace", "rule add", "rule del", "route del"].index)
    assert "route replace blackhole 10.99.0.10/32 table 1001" in lines
    assert batch(after.routes, after.routes, after.rules, after.rules) == []
