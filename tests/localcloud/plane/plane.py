"""The packet plane of one run: what EC2 describes becomes namespaces, links, kernel routes and running programs.

Two kinds of locks. `_lock` guards the topology (router, ports, cuts) and is held for milliseconds. `Machine.transition`
serialises one machine's power changes and may be held for a whole shutdown; it is always taken before `_lock`.
"""

from __future__ import annotations

import ipaddress
import re
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from localcloud.plane_api import ControlError, Listeners

from . import cgroup, netns, owner, sweep
from .cgroup import Cgroup
from .control import Control
from .firewall import AWS, EVERYTHING, IMDS, Cut
from .machine import Machine
from .netns import PlaneError
from .power_button import PowerButtons
from .router import Router
from .routing import Port

API_ADDRESS = "10.254.0.2"
IMDS_ADDRESS = "169.254.169.254"


@dataclass(frozen=True)
class Host:
    """A machine that is no instance: a client in a subnet, always on."""

    name: str
    subnet: str
    address: str
    pin: tuple[tuple[str, str], ...]


class PacketPlane:
    def __init__(self, cloud: Any):
        self.cloud = cloud
        self.prefix = f"lc{cloud.run}"
        self.router = Router(self.prefix, API_ADDRESS, IMDS_ADDRESS)
        self.machines: dict[str, Machine] = {}  # by instance id or host name
        self.hosts: dict[str, Host] = {}
        self.cuts: dict[int, Cut] = {}
        self.boot_ms = 0  # from power to the first program
        self.applied_revision = -1
        self.applied = threading.Condition()
        self._links: dict[str, str] = {}  # machine id -> link
        self._next_cut = 1
        self._snapshot: dict[str, Any] = {"revision": -1, "regions": {}}
        self._vpc: tuple[str, str] | None = None  # (region, VPC): the one this plane carries
        self._lock = threading.RLock()
        self._stopped = False
        self._complained: set[str] = set()
        self._cgroup = Cgroup(cgroup.mount_point() / self.prefix)
        self._log_dir = Path(cloud.state_dir) / "logs"
        self._buttons = PowerButtons(Path(cloud.state_dir) / "power", self._button, cloud.log)
        self._control = Control(self)

    # ---- life of the plane

    def start(self) -> Listeners:
        sweep.sweep()  # names are random per run, but dead runs cost memory and confuse people
        owner.record(self.cloud.run)
        self._log_dir.mkdir(parents=True, exist_ok=True)
        self._cgroup.create()
        self._buttons.open()
        with self._lock:
            self.router.create()
            self._apply()
        return Listeners(str(netns.path(self.router.aws)), API_ADDRESS, IMDS_ADDRESS)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for machine in self.machines.values():
                machine.hurry.set()
                machine.power_off()
            self._buttons.close()
            sweep.remove(self.prefix)
            owner.forget(self.cloud.run)

    # ---- EC2 changed

    def on_change(self, snapshot: dict[str, Any]) -> None:
        with self._lock:
            if self._stopped:
                return
            self._snapshot = snapshot
            for machine_id, link in self._links.items():
                port = self.router.ports.get(link)
                if port and port.instance:
                    self.router.update(self._described(port, snapshot))
            self._apply()
        with self.applied:
            self.applied_revision = snapshot["revision"]
            self.applied.notify_all()

    def settle(self, limit_s: float) -> int:
        """Wait until what EC2 describes now is in the kernel."""
        revision = self.cloud.describe()["revision"]
        with self.applied:
            if not self.applied.wait_for(lambda: self.applied_revision >= revision, limit_s):
                raise PlaneError(f"revision {revision} of EC2's state is not applied after {limit_s} s (applied: {self.applied_revision})")
            return self.applied_revision

    # ---- power

    def on_run(self, instance: dict[str, Any]) -> None:
        machine = self._machine_of(instance)
        with machine.transition:
            self._power_on(machine, instance["id"])

    on_start = on_run

    def on_stop(self, instance: dict[str, Any], force: bool) -> None:
        machine = self._machine_of(instance)
        if force:
            machine.hurry.set()
        with machine.transition:
            if not force and machine.on:
                machine.shut_down()
            self._power_off(machine, instance["id"])

    def on_terminate(self, instance: dict[str, Any], force: bool) -> None:
        self.on_stop(instance, force)
        with self._lock:
            self.machines.pop(instance["id"], None)

    def on_reboot(self, instance: dict[str, Any]) -> None:
        machine = self._machine_of(instance)
        with machine.transition:
            if machine.on:
                machine.shut_down()
            self._power_off(machine, instance["id"])
            self._power_on(machine, instance["id"])

    def power_cut(self, instance_id: str) -> None:
        """The host under the instance dies: no signal, no FIN, and EC2 is not told."""
        machine = self.machine(instance_id)
        machine.hurry.set()
        with machine.transition:
            self._power_off(machine, instance_id)

    def power_back(self, instance_id: str) -> None:
        machine = self.machine(instance_id)
        with machine.transition:
            self._power_on(machine, instance_id)

    def _button(self, instance_id: str, word: str) -> None:
        """The guest did it itself. A reboot keeps EC2's state; off is reported."""
        self.cloud.log("power button", instance=instance_id, word=word)
        try:
            self.power_cut(instance_id)
            if word == "reboot":
                self.power_back(instance_id)
            else:
                self.cloud.powered_off(instance_id, "the guest powered itself off")
        except (PlaneError, ControlError) as error:
            self.cloud.log("power button failed", instance=instance_id, word=word, error=str(error))

    def _power_on(self, machine: Machine, instance_id: str) -> None:
        with self._lock:
            if self._stopped or machine.on:
                return
            instance = self.cloud.instance(instance_id)
            if instance is None:
                raise PlaneError(f"{instance_id} is described nowhere; nothing to power on")
            snapshot = self.cloud.describe()
            self._carry(instance["region"], instance["vpc"])
            netns.create(machine.namespace)
            port = self._described(Port(machine.name, self.router.new_link(), instance["subnet"], instance["private_ip"],
                                        (instance["private_ip"],), True, instance["id"], instance["eni"]), snapshot)
            self._plug(instance_id, port, machine.namespace, snapshot, self._mac(instance, snapshot))
        if self.boot_ms:
            time.sleep(self.boot_ms / 1000)
        machine.power_on()

    def _power_off(self, machine: Machine, machine_id: str) -> None:
        """Routes away, link away, then the processes: nothing of what dying processes would send gets out. The namespace
        goes too: a machine that lost power forgets its addresses and connections."""
        with self._lock:
            link = self._links.pop(machine_id, None)
            if link and not self._stopped:
                self._apply(without=frozenset((link,)))
                self.router.unplug(link)
        machine.power_off()
        with self._lock:
            if not self._stopped:
                netns.delete(machine.namespace)

    # ---- hosts

    def add_host(self, name: str, subnet_id: str, address: str | None, pin: dict[str, str]) -> Host:
        with self._lock:
            if name in self.hosts or any(machine.name == name for machine in self.machines.values()):
                raise ControlError(409, f"a machine named {name!r} exists already; choose another name")
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name) or name in ("router", AWS, IMDS):
                raise ControlError(400, f"{name!r} is no name of a host: up to 31 of a-z, 0-9 and -, not router, aws or imds")
            snapshot = self.cloud.describe()
            region, subnet = self._subnet(subnet_id, snapshot)
            self._carry(region, subnet["vpc"])
            host = Host(name, subnet_id, self._host_address(subnet, address, snapshot), tuple(sorted(pin.items())))
            namespace = f"{self.prefix}-{name}"
            machine = self._new_machine(name, name, namespace)
            netns.create(namespace)
            port = Port(name, self.router.new_link(), subnet_id, host.address, (host.address,), True, pin=host.pin)
            self.hosts[name] = host
            self.machines[name] = machine
            self._plug(name, port, namespace, snapshot, None)
            machine.power_on()
            return host

    def remove_host(self, name: str) -> None:
        if name not in self.hosts:
            raise ControlError(404, f"no host {name!r}; there are: {', '.join(self.hosts) or 'none'}")
        machine = self.machines[name]
        with machine.transition:
            self._power_off(machine, name)
        with self._lock:
            self.hosts.pop(name)
            self.machines.pop(name)
            machine.cgroup.remove()

    # ---- cuts

    def cut(self, cuts: list[Cut]) -> list[int]:
        with self._lock:
            known = self._names()
            for one in cuts:
                for end in (one.source, one.target):
                    if end not in known:
                        raise ControlError(404, f"cut {one}: nothing is named {end!r}; names: {', '.join(sorted(known))}")
            ids = []
            for one in cuts:
                ids.append(self._next_cut)
                self.cuts[self._next_cut] = one
                self._next_cut += 1
            self._apply()
            return ids

    def heal(self, ids: list[int] | None) -> list[int]:
        """All of them, or these. A cut healed before is no error."""
        with self._lock:
            gone = [one for one in (list(self.cuts) if ids is None else ids) if self.cuts.pop(one, None)]
            self._apply()
            return gone

    # ---- look-ups

    def control(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        try:
            return self._control.answer(method, path.strip("/"), query, body)
        except PlaneError as error:
            raise ControlError(409, str(error)) from error

    def machine(self, key: str) -> Machine:
        """By instance id, Name tag or host name."""
        found = self.machines.get(key) or next((one for one in self.machines.values() if one.name == key), None)
        if found is None:
            raise ControlError(404, f"no instance or host {key!r}; there are: {', '.join(sorted(self._names() - {AWS, IMDS, EVERYTHING}))}")
        return found

    def machine_id(self, key: str) -> str:
        machine = self.machine(key)
        return next(one for one, found in self.machines.items() if found is machine)

    def state(self) -> dict[str, Any]:
        with self._lock:
            return {
                "run": self.cloud.run, "vpc": self._vpc, "revision": self.applied_revision, "boot_ms": self.boot_ms,
                "aws": self.router.aws, "router": self.router.name, "kernel_tables": self.router.kernel_tables(),
                "cuts": {str(number): str(one) for number, one in self.cuts.items()},
                "machines": {one: {"name": machine.name, "link": self._links.get(one), "host": one in self.hosts,
                                   "address": self._address(one)} | machine.state()
                             for one, machine in self.machines.items()},
            }

    # ---- inside

    def _apply(self, without: frozenset[str] = frozenset()) -> None:
        region, vpc = self._vpc or ("", None)
        described = self._snapshot["regions"].get(region, {"route_tables": []})
        unsupported = self.router.apply(described, vpc, without, tuple(self.cuts.values()))
        for text in unsupported:
            if text not in self._complained:
                self._complained.add(text)
                self.cloud.log("route dropped by the packet plane", route=text)

    def _plug(self, machine_id: str, port: Port, namespace: str, snapshot: dict[str, Any], mac: str | None) -> None:
        _, subnet = self._subnet(port.subnet, snapshot)
        self.router.plug(port, namespace, subnet["cidr"], mac)
        self._links[machine_id] = port.link
        self._apply()

    def _described(self, port: Port, snapshot: dict[str, Any]) -> Port:
        for region in snapshot["regions"].values():
            for eni in region["network_interfaces"]:
                if eni["id"] == port.eni:
                    return replace(port, addresses=tuple(eni["private_ips"]), checked=eni["source_dest_check"], subnet=eni["subnet"])
        return port

    def _mac(self, instance: dict[str, Any], snapshot: dict[str, Any]) -> str | None:
        enis = snapshot["regions"].get(instance["region"], {}).get("network_interfaces", [])
        return next((eni.get("mac") for eni in enis if eni["id"] == instance["eni"]), None)

    def _machine_of(self, instance: dict[str, Any]) -> Machine:
        with self._lock:
            machine = self.machines.get(instance["id"])
            if machine is None:
                taken = {one.name for one in self.machines.values()} | {"router", AWS, IMDS}
                name = re.sub(r"[^a-z0-9-]+", "-", (instance["name"] or "").lower()).strip("-")
                if not name or name in taken:
                    name = instance["id"]
                machine = self._new_machine(instance["id"], name, f"{self.prefix}-{name}")
                machine.env["LC_POWER"] = str(self._buttons.add(instance["id"]))
                self.machines[instance["id"]] = machine
            return machine

    def _new_machine(self, machine_id: str, name: str, namespace: str) -> Machine:
        return Machine(name, namespace, self._cgroup.child(machine_id), self._log_dir, {}, self.cloud.log)

    def _carry(self, region: str, vpc: str) -> None:
        if self._vpc is None:
            self._vpc = (region, vpc)
        if self._vpc != (region, vpc):
            raise ControlError(501, f"this packet plane carries one VPC, {self._vpc[1]} in {self._vpc[0]}; {vpc} in {region} has no router: "
                                    "put the machine into the first, or run another local cloud")

    def _subnet(self, subnet_id: str, snapshot: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        for region, content in snapshot["regions"].items():
            for subnet in content["subnets"]:
                if subnet["id"] == subnet_id:
                    return region, subnet
        raise ControlError(404, f"no subnet {subnet_id} in any Region's VPCs (default VPCs are not carried)")

    def _host_address(self, subnet: dict[str, Any], wanted: str | None, snapshot: dict[str, Any]) -> str:
        network = ipaddress.ip_network(subnet["cidr"])
        taken = {address for content in snapshot["regions"].values() for eni in content["network_interfaces"] for address in eni["private_ips"]}
        taken |= {host.address for host in self.hosts.values()}
        if wanted is not None:
            if ipaddress.ip_address(wanted) not in network or wanted in taken:
                raise ControlError(400, f"address {wanted} is outside {network} of {subnet['id']} or taken; leave it out to get a free one")
            return wanted
        # From the end, as EC2 hands out from the start.
        for number in range(int(network.broadcast_address) - 1, int(network.network_address) + 3, -1):
            if str(ipaddress.ip_address(number)) not in taken:
                return str(ipaddress.ip_address(number))
        raise ControlError(409, f"{network} of {subnet['id']} has no free address")

    def _address(self, machine_id: str) -> str | None:
        port = self.router.ports.get(self._links.get(machine_id, ""))
        return port.address if port else None

    def _names(self) -> set[str]:
        return {AWS, IMDS, EVERYTHING} | set(self.machines) | {machine.name for machine in self.machines.values()}
