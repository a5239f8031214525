#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines on two hosts: network namespaces, with a wire between them that
takes time (relay.c), whose nodes are started by a command and linked by TLS.

    test_netns.py BUILD RELAY [CLASS[.METHOD]...]

BUILD is where ./bootstrap put its results. Exits with 77 (skipped), with the
reason, where there are no images or namespaces cannot be made.
CHIMERA_TEST_DELAY_US says how long the wire takes, each way (1000); beyond
that, what waits has that many times longer, for most of the time goes there.
"""

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "boot"))
import test_machine as boot  # noqa: E402

RELAY = ""
EXAMPLE = os.path.join(HERE, "..", "..", "isa-configs", "machines",
                       "two-hosts.conf")
DELAY_US = int(os.environ.get("CHIMERA_TEST_DELAY_US", "1000"))
SLOWER = max(1, -(-DELAY_US // 1000))
KEY = "0123456789abcdef" * 4


def ip(*args):
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)


class Wire:
    """Namespaces, each with an address, and one, w, between them."""

    def __init__(self, hosts="ab"):
        self.hosts = hosts
        self.name = {x: f"chimera-{os.getpid()}-{x}" for x in hosts + "w"}
        self.relay = None
        try:
            for name in self.name.values():
                ip("netns", "add", name)
            for i, x in enumerate(hosts):
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
             *self.hosts], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
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
    hosts = "ab"

    @classmethod
    def setUpClass(cls):
        cls.wire = Wire(cls.hosts)
        cls.addClassCleanup(cls.wire.remove)
        cls.wire.start(cls.delay_us)

    def setUp(self):
        super().setUp()
        self.addCleanup(self.check_that_nothing_runs)
        self.dir = tempfile.mkdtemp(prefix="chimera-hosts-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.key = self.file("two-hosts.key", KEY + "\n")
        os.chmod(self.key, 0o600)

    def check_that_nothing_runs(self):
        """However a test ended, nothing is left on either host."""
        for x in self.hosts:
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

    def conf_file(self, text):
        """Each configuration of a test has a file of its own."""
        return self.file(f"hosts-{len(os.listdir(self.dir))}.conf", text)

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
        return self.conf_file(text)

    def chimera(self, *args, timeout=boot.BOOT_S, **kwargs):
        return super().chimera(*args, timeout=timeout * SLOWER, **kwargs)

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
        return super().run_guest(f"export CHIMERA_TEST_SLOWER={SLOWER}; {script}",
                                 config=config or self.conf(), **keys)

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

    def setUp(self):
        super().setUp()
        self.programs = boot.path("libexec", "chimera", "migrate")
        if not os.path.exists(os.path.join(self.programs, "test")):
            self.skipTest("no programs that can move "
                          "(./bootstrap build migrate)")

    def test_matrix(self):
        self.assert_summary(self.run_guest(
            f"CHIMERA_TEST_TIMEOUT={100 * SLOWER} "
            "./test/run CHIMERA_EVERY=2 -- struct", share=self.programs,
            config=self.conf(), timeout=570))

    def test_churn(self):
        """Memory that changes under threads on both, and is short."""
        swap = boot.Kernel.SWAP.replace("128M", "256M")
        self.assertEqual(self.run_guest(
            f"{swap} && ./test/churn {40 + 10 * SLOWER} && echo end",
            share=self.programs, timeout=boot.BOOT_S + 60,
            config=self.conf(("memory=512M", "memory=256M"))), "OK\nend\n")


class Programs(HostsTest, boot.Migration):
    """What moves on one host moves between two; it takes a while."""

    # These have configurations of their own.
    test_churn = test_cpus = test_requests_from_host = None
    test_silent_node = test_three_nodes = test_together = None

    def nodes(self, *changes):
        return self.conf(("cpus=2", "cpus=1"), ("memory=512M", "memory=256M"),
                         *changes)

    def x86_first(self):
        return self.nodes(("[node x86]", "[node x860]"),
                          ("[node arm]", "[node arm1]"))

    def arm_first(self):
        return self.nodes(
            ("[node x86]\nisa=x86_64", "[node arm0]\nisa=aarch64"),
            ("[node arm]\nisa=aarch64", "[node x861]\nisa=x86_64"))

    def matrix(self, config, settings, *programs):
        """As often as on one host would be some 100,000 hops of 30 ms."""
        settings = re.sub(r"EVERY=\d+", "EVERY=97", settings)
        settings = re.sub(r"(RANDOM=\d+),\d+", r"\1,150", settings)
        super().matrix(config, settings, *programs)

    def run_guest(self, script, timeout=0, **keys):
        return super().run_guest(
            f"export CHIMERA_TEST_TIMEOUT={500 * SLOWER}; {script}",
            timeout=max(timeout, 3000), **keys)


class Ssh(HostsTest):
    """The example as it stands: its hosts a and b by ssh, from a third one."""

    hosts = "abc"

    @classmethod
    def setUpClass(cls):
        cls.sshd = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
        if not cls.sshd or not shutil.which("ssh"):
            raise unittest.SkipTest("there is no sshd(8) or no ssh(1)")
        super().setUpClass()

    def setUp(self):
        super().setUp()
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "",
                            "-f", os.path.join(self.dir, name)], check=True)
        shutil.copy(os.path.join(self.dir, "user.pub"),
                    os.path.join(self.dir, "authorized"))
        config = self.file(
            "sshd_config", f"HostKey {self.dir}/host\nUsePAM no\n"
            f"AuthorizedKeysFile {self.dir}/authorized\nStrictModes no\n"
            "PermitRootLogin prohibit-password\nPasswordAuthentication no\n"
            "PidFile none\n")
        self.ssh_config = self.file(
            "ssh_config", f"IdentityFile {self.dir}/user\n"
            f"UserKnownHostsFile {self.dir}/known\nUser root\n"
            "StrictHostKeyChecking accept-new\nLogLevel ERROR\n" + "".join(
                f"Host host-{x}\nHostName 192.0.2.{i + 1}\n"
                for i, x in enumerate("ab")))
        self.daemons = {}
        for x in "ab":
            self.daemons[x] = subprocess.Popen(
                ["ip", "netns", "exec", self.wire.name[x], self.sshd, "-D",
                 "-e", "-f", config], stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True)
            self.addCleanup(self.daemons[x].stderr.close)
            while "listening on 0.0.0.0" not in (
                    line := self.hear(self.daemons[x].stderr)):
                self.assertTrue(line, "sshd ends")

    def tearDown(self):
        for daemon in self.daemons.values():
            daemon.terminate()
            daemon.wait(10)
        super().tearDown()

    def chimera(self, *args, **kwargs):
        """From host c."""
        with unittest.mock.patch.object(boot, "CHIMERA", self.enter):
            return super().chimera(boot.path("bin", "chimera"), *args, **kwargs)

    @property
    def enter(self):
        script = self.file("enter", "#!/bin/sh\nexec ip netns exec "
                           f"{self.wire.name['c']} \"$@\"\n")
        os.chmod(script, 0o755)
        return script

    def conf(self, *changes, machine=""):
        with open(EXAMPLE, encoding="utf-8") as f:
            text = f.read()
        for old, new in (("ssh -o", f"ssh -F {self.ssh_config} -o"),
                         ("memory=1G", "memory=512M"),
                         ("[machine]\n", "[machine]\nname=hosts\n" + machine),
                         *changes):
            self.assertIn(old, text)
            text = text.replace(old, new)
        return self.conf_file(text)

    def running(self, x, name="qemu"):
        """Processes on a host."""
        pids = subprocess.run(
            ["ip", "netns", "pids", self.wire.name[x]], capture_output=True,
            text=True, check=True).stdout.split()
        found = []
        for pid in pids:
            try:
                with open(f"/proc/{pid}/comm", encoding="ascii") as f:
                    found += [int(pid)] if f.read().startswith(name) else []
            except OSError:
                pass  # it has ended
        return found

    def test_run(self):
        out = self.run_guest("lsnodes; onnode 1 uname -m",
                             config=self.conf())
        self.assertRegex(out, r"(?m)^\* +0 +x86 +x86_64 +2 +up ")
        self.assertTrue(out.endswith("\naarch64\n"), out)

    def test_ssh_is_killed(self):
        """The node ends, there too, and the machine goes on."""
        name = self.up(self.conf())
        near = self.status(name)["nodes"][1]["pid"]
        with open(f"/proc/{near}/task/{near}/children", encoding="ascii") as f:
            ssh = int(f.read())
        qemu, = self.running("b")
        os.kill(ssh, 9)
        self.wait_for_end(qemu, time.monotonic() + 10)
        self.wait_for_end(near, time.monotonic() + 10)
        node = self.status(name)["nodes"][1]
        self.assertEqual(node["state"], "down")
        self.assertEqual(node["reason"], "host host-b: the connection is lost: "
                         "start-command was killed by signal 9")
        self.assertEqual(self.chimera("exec", f"{name}/0", "--", "uname", "-m")
                         .stdout, "x86_64\n")
        self.chimera("down", name)

    def test_interrupt(self):
        """When run returns, nothing is left on the hosts."""
        run = subprocess.Popen(
            [self.enter, boot.path("bin", "chimera"), "run", "-q", "--logs",
             self.logs, self.conf(), "--", "/bin/sh", "-c",
             "echo ready; exec sleep 1000"],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self.addCleanup(run.stdout.close)
        self.assertEqual(self.hear(run.stdout), "ready\n")
        self.assertEqual(len(self.running("a") + self.running("b")), 2)
        run.send_signal(signal.SIGINT)
        self.assertEqual(run.wait(30), 130)
        self.assertEqual(self.running("a") + self.running("b"), [])

    def test_wire_is_cut(self):
        """Both ends notice that the other one is silent, and end."""
        name = self.up(self.conf())
        there = self.running("a") + self.running("b")
        near = [n["pid"] for n in self.status(name)["nodes"]]
        self.wire.stop()
        self.addCleanup(self.wire.start, self.delay_us)
        deadline = time.monotonic() + 45
        for pid in there + near:
            self.wait_for_end(pid, deadline)
        for node in self.status(name)["nodes"]:
            self.assertEqual((node["state"], node["reason"]),
                             ("down", f"host {node['host']}: no sign of the "
                              "other side for 30 s"))
        self.chimera("down", name)
        for x in "ab":
            for pid in self.running(x, "sshd"):
                os.kill(pid, 9)  # these would take minutes to notice

    def test_host_does_not_answer(self):
        self.daemons["b"].terminate()
        self.daemons["b"].wait(10)
        self.fails(self.conf(), "node arm did not boot: host host-b: "
                   "start-command ended with status 255 before chimera answered "
                   "there", "| ssh: connect to host 192.0.2.2 port 22: "
                   "Connection refused")

    def test_login_is_refused(self):
        os.unlink(os.path.join(self.dir, "authorized"))
        self.fails(self.conf(), "start-command ended with status 255 before "
                   "chimera answered there", "Permission denied (publickey")


class Refused(HostsTest):
    """What is not as it should be is said, at once or by boot-timeout."""

    SHORT = "boot-timeout=20\n"

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
                       f"ip netns exec {{host}} {script} {{host}} {{command}}")))
        self.assertRegex(
            err, r"hosts-\d+\.conf:\d+:key: nodes (x86 and arm|arm and x86) have "
            r"different keys: \S+/two-hosts\.key is not the same on host "
            r"chimera-\d+-[ab] as on host chimera-\d+-[ab]; copy")
        self.assertNotIn("boot-timeout", err)

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
                         "node arm did not boot within 20 s (boot-timeout): "
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
