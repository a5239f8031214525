# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole machines, as users run them.

    test_machine.py BUILD [CLASS[.METHOD]...]

BUILD is where ./bootstrap put its results. Exits with 77 (skipped) when there
are no images. With CHIMERA_COHERENCE=dsm in the environment all machines use
the page protocol, with CHIMERA_LINKS=tcp besides by TCP; with
CHIMERA_KERNEL=debug all nodes have the kernels that
./bootstrap build kernel:debug makes. The logs of every machine (consoles,
QEMUs) stay in BUILD/log/boot/TEST.
"""

import contextlib
import ctypes
import glob
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

BUILD = ""
CHIMERA = ""
GUEST = ""
X86_ARM = ""
COHERENCE = os.environ.get("CHIMERA_COHERENCE", "shared")
LINKS = os.environ.get("CHIMERA_LINKS", "unix")
KERNEL = os.environ.get("CHIMERA_KERNEL", "")
BOOT_S = 600 if KERNEL else 120
COMPLAINT = re.compile(
    r"BUG: |WARNING: |KASAN: |Oops|Kernel panic|rcu: INFO: |Call [Tt]race:|"
    r"INFO: task .* blocked for more than")


def path(*parts):
    return os.path.join(BUILD, *parts)


def kernel_line(isa):
    """What a node's section says of its kernel: of kind KERNEL, if given."""
    return (f"kernel={path('images', isa, 'kernel-' + KERNEL)}\n" if KERNEL
            else "")


def with_tcp(text):
    """The machine file TEXT, in which all nodes listen at ports of their own."""
    with contextlib.ExitStack() as taken:
        def listen(section):
            s = taken.enter_context(socket.socket())
            s.bind(("127.0.0.1", 0))
            return (f"{section.group()}\n"
                    f"address=tcp:127.0.0.1:{s.getsockname()[1]}")

        return re.sub(r"(?m)^\[node .*\]$", listen, text)


def write_config(name, nodes, machine="", node="", cpus=1):
    """A machine file of NODES, a string like "xaa": one letter a node."""
    isas = {"x": ("x86", "x86_64"), "a": ("arm", "aarch64")}
    text = (f"[machine]\nname={name}\ncoherence={COHERENCE}\n"
            f"boot-timeout={BOOT_S}\n{machine}\n")
    for index, letter in enumerate(nodes):
        prefix, isa = isas[letter]
        text += (f"[node {prefix}{index}]\nisa={isa}\ncpus={cpus}\n"
                 f"memory=256M\n{kernel_line(isa)}{node}\n")
    if LINKS == "tcp":
        text = with_tcp(text)
    with tempfile.NamedTemporaryFile(
            "w", suffix=".conf", prefix=name, delete=False) as f:
        f.write(text)
    return f.name


class Core:
    """A core dump: who was there, and what stood in the memory."""

    def __init__(self, name):
        with open(name, "rb") as f:
            head = f.read(64)
            assert head[:5] == b"\x7fELF\x02", head
            at, = struct.unpack_from("<Q", head, 32)
            size, count = struct.unpack_from("<HH", head, 54)
            f.seek(at)
            table = f.read(size * count)
        self.name = name
        self.loads, self.notes = [], []
        for i in range(count):
            kind, _, offset, va, _, there, _, _ = struct.unpack_from(
                "<IIQQQQQQ", table, i * size)
            if kind == 1:
                self.loads.append((va, offset, there))
            elif kind == 4:
                self.read_notes(offset, there)

    def read_notes(self, at, size):
        with open(self.name, "rb") as f:
            f.seek(at)
            data = f.read(size)
        at = 0
        while at < len(data):
            name, desc, kind = struct.unpack_from("<III", data, at)
            at += 12 + (name + 3 & ~3)
            self.notes.append((kind, data[at:at + desc]))
            at += desc + 3 & ~3

    def threads(self):
        """The ids in the NT_PRSTATUS notes."""
        return [struct.unpack_from("<I", data, 32)[0]
                for kind, data in self.notes if kind == 1]

    def read(self, va, count):
        for start, offset, there in self.loads:
            if start <= va and va + count <= start + there:
                with open(self.name, "rb") as f:
                    f.seek(offset + va - start)
                    return f.read(count)
        return None


class MachineTest(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.logs = path("log", "boot", self.id().split(".", 1)[1])
        os.makedirs(self.logs, exist_ok=True)
        for old in self.consoles():
            os.unlink(old)
        self.addCleanup(self.check_consoles)

    def consoles(self):
        return glob.glob(os.path.join(self.logs, "console-*.log"))

    def check_consoles(self):
        """No kernel of the test's machines has complained."""
        for console in self.consoles():
            with open(console, encoding="utf-8", errors="replace") as f:
                for line in f:
                    self.assertNotRegex(line, COMPLAINT, console)

    def chimera(self, *args, timeout=BOOT_S, code=0, **kwargs):
        """Run the launcher; its output, after its exit code was checked."""
        done = subprocess.run([CHIMERA, *args], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=timeout,
                              check=False, **kwargs)
        if code is not None:
            self.assertEqual(done.returncode, code,
                             f"{args}\n{done.stdout}\n{done.stderr}")
        return done

    def hear(self, stream, timeout=BOOT_S):
        """The next line of a program's output, if it comes in time."""
        def late(*_):
            raise TimeoutError(f"no line of output within {timeout} s")

        before = signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        try:
            return stream.readline()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def run_guest(self, script, config=None, timeout=BOOT_S, code=0,
                  options=(), share=None):
        """Run a shell script on a new machine's first node."""
        return self.chimera("run", "-q", "--logs", self.logs, "--share",
                            share or GUEST, *options, config or X86_ARM, "--", "/bin/sh", "-c",
                            script, timeout=timeout, code=code).stdout

    def assert_summary(self, output):
        """Every "N passed, N failed" line counts something and no failure."""
        lines = re.findall(r"^(\d+) passed, (\d+) failed", output, re.M)
        self.assertTrue(lines, output)
        for passed, failed in lines:
            self.assertEqual(failed, "0", output)
            self.assertGreater(int(passed), 0, output)

    def up(self, config, share=None, options=()):
        self.chimera("up", "-q", "--logs", self.logs, "--share",
                     share or GUEST, *options, config)
        name = os.path.basename(config)
        with open(config, encoding="utf-8") as f:
            name = re.search(r"^name=(.*)$", f.read(), re.M).group(1)
        self.addCleanup(self.chimera, "down", name, code=None)
        return name

    def qmp(self, name, node, command):
        base = os.environ.get("XDG_RUNTIME_DIR")
        base = (os.path.join(base, "chimera") if base else
                f"/tmp/chimera-{os.getuid()}")
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(30)
            s.connect(os.path.join(base, name, f"qmp-{node}.sock"))
            with s.makefile("rw", encoding="utf-8") as f:
                f.readline()
                for what in ("qmp_capabilities", command):
                    f.write(json.dumps({"execute": what}) + "\n")
                    f.flush()
                    while "return" not in json.loads(f.readline()):
                        pass

    def status(self, name):
        return json.loads(self.chimera("status", "--json", name).stdout)[0]


class MainJob(MachineTest):
    def test_wordcount(self):
        """The example agrees with the host's own tools."""
        done = subprocess.run(
            [path("..", "guest-user", "examples", "wordcount", "run")],
            capture_output=True, text=True, timeout=280, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("OK: counts agree", done.stdout)
        for isa in ("x86_64", "aarch64"):
            row = re.search(rf"^\S+ +{isa} +\d+ +(\d+) ", done.stdout, re.M)
            self.assertGreater(int(row.group(1)), 0, done.stdout)

    def test_relay(self):
        """What ./bootstrap run ends with: hops, and the host's counts."""
        if not os.path.exists(path("libexec", "chimera", "migrate", "relay")):
            self.skipTest("no relay (./bootstrap build migrate)")
        done = subprocess.run(
            [path("..", "migrate", "examples", "run")], capture_output=True,
            text=True, timeout=280, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout,
                         r"\nOK: [1-9]\d+ hops, counts agree\n$")
        for way in ("x86 -> arm", "arm -> x86"):
            self.assertRegex(done.stdout,
                             rf"(?m)^chimera: \d+: {way} in run$")
        for isa in ("x86_64", "aarch64"):
            row = re.search(rf"\({isa}\): (\d+) words in", done.stdout)
            self.assertGreater(int(row.group(1)), 0, done.stdout)

    def test_readme_command(self):
        out = self.run_guest("lsnodes; uname -m")
        self.assertRegex(out, r"(?m)^\* +0 +x86 +x86_64 +2 +up ")
        self.assertRegex(out, r"(?m)^ +1 +arm +aarch64 +2 +up ")
        self.assertTrue(out.endswith("\nx86_64\n"), out)


class Kernel(MachineTest):
    """The driver's own tests, led by each ISA in turn."""

    SWAP = ("echo 128M > /sys/block/zram0/disksize && "
            "mkswap /dev/zram0 > /dev/null && swapon /dev/zram0")

    def both_ways(self, program, before="true", config=None, lead="lead",
                  more=""):
        # Each node leads once; the other one follows.
        out = self.run_guest(
            f"{before} || exit; onnode 1 ./aarch64/{program} follow & "
            f"./x86_64/{program} {lead} 1 {more}; a=$?; wait; "
            f"./x86_64/{program} follow & "
            f"onnode 1 ./aarch64/{program} {lead} 0 {more}; b=$?; wait; "
            "exit $((a | b))", timeout=280, config=config)
        self.assert_summary(out)

    def test_nodes(self):
        self.both_ways("nodes")

    def test_segments(self):
        self.both_ways("segments")

    def test_ports(self):
        self.both_ways("ports")

    def test_fused(self):
        """Threads of one process on both nodes, in the same pages."""
        self.both_ways("fused")

    def test_malformed(self):
        """A kernel that sends rubbish; at last the other gives it up."""
        for node, isa in enumerate(("x86_64", "aarch64")):
            name = self.up(write_config("boot-malformed", "xa"))
            other = "aarch64" if node == 0 else "x86_64"
            follow = subprocess.Popen(
                [CHIMERA, "exec", f"{name}/{1 - node}", "--",
                 f"./{other}/malformed", "follow"],
                stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
            self.addCleanup(follow.stdout.close)
            out = self.chimera("exec", f"{name}/{node}", "--",
                               f"./{isa}/malformed", "lead", str(1 - node),
                               timeout=120)
            self.assert_summary(out.stdout)
            self.assert_summary(follow.communicate(timeout=60)[0])
            self.chimera("down", name)

    def test_pressure(self):
        """A segment's home swaps what the other node does not use."""
        self.both_ways("pressure",
                       before=f"{self.SWAP} && onnode 1 sh -c '{self.SWAP}'",
                       config=write_config("boot-pressure", "xa"))

    def test_fused_pressure(self):
        """Pages of a process swapped, merged, moved, while both use them."""
        self.both_ways("fused", lead="press", more="5",
                       before=f"{self.SWAP} && onnode 1 sh -c '{self.SWAP}'",
                       config=write_config("boot-press", "xa"))

    def test_unplug(self):
        """A kernel whose device is taken away is alone, and goes on."""
        for node, isa in enumerate(("x86_64", "aarch64")):
            name = self.up(write_config("boot-unplug", "xa"))
            follow = subprocess.Popen(
                [CHIMERA, "exec", f"{name}/{1 - node}", "--",
                 f"./{'aarch64' if node == 0 else 'x86_64'}/unplug", "follow"],
                stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
            out = self.chimera("exec", f"{name}/{node}", "--",
                               f"./{isa}/unplug", "lead", str(1 - node),
                               timeout=60)
            self.assert_summary(out.stdout)
            follow.wait(30)
            self.chimera("down", name)


class Memory(MachineTest):
    """Atomic operations and memory order between the ISAs."""

    def test_atomics(self):
        self.assert_summary(self.run_guest("./x86_64/atomics --nodes all",
                                           timeout=590))

    def test_atomics_notices(self):
        """The test of atomics can fail."""
        out = self.run_guest("./x86_64/atomics --nodes all --count 200000 "
                             "--broken", code=1)
        self.assertRegex(out, r"(?m)^\d+ passed, [1-9]\d* failed")

    @unittest.skipIf(COHERENCE == "dsm", "the page protocol has small pages")
    def test_huge_pages(self):
        """What a guest uses gets huge pages, what it does not use no page."""
        name = self.up(write_config("boot-huge", "xa"))
        self.chimera("exec", f"{name}/0", "--", "dd", "if=/dev/zero",
                     "of=/dev/shm/big", "bs=1M", "count=96")
        pid = self.status(name)["nodes"][0]["pid"]
        deadline = time.monotonic() + 30
        while True:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
                kib = dict(re.findall(r"^(\w+): +(\d+) kB", f.read(), re.M))
            if int(kib["ShmemPmdMapped"]) >= 96 << 10:
                break
            self.assertLess(time.monotonic(), deadline, kib)
            time.sleep(0.1)
        self.assertLess(int(kib["Pss_Shmem"]), 200 << 10)
        out = self.chimera("exec", f"{name}/0", "--", "/bin/sh", "-c",
                           "tr -d '\\0' < /dev/shm/big | wc -c").stdout
        self.assertEqual(out.strip(), "0")

    def test_litmus(self):
        self.assert_summary(self.run_guest(
            "./x86_64/litmus --nodes all --seconds 2", timeout=590))


class Nodes(MachineTest):
    def test_six_nodes(self):
        """Six nodes see each other; one that is killed is noticed by all."""
        name = self.up(write_config("boot-six", "xaxaxa"))
        status = self.status(name)
        pids = [node["pid"] for node in status["nodes"]]
        self.assertEqual([n["state"] for n in status["nodes"]], ["up"] * 6)
        for node in range(6):
            out = self.chimera("exec", f"{name}/{node}", "--", "/bin/sh", "-c",
                               "cat /sys/devices/system/chimera/node*/state"
                               ).stdout
            self.assertEqual(out.split(), ["up"] * 6)

        # Wait inside the guests for the event, so that its time is the
        # kernel's: each prints when its sysfs said so.
        watch = ("while :; do read s < /sys/devices/system/chimera/node3/state;"
                 " case $s in up) ;; *) echo $s; exit;; esac; done")
        watchers = {
            node: subprocess.Popen(
                [CHIMERA, "exec", f"{name}/{node}", "--", "/bin/sh", "-c",
                 "echo watching; " + watch],
                stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
            for node in range(6) if node != 3}
        for watcher in watchers.values():
            self.assertEqual(self.hear(watcher.stdout), "watching\n")
        killed = time.monotonic()
        os.kill(pids[3], signal.SIGKILL)
        for node, watcher in watchers.items():
            said = self.hear(watcher.stdout).strip()
            self.assertIn(said, ("down", "fenced"), f"node {node}")
            self.assertEqual(watcher.wait(30), 0)
            watcher.stdout.close()
        self.assertLess(time.monotonic() - killed, 2)
        node = self.status(name)["nodes"][3]
        while node["state"] == "up" and time.monotonic() - killed < 10:
            # the supervisor may hear of it after the guests
            node = self.status(name)["nodes"][3]
        self.assertEqual(node["state"], "down")
        self.assertIn("9", node["reason"])
        # The others go on.
        out = self.chimera("exec", f"{name}/0", "--", "onnode", "5",
                           "uname", "-m").stdout
        self.assertEqual(out, "aarch64\n")
        self.chimera("down", name)
        for pid in pids:
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    def test_losses(self):
        """What a program sees of a lost node, in every way it can wait."""
        name = self.up(write_config("boot-losses", "xa"))
        pid = self.status(name)["nodes"][1]["pid"]
        lead = subprocess.Popen(
            [CHIMERA, "exec", f"{name}/0", "--", "./x86_64/losses", "lead",
             "1"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self.addCleanup(lead.stdout.close)
        follow = subprocess.Popen(
            [CHIMERA, "exec", f"{name}/1", "--", "./aarch64/losses", "follow"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL, text=True)
        self.addCleanup(follow.stdout.close)
        self.assertEqual(self.hear(follow.stdout), "kill node 1 now\n")
        os.kill(pid, signal.SIGKILL)
        follow.wait(30)
        out = lead.communicate(timeout=90)[0]
        self.assert_summary(out)
        self.assertEqual(lead.returncode, 0, out)

    def lose_node_1(self, name, lead, follow, timeout=60):
        """LEAD on node 0 says when node 1, with FOLLOW, is to be killed, and
        what it saw of that."""
        pid = self.status(name)["nodes"][1]["pid"]
        lead = subprocess.Popen(
            [CHIMERA, "exec", f"{name}/0", "--", *lead],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self.addCleanup(lead.stdout.close)
        follow = subprocess.Popen(
            [CHIMERA, "exec", f"{name}/1", "--", *follow],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL)
        self.assertEqual(self.hear(lead.stdout), "kill node 1 now\n")
        os.kill(pid, signal.SIGKILL)
        follow.wait(30)
        out = lead.communicate(timeout=timeout)[0]
        self.assert_summary(out)
        self.assertEqual(lead.returncode, 0, out)

    def test_peer_of_process_killed(self):
        """A process with threads on a lost node hears of it and lives."""
        self.lose_node_1(self.up(write_config("boot-fused", "xa")),
                         ("./x86_64/fused", "lose", "1"),
                         ("./aarch64/fused", "follow"))

    def pages_of_node_killed(self, letters, home, peer):
        """What only a lost node had is an error for programs, never zeros."""
        self.lose_node_1(self.up(write_config("boot-pages", letters, cpus=2)),
                         (f"./{home}/lost", "lead", "1"),
                         (f"./{peer}/lost", "follow"), timeout=90)

    def test_pages_of_node_killed(self):
        self.pages_of_node_killed("xa", "x86_64", "aarch64")

    def test_pages_of_node_killed_arm(self):
        self.pages_of_node_killed("ax", "aarch64", "x86_64")

    def test_home_of_process_killed(self):
        """Its stubs vanish from the other nodes."""
        name = self.up(write_config("boot-stub", "xa"))
        pid = self.status(name)["nodes"][0]["pid"]
        follow = subprocess.Popen(
            [CHIMERA, "exec", f"{name}/1", "--", "./aarch64/fused", "bury"],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self.addCleanup(follow.stdout.close)
        home = subprocess.Popen(
            [CHIMERA, "exec", f"{name}/0", "--", "./x86_64/fused", "lose",
             "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL, text=True)
        self.addCleanup(home.stdout.close)
        self.assertEqual(self.hear(home.stdout), "kill node 1 now\n")
        os.kill(pid, signal.SIGKILL)
        home.wait(30)
        self.assert_summary(follow.communicate(timeout=60)[0])

    def test_home_of_segment_killed(self):
        """Access to a lost node's memory is SIGBUS, never a hang."""
        name = self.up(write_config("boot-lost", "xa"))
        pid = self.status(name)["nodes"][1]["pid"]
        home = subprocess.Popen(
            [CHIMERA, "exec", f"{name}/1", "--", "/bin/sh", "-c",
             "chimera-seg create lost 1M >&2 && echo made && cat"],
            stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        self.assertEqual(self.hear(home.stdout), "made\n")
        out = self.chimera("exec", f"{name}/0", "--", "chimera-seg", "list")
        self.assertIn("lost", out.stdout)
        os.kill(pid, signal.SIGKILL)
        home.communicate(timeout=30)
        out = self.chimera("exec", f"{name}/0", "--", "/bin/sh", "-c",
                           "chimera-seg hexdump lost 0 16; echo status $?",
                           timeout=30)
        self.assertNotIn("status 0", out.stdout)


    @unittest.skipIf(COHERENCE != "shared", "nothing is shared that it harms")
    def test_stopped_process(self):
        """A QEMU that is stopped for too long does not go on."""
        name = self.up(write_config("boot-stopped", "xa", machine=(
            "heartbeat-ms=200\npeer-timeout-ms=1000\n")))
        pid = self.status(name)["nodes"][1]["pid"]
        os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while (node := self.status(name)["nodes"][1])["state"] != "down":
            self.assertLess(time.monotonic(), deadline)
        self.assertRegex(node["reason"], r"^node x860 says it is down: .*silent "
                         r"for \d+ ms; so it was killed$")
        self.assertEqual(self.chimera("exec", f"{name}/0", "--", "cat",
                                      "/sys/devices/system/chimera/node1/state"
                                      ).stdout, "down\n")


class Migration(MachineTest):
    """Programs of chimera-cc whose threads move between the nodes."""

    def setUp(self):
        super().setUp()
        self.programs = path("libexec", "chimera", "migrate")
        if not os.path.exists(os.path.join(self.programs, "relay")):
            self.skipTest("no programs that can move "
                          "(./bootstrap build migrate)")

    def migrating(self, script, code=0, **kwargs):
        kwargs.setdefault("config", self.x86_first())
        return self.run_guest(script, code=code, share=self.programs, **kwargs)

    def matrix(self, config, settings, *programs):
        out = self.migrating(f"./test/run {settings} -- {' '.join(programs)}",
                             config=config, code=None, timeout=280)
        self.assert_summary(out)

    def x86_first(self):
        return write_config("boot-x86-home", "xa")

    def arm_first(self):
        return write_config("boot-arm-home", "ax")

    def test_relay(self):
        """The example of the README, with its trace."""
        for config in (self.x86_first(), self.arm_first()):
            out = self.migrating(
                "cat /etc/passwd ./test/run > /tmp/text; for i in 1 2 3 4 5; "
                "do cat /tmp/text /tmp/text > /tmp/more; "
                "mv /tmp/more /tmp/text; done; "
                "CHIMERA_TRACE=1 ./relay /tmp/text 2>&1", config=config)
            self.assertIn("\nOK: ", out)
            moves = re.findall(r"^chimera: \d+: (\S+) -> (\S+) in run$", out,
                               re.M)
            self.assertGreater(len(moves), 4, out)
            for isa in ("x86_64", "aarch64"):
                done = re.search(rf"\({isa}\): (\d+) words in", out)
                self.assertGreater(int(done.group(1)), 0, out)

    def test_matrix(self):
        """What moves by itself: every program, home on x86_64."""
        self.matrix(self.x86_first(), "CHIMERA_EVERY=2 CHIMERA_RANDOM=1,5",
                    "address", "api", "computed", "deep", "hanoi", "heap",
                    "jump", "loop", "pointer", "recursion", "signals",
                    "struct", "threads", "variadic")

    def test_matrix_home_on_arm(self):
        self.matrix(self.arm_first(), "CHIMERA_EVERY=2",
                    "address", "hanoi", "heap", "jump", "pointer", "signals",
                    "struct", "threads", "variadic")

    def test_three_nodes(self):
        """Segments that home passes on, and nodes of home's own ISA."""
        self.matrix(write_config("boot-three", "xax"),
                    "CHIMERA_EVERY=2 CHIMERA_RANDOM=2,5", "api", "heap",
                    "jump", "pointer", "struct", "threads")

    def test_processes(self):
        """fork, exec and spawn by threads that are away."""
        for config in (self.x86_first(), self.arm_first()):
            self.matrix(config, "X=1 CHIMERA_RANDOM=3,4", "fork")

    def test_faults(self):
        for config in (self.x86_first(), self.arm_first()):
            self.matrix(config, "X=1", "fault")

    def test_memory(self):
        for config in (self.x86_first(), self.arm_first()):
            self.matrix(config, "X=1 CHIMERA_EVERY=3", "memory")

    def test_threads(self):
        """Two processes of eight threads at once, homes on different ISAs."""
        out = self.migrating(
            "onnode 1 ./test/run X=1 CHIMERA_RANDOM=5,6 -- stress threads & "
            "./test/run X=1 CHIMERA_RANDOM=7,8 -- stress threads; a=$?; "
            "wait $!; exit $((a | $?))", code=None)
        self.assert_summary(out)
        self.assertEqual(out.count(" passed, 0 failed"), 2, out)

    def test_together(self):
        """4+4 threads on 2+2 CPUs, twice at once, homes on different ISAs.

        CHIMERA_TOGETHER_OPERATIONS=1000000 is the long run.
        """
        operations = os.environ.get("CHIMERA_TOGETHER_OPERATIONS", "20000")
        out = self.migrating(
            f"onnode 1 ./test/together {operations} & "
            f"./test/together {operations}; a=$?; wait $!; exit $((a | $?))",
            config=write_config("boot-together", "xa", cpus=2),
            timeout=BOOT_S + int(operations) // 500)
        self.assertEqual(len(re.findall(r"^OK: \d+ operations$", out, re.M)), 2,
                         out)

    def test_requests(self):
        """chimera-migrate moves a thread there and back."""
        out = self.migrating(
            "mkfifo /tmp/f; ./test/wander 2 2 > /tmp/f & exec 3< /tmp/f; "
            "read -r a pid rest <&3; pid=${pid%,}; read -r a <&3; "
            "read -r a <&3; chimera-migrate $pid/$pid arm1; "
            "read -r a <&3; echo $a; chimera-migrate $pid x860; "
            "read -r a <&3; echo $a; wait; "
            "chimera-migrate $$ arm1; echo $?; chimera-migrate 1/2 none; "
            "echo $?", timeout=60)
        self.assertEqual(out.split("\n")[:4],
                         ["thread 0 now on 1", "thread 0 now on 0", "1", "1"])

    def test_requests_at_random(self):
        """Programs that know of nothing, sent about from outside."""
        for config in (self.x86_first(), self.arm_first()):
            out = self.migrating(
                "./test/herd 2 address computed deep hanoi heap jump loop "
                "pointer signals struct threads variadic",
                config=config, code=None, timeout=280)
            self.assert_summary(out)

    def test_requests_from_host(self):
        """chimera migrate, while eight threads work together."""
        config = write_config("boot-requests", "xa", cpus=2)
        name = self.up(config, self.programs)
        program = subprocess.Popen(
            [CHIMERA, "exec", f"{name}/0", "--", "/bin/sh", "-c",
             "echo $$; CHIMERA_TRACE=1 exec ./test/together 40000"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, text=True)
        pid = int(self.hear(program.stdout))
        asked, order = 0, random.Random(1)
        deadline = time.monotonic() + 240
        while program.poll() is None:
            self.assertLess(time.monotonic(), deadline)
            # Its threads have the ids that follow its own.
            who = order.choice([f"{pid}", f"{pid}/{pid}", f"{pid}/{pid + 3}"])
            done = self.chimera("migrate", who, order.choice(
                ["x860", "arm1", f"{name}/1", "0"]), code=None)
            asked += done.returncode == 0
        out, err = program.communicate(timeout=60)
        self.assertEqual(program.returncode, 0, out + err)
        self.assertRegex(out, r"(?m)^OK: \d+ operations$")
        self.assertGreater(asked, 5)
        for way in ("x860 -> arm1", "arm1 -> x860"):
            self.assertIn(f": {way} in ", err)

        done = self.chimera("migrate", "99999", "arm1", code=1)
        self.assertIn("chimera-migrate: there is no process 99999", done.stderr)
        done = self.chimera("migrate", "--home", "arm1", "1", "x860", code=1)
        self.assertIn("process 1 cannot move", done.stderr)
        done = self.chimera("migrate", "1", "x861", code=1)
        self.assertIn("no node 'x861'", done.stderr)

    def test_placement(self):
        """CHIMERA_PLACE, for a program that knows of no nodes."""
        out = self.migrating("CHIMERA_PLACE=spread ./test/wander 4 2")
        self.assertIn(", 2 CPUs", out)
        for thread, node in ((1, 1), (3, 1)):
            self.assertIn(f"thread {thread} now on {node}", out)
        self.assertNotIn("thread 2 now", out)

    def test_cpus(self):
        """sched_setaffinity() and its kin see and reach all nodes' CPUs."""
        for nodes, cpus in (("xa", 2), ("ax", 2), ("xax", 1)):
            out = self.migrating("./test/cpus", config=write_config(
                "boot-affinity", nodes, cpus=cpus))
            self.assertEqual(out, f"OK: {len(nodes) * cpus} CPUs on "
                             f"{len(nodes)} nodes\n")

    def test_inspect(self):
        """Processor time of a thread that is away; a debugger at home."""
        for config in (self.x86_first(), self.arm_first()):
            out = self.migrating("./test/inspect", config=config)
            self.assertEqual(out, "OK\n")

    def test_core(self):
        """A dump has all threads, and what they wrote on every node."""
        for config in (self.x86_first(), self.arm_first()):
            for where in ("home", "away"):
                with tempfile.TemporaryDirectory() as share:
                    shutil.copy(os.path.join(self.programs, "test", "inspect"),
                                share)
                    out = self.run_guest(f"./inspect {where}; echo status $?",
                                         config=config, share=share)
                    self.assertIn("status 139", out)
                    core = Core(os.path.join(share, "core"))
                    self.assertEqual(len(set(core.threads())), 2, out)
                    things = re.findall(r"^0x(\S+) (.*)$", out, re.M)
                    self.assertEqual(len(things), 6, out)
                    for va, text in things:
                        self.assertEqual(core.read(int(va, 16), len(text) + 1),
                                         text.encode() + b"\0", out)
                    for what in ("global", "local", "heap"):
                        self.assertIn(f"{what} of node 1", out)

    def test_churn(self):
        """Memory that changes under threads on all nodes, and is short.

        CHIMERA_CHURN_SECONDS=1800 is the long run.
        """
        seconds = os.environ.get("CHIMERA_CHURN_SECONDS", "20")
        swap = Kernel.SWAP.replace("128M", "256M")
        for nodes in ("xa", "ax"):
            out = self.migrating(
                f"{swap} && ./test/churn {seconds} && echo end",
                config=write_config("boot-churn", nodes, cpus=2),
                timeout=BOOT_S + 2 * int(seconds))
            self.assertEqual(out, "OK\nend\n")

    def test_cannot_take_part(self):
        """A node without the program's file: said, and done at home."""
        out = self.migrating("cp test/api /tmp/; /tmp/api 2>&1")
        self.assertRegex(out, r"chimera: node arm1: cannot start the program "
                         r"there: /tmp/api: ")
        self.assertIn("ok 0", out)

    def test_lost(self):
        """A stub that is killed takes its process along, and says why."""
        out = self.migrating(
            "CHIMERA_PLACE=arm1 ./test/wander 1 1000 > /tmp/out 2>&1 & "
            "p=$!; until grep -q 'now on 1' /tmp/out || ! kill -0 $p; do "
            "usleep 10000; done; onnode 1 killall -9 wander; wait $p; echo status $?; "
            "cat /tmp/out", timeout=60)
        self.assertIn("status 135", out)
        self.assertIn("chimera: node arm1: this program's process there has "
                      "ended: killed by signal 9", out)

    def test_threads_that_leave(self):
        """What served a thread that was ended is used for the next one."""
        out = self.migrating(
            "mkfifo /tmp/in /tmp/out; ./test/leave 60 < /tmp/in > /tmp/out & "
            "exec 3> /tmp/in 4< /tmp/out; read -r line <&4; echo $line; "
            "onnode 1 sh -c 'for p in /proc/[0-9]*; do read -r name < $p/comm; "
            "[ $name != leave ] || grep -c ^7fff $p/maps; done'; "
            "exec 3>&-; wait $!; echo status $?", timeout=120)
        said, maps, status = out.split("\n")[:3]
        self.assertEqual((said, status), ("60 of 60 left", "status 0"))
        # One or two stacks; with one for each thread it were 60 and more.
        self.assertLess(int(maps), 30)

    def test_silent_node(self):
        """A node that is up and does not answer holds nobody up for ever."""
        config = write_config("boot-silent", "xa",
                              node="append=chimera.peer_timeout=4")
        name = self.up(config, self.programs)
        program = subprocess.Popen(
            [CHIMERA, "exec", f"{name}/0", "--", "./test/silent"],
            stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        self.addCleanup(program.stdout.close)
        self.assertEqual(self.hear(program.stdout), "touched on 1\n")
        self.qmp(name, 1, "stop")
        program.stdin.write("go\n")
        program.stdin.close()
        self.assertEqual(self.hear(program.stdout), "unmapped\n")
        self.assertEqual(program.wait(60), 0)
        log = self.chimera("exec", f"{name}/0", "--", "dmesg").stdout
        self.assertRegex(log, r"node 1 \(arm1\): it does not give back memory "
                         r"of process \d+, for \d s")
        self.assertRegex(log, r"node 1 \(arm1\) is lost: it does not give back "
                         r"memory of process \d+")

    def test_node_lost(self):
        """A node that is killed takes the processes with threads there."""
        name = self.up(self.x86_first(), self.programs)
        pid = self.status(name)["nodes"][1]["pid"]
        there = subprocess.Popen(
            [CHIMERA, "exec", f"{name}/0", "--", "env", "CHIMERA_PLACE=1",
             "./test/wander", "1", "1000"], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        while "now on 1" not in self.hear(there.stdout):
            self.assertIsNone(there.poll())
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        _, err = there.communicate(timeout=30)
        self.assertLess(time.monotonic() - killed, 5)
        self.assertIn("chimera: node arm1: lost, with threads of this program "
                      "on it", err)
        self.assertEqual(there.returncode, 128 + signal.SIGBUS)


class Suites(MachineTest):
    """Real programs' own tests, hopping, on the machine.

    With CHIMERA_SUITES_LONG=1 all that jq has, which takes a quarter of an hour.
    """

    long = "SUITES_LONG=1 " if os.environ.get("CHIMERA_SUITES_LONG") else ""

    def suites(self, nodes, *settings):
        if not os.path.exists(path("bin", "chimera-cc")):
            self.skipTest("no chimera-cc (./bootstrap build migrate)")
        share = path("obj", "migrate", "real")
        sources = path("..", "tests", "migrate")
        for program in ("bzip2", "zlib", "lua", "jq"):
            done = subprocess.run(
                [os.path.join(sources, "build-real"), program],
                capture_output=True, text=True, timeout=800, check=False)
            if done.returncode == 77:
                self.skipTest(done.stderr.strip())
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for name in ("machine/suites", "real.lua"):
            shutil.copy(os.path.join(sources, name), share)
        self.assert_summary(self.run_guest(
            f"{self.long}./suites {' '.join(settings)}",
            config=write_config("boot-suites", nodes, cpus=2), code=None,
            share=share, timeout=5000 if self.long else 400))

    def test_home_on_x86(self):
        self.suites("xa", "CHIMERA_EVERY=1009", "asked")

    def test_home_on_arm(self):
        self.suites("ax", "CHIMERA_RANDOM=1,5000", "asked")


class Shootdown(MachineTest):
    """What one processor unmaps, no other one accesses any more."""

    # CHIMERA_SHOOTDOWN_ROUNDS=1000000 is the long run.
    rounds = os.environ.get("CHIMERA_SHOOTDOWN_ROUNDS", "1500")

    def shootdown(self, letter, cpus, node, code=0):
        text = write_config("boot-shootdown", letter, node=node)
        with open(text, encoding="utf-8") as f:
            config = f.read().replace("cpus=1", f"cpus={cpus}")
        with open(text, "w", encoding="utf-8") as f:
            f.write(config)
        isa = {"x": "x86_64", "a": "aarch64"}[letter]
        return self.run_guest(
            "grep TLB: /proc/interrupts; "
            f"./{isa}/shootdown --rounds {self.rounds}; a=$?; "
            "grep TLB: /proc/interrupts; exit $a", config=text, code=code,
            timeout=BOOT_S + int(self.rounds) // 50)

    def interrupts(self, output):
        """TLB shootdowns by interrupt while the program ran."""
        before, after = (sum(map(int, re.findall(r" (\d+)", line))) for line in
                         re.findall(r"TLB:.*", output))
        return after - before

    def test_ipi(self):
        for cpus in (2, 4):
            out = self.shootdown("x", cpus, "tlb-shootdown=ipi")
            self.assert_summary(out)
            self.assertGreater(self.interrupts(out), 100, out)

    def test_paravirt(self):
        for cpus in (2, 4):
            out = self.shootdown("x", cpus, "tlb-shootdown=paravirt")
            self.assert_summary(out)
            self.assertEqual(self.interrupts(out), 0, out)

    def test_omitted(self):
        """Without the other processors' flush the program must notice."""
        out = self.shootdown("x", 2, "tlb-shootdown=paravirt\n"
                             "cpu-model=max,x-tcg-tlb-flush-local=on", code=1)
        self.assertRegex(out, r"(?m)^FAILED: round \d+, ", out)

    def test_arm(self):
        """There a processor's TLBI reaches all others: nothing to choose."""
        self.assert_summary(self.shootdown("a", 4, ""))


class Links(MachineTest):
    """Where the nodes listen for each other."""

    @unittest.skipIf(COHERENCE == "shared", "memory is passed by unix sockets")
    def test_tcp(self):
        config = write_config("boot-tcp", "xa")
        if LINKS != "tcp":
            with open(config, "r+", encoding="utf-8") as f:
                text = with_tcp(f.read())
                f.seek(0)
                f.write(text)
        out = self.run_guest(
            "onnode 1 ./aarch64/segments follow & "
            "./x86_64/segments lead 1; a=$?; wait; exit $a", config=config)
        self.assert_summary(out)


class Monitor(MachineTest):
    """What top and report show of nodes that fight for a segment."""

    @unittest.skipIf(COHERENCE == "shared", "there are no page faults")
    def test_top_and_report(self):
        config = write_config("boot-monitor", "xa")
        with tempfile.TemporaryDirectory() as folder:
            recording = os.path.join(folder, "run.jsonl")
            name = self.up(config, options=("--record", recording))
            with subprocess.Popen(
                    [CHIMERA, "exec", f"{name}/0", "--", "./x86_64/litmus",
                     "--nodes", "all", "--seconds", "1"],
                    stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
                    text=True) as litmus:
                self.assertRegex(self.hear(litmus.stdout), "^ok ")
                out = self.chimera("top", "-b", "-n", "2", name).stdout
                litmus.terminate()
            frames = re.split(r"(?m)^(?=boot-monitor: )", out)[1:]
            self.assertEqual(len(frames), 2, out)
            for node in ("x86", "arm"):
                # faults of this second, bytes, and who has the segment
                row = re.search(rf"(?m)^  {node}\d +(\d+) +(\d+|-) ", frames[1])
                self.assertGreater(int(row.group(1)), 10, out)
                self.assertRegex(
                    frames[1], rf"(?m)^  {node}\d +x860 +\d+ +\d+ +\d+ % +"
                    r"segment team-0-\d+: litmus\[\d+\]$")
            page = os.path.join(folder, "run.html")
            self.chimera("report", name, "-o", page)
            self.chimera("down", name)
            whole = os.path.join(folder, "whole.html")
            self.chimera("report", recording, "-o", whole)
            for path_ in (page, whole):
                root = xml.etree.ElementTree.parse(path_).getroot()
                text = "".join(root.itertext())
                ids = [e.get("id") for e in root.iter() if e.get("id")]
                self.assertEqual(ids, ["configuration", "traffic", "heat",
                                       "latency", "prefetch", "messages"])
                self.assertIn("Memory of x860", text)
                self.assertRegex(text, r"segment team-0-\d+: litmus\[\d+\]")
                plots = [e for e in root.iter() if e.tag.endswith("}svg")]
                self.assertGreaterEqual(len(plots), 7)


class Code(MachineTest):
    """Code that another node writes; only where it may be executed."""

    # CHIMERA_CODE_ROUNDS=100000 is the long run.
    ROUNDS = int(os.environ.get("CHIMERA_CODE_ROUNDS", "300"))

    def test_rewritten(self):
        for runner, writer in (("./x86_64", "onnode 1 ./aarch64"),
                               ("onnode 1 ./aarch64", "./x86_64")):
            for home in ("run", "write"):
                with self.subTest(runner=runner, home=home):
                    run = f"{runner}/code run {self.ROUNDS}"
                    write = f"{writer}/code write {self.ROUNDS}"
                    if home == "run":
                        run += " create"
                    else:
                        write += " create"
                    out = self.run_guest(
                        f"true || exit; {run} & {write}; a=$?; "
                        "wait $! || a=1; exit $a",
                        timeout=BOOT_S + 300 + self.ROUNDS // 100)
                    self.assert_summary(out)


class Configurations(MachineTest):
    def test_cpus(self):
        """1..8 CPUs a node; one CPU must not lose atomicity either."""
        for cpus in (1, 3, 8):
            text = write_config("boot-cpus", "xa")
            with open(text, encoding="utf-8") as f:
                config = f.read().replace("cpus=1", f"cpus={cpus}")
            with open(text, "w", encoding="utf-8") as f:
                f.write(config)
            out = self.run_guest(
                "grep -c ^processor /proc/cpuinfo; cat "
                "/sys/devices/system/chimera/node*/cpus; "
                "./x86_64/atomics --nodes all --threads 2 --count 200000",
                config=text)
            self.assertEqual(out.split("\n")[:3],
                             [str(2 * cpus), str(cpus), str(cpus)])
            self.assert_summary(out)

    def test_clocks(self):
        """An x86 kernel is told how fast its clocks are."""
        out = self.run_guest(
            "dmesg | grep -E 'tcg: TSC|tsc: Detected'; "
            "cat /sys/devices/system/clocksource/*/current_clocksource")
        told, = re.findall(r"tcg: TSC has (\d+) kHz", out)
        used, = re.findall(r"tsc: Detected ([0-9.]+) MHz", out)
        self.assertEqual(f"{int(told) / 1000:.3f}", used)
        self.assertTrue(out.endswith("\ntsc\n"), out)

    def test_memory_above_the_hole(self):
        """A node with RAM on both sides of q35's hole below 4 GiB."""
        config = write_config("boot-hole", "xa")
        with open(config, encoding="utf-8") as f:
            text = f.read().replace("memory=256M", "memory=3G")
        with open(config, "w", encoding="utf-8") as f:
            f.write(text)
        # More than the RAM below the hole has room for, written by one
        # node and read by the other.
        out = self.run_guest(
            "onnode 1 ./aarch64/segments follow & "
            "./x86_64/segments lead 1; a=$?; wait; exit $a", config=config)
        self.assert_summary(out)

    def test_home_on_arm(self):
        out = self.run_guest("lsnodes; uname -m; onnode 1 uname -m",
                             config=write_config("boot-arm-first", "ax"))
        self.assertTrue(out.endswith("\naarch64\nx86_64\n"), out)

    def test_one_isa(self):
        for nodes in ("xx", "aa"):
            out = self.run_guest("lsnodes", config=write_config(
                "boot-same", nodes))
            self.assertEqual(out.count(" up "), 2, out)


def main():
    global BUILD, CHIMERA, GUEST, X86_ARM
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    BUILD = os.path.abspath(sys.argv.pop(1))
    CHIMERA = path("bin", "chimera")
    GUEST = path("libexec", "chimera", "guest")
    X86_ARM = path("share", "chimera", "machines", "x86-arm.conf")
    for needed in (CHIMERA, X86_ARM, path("images", "x86_64", "kernel"),
                   path("images", "aarch64", "kernel"),
                   path("bin", "qemu-system-x86_64"),
                   path("bin", "qemu-system-aarch64"),
                   *([path("images", isa, f"kernel-{KERNEL}")
                      for isa in ("x86_64", "aarch64")] if KERNEL else [])):
        if not os.path.exists(needed):
            print(f"skipped: there is no {needed}")
            sys.exit(77)
    if COHERENCE != "shared":
        fd = ctypes.CDLL(None).syscall(323, os.O_CLOEXEC)
        if fd < 0:
            print("skipped: this process may not use userfaultfd")
            sys.exit(77)
        os.close(fd)
    if COHERENCE != "shared" or KERNEL:
        with open(X86_ARM, encoding="utf-8") as f:
            text = f.read().replace("coherence=shared",
                                    f"coherence={COHERENCE}")
        for isa in ("x86_64", "aarch64"):
            text = text.replace(f"isa={isa}\n",
                                f"isa={isa}\n{kernel_line(isa)}")
        if LINKS == "tcp":
            text = with_tcp(text)
        with tempfile.NamedTemporaryFile("w", suffix=".conf",
                                         delete=False) as f:
            f.write(text)
        X86_ARM = f.name
    unittest.main(verbosity=2)


if __name__ == "__main__":
    main()
