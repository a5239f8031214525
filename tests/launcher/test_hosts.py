#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes on other hosts, against a double of QEMU (fake_qemu.py): what is
shown of the launcher elsewhere holds when its nodes are started by a command,
and what can go wrong with such a command. The hosts are this one.

usage: test_hosts.py CHIMERA [unittest arguments]
"""
import contextlib
import os
import signal
import socket
import sys
import unittest

sys.dont_write_bytecode = True
import harness  # noqa: E402
import test_launcher  # noqa: E402
from harness import processes_with, wait_until

# Takes the place of ssh: {host} is in the environment of what it starts.
COMMAND = 'env CHIMERA_TEST_HOST={host} {command}'


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class HostsTest(test_launcher.FakeTest):
    command = COMMAND

    def setUp(self):
        super().setUp()
        self.key = os.path.join(self.dir, 'key')
        with open(self.key, 'w') as f:
            f.write('m:' + '0123456789abcdef' * 2 + '\n')
        os.chmod(self.key, 0o600)

    def two(self, x86='', arm='', machine='', name='m.conf'):
        """Both on one other host: so its loopback will do."""
        machine = machine or '[machine]\n'
        machine += ('coherence=dsm\nkey=%s\nstart-command=%s\n'
                    % (self.key, self.command))
        host = 'host=b.example\naddress=tcp:127.0.0.1:%d\n'
        return super().two(host % free_port() + x86, host % free_port() + arm,
                           machine, name)

    def couriers(self, which):
        return [pid for pid, line in processes_with('node-' + which)
                if self.in_dir(pid)]

    def pair(self, node):
        """near and far of a node, while far is near's child."""
        near = self.node('m', node)['pid']
        far = self.child(near)
        self.assertIn(far, self.couriers('far'))
        return near, far

    @staticmethod
    def child(pid):
        with open('/proc/%d/task/%d/children' % (pid, pid)) as f:
            return int(f.read().split()[0])

    def in_dir(self, pid):
        """Is it one of this test's? The prefix is in its environment."""
        try:
            with open('/proc/%d/environ' % pid, 'rb') as f:
                return self.dir.encode() in f.read()
        except OSError:
            return False

    def tearDown(self):
        # The harness looks at command lines, couriers have nothing in those.
        try:
            wait_until(lambda: not self.couriers('near') and
                       not self.couriers('far'), 'no courier left')
        finally:
            super().tearDown()


class Run(HostsTest, test_launcher.Run):
    test_help = test_usage = test_many_nodes = test_config_by_name = None
    test_ordinary_user = None  # the key is somebody else's

    def test_node_has_its_host(self):
        self.up()
        nodes = self.status('m')['nodes']
        self.assertEqual([n['host'] for n in nodes], ['b.example'] * 2)
        self.assertEqual(self.ok('status', 'm').out.count(b' b.example '), 2)
        self.ok('down', 'm')


class Bad(HostsTest):
    def fails(self, *lines, code=125, conf=None, timeout=60):
        r = self.call('run', '-q', conf or self.two(), 'true',
                      timeout=timeout)
        self.assertEqual(r.code, code, r.err)
        for line in lines:
            self.assertIn(line, r.err)

    def test_no_such_command(self):
        self.command = 'no-such-command {host} {command}'
        self.fails(' did not boot: host b.example: start-command ended '
                   'with status 127 before chimera answered there; is the host '
                   'up, and %s/bin/chimera on it?' % self.prefix,
                   '| chimera: no-such-command: No such file or directory')

    def test_host_is_unreachable(self):
        self.command = ("sh -c 'echo ssh: connect to host {host} port 22: No "
                        "route to host >&2; exit 255' {command}")
        self.fails('host b.example: start-command ended with status 255',
                   '| ssh: connect to host b.example port 22: No route')

    def test_no_chimera_there(self):
        self.command = "sh -c 'exec /nowhere{command}' {host}"
        self.fails('host b.example: start-command ended with status 127')

    def test_command_that_does_something_else(self):
        self.command = "sh -c 'echo welcome; echo to {host}' {command}"
        self.fails('ended with status 0 before chimera answered there',
                   '| to b.example')

    def test_command_that_hangs(self):
        self.command = "sh -c 'exec sleep 1000' {host} {command}"
        conf = self.two(machine='[machine]\nboot-timeout=2\n')
        self.fails("node x86 did not boot within 2 s (boot-timeout): QEMU's "
                   "monitor does not answer", conf=conf)

    def test_killed_command(self):
        self.command = "sh -c 'kill -9 $$' {host} {command}"
        self.fails('host b.example: start-command was killed by signal 9')

    def test_other_prefix_there(self):
        self.command = 'env CHIMERA_PREFIX=/elsewhere H={host} {command}'
        self.fails('host b.example: chimera there is installed in '
                   '/elsewhere, here in %s; paths must be the same'
                   % self.prefix)

    def test_other_version_there(self):
        self.command = (r'''sh -c 'printf "CHCR\1\0\0\0\0\0\0\0\7\0\0\0'''
                        r'''\1\0\0\0000\n/"; exec sleep 100' {host} {command}''')
        # The configuration reads backslashes before the shell does.
        self.command = self.command.replace('\\', '\\\\')
        self.fails('host b.example: chimera there is version 0, here it')

    def test_garbage(self):
        self.command = ("sh -c '{command} | sed s/CHCR/CHCX/g' {host}")
        conf = self.two(machine='[machine]\nboot-timeout=2\n')
        self.fails('node arm did not boot within 2 s', conf=conf)

    def test_noise_before_it(self):
        self.command = "sh -c 'echo Welcome to CHC {host}; {command}'"
        r = self.call('run', '-q', self.two(), '--', 'echo', 'hi')
        self.assertEqual((r.code, r.out), (0, b'hi\n'), r.err)

    def test_what_is_missing_there(self):
        conf = self.two(arm='kernel=no-kernel\n')
        self.fails('host b.example: %s:14:kernel: the kernel %s/no-kernel'
                   ': No such file or directory' % (conf, self.dir), conf=conf)

    def test_qemu_exits_there(self):
        self.fails('node arm did not boot: QEMU exited with status 3',
                   'fake: no such device',
                   conf=self.two(arm='append=fake.exit=3\n'))

    def test_keys(self):
        os.chmod(self.key, 0o644)
        self.fails('m.conf:3:key: %s: its mode is 0644, so others could use '
                   'the key; it must be 0600 or stricter' % self.key)
        os.unlink(self.key)
        self.fails('m.conf:3:key: %s: No such file or directory' % self.key)
        os.mkfifo(self.key, 0o600)
        self.fails('m.conf:3:key: %s: not a regular file' % self.key)

    def test_echo_floor(self):
        r = self.call('run', '-q', '--echo-floor', self.two(), 'true')
        self.assertEqual((r.code, r.err), (125, self.lines(
            '--echo-floor: node x86 is on another host')))


class Ends(HostsTest, test_launcher.Ends):
    def test_far_is_killed(self):
        self.up()
        os.kill(self.pair(1)[1], signal.SIGKILL)
        wait_until(lambda: self.node('m', 1)['state'] == 'down', 'down')
        self.assertRegex(self.node('m', 1)['reason'],
                         'host b.example: the connection is lost: '
                         'start-command was killed by signal 9')
        self.assertEqual(self.node('m', 0)['state'], 'up')
        self.ok('down', 'm')

    def test_near_is_killed(self):
        self.up()
        near, far = self.pair(1)
        os.kill(near, signal.SIGKILL)
        wait_until(lambda: self.node('m', 1)['state'] == 'down', 'down')
        wait_until(lambda: far not in self.couriers('far'), 'far is gone')
        self.ok('down', 'm')

    def test_far_hangs(self):
        """So does a host that is cut off, and nobody says so."""
        self.up()
        far = self.pair(1)[1]
        os.kill(far, signal.SIGSTOP)
        try:
            wait_until(lambda: self.node('m', 1)['state'] == 'down', 'down',
                       timeout_s=60)
        finally:
            with contextlib.suppress(ProcessLookupError):  # as near's child
                os.kill(far, signal.SIGCONT)
        self.assertEqual(self.node('m', 1)['reason'], 'host b.example: no '
                         'sign of the other side for 30 s')
        self.ok('down', 'm')

    def test_command_is_killed(self):
        """What stands between the two, as ssh does."""
        self.command = "sh -c 'cat | {command} | cat' {host}"
        self.up()
        os.kill(self.child(self.node('m', 1)['pid']), signal.SIGKILL)
        wait_until(lambda: self.node('m', 1)['state'] == 'down', 'down')
        self.ok('down', 'm')

    def test_qemu_is_killed_there(self):
        self.up()
        os.kill(self.child(self.pair(1)[1]), signal.SIGKILL)
        wait_until(lambda: self.node('m', 1)['state'] == 'down', 'down')
        self.assertEqual(self.node('m', 1)['reason'],
                         'QEMU was killed by signal 9 (Killed)')
        self.ok('down', 'm')

    def test_ctrl_c(self):
        child = self.start('run', '-q', self.two(), 'sleep', '1000')
        wait_until(lambda: self.couriers('far'), 'far runs')
        child.send_signal(signal.SIGINT)
        self.finish(child)
        self.assertFalse(self.couriers('far') + self.couriers('near'))

    def test_down_at_once(self):
        """Nothing runs on either side when the command is done."""
        self.up()
        self.ok('down', '--force', 'm')
        self.assertFalse(self.couriers('far') + self.couriers('near'))


if __name__ == '__main__':
    harness.CHIMERA = os.path.abspath(sys.argv[1])
    del sys.argv[1]
    unittest.main(verbosity=2)
