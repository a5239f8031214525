# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernels' spinlocks: docs/locks.md.

    test_locks.py BUILD [CLASS[.METHOD]...]

Kernels that are built on demand are tested if they are there; what is missing
is skipped, with the command that makes it. CHIMERA_LOCKS_SECONDS is how long
each kind is tortured (default 10), CHIMERA_STRESS_SECONDS how long stress-ng
runs on each (default 30), from root file systems CHIMERA_STRESS_NG/ISA.
"""

import os
import re
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True  # the source tree stays clean
from test_machine import COMPLAINT  # noqa: E402

BUILD = ""
ISAS = ("x86_64", "aarch64")
LOCKS = ("qspinlock", "ticket", "preemptable")
SECONDS = int(os.environ.get("CHIMERA_LOCKS_SECONDS", "10"))
STRESS_SECONDS = int(os.environ.get("CHIMERA_STRESS_SECONDS", "30"))
# Under lockdep and TCG a kernel takes a while to boot on a busy host.
BOOT_S = 240
# On a loaded host stress-ng takes a while to end after its time.
STRESS_END_S = 300
# Of locktorture: what is built on spinlocks
TYPES = ("spin_lock", "spin_lock_irq", "raw_spin_lock_irq", "rw_lock",
         "rw_lock_irq")


def kernel(isa, kind):
    """The path of a kernel; skips the test if it was not built."""
    name = f"kernel-{kind}" if kind != "qspinlock" else "kernel"
    path = os.path.join(BUILD, "images", isa, name)
    if not os.path.exists(path):
        raise unittest.SkipTest(
            f"{path} is missing; './bootstrap build kernel:{kind}' makes it")
    return path


class Boot(unittest.TestCase):
    """A node with each kind runs what contends for locks, at 4 vCPUs."""

    def boots(self, isa, locks):
        kernel(isa, locks)
        with tempfile.NamedTemporaryFile("w", suffix=".conf",
                                         delete=False) as f:
            f.write(f"[machine]\nname=boot-locks-{isa}-{locks}\n"
                    f"[node n]\nisa={isa}\ncpus=4\nlocks={locks}\n")
        self.addCleanup(os.unlink, f.name)
        share = os.path.join(BUILD, "libexec", "chimera", "guest", isa)
        done = subprocess.run(
            [os.path.join(BUILD, "bin", "chimera"), "run", "-q", "--share",
             share, f.name, "--", "/bin/sh", "-c",
             "test -d /sys/module/preemptable_ticket && echo preemptable; "
             "./locks 1 4"], capture_output=True,
            text=True, stdin=subprocess.DEVNULL, timeout=BOOT_S, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual("preemptable\n" in done.stdout,
                         locks == "preemptable", done.stdout)
        for load in ("contend", "hackbench", "ebizzy", "forkexec"):
            self.assertRegex(done.stdout, rf"(?m)^locks {load} [0-9.]+$")


class Torture(unittest.TestCase):
    """locktorture and the lock API's self-tests under lockdep, 8 vCPUs."""

    def torture(self, isa, locks, kind):
        """Boot the kernel that tests its locks; the console's text."""
        console = {"x86_64": "ttyS0", "aarch64": "ttyAMA0"}[isa]
        machine = {"x86_64": ["-M", "q35", "-bios", "qboot.rom"],
                   "aarch64": ["-M", "virt,gic-version=3"]}[isa]
        argv = [
            os.path.join(BUILD, "bin", f"qemu-system-{isa}"), *machine,
            "-L", os.path.join(BUILD, "share", "qemu"), "-nodefaults",
            "-no-user-config", "-no-reboot", "-display", "none",
            "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "8",
            "-m", "512M", "-serial", "stdio", "-kernel",
            kernel(isa, f"{locks}-torture"), "-initrd",
            os.path.join(BUILD, "images", isa, "initramfs.cpio.gz"),
            "-append", f"console={console} panic=-1 "
            "no_timer_check "
            f"locktorture.torture_type={kind} locktorture.nwriters_stress=16 "
            "locktorture.stat_interval=5 locktorture.verbose=0 "
            f"locktorture.shutdown_secs={SECONDS} rdinit=/bin/sleep -- 100000"]
        done = subprocess.run(argv, capture_output=True, text=True,
                              errors="replace", stdin=subprocess.DEVNULL,
                              timeout=BOOT_S + SECONDS, check=False)
        log = os.path.join(BUILD, "log", "boot", f"locks-{isa}-{locks}-{kind}")
        os.makedirs(os.path.dirname(log), exist_ok=True)
        with open(log, "w", encoding="utf-8") as f:
            f.write(done.stdout + done.stderr)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def passes(self, isa, locks):
        for kind in TYPES:
            with self.subTest(type=kind):
                out = self.torture(isa, locks, kind)
                self.assertRegex(out, r"Good, all +\d+ testcases passed!")
                end = re.search(r"End of test: (\w+)", out)
                self.assertTrue(end, out)
                self.assertEqual(end.group(1), "SUCCESS", out)
                total = re.findall(r"Writes: +Total: (\d+).*Fail: (\d+)", out)
                self.assertTrue(total, out)
                self.assertGreater(int(total[-1][0]), 100, out)
                self.assertEqual(total[-1][1], "0", out)
                self.assertNotRegex(out, COMPLAINT)

    def test_busted(self):
        """A lock that excludes nobody does not pass."""
        for locks in LOCKS:
            try:
                out = self.torture("x86_64", locks, "lock_busted")
            except unittest.SkipTest:
                continue
            self.assertRegex(out, "End of test: FAILURE")
            return
        self.skipTest("no kernel with locktorture; "
                      "'./bootstrap build kernel:qspinlock-torture' makes one")


class Stress(unittest.TestCase):
    """stress-ng on a machine of both ISAs with 8 vCPUs."""

    STRESSORS = (
        "--cpu 1 --vm 2 --vm-bytes 64M --fork 2 --vfork 1 --clone 1 "
        "--pthread 2 --mutex 2 --futex 2 --pipe 2 --switch 2 --sem 2 --sock 2 "
        "--poll 1 --timer 1 --sigq 1 --mmap 2 --mremap 1 --mprotect 2 "
        "--madvise 1 --fault 1 --dentry 2 --fstat 1 --verify --metrics-brief")
    RUN = """
        root=/mnt/share/$(uname -m)
        for d in proc sys dev; do mount -o bind /$d $root/$d; done
        mount -t tmpfs none $root/tmp
        exec chroot $root /usr/bin/stress-ng --temp-path /tmp """ + STRESSORS

    def stress(self, locks):
        share = os.environ.get("CHIMERA_STRESS_NG")
        if not share:
            raise unittest.SkipTest("CHIMERA_STRESS_NG is not set")
        name = f"boot-stress-{locks}"
        for isa in ISAS:
            kernel(isa, locks)
        with tempfile.NamedTemporaryFile("w", suffix=".conf",
                                         delete=False) as f:
            f.write(f"[machine]\nname={name}\nboot-timeout={BOOT_S}\n")
            for isa in ISAS:
                f.write(f"[node {isa}]\nisa={isa}\ncpus=4\nmemory=1G\n"
                        f"locks={locks}\nappend=loglevel=5\n")
                if isa == "x86_64":
                    f.write("tlb-shootdown=paravirt\n")
        self.addCleanup(os.unlink, f.name)
        run = f"{self.RUN} -t {STRESS_SECONDS}"
        logs = os.path.join(BUILD, "log", "boot", name)
        os.makedirs(logs, exist_ok=True)
        done = subprocess.run(
            [os.path.join(BUILD, "bin", "chimera"), "run", "-q", "--logs", logs,
             "--share", share, f.name, "--", "/bin/sh", "-c",
             f"onnode 1 /bin/sh -c '{run}' & ({run}); a=$?; wait $!; "
             "echo ended $a $?"], capture_output=True, text=True,
            stdin=subprocess.DEVNULL, check=False,
            timeout=BOOT_S + STRESS_SECONDS + STRESS_END_S)
        out = done.stdout + done.stderr
        with open(os.path.join(logs, "stress-ng"), "w", encoding="utf-8") as f:
            f.write(out)
        self.assertIn("ended 0 0", out)
        self.assertEqual(out.count("successful run completed"), len(ISAS), out)
        for node in range(len(ISAS)):
            with open(os.path.join(logs, f"console-{node}.log"),
                      errors="replace", encoding="utf-8") as f:
                self.assertNotRegex(f.read(), COMPLAINT)


def add_tests():
    for locks in LOCKS:
        def stress(self, locks=locks):
            self.stress(locks)

        setattr(Stress, f"test_{locks}", stress)
    for isa in ISAS:
        for locks in LOCKS:
            def boots(self, isa=isa, locks=locks):
                self.boots(isa, locks)

            def passes(self, isa=isa, locks=locks):
                self.passes(isa, locks)

            setattr(Boot, f"test_{isa}_{locks}", boots)
            setattr(Torture, f"test_{isa}_{locks}", passes)


def main():
    global BUILD
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    BUILD = os.path.abspath(sys.argv.pop(1))
    if not os.path.exists(os.path.join(BUILD, "images", "x86_64", "kernel")):
        print("no images; ./bootstrap build makes them")
        sys.exit(77)
    add_tests()
    unittest.main(verbosity=2)


if __name__ == "__main__":
    main()
