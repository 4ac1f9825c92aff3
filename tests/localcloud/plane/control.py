"""The plane's part of the control API: /_localcloud/plane/... (JSON). A machine is named by instance id, Name tag or host name.

    GET    /                                   everything: machines with namespace, pids, programs; cuts; kernel tables
    POST   /settle       {limit_ms?}           returns when what EC2 describes now is in the kernel
    PATCH  /             {boot_ms?}            knobs
    POST   /hosts        {name, subnet, address?, pin?: {"10.99.0.10/32": instance}}        -> {name, address, namespace}
    DELETE /hosts/NAME
    POST   /cuts         {between: [x, y], tcp_port?} or {from: x, to: y, tcp_port?}         -> {ids}    x, y: names, "aws", "imds", "*"
    DELETE /cuts         all;  /cuts/ID one                                                  -> {healed}
    PUT    /machines/M/boot          {programs: [...], start?: bool}     what the disk holds: started at every boot (start: now, too)
    POST   /machines/M/programs/P/start | stop
    POST   /machines/M/programs/P/kill         {signal?: "KILL", everything?: bool, hold?: bool}  -> {pids}   everything: all it forked, too; hold: it is not restarted
    POST   /machines/M/kill          {pid, signal?}                      one process, which must be inside
    POST   /machines/M/exec          {command: [...], timeout_ms?, env?}                     -> {status, stdout, stderr}
    POST   /machines/M/power-cut     {report?: bool}                     the power is gone; EC2 is told only on `report`
    POST   /machines/M/power-back
    POST   /machines/M/freeze | thaw                                     every process at once (the kernel still answers, as on SIGSTOP)
"""

from __future__ import annotations

import os
import signal
from typing import Any

from localcloud.plane_api import ControlError

from .firewall import Cut
from .machine import ProgramSpec


class Control:
    def __init__(self, plane: Any):
        self._plane = plane

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        words = path.split("/") if path else []
        if body is not None and not isinstance(body, dict):
            raise ControlError(400, f"the body of {method} /{path} is an object, not {type(body).__name__}")
        body = body or {}
        match (method, words):
            case ("GET", []):
                return 200, self._plane.state()
            case ("PATCH", []):
                self._only(body, "boot_ms")
                self._plane.boot_ms = int(body.get("boot_ms", self._plane.boot_ms))
                return 200, {"boot_ms": self._plane.boot_ms}
            case ("POST", ["settle"]):
                self._only(body, "limit_ms")
                return 200, {"revision": self._plane.settle(body.get("limit_ms", 5000) / 1000)}
            case ("POST", ["hosts"]):
                self._only(body, "name", "subnet", "address", "pin")
                host = self._plane.add_host(self._need(body, "name"), self._need(body, "subnet"), body.get("address"), body.get("pin") or {})
                return 200, {"name": host.name, "address": host.address, "namespace": self._plane.machines[host.name].namespace}
            case ("DELETE", ["hosts", name]):
                self._plane.remove_host(name)
                return 200, {}
            case ("POST", ["cuts"]):
                return 200, {"ids": self._plane.cut(self._cuts(body))}
            case ("DELETE", ["cuts"]):
                return 200, {"healed": self._plane.heal(None)}
            case ("DELETE", ["cuts", number]):
                return 200, {"healed": self._plane.heal([int(number)])}
            case (_, ["machines", key, *rest]):
                return self._machine(method, key, rest, body)
        raise ControlError(404, f"no {method} /{path} in the packet plane; see localcloud/plane/control.py")

    def _machine(self, method: str, key: str, rest: list[str], body: dict[str, Any]) -> tuple[int, Any]:
        machine = self._plane.machine(key)
        machine_id = self._plane.machine_id(key)
        match (method, rest):
            case ("GET", []):
                return 200, {"id": machine_id, "name": machine.name} | machine.state()
            case ("PUT", ["boot"]):
                self._only(body, "programs", "start")
                return 200, self._boot(machine, body)
            case ("POST", ["programs", name, "start"]):
                self._powered(machine)
                machine.program(name).start()
                return 200, machine.program(name).state()
            case ("POST", ["programs", name, "stop"]):
                machine.program(name).stop(machine.hurry)
                return 200, machine.program(name).state()
            case ("POST", ["programs", name, "kill"]):
                self._only(body, "signal", "everything", "hold")
                return 200, {"pids": machine.program(name).kill(_signal(body), bool(body.get("everything")), bool(body.get("hold")))}
            case ("POST", ["kill"]):
                self._only(body, "pid", "signal")
                return 200, self._kill(machine, body)
            case ("POST", ["exec"]):
                self._only(body, "command", "timeout_ms", "env")
                self._powered(machine)
                return 200, machine.execute(self._need(body, "command"), body.get("timeout_ms", 10_000), body.get("env") or {})
            case ("POST", ["power-cut"]):
                self._only(body, "report")
                self._plane.power_cut(machine_id)
                if body.get("report"):
                    self._plane.cloud.powered_off(machine_id, "power cut")
                return 200, {}
            case ("POST", ["power-back"]):
                self._plane.power_back(machine_id)
                return 200, {}
            case ("POST", ["freeze"]):
                self._powered(machine)
                machine.freeze()
                return 200, {}
            case ("POST", ["thaw"]):
                self._powered(machine)
                machine.thaw()
                return 200, {}
        raise ControlError(404, f"no {method} {'/'.join(rest)} of machine {key} in the packet plane; see localcloud/plane/control.py")

    def _boot(self, machine: Any, body: dict[str, Any]) -> dict[str, Any]:
        try:
            specs = [ProgramSpec.parse(one) for one in self._need(body, "programs")]
        except ValueError as error:
            raise ControlError(400, f"boot of {machine.name}: {error}") from error
        machine.register(specs)
        if body.get("start"):
            self._powered(machine)
            for spec in specs:
                machine.program(spec.name).start()
        return machine.state()

    def _kill(self, machine: Any, body: dict[str, Any]) -> dict[str, Any]:
        pid = self._need(body, "pid")
        if pid not in machine.cgroup.pids():
            raise ControlError(404, f"process {pid} is not inside {machine.name}; inside: {machine.cgroup.pids()}")
        os.kill(pid, _signal(body))
        return {"pids": [pid]}

    def _cuts(self, body: dict[str, Any]) -> list[Cut]:
        self._only(body, "between", "from", "to", "tcp_port")
        port = body.get("tcp_port")
        if "between" in body:
            ends = body["between"]
            if "from" in body or "to" in body or not isinstance(ends, list) or len(ends) != 2:
                raise ControlError(400, "a cut is {between: [x, y]} or {from: x, to: y}")
            return [Cut(ends[0], ends[1], port), Cut(ends[1], ends[0], port)]
        return [Cut(self._need(body, "from"), self._need(body, "to"), port)]

    @staticmethod
    def _powered(machine: Any) -> None:
        if not machine.on:
            raise ControlError(409, f"{machine.name} is powered off; start the instance first")

    @staticmethod
    def _need(body: dict[str, Any], key: str) -> Any:
        if key not in body:
            raise ControlError(400, f"{key!r} is missing in the body")
        return body[key]

    @staticmethod
    def _only(body: dict[str, Any], *known: str) -> None:
        unknown = [key for key in body if key not in known]
        if unknown:
            raise ControlError(400, f"unknown keys in the body: {', '.join(unknown)} (known: {', '.join(known)})")


def _signal(body: dict[str, Any]) -> int:
    name = str(body.get("signal", "KILL")).upper().removeprefix("SIG")
    try:
        return signal.Signals[f"SIG{name}"]
    except KeyError:
        raise ControlError(400, f"no signal is called {name!r}") from None
