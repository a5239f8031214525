#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The launcher with real machines: QEMU, the guest kernels and images of an
installation. Nothing waits for time: boots end when the nodes are up.

usage: test_boot.py CHIMERA PREFIX [unittest arguments]
       CHIMERA_TEST_SEED repeats the random moments of a run.
"""
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import unittest

sys.dont_write_bytecode = True  # the source tree stays clean
import harness  # noqa: E402
from harness import LauncherTest, processes_with, wait_until  # noqa: E402

SEED = int(os.environ.get('CHIMERA_TEST_SEED', time.time_ns() % 1000000))
BOOT_S = 240  # a machine with nothing else to do needs two seconds
TWO = '''[machine]
boot-timeout=%d
share=.
[node x86]
isa=x86_64
memory=256M
%%s
[node arm]
isa=aarch64
memory=256M
%%s
''' % (BOOT_S - 20)
MB = 1 << 20


class BootTest(LauncherTest):
    limit_s = 4 * BOOT_S

    def two(self, x86='', arm=''):
        return self.conf(TWO % (x86, arm))

    def run_(self, *args, **keys):
        keys.setdefault('timeout', BOOT_S)
        return self.call('run', '-q', self.two(), '--', *args, **keys)


class Run(BootTest):
    def test_both_isas(self):
        r = self.run_('/bin/sh', '-c', 'lsnodes; uname -m')
        self.assertEqual(r.code, 0, r.err)
        self.assertRegex(r.out.decode(), r'(?s)x86 +x86_64 .*up .*'
                         r'arm +aarch64 .*up .*\nx86_64\n$')
        self.assertEqual(r.err, '')
        r = self.call('run', '-q', '--node', 'arm', self.two(), 'uname', '-m',
                      timeout=BOOT_S)
        self.assertEqual((r.code, r.out), (0, b'aarch64\n'), r.err)

    def test_one_node(self):
        conf = self.conf('[node only]\nisa=aarch64\nmemory=256M\n')
        r = self.call('run', '-q', conf, 'hostname', timeout=BOOT_S)
        self.assertEqual((r.code, r.out), (0, b'only\n'), r.err)

    def test_six_nodes(self):
        nodes = [('x%d' % i, 'x86_64') for i in range(3)]
        nodes += [('a%d' % i, 'aarch64') for i in range(3)]
        conf = self.conf('[machine]\nboot-timeout=%d\n' % (2 * BOOT_S) +
                         ''.join('[node %s]\nisa=%s\nmemory=192M\n' % n
                                 for n in nodes))
        r = self.call('run', '-q', '--node', 'a2', conf, 'lsnodes',
                      timeout=2 * BOOT_S)
        self.assertEqual(r.code, 0, r.err)
        rows = re.findall(r'(\d+) +([xa]\d) +(x86_64|aarch64) +1 +up ',
                          r.out.decode())
        self.assertEqual(rows, [(str(i), name, isa) for i, (name, isa)
                                in enumerate(nodes)])

    def test_guest_kernel_does_not_boot(self):
        conf = self.two(arm='append=rdinit=/no/init root=/dev/none')
        r = self.call('run', '-q', conf, 'true', timeout=BOOT_S)
        self.assertEqual(r.code, 125)
        self.assertRegex(r.err, '(?s)node arm did not boot: the guest '
                         'restarted or panicked.*Kernel panic')

    def test_not_a_kernel(self):
        self.conf('this is no kernel', 'image')
        r = self.call('run', '-q', self.two(x86='kernel=image'), 'true',
                      timeout=BOOT_S)
        self.assertEqual(r.code, 125)
        self.assertRegex(r.err, '(?s)node x86 did not boot: QEMU exited with '
                         'status 1.*QEMU\'s messages of node x86')

    def test_network(self):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        conf = self.two(x86='network=user\nforward=%d:7777' % port)
        child = self.start('run', '-q', conf, '--', '/bin/sh', '-c',
                           'echo ready; echo hello | nc -l -p 7777')
        self.assertEqual(child.stdout.readline(), b'ready\n')

        def ask():
            with socket.socket() as s:
                s.settimeout(5)
                try:
                    s.connect(('127.0.0.1', port))
                    return s.recv(100)
                except OSError:
                    return b''
        self.assertEqual(wait_until(ask, 'the guest answers', 60), b'hello\n')
        self.finish(child, timeout=BOOT_S)


class Machine(BootTest):
    """One machine for many tests."""

    def setUp(self):
        super().setUp()
        r = self.call('up', '-q', self.two(), timeout=BOOT_S)
        self.assertEqual(r.code, 0, r.err)

    def tearDown(self):
        self.call('down', '--all', timeout=60)
        super().tearDown()

    def exec_(self, node, *args, **keys):
        keys.setdefault('timeout', 60)
        return self.call('exec', node, '--', *args, **keys)

    def test_programs(self):
        for node in 'x86', 'arm':
            r = self.exec_(node, 'sh', '-c', 'echo out; echo err >&2; exit 9')
            self.assertEqual((r.code, r.out, r.err), (9, b'out\n', 'err\n'))
            r = self.exec_(node, 'no-such-program')
            self.assertEqual(r.code, 127)
            self.assertIn('cannot start no-such-program on node ' + node,
                          r.err)
            r = self.exec_(node, '/etc/passwd')
            self.assertEqual(r.code, 126, r.err)
            r = self.exec_(node, 'sh', '-c', 'kill -SEGV $$')
            self.assertEqual((r.code, r.err), (139, self.lines(
                'sh on node %s was killed by signal 11 (Segmentation fault)' %
                node)))
            r = self.exec_(node, 'pwd')
            self.assertEqual(r.out, b'/mnt/share\n')
            r = self.call('exec', '-e', 'A=b c', node, 'sh', '-c', 'echo "$A"',
                          timeout=60)
            self.assertEqual(r.out, b'b c\n')

        # streams, both ways and large
        data = random.Random(1).randbytes(3 * MB)
        for node in 'x86', 'arm':
            r = self.exec_(node, 'cat', input=data, timeout=BOOT_S)
            self.assertEqual(hashlib.sha256(r.out).digest(),
                             hashlib.sha256(data).digest())
        # the share: one folder, here and on both nodes
        self.exec_('x86', 'sh', '-c', 'uname -m > of-x86')
        self.assertEqual(self.exec_('arm', 'cat', 'of-x86').out, b'x86_64\n')
        with open(self.dir + '/of-x86') as f:
            self.assertEqual(f.read(), 'x86_64\n')

        # signals
        for number in signal.SIGINT, signal.SIGTERM:
            child = self.start('exec', 'arm', 'sh', '-c',
                               'echo ready; exec sleep 1000')
            child.stdout.readline()
            child.send_signal(number)
            self.assertEqual(self.finish(child, timeout=60).code,
                             128 + number)

        # what the launcher says of it
        for node in self.status('m')['nodes']:
            self.assertEqual(node['state'], 'up')
            self.assertRegex(node['system'],
                             '^Linux [0-9.]+.* ' + node['isa'] + '$')
        stats = json.loads(self.ok('stats', '--json').out)
        for i, node in enumerate(stats['nodes']):
            self.assertEqual(node['dsm']['node'], i)
            self.assertEqual([n['state'] for n in node['dsm']['nodes']],
                             ['up', 'up'])
        self.assertIn(b'machine whole: 2 nodes',
                      self.ok('console', '--log', 'arm').out)

    def test_node_is_killed(self):
        """The others and the launcher say so within two seconds."""
        state = '/sys/devices/system/chimera/node1/state'
        watcher = self.start(
            'exec', 'x86', 'sh', '-c', 'echo ready; read line; '
            'while s=$(cat %s); [ "$s" = up ]; do :; done; echo $s' % state,
            stdin=subprocess.PIPE)
        self.assertEqual(watcher.stdout.readline(), b'ready\n')
        watcher.stdin.write(b'go\n')
        watcher.stdin.flush()
        os.kill(self.node('m', 1)['pid'], signal.SIGKILL)
        killed = time.monotonic()
        node = wait_until(lambda: self.node('m', 1)['state'] == 'down' and
                          self.node('m', 1), 'the status says so', 2)
        self.assertEqual(node['reason'],
                         'QEMU was killed by signal 9 (Killed)')
        self.assertIn(watcher.stdout.readline(), (b'down\n', b'fenced\n'))
        self.assertLess(time.monotonic() - killed, 2)
        self.assertEqual(self.finish(watcher).code, 0)
        self.assertEqual(self.exec_('x86', 'true').code, 0)

    def test_guest_powers_off_and_panics(self):
        self.exec_('arm', 'sh', '-c', 'poweroff -f')
        node = wait_until(lambda: self.node('m', 1)['state'] == 'down' and
                          self.node('m', 1), 'down', 60)
        self.assertEqual(node['reason'], 'the guest powered off')
        self.exec_('x86', 'sh', '-c', 'echo c > /proc/sysrq-trigger')
        node = wait_until(lambda: self.node('m', 0)['state'] == 'down' and
                          self.node('m', 0), 'down', 60)
        self.assertEqual(node['reason'], 'the guest restarted or panicked')

    def test_stopped_node(self):
        """A QEMU that stands still can still be ended."""
        os.kill(self.node('m', 1)['pid'], signal.SIGSTOP)
        self.assertEqual(self.exec_('x86', 'true').code, 0)
        self.ok('down', timeout=60)

    def test_two_machines(self):
        other = self.conf(TWO % ('', ''), 'other.conf')
        r = self.call('run', '-q', other, 'lsnodes', timeout=BOOT_S)
        self.assertEqual(r.code, 0, r.err)
        self.assertEqual(r.out.count(b' up '), 2)
        self.assertEqual(self.exec_('m/arm', 'true').code, 0)
        r = self.call('up', '-q', self.two())
        self.assertEqual(r.code, 1)
        self.assertIn('running already, owned by process %d' %
                      self.status('m')['pid'], r.err)


class Ends(BootTest):
    def test_ctrl_c_at_any_moment(self):
        rng = random.Random(SEED)
        started = time.monotonic()
        self.assertEqual(self.run_('true').code, 0)
        boot_s = time.monotonic() - started
        for _ in range(8):
            after_s = 0.02 + rng.random() * boot_s
            child = self.start('run', '-q', self.two(), 'sleep', '1000',
                               start_new_session=True)
            try:
                child.wait(after_s)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGINT)
            r = self.finish(child, timeout=60)
            self.assertEqual((r.code, r.err), (130, ''),
                             'after %g s, seed %d' % (after_s, SEED))
            self.assertFalse(processes_with(self.dir))

    def test_kill_at_any_moment(self):
        rng = random.Random(SEED)
        for _ in range(4):
            child = self.start('run', '-q', self.two(), 'sleep', '1000')
            try:
                child.wait(rng.random() * 4)
            except subprocess.TimeoutExpired:
                child.kill()
            self.finish(child)
            wait_until(lambda: not processes_with(self.dir), 'no process', 60)


if __name__ == '__main__':
    harness.CHIMERA = os.path.abspath(sys.argv[1])
    LauncherTest.prefix = os.path.abspath(sys.argv[2])
    for isa in 'x86_64', 'aarch64':
        for name in ('bin/qemu-system-' + isa, 'images/%s/kernel' % isa,
                     'images/%s/initramfs.cpio.gz' % isa):
            if not os.path.exists(os.path.join(LauncherTest.prefix, name)):
                print('SKIP: no %s in %s' % (name, LauncherTest.prefix))
                sys.exit(77)
    print('CHIMERA_TEST_SEED=%d' % SEED, flush=True)
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:])
