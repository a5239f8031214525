#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines on two hosts: network namespaces, with a wire between them that
takes time (relay.c), whose nodes are started by a command and linked by TLS.

    test_netns.py BUILD RELAY [CLASS[.METHOD]...]

BUILD is where ./bootstrap put its results. Exits with 77 (skipped), with the
reason, where there are no images or namespaces cannot be made.
CHIMERA_TEST_DELAY_US says how long the wire takes, each way (1000).
"""

import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "boot"))
import test_machine as boot  # noqa: E402

RELAY = ""
EXAMPLE = os.path.join(HERE, "..", "..", "isa-configs", "machines",
                       "two-hosts.conf")
DELAY_US = int(os.environ.get("CHIMERA_TEST_DELAY_US", "1000"))
KEY = "0123456789abcdef" * 4


def ip(*args):
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)


class Wire:
    """Namespaces a and b, each with an address, and one between them."""

    def __init__(self):
        self.name = {x: f"chimera-{os.getpid()}-{x}" for x in "abw"}
        self.relay = None
        try:
            for name in self.name.values():
                ip("netns", "add", name)
            for i, x in enumerate("ab"):
                ip("link", "add", "eth0", "netns", self.name[x], "type",
                   "veth", "peer", "name", x, "netns", self.name["w"])
                for args in (("link", "set", "dev", "lo", "up"),
                             ("link", "set", "dev", "eth0", "up"),
                             ("addr", "add", f"192.0.2.{i + 1}/24", "dev",
                              "eth0")):
                    ip("-n", self.name[x], *args)
                ip("-n", self.name["w"], "link", "set", "dev", x, "up")
        except (OSError, subprocess.CalledProcessError):
            self.remove()
            raise

    def start(self, delay_us):
        self.relay = subprocess.Popen(
            ["ip", "netns", "exec", self.name["w"], RELAY, str(delay_us),
             "a", "b"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True)
        if self.relay.stdout.readline() != "ready\n":
            raise AssertionError("the relay does not start")

    def stop(self):
        if self.relay:
            self.relay.stdin.close()
            self.relay.wait(10)
            self.relay.stdout.close()
            self.relay = None

    def remove(self):
        self.stop()
        for name in self.name.values():
            subprocess.run(["ip", "netns", "del", name], check=False,
                           capture_output=True)

    def run(self, x, script):
        """A Python program on host @x; its output."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name[x], sys.executable, "-c",
             script], check=True, capture_output=True, text=True,
            timeout=30).stdout


class HostsTest(boot.MachineTest):
    delay_us = DELAY_US

    @classmethod
    def setUpClass(cls):
        cls.wire = Wire()
        cls.addClassCleanup(cls.wire.remove)
        cls.wire.start(cls.delay_us)

    def setUp(self):
        super().setUp()
        self.dir = tempfile.mkdtemp(prefix="chimera-hosts-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.key = self.file("two-hosts.key", KEY + "\n")
        os.chmod(self.key, 0o600)

    def tearDown(self):
        """However a test ended, nothing runs on either host."""
        for x in "ab":
            deadline = time.monotonic() + 5
            while True:
                pids = subprocess.run(
                    ["ip", "netns", "pids", self.wire.name[x]],
                    capture_output=True, text=True, check=True).stdout.split()
                if not pids:
                    break
                for pid in pids:
                    self.wait_for_end(int(pid), deadline)

    def wait_for_end(self, pid, deadline):
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        with os.fdopen(fd, "rb", buffering=0):
            left = max(0, deadline - time.monotonic())
            self.assertTrue(select.select([fd], [], [], left)[0], pid)

    def file(self, name, text):
        at = os.path.join(self.dir, name)
        with open(at, "w", encoding="utf-8") as f:
            f.write(text)
        return at

    def conf(self, *changes, machine=""):
        """The example, with this test's hosts and further changes."""
        with open(EXAMPLE, encoding="utf-8") as f:
            text = f.read()
        for old, new in (
                ("ssh -o BatchMode=yes", "ip netns exec"),
                ("host=host-a", "host=" + self.wire.name["a"]),
                ("host=host-b", "host=" + self.wire.name["b"]),
                ("memory=1G", "memory=512M"),
                ("[machine]\n", "[machine]\nname=hosts\n" + machine),
                *changes):
            self.assertIn(old, text)
            text = text.replace(old, new)
        return self.file("hosts.conf", text)

    def fails(self, config, *parts):
        err = self.chimera("run", "-q", "--logs", self.logs, config, "--",
                           "true", code=125).stderr
        for part in parts:
            self.assertIn(part, err)
        return err


class Wires(HostsTest):
    """What the other tests stand on."""

    delay_us = 20000

    def test_delay_and_order(self):
        listener = subprocess.Popen(
            ["ip", "netns", "exec", self.wire.name["a"], sys.executable,
             "-c", "import socket\n"
             "s = socket.create_server(('192.0.2.1', 7))\n"
             "print('ready', flush=True)\n"
             "c = s.accept()[0]\n"
             "while True:\n"
             "    d = c.recv(65536)\n"
             "    if not d: break\n"
             "    c.sendall(d)\n"], stdout=subprocess.PIPE, text=True)
        self.addCleanup(listener.stdout.close)
        self.addCleanup(listener.wait)
        listener.stdout.readline()
        out = self.wire.run(
            "b", "import os, socket, time\n"
            "s = socket.create_connection(('192.0.2.1', 7))\n"
            "for i in range(5):\n"
            "    t = time.monotonic(); s.send(b'x'); s.recv(1)\n"
            "    print(time.monotonic() - t)\n"
            "data = os.urandom(1 << 20); back = b''\n"
            "for at in range(0, len(data), 4096):\n"
            "    s.sendall(data[at:at + 4096])\n"
            "while len(back) < len(data): back += s.recv(65536)\n"
            "print(back == data)\n")
        *times, same = out.split()
        self.assertEqual(same, "True")
        for seconds in map(float, times):
            self.assertGreaterEqual(seconds, 0.04)
        self.assertLess(min(map(float, times)), 0.06)


class Machine(HostsTest, boot.Kernel):
    """The driver's tests between two hosts."""

    test_malformed = test_pressure = test_fused_pressure = None
    test_unplug = test_ports = None

    def run_guest(self, script, config=None, **keys):
        return super().run_guest(script, config=config or self.conf(), **keys)

    def test_segments(self):
        """One leads, and with less memory: each page takes 2 to 4 ms."""
        self.assert_summary(self.run_guest(
            "onnode 1 ./aarch64/segments follow & "
            "./x86_64/segments lead 1 4; a=$?; wait; exit $a", timeout=570))

    def test_lsnodes(self):
        out = self.run_guest("lsnodes; onnode 1 uname -m")
        self.assertRegex(out, r"(?m)^\* +0 +x86 +x86_64 +2 +up ")
        self.assertRegex(out, r"(?m)^ +1 +arm +aarch64 +2 +up ")
        self.assertTrue(out.endswith("\naarch64\n"), out)

    def test_encrypted(self):
        """Nothing of a link is readable between the hosts."""
        seen = subprocess.Popen(
            ["ip", "netns", "exec", self.wire.name["w"], sys.executable, "-c",
             "import os, socket, sys\n"
             "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300)\n"
             "s.settimeout(0.1)\n"
             "print('ready', flush=True)\n"
             "n = bad = 0\n"
             "import select\n"
             "while not select.select([0], [], [], 0)[0]:\n"
             "    try: d = s.recv(70000)\n"
             "    except OSError: continue\n"
             "    n += len(d)\n"
             "    bad += b'DSM1' in d or b'chimera' in d\n"
             "print(n, bad)\n"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(seen.stdout.close)
        seen.stdout.readline()
        self.run_guest("onnode 1 true")
        seen.stdin.close()
        total, bad = map(int, seen.stdout.read().split())
        seen.wait()
        self.assertGreater(total, 10000)
        self.assertEqual(bad, 0)

    def test_node_dies(self):
        """A host that is cut off is noticed, the other goes on."""
        name = self.up(self.conf(machine="heartbeat-ms=200\n"
                                         "peer-timeout-ms=1000\n"))
        pid = self.status(name)["nodes"][1]["pid"]
        os.kill(pid, 9)
        deadline = time.monotonic() + 20
        while "down" not in self.chimera("exec", f"{name}/0", "--", "cat",
                                         "/sys/devices/system/chimera/node1/"
                                         "state").stdout:
            self.assertLess(time.monotonic(), deadline)
        self.assertEqual(self.status(name)["nodes"][1]["state"], "down")
        self.chimera("down", name)


class Hops(HostsTest):
    """Threads of one process on two hosts."""

    def test_matrix(self):
        programs = boot.path("libexec", "chimera", "migrate")
        if not os.path.exists(os.path.join(programs, "test")):
            self.skipTest("no programs that can move "
                          "(./bootstrap build migrate)")
        self.assert_summary(self.run_guest(
            "./test/run CHIMERA_EVERY=2 -- struct", share=programs,
            config=self.conf(), timeout=570))


class Refused(HostsTest):
    """What is not as it should be is said, at once or by boot-timeout."""

    SHORT = "boot-timeout=10\n"

    def test_key_is_missing(self):
        os.unlink(self.key)
        err = self.fails(self.conf(), "two-hosts.key: No such file")
        self.assertRegex(err, r"host chimera-\d+-[ab]: .*:key: ")

    def test_key_is_everybodys(self):
        os.chmod(self.key, 0o644)
        self.fails(self.conf(), "two-hosts.key: its mode is 0644, so others "
                   "could use the key; it must be 0600 or stricter")

    def test_no_key(self):
        err = self.fails(self.conf(("key=two-hosts.key\n", "")))
        for address in ("192.0.2.1", "192.0.2.2"):
            self.assertRegex(err, rf":address: found tcp:{address}:7001, which "
                             "is not on the host's loopback")

    def test_other_key(self):
        """Each host has a file of that name, with a key of its own."""
        other = self.file("other.key", KEY[::-1] + "\n")
        os.chmod(other, 0o600)
        script = self.file("start", "#!/bin/sh\nhost=$1; shift\n"
                           f"[ $host = {self.wire.name['a']} ] ||\n"
                           f"    mount --bind {other} {self.key}\n"
                           'exec "$@"\n')
        os.chmod(script, 0o755)
        err = self.fails(
            self.conf(("ip netns exec {host} {command}",
                       f"ip netns exec {{host}} {script} {{host}} {{command}}"),
                      machine=self.SHORT),
            "node x86 did not boot within 10 s (boot-timeout): it does not "
            "see all nodes", "192.0.2.2 port", "192.0.2.1 port 7001")
        self.assertRegex(err, r"connection from 192\.0\.2\.2 port \d+: TLS: "
                         r"192\.0\.2\.2 port \d+ has another key")
        self.assertRegex(err, r"connecting to node 0: TLS: "
                         r"192\.0\.2\.1 port 7001 has another key")

    def test_no_such_host(self):
        config = self.conf(("host=" + self.wire.name["b"], "host=nowhere"))
        self.fails(config, "node arm did not boot: host nowhere: "
                   "start-command ended with status 255 before chimera answered "
                   "there; is the host up, and ",
                   '| Cannot open network namespace "nowhere"')

    def test_wire_is_cut(self):
        """Both hosts answer, but not to each other."""
        self.wire.stop()
        self.addCleanup(self.wire.start, self.delay_us)
        err = self.fails(self.conf(machine=self.SHORT),
                         "node arm did not boot within 10 s (boot-timeout): "
                         "it does not see all nodes")
        # The first when ARP has given up, too.
        self.assertRegex(err, "connecting to node 0: (No route to host|"
                              "no complete handshake within 5000 ms)")

    def test_address_of_nobody(self):
        self.fails(self.conf(("tcp:192.0.2.2:", "tcp:192.0.2.3:")),
                   "found tcp:192.0.2.3:7001: Error binding to address")


def main():
    global RELAY
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    RELAY = os.path.abspath(sys.argv.pop(2))
    why = None
    if os.geteuid() != 0:
        why = "it takes root to make network namespaces"
    elif not shutil.which("ip"):
        why = "there is no ip(8)"
    else:
        try:
            Wire().remove()
        except subprocess.CalledProcessError as e:
            why = "no network namespaces: " + e.stderr.strip()
    if why:
        print("skipped: " + why)
        sys.exit(77)
    boot.COHERENCE = "dsm"
    boot.main()


if __name__ == "__main__":
    main()
