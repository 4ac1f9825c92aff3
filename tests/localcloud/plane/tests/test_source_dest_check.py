"""With the check on, an interface neither receives nor sends what is not its own."""

from localcloud.plane.tests.fake_cloud import VIP


def test_packets_for_the_virtual_ip_are_dropped_while_the_check_is_on(world):
    world.cloud.set_source_dest_check(world.plane, "eni-a", True)
    assert world.ask("client") == ""
    assert world.ask("client", "10.0.1.10") == "a"
    world.cloud.set_source_dest_check(world.plane, "eni-a", False)
    assert world.ask("client") == "a"


def test_packets_from_the_virtual_ip_are_dropped_while_the_check_is_on(world):
    assert world.ask("a", "10.0.2.10", source=VIP) == ""  # b's answer to the VIP ends at b itself, which carries it too
    world.run("b", "ip", "addr", "del", f"{VIP}/32", "dev", "lo")
    assert world.ask("a", "10.0.2.10", source=VIP) == "b"
    world.cloud.set_source_dest_check(world.plane, "eni-a", True)
    assert world.ask("a", "10.0.2.10", source=VIP) == ""
