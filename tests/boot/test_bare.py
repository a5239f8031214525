# SPDX-License-Identifier: GPL-2.0-or-later
"""Code that another node writes, without an operating system: docs/qemu.md.

    test_bare.py BUILD [CLASS[.METHOD]...]

Two QEMU processes, one of each ISA, run tests/bare/image.c: one executes a
function, the other one writes it. CHIMERA_CODE_ROUNDS is how often (default
300).
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import unittest
import uuid

BUILD = ""
HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = os.path.join(HERE, "..", "bare")
ROUNDS = int(os.environ.get("CHIMERA_CODE_ROUNDS", "300"))
# A round of the page protocol takes up to a millisecond on a busy host.
TIMEOUT_S = 60 + ROUNDS // 100
NODE_BYTES = 32 << 20

ISAS = {
    "x86_64": {
        "base": 0x100000,
        "cflags": ["-m32", "-fcf-protection=none"],
        "machine": ["-M", "q35,memory-backend=ram", "-bios", "qboot.rom",
                    "-cpu", "max"],
    },
    "aarch64": {
        "base": 0x40200000,
        "cflags": ["-mstrict-align"],
        "machine": ["-M", "virt,gic-version=3,memory-backend=ram",
                    "-cpu", "max"],
    },
}


def compile_image(isa, out, runs, home):
    """The image for one node: with the function's runner, or its home, there."""
    subprocess.run(
        [f"{isa}-linux-gnu-gcc", "-O2", "-Wall", "-Wextra", "-Werror",
         "-ffreestanding", "-fno-pic", "-no-pie", "-fno-stack-protector",
         "-mgeneral-regs-only", *ISAS[isa]["cflags"], "-nostdlib", "-static",
         "-Wl,--build-id=none,--no-warn-rwx-segments", "-T", os.path.join(SOURCES, "image.ld"),
         f"-Wl,--defsym,BASE={ISAS[isa]['base']}", f"-DRUNS={int(runs)}",
         f"-DHOME={int(home)}", f"-DROUNDS={ROUNDS}",
         f"-DNODE_BYTES={NODE_BYTES}",
         os.path.join(SOURCES, f"start-{isa}.S"),
         os.path.join(SOURCES, "image.c"), "-o", out], check=True)


class Code(unittest.TestCase):
    def start(self, isas, self_index, image, folder, coherence, machine):
        """QEMU for one node; what its image says comes from its stdout."""
        isa = isas[self_index]
        memory = {
            "qom-type": "memory-backend-dsm", "id": "ram", "size": NODE_BYTES,
            "machine-uuid": machine, "coherence": coherence,
            "self": self_index,
            "nodes": [{"name": name, "isa": name, "cpus": 1,
                       "size": NODE_BYTES,
                       "address": f"unix:{folder}/{name}.sock"}
                      for name in isas],
        }
        node = subprocess.Popen(
            [os.path.join(BUILD, "bin", f"qemu-system-{isa}"),
             "-L", os.path.join(BUILD, "share", "qemu"), "-nodefaults",
             "-no-user-config", "-display", "none",
             *ISAS[isa]["machine"], "-accel", "tcg,thread=multi",
             "-m", str(NODE_BYTES >> 20), "-object", json.dumps(memory),
             "-device", "virtio-fabric-pci,dsm=ram,addr=04.0",
             "-serial", "stdio", "-kernel", image],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        # A node that says nothing is ended, and with that the reading.
        late = threading.Timer(TIMEOUT_S, node.kill)
        late.start()
        self.addCleanup(node.stdout.close)
        self.addCleanup(node.wait)
        self.addCleanup(node.kill)
        self.addCleanup(late.cancel)
        return node

    def result(self, node):
        """The last line of an image; the lines before it are shown, too."""
        said = []
        for line in node.stdout:
            said.append(line)
            if line.startswith(("passed: ", "FAILED: ")):
                return "".join(said)
        return "".join(said) + "(ended without a result)"

    def rewritten(self, coherence):
        for runner, writer in (("x86_64", "aarch64"), ("aarch64", "x86_64")):
            for home in (runner, writer):
                with self.subTest(runner=runner, home=home), \
                     tempfile.TemporaryDirectory() as folder:
                    nodes = []
                    machine = str(uuid.uuid4())
                    for i, isa in enumerate((runner, writer)):
                        image = os.path.join(folder, f"{isa}.elf")
                        compile_image(isa, image, isa == runner, isa == home)
                        nodes.append(self.start((runner, writer), i, image,
                                                folder, coherence, machine))
                    ran, wrote = [self.result(node) for node in nodes]
                    self.doCleanups()
                    self.assertRegex(ran, r"^passed: [1-9]\d* calls\n$")
                    self.assertEqual(wrote, f"passed: {ROUNDS} numbers\n")

    def test_shared(self):
        self.rewritten("shared")

    def test_dsm(self):
        self.rewritten("dsm")


def main():
    global BUILD
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    BUILD = os.path.abspath(sys.argv.pop(1))
    if not os.path.exists(os.path.join(BUILD, "bin", "qemu-system-x86_64")):
        print("no QEMU; ./bootstrap build makes it")
        sys.exit(77)
    unittest.main(verbosity=2)


if __name__ == "__main__":
    main()
