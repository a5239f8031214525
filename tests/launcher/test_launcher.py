#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The launcher against a double of QEMU (fake_qemu.py): everything that does
not need a guest, above all what goes wrong.

usage: test_launcher.py CHIMERA [unittest arguments]
       CHIMERA_TEST_SEED repeats the random moments of a run.
"""
import fcntl
import glob
import hashlib
import html.parser
import json
import os
import pty
import random
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest
import xml.etree.ElementTree

sys.dont_write_bytecode = True  # the source tree stays clean
import harness  # noqa: E402
from harness import LauncherTest, processes_with, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
SEED = int(os.environ.get('CHIMERA_TEST_SEED', time.time_ns() % 1000000))
TWO = '[node x86]\nisa=x86_64\n%s\n[node arm]\nisa=aarch64\n%s\n'
MB = 1 << 20


class FakeTest(LauncherTest):
    def setUp(self):
        super().setUp()
        self.prefix = self.make_prefix(os.path.join(self.dir, 'p'))
        self.env['CHIMERA_PREFIX'] = self.prefix

    def make_prefix(self, prefix):
        os.makedirs(prefix + '/bin')
        for isa in 'x86_64', 'aarch64':
            os.symlink(os.path.join(HERE, 'fake_qemu.py'),
                       '%s/bin/qemu-system-%s' % (prefix, isa))
            os.makedirs('%s/images/%s' % (prefix, isa))
            for name in 'kernel', 'initramfs.cpio.gz':
                with open('%s/images/%s/%s' % (prefix, isa, name), 'w') as f:
                    f.write('not empty')
        return prefix

    def terminal(self, *args, rows=31, cols=97):
        """Starts a command on a terminal of its own; returns its master."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ,
                    struct.pack('HHHH', rows, cols, 0, 0))
        before = termios.tcgetattr(slave)
        child = self.start(
            *args, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        return child, master, slave, before

    def read_until(self, master, text):
        data = b''
        deadline = time.monotonic() + harness.TIMEOUT_S
        while text not in data:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([master], [], [], max(left, 0))
            if not ready:
                raise AssertionError('no %r in %r' % (text, data))
            try:
                data += os.read(master, 4096)
            except OSError:
                raise AssertionError('no %r in %r' % (text, data))
        return data

    def two(self, x86='', arm='', machine='', name='m.conf'):
        """Two nodes; the arguments are lines of their groups."""
        return self.conf(machine + TWO % (x86, arm), name)

    def up(self, **keys):
        conf = self.two(**keys)
        self.ok('up', '-q', conf)
        return conf


class Run(FakeTest):
    def run_(self, *args, options=('-q',), **keys):
        return self.call('run', *options, self.two(), '--', *args, **keys)

    def test_streams_and_exit_code(self):
        r = self.run_('sh', '-c', 'printf "a\\0b\\n"; echo err >&2; exit 7')
        self.assertEqual((r.code, r.out, r.err), (7, b'a\0b\n', 'err\n'))

    def test_progress_goes_to_stderr(self):
        r = self.run_('echo', 'x', options=())
        self.assertEqual(r.out, b'x\n')
        self.assertRegex(r.err, r'chimera: m: booting 2 nodes\n'
                         r'(chimera: m: node (x86|arm) is up after .* s\n){2}'
                         r'chimera: m: up after .* s\n$')

    def test_large_output_and_input(self):
        data = random.Random(1).randbytes(20 * MB)
        r = self.run_('cat', input=data)
        self.assertEqual(r.code, 0, r.err)
        self.assertEqual(hashlib.sha256(r.out).digest(),
                         hashlib.sha256(data).digest())

    def test_stdin_from_file_and_none(self):
        path = os.path.join(self.dir, 'in')
        with open(path, 'wb') as f:
            f.write(b'z' * 3000001)
        with open(path, 'rb') as f:
            r = self.run_('wc', '-c', stdin=f)
        self.assertEqual(r.out.strip(), b'3000001')
        with open(path, 'rb') as f:
            r = self.run_('wc', '-c', stdin=f, options=('-qn',))
        self.assertEqual(r.out.strip(), b'0')

    def test_closed_stdin(self):
        conf = self.two()
        r = self.call('run', '-q', conf, 'wc', '-c',
                      preexec_fn=lambda: os.close(0), stdin=None)
        self.assertEqual((r.code, r.out.strip()), (0, b'0'), r.err)

    def test_working_directory(self):
        sub = os.path.join(self.dir, 'sub')
        os.mkdir(sub)
        conf = self.two(machine='[machine]\nshare=.\n')
        r = self.call('run', '-q', conf, 'pwd', cwd=sub)
        self.assertEqual(r.out.decode().strip(), os.path.realpath(sub))
        r = self.call('run', '-q', conf, 'pwd', cwd='/')
        self.assertEqual(r.out.decode().strip(), os.path.realpath(self.dir))
        r = self.call('run', '-q', '--cwd', '/usr', conf, 'pwd')
        self.assertEqual(r.out, b'/usr\n')
        r = self.call('run', '-q', '--share', sub, conf, 'pwd', cwd='/')
        self.assertEqual(r.out.decode().strip(), os.path.realpath(sub))

    def test_environment(self):
        env = dict(self.env, A='1', B='2')
        r = self.call('run', '-q', '-e', 'A', '-eC=3', self.two(),
                      'sh', '-c', 'echo "$A-$B-$C"', env=env)
        self.assertEqual(r.out, b'1--3\n')
        r = self.call('run', '-qE', self.two(), 'sh', '-c',
                      'echo "$A-$B-$HOME-$XDG_RUNTIME_DIR"', env=env)
        self.assertEqual(r.out, b'1-2-/-\n')

    def test_node(self):
        r = self.call('run', '-q', self.two(), '--node', 'arm', '--', 'true')
        self.assertEqual(r.code, 0)
        r = self.call('run', '-q', '--node', '7', self.two(), 'true')
        self.assertEqual((r.code, r.err), (125, self.lines(
            "--node: machine m has no node '7'; there are: x86, arm")))

    def test_cannot_start(self):
        r = self.run_('no-such-program', 'x')
        self.assertEqual((r.code, r.err), (127, self.lines(
            'cannot start no-such-program on node x86: '
            'No such file or directory')))
        r = self.run_('/etc/passwd')
        self.assertEqual((r.code, r.err), (126, self.lines(
            'cannot start /etc/passwd on node x86: Permission denied')))

    def test_crash(self):
        r = self.run_('sh', '-c', 'kill -SEGV $$')
        self.assertEqual((r.code, r.err), (139, self.lines(
            'sh on node x86 was killed by signal 11 (Segmentation fault)')))

    def test_too_many_arguments(self):
        r = self.run_('echo', 'x' * 70000)
        self.assertEqual(r.code, 125)
        self.assertIn('at most 65536 fit', r.err)

    def test_nobody_reads(self):
        child = self.start('run', '-q', self.two(), 'yes')
        child.stdout.read(100)
        child.stdout.close()
        child.stdout = None
        r = self.finish(child)
        self.assertEqual((r.code, r.err), (141, ''))

    def test_quit_reading_midway_of_a_stream(self):
        # stderr goes on while stdout is stuck
        child = self.start('run', '-q', self.two(), 'sh', '-c',
                           'dd if=/dev/zero bs=1M count=4 status=none & '
                           'echo done >&2; wait')
        self.assertEqual(child.stderr.readline(), b'done\n')
        out = child.stdout.read()
        self.assertEqual(len(out), 4 * MB)
        self.assertEqual(self.finish(child).code, 0)

    def test_usage(self):
        for args, words in ((['run'], 'CONF and PROG are missing'),
                            (['run', 'x.conf'], 'PROG is missing'),
                            (['run', '--shrae=1', 'x', 'y'],
                             "did you mean '--share'?"),
                            (['run', '-tT', 'x', 'y'],
                             '--tty and --no-tty exclude each other'),
                            (['run', '--user', 'me', 'x', 'y'],
                             'allowed: UID or UID:GID'),
                            (['run', '--cwd', 'rel', 'x', 'y'],
                             'allowed: an absolute path'),
                            (['exec', 'n'], 'PROG is missing')):
            r = self.call(*args)
            self.assertEqual(r.code, 125)
            self.assertIn(words, r.err)
        for args, words in (([], ''), (['rum'], "did you mean 'run'?"),
                            (['up'], 'CONF is missing'),
                            (['up', 'a', 'b'], "unexpected 'b'"),
                            (['console'], 'NODE is missing'),
                            (['status', '--jsn'], "did you mean '--json'?"),
                            (['migrate', '7'], 'NODE are missing'),
                            (['migrate', '7', 'a', 'b'], "unexpected 'b'"),
                            (['migrate', '7/', 'a'], "'7/' is not PID"),
                            (['validate'], 'CONF is missing'),
                            (['down', '-a', 'x'], '--all takes no machine'),
                            (['bench', '--json'], "unknown option '--json'")):
            r = self.call(*args)
            self.assertEqual(r.code, 2)
            self.assertIn(words, r.err)

    def test_help(self):
        r = self.ok('help')
        for line in r.out.decode().splitlines():
            if line.startswith('  '):
                name = line.split()[0]
                self.assertIn(b'usage: chimera ' + name.encode(),
                              self.ok(name, '--help').out)
        self.assertEqual(json.loads(self.ok('version', '--json').out)
                         ['agent_protocol'], 1)

    def test_timings(self):
        r = self.call('run', '-q', '--timings', self.two(), 'true')
        self.assertRegex(r.err, 'timing: boot .* ms, program .* ms, shutdown')

    def test_logs_stay(self):
        logs = os.path.join(self.dir, 'logs')
        r = self.call('run', '-q', '--logs', logs, self.two(), 'true')
        self.assertEqual(r.code, 0, r.err)
        self.assertEqual(sorted(os.listdir(logs)),
                         ['console-0.log', 'console-1.log', 'qemu-0.log',
                          'qemu-1.log', 'supervisor.log'])
        with open(logs + '/console-1.log') as f:
            self.assertIn('fake kernel of arm', f.read())

    def test_many_nodes(self):
        conf = self.conf(''.join(
            '[node n%d]\nisa=%s\nmemory=64M\n' % (i, isa) for i, isa in
            enumerate(['x86_64', 'aarch64'] * 3)))
        r = self.call('run', '-q', '--node', '5', conf, 'echo', 'six')
        self.assertEqual((r.code, r.out), (0, b'six\n'), r.err)

    def test_config_by_name(self):
        os.makedirs(self.prefix + '/share/chimera/machines')
        shutil.copy(self.two(), self.prefix + '/share/chimera/machines/z.conf')
        self.assertEqual(self.ok('run', '-q', 'z', 'echo', '1').out, b'1\n')
        r = self.call('run', '-q', 'zz', 'true')
        self.assertEqual(r.code, 125)
        self.assertIn('zz: no such configuration, neither here nor as', r.err)

    @unittest.skipIf(os.getuid() != 0, 'needs root to become somebody else')
    def test_ordinary_user(self):
        del self.env['XDG_RUNTIME_DIR']
        uid = 54321
        conf = self.two()
        os.chmod(self.dir, 0o755)

        def drop():
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)

        # the program may lie where only root goes
        program = os.path.join(self.dir, 'chimera')
        shutil.copy(harness.CHIMERA, program)
        script = os.path.join(self.prefix, 'fake_qemu.py')
        shutil.copy(os.path.join(HERE, 'fake_qemu.py'), script)
        for link in glob.glob(self.prefix + '/bin/*'):
            os.unlink(link)
            os.symlink(script, link)
        p = subprocess.run([program, 'run', '-q', conf, 'id', '-u'],
                           env=self.env, cwd=self.dir, preexec_fn=drop,
                           stdin=subprocess.DEVNULL, capture_output=True,
                           timeout=harness.TIMEOUT_S)
        self.assertEqual((p.returncode, p.stdout),
                         (0, b'%d\n' % uid), p.stderr)
        self.assertFalse(os.path.exists('/tmp/chimera-%d' % uid))


class BadInput(FakeTest):
    """Each a clear error, before or during the boot, and nothing left."""

    def fails(self, conf, *lines, code=125):
        r = self.call('run', '-q', conf, 'true')
        self.assertEqual((r.code, r.err),
                         (code, self.lines(*lines).replace('CONF', conf)))
        r = self.call('up', '-q', conf)
        self.assertEqual((r.code, r.err),
                         (1, self.lines(*lines).replace('CONF', conf)))

    def test_unknown_key_and_isa(self):
        self.fails(self.conf('[node a]\nisa=vax\nmemroy=1G\n'),
                   "CONF:3:memroy: unknown key; did you mean 'memory'?",
                   "CONF:2:isa: found 'vax'; allowed: x86_64 or aarch64")

    def test_missing_files(self):
        self.fails(self.two(x86='kernel=/no/kernel', arm='initrd=/no/initrd'),
                   'CONF:3:kernel: the kernel /no/kernel: No such file or '
                   'directory',
                   'CONF:6:initrd: the initial RAM disk /no/initrd: No such '
                   'file or directory')
        self.fails(self.two(x86='kernel=/'),
                   'CONF:3:kernel: the kernel / is not a file')
        self.fails(self.two(x86='kernel=/dev/null'),
                   'CONF:3:kernel: the kernel /dev/null is not a file')
        empty = self.conf('', 'empty')
        self.fails(self.two(x86='kernel=empty'),
                   'CONF:3:kernel: the kernel %s is empty' % empty)
        self.fails(self.two(arm='locks=ticket'),
                   "CONF:6:locks: %s/images/aarch64/kernel-ticket: No such "
                   "file or directory; './bootstrap build kernel:ticket' "
                   "makes it" % self.prefix)
        default = self.prefix + '/images/aarch64/kernel'
        os.unlink(default)
        self.fails(self.two(), 'CONF:[node arm]:kernel: the kernel %s: No '
                   'such file or directory' % default)

    def test_missing_qemu(self):
        qemu = self.prefix + '/bin/qemu-system-aarch64'
        os.unlink(qemu)
        self.fails(self.two(), "CONF:5:isa: %s: No such file or directory; "
                   "'./bootstrap build' makes it" % qemu)

    def test_missing_configuration(self):
        r = self.call('run', './none.conf', 'true')
        self.assertEqual((r.code, r.err), (125, self.lines(
            './none.conf: cannot read the configuration: No such file or '
            'directory')))
        r = self.call('up', self.dir)
        self.assertEqual((r.code, r.err), (1, self.lines(
            self.dir + ': found a directory; a machine configuration is a '
            'file')))

    def test_memory(self):
        conf = self.two(x86='memory=1T', arm='memory=1T')
        r = self.call('run', '-q', conf, 'true')
        self.assertEqual(r.code, 125)
        self.assertRegex(r.err, r'^chimera: .*m.conf:memory: the nodes need '
                         r'2T together, .* leaves .*[MG]; give them less, or '
                         r'set overcommit=true')
        self.two(x86='memory=1T', machine='[machine]\novercommit=true\n')
        self.ok('run', '-q', conf, 'true')

    def test_share(self):
        self.fails(self.two(machine='[machine]\nshare=none\n'),
                   'CONF:2:share: folder %s/none: No such file or directory' %
                   self.dir)
        self.fails(self.two(machine='[machine]\nshare=m.conf\n'),
                   'CONF:2:share: CONF is not a folder')

    def test_host_cpus(self):
        r = self.call('validate', self.two(x86='cpu-affinity=0,4095'))
        self.assertEqual(r.code, 1)
        self.assertIn(':3:cpu-affinity: found host CPU 4095; allowed on this '
                      'host: ', r.err)

    def test_long_socket_path(self):
        deep = os.path.join(self.runtime, 'x' * 90)
        os.mkdir(deep, 0o700)
        self.env['XDG_RUNTIME_DIR'] = deep
        r = self.call('run', self.two(), 'true')
        self.assertEqual(r.code, 125)
        self.assertRegex(r.err, 'control.sock would have [0-9]+ bytes, at '
                         'most 107 are allowed')
        os.rmdir(deep)

    def test_port_in_use(self):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            s.listen(1)
            port = s.getsockname()[1]
            self.fails(self.two(x86='network=user\nforward=%d:22' % port),
                       'CONF:4:forward: found host port %d: Address already '
                       'in use; choose another' % port)

    def test_unsafe_run_directory(self):
        root = self.runtime + '/chimera'
        os.mkdir(root, 0o777)
        os.chmod(root, 0o777)
        r = self.call('run', '-q', self.two(), 'true')
        self.assertEqual(r.code, 125)
        self.assertIn('is not safe to use: found a directory of user', r.err)
        os.rmdir(root)

    def test_names(self):
        conf = self.two()
        r = self.call('run', '--name', '../x', conf, 'true')
        self.assertEqual(r.code, 125)
        self.assertIn("--name: found '../x'; allowed:", r.err)
        for args in (['down', 'a b'], ['status', 'ä']):
            r = self.call(*args)
            self.assertEqual(r.code, 1)
            self.assertIn('is no name of a machine', r.err)
        r = self.call('down', 'nobody')
        self.assertEqual((r.code, r.err),
                         (1, self.lines("no machine 'nobody' is running")))
        r = self.call('down')
        self.assertEqual((r.code, r.err),
                         (1, self.lines('no machine is running')))
        r = self.call('exec', 'x86', 'true')
        self.assertEqual((r.code, r.err), (125, self.lines(
            "no node 'x86': no machine is running")))

    # ---- during the boot ----

    def test_qemu_exits(self):
        self.fails(self.two(arm='append=fake.exit=3'),
                   'node arm did not boot: QEMU exited with status 3',
                   "QEMU's messages of node arm:",
                   '  | %s/bin/qemu-system-aarch64: fake: no such device' %
                   self.prefix)

    def test_qemu_is_no_program(self):
        qemu = self.prefix + '/bin/qemu-system-x86_64'
        os.unlink(qemu)
        with open(qemu, 'w') as f:
            f.write('#!/no/interpreter\n')
        os.chmod(qemu, 0o755)
        r = self.call('run', '-q', self.two(), 'true')
        self.assertEqual(r.code, 125)
        self.assertRegex(r.err, '^chimera: node x86: .*No such file or directory')

    def test_guest_panics(self):
        self.fails(self.two(arm='append=fake.panic'),
                   'node arm did not boot: the guest restarted or panicked',
                   'The last lines of node arm:',
                   '  | fake kernel of arm',
                   '  | console=ttyAMA0 quiet panic=-1 chimera.node=arm '
                   'chimera.share=/mnt/share fake.panic',
                   '  | Kernel panic - not syncing: No working init found.')

    def test_boot_timeout(self):
        r = self.call('run', '-q', self.two(
            x86='append=fake.silent', arm='append=fake.alone',
            machine='[machine]\nboot-timeout=1\n'), 'true')
        self.assertEqual(r.code, 125)
        self.assertIn('chimera: node x86 did not boot within 1 s '
                      '(boot-timeout): its agent does not answer\n'
                      'chimera: The last lines of node x86:\n'
                      'chimera:   | fake kernel of x86\n', r.err)
        self.assertIn('chimera: node arm did not boot within 1 s '
                      '(boot-timeout): it does not see all nodes\n', r.err)

    def test_agent_of_another_version(self):
        self.fails(self.two(arm='append=fake.version=2'),
                   "node arm: the guest agent speaks protocol version 2, this "
                   "launcher 1; rebuild the image ('./bootstrap build')")

    def test_no_fabric(self):
        r = self.call('run', '-q', self.two(x86='append=fake.nofabric'),
                      'true')
        self.assertEqual(r.code, 125)
        self.assertIn('node x86: its kernel shows no fabric device', r.err)

    def test_noise_on_the_agent_port(self):
        r = self.call('run', '-q', self.two(x86='append=fake.garbage'),
                      'echo', 'fine')
        # the second noise may hit the session: then it is told
        if r.code == 0:
            self.assertEqual(r.out, b'fine\n')
        else:
            self.assertRegex(r.err, 'the guest agent sent garbage|'
                             'its agent does not answer')

    def test_session_of_a_broken_agent(self):
        # data for stdin in session 1
        frame = struct.pack('<IHHII', 0x4D494843, 5, 0, 1, 1) + b'x'
        r = self.call('run', '-q',
                      self.two(x86='append=fake.frames=' + frame.hex()),
                      'true')
        self.assertEqual((r.code, r.err), (125, self.lines(
            'the session on node x86 ended: the guest agent sent data for '
            'stdin')))


class Machines(FakeTest):
    def test_up_status_down(self):
        conf = self.up(x86='cpus=2')
        m = self.status('m')
        self.assertEqual((m['name'], m['state'], m['config'], m['share']),
                         ('m', 'running', conf, self.dir))
        self.assertEqual([(n['index'], n['name'], n['isa'], n['cpus'],
                           n['memory_bytes'], n['state'])
                          for n in m['nodes']],
                         [(0, 'x86', 'x86_64', 2, 512 * MB, 'up'),
                          (1, 'arm', 'aarch64', 1, 512 * MB, 'up')])
        for n in m['nodes']:
            os.kill(n['pid'], 0)
            self.assertLessEqual(n['boot_s']['start'], n['boot_s']['up'])
        with open(m['run_directory'] + '/machine.json') as f:
            self.assertEqual(json.load(f)['uuid'], m['uuid'])
        text = self.ok('status').out.decode()
        self.assertRegex(text, r'm: running since .* s, supervisor process %d'
                         % m['pid'])
        self.assertRegex(text, r'\n  0  x86 +x86_64 +2 +512M +tcg +up ')
        self.assertRegex(self.ok('list').out.decode(),
                         r'NAME .*\nm +running +2 +2 +%d ' % m['pid'])
        self.assertEqual(self.ok('status', conf).out.decode()[:10],
                         text[:10])
        self.ok('down', conf)
        self.assertEqual(self.status(), [])
        self.assertEqual(self.ok('status').out, b'no machine is running\n')

    def test_up_json(self):
        r = self.ok('up', '-q', '--json', self.two())
        self.assertEqual(json.loads(r.out)['state'], 'running')
        self.ok('down')

    def test_two_of_one_name(self):
        conf = self.up()
        pid = self.status('m')['pid']
        r = self.call('up', '-q', conf)
        self.assertEqual((r.code, r.err), (1, self.lines(
            "machine 'm' is running already, owned by process %d; 'chimera "
            "down m' ends it, another [machine] name= starts a second one" %
            pid)))
        self.assertEqual(self.status('m')['pid'], pid)
        self.ok('exec', 'x86', 'true')
        self.ok('down', 'm')

    def test_side_by_side(self):
        conf = self.up()
        self.ok('up', '-q', '--name', 'other', conf)
        r = self.call('exec', 'x86', 'true')
        self.assertEqual((r.code, r.err), (125, self.lines(
            "several nodes match 'x86', choose one: m/x86, other/x86")))
        r = self.call('exec', 'x87', 'true')
        self.assertEqual((r.code, r.err), (125, self.lines(
            "no node 'x87'; there are: m/x86, m/arm, other/x86, other/arm")))
        self.ok('exec', 'other/arm', 'true')
        self.ok('exec', 'm/1', 'true')
        r = self.call('exec', 'third/x86', 'true')
        self.assertEqual((r.code, r.err), (125, self.lines(
            "no machine 'third' is running")))
        r = self.call('stats')
        self.assertEqual((r.code, r.err), (1, self.lines(
            'several machines run, name one: m, other')))
        self.assertEqual([m['name'] for m in self.status()], ['m', 'other'])
        self.ok('down', 'm')
        self.ok('exec', 'x86', 'true')
        self.ok('down', '--all')

    def test_parallel_starts_of_one_name(self):
        conf = self.two()
        starts = [self.start('up', '-q', conf) for _ in range(6)]
        results = [self.finish(s) for s in starts]
        self.assertEqual(sorted(r.code for r in results), [0] + [1] * 5,
                         [r.err for r in results])
        self.ok('down')

    def test_restart_right_after_a_crash(self):
        # the guard may still clean up: the next start waits for it
        conf = self.two()
        for _ in range(5):
            self.ok('up', '-q', conf)
            pid = self.status('m')['pid']
            pidfd = os.pidfd_open(pid)
            os.kill(pid, signal.SIGKILL)
            select.select([pidfd], [], [])  # dead, and not a moment later
            os.close(pidfd)
        self.ok('up', '-q', conf)
        self.ok('down')

    def test_stats(self):
        self.up()
        stats = json.loads(self.ok('stats', '--json').out)
        self.assertEqual([n['dsm']['node'] for n in stats['nodes']], [0, 1])
        self.assertRegex(self.ok('stats', 'm').out.decode(),
                         r'(?s)node x86:\n.*  arm +up .*node arm:\n.*  x86 ')
        os.kill(self.node('m', 1)['pid'], signal.SIGKILL)
        wait_until(lambda: self.node('m', 1)['state'] == 'down', 'down')
        stats = json.loads(self.ok('stats', '--json').out)
        self.assertEqual(stats['nodes'][1]['error'], 'node is down: QEMU was '
                         'killed by signal 9 (Killed)')
        self.ok('down')

    def test_node_dies(self):
        self.up()
        pid = self.node('m', 1)['pid']
        os.kill(pid, signal.SIGKILL)
        node = wait_until(lambda: self.node('m', 1)['state'] == 'down' and
                          self.node('m', 1), 'status says so', 2)
        self.assertEqual(node['reason'],
                         'QEMU was killed by signal 9 (Killed)')
        self.ok('exec', 'x86', 'true')
        for command in 'exec', 'console':
            args = ['true'] if command == 'exec' else []
            r = self.call(command, 'arm', *args)
            self.assertIn('node arm is down: QEMU was killed by signal 9 '
                          '(Killed)', r.err)
        self.ok('down')

    def accused(self, reason, coherence):
        """Node arm has lost node x86, whose QEMU runs; status of x86."""
        conf = self.two(machine='[machine]\ncoherence=%s\n' % coherence,
                        arm='append=fake.accuse=' + reason)
        self.ok('up', '-q', conf)
        os.kill(self.node('m', 1)['pid'], signal.SIGUSR1)
        return wait_until(lambda: self.node('m', 0)['reason'] and
                          self.node('m', 0), 'status says so', 2)

    def test_silent_node_is_killed(self):
        for coherence, reason, state in (
                ('shared', 'silent_for_30000_ms', 'down'),
                ('shared', 'connection_lost', 'up'),
                ('dsm', 'silent_for_30000_ms', 'up')):
            node = self.accused(reason, coherence)
            said = 'node arm says it is down: ' + reason.replace('_', ' ')
            if state == 'down':
                node = wait_until(lambda: self.node('m', 0)['state'] == 'down' and
                                  self.node('m', 0), 'it is down', 2)
                said += '; so it was killed'
            self.assertEqual((node['state'], node['reason']), (state, said))
            self.ok('down')

    def test_home_node_dies_during_run(self):
        child = self.start('run', '-q', self.two(), 'sh', '-c',
                           'echo here; exec sleep 100')
        child.stdout.readline()
        os.kill(self.node('m', 0)['pid'], signal.SIGKILL)
        r = self.finish(child, timeout=10)
        self.assertEqual((r.code, r.err), (125, self.lines(
            'node x86 went down: QEMU was killed by signal 9 (Killed)')))

    def test_other_node_dies_during_run(self):
        child = self.start('run', '-q', self.two(), 'sh', '-c',
                           'echo here; read line; echo $line',
                           stdin=subprocess.PIPE)
        child.stdout.readline()
        os.kill(self.node('m', 1)['pid'], signal.SIGKILL)
        wait_until(lambda: self.node('m', 1)['state'] == 'down', 'down')
        r = self.finish(child, b'on\n')
        self.assertEqual((r.code, r.out, r.err), (0, b'on\n', ''))

    def test_guests_that_do_not_power_off(self):
        self.up(x86='append=fake.deaf', arm='append=fake.stubborn')
        started = time.monotonic()
        self.ok('down')
        self.assertLess(time.monotonic() - started, 10)

    def test_down_at_once(self):
        self.up(x86='append=fake.stubborn', arm='append=fake.stubborn')
        started = time.monotonic()
        self.ok('down', '--force')
        self.assertLess(time.monotonic() - started, 2)

    def test_down_of_a_hanging_supervisor(self):
        self.up()
        pid = self.status('m')['pid']
        os.kill(pid, signal.SIGSTOP)
        r = self.call('status')
        self.assertEqual((r.code, r.err), (1, self.lines(
            "machine 'm': its supervisor, process %d, does not answer within "
            "5 s; 'chimera down --force m' ends it" % pid)))
        # the orderly way has a long limit; --force does not wait for it
        self.ok('down', '--force', 'm')

    def test_down_twice_at_once(self):
        self.up(x86='append=fake.deaf')
        first = self.start('down', 'm')
        second = self.start('down', 'm')
        for child in first, second:
            self.assertEqual(self.finish(child).code, 0)

    def test_down_during_boot(self):
        child = self.start('up', '-q', self.two(x86='append=fake.silent'))
        wait_until(lambda: self.status(), 'it is there')
        self.ok('down', 'm')
        r = self.finish(child)
        self.assertEqual((r.code, r.err), (1, self.lines(
            "machine 'm' was shut down before it was up")))

    def test_supervisor_gets_sigterm(self):
        self.up()
        os.kill(self.status('m')['pid'], signal.SIGTERM)
        wait_until(lambda: not self.status(), 'it ends in good order')

    def test_validate(self):
        conf = self.two()
        r = self.ok('validate', conf)
        self.assertEqual(r.out.decode(), '%s: ok: machine m, shared, 2 nodes: '
                         'x86 (x86_64, 1 CPU, 512M), arm (aarch64, 1 CPU, '
                         '512M)\n' % conf)
        bad = self.conf('[node a]\n', 'bad.conf')
        r = self.call('validate', conf, bad)
        self.assertEqual(r.code, 1)
        self.assertIn('ok: machine m', r.out.decode())
        self.assertIn('bad.conf:1:isa: missing in [node a]', r.err)
        self.assertEqual(self.call('validate', self.two(
            x86='kernel=/none')).code, 1)
        self.ok('validate', '--syntax', self.two(x86='kernel=/none'))
        lines = self.ok('validate', '--qemu-args', self.two()).out.decode()
        self.assertEqual(lines.count('\n'), 2)
        self.assertIn('-M', lines)

    def test_bench(self):
        os.makedirs(self.prefix + '/libexec/chimera/bench')
        for name in 'boot', 'message':
            path = self.prefix + '/libexec/chimera/bench/' + name
            with open(path, 'w') as f:
                f.write('#!/bin/sh\necho "$CHIMERA_PREFIX $0 $*"; exit 3\n')
            os.chmod(path, 0o755)
        self.assertEqual(self.ok('bench').out, b'boot\nmessage\n')
        r = self.call('bench', 'boot', '--json', 'x')
        self.assertEqual((r.code, r.out.decode()), (
            3, '%s %s/libexec/chimera/bench/boot --json x\n' %
            (self.prefix, self.prefix)))
        r = self.call('bench', 'bot')
        self.assertEqual((r.code, r.err), (2, self.lines(
            "no benchmark 'bot'; did you mean 'boot'?; there are: boot, "
            "message")))


class Sessions(FakeTest):
    def setUp(self):
        super().setUp()
        self.up()

    def tearDown(self):
        self.call('down', '--all')
        super().tearDown()

    def signalled(self, number, script, code, err=''):
        child = self.start('exec', 'x86', 'sh', '-c', script)
        self.assertEqual(child.stdout.readline(), b'ready\n')
        child.send_signal(number)
        r = self.finish(child, timeout=10)
        self.assertEqual((r.code, r.err), (code, err))
        return r

    def test_signals(self):
        for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
            self.signalled(number, 'echo ready; exec sleep 100', 128 + number)
        self.signalled(signal.SIGINT, 'trap "echo caught; exit 5" INT; '
                       'echo ready; sleep 100 & wait', 5)
        self.signalled(signal.SIGQUIT, 'ulimit -c 0; echo ready; '
                       'exec sleep 100', 131,
                       self.lines('sh on node x86 was killed by signal 3 '
                                  '(Quit)'))

    def test_program_that_ignores_sigterm(self):
        self.signalled(signal.SIGTERM, 'trap "" TERM HUP; echo ready; '
                       'sleep 100 & wait; wait', 143)

    def test_three_interrupts_force_the_end(self):
        # read: a shell runs its trap at once there, and starts no process
        child = self.start('exec', 'x86', 'sh', '-c',
                           'trap "echo no >&2" INT; echo ready; '
                           'while :; do read line; done',
                           stdin=subprocess.PIPE)
        child.stdout.readline()
        interrupts, line = 0, b'no\n'
        while line:  # a slow host may let the two seconds pass
            self.assertEqual(line, b'no\n')
            child.send_signal(signal.SIGINT)
            interrupts += 1
            line = child.stderr.readline()
        self.assertGreaterEqual(interrupts, 3)
        self.assertEqual(self.finish(child).code, 130)

    def test_client_dies(self):
        child = self.start('exec', 'x86', 'sh', '-c',
                           'echo $$; exec sleep 1000')
        pid = int(child.stdout.readline())
        child.kill()
        wait_until(lambda: not os.path.exists('/proc/%d' % pid),
                   'its program ends')

    def test_many_sessions(self):
        children = [self.start('exec', 'x86' if i % 2 else 'arm', 'sh', '-c',
                               'cat; exit %d' % i, stdin=subprocess.PIPE)
                    for i in range(12)]
        for i, child in enumerate(children):
            data = bytes([i]) * 700000
            r = self.finish(child, data)
            self.assertEqual((r.code, r.out == data), (i, True), r.err)

    def test_stalled_session(self):
        """One that nobody reads delays no other and costs no memory."""
        stuck = self.start('exec', 'x86', 'yes')
        stuck.stdout.read(1)
        for _ in range(20):
            self.ok('exec', 'x86', 'true')
        with open('/proc/%d/status' % self.status('m')['pid']) as f:
            rss_kb = [int(l.split()[1]) for l in f if l.startswith('VmRSS')]
        self.assertLess(rss_kb[0], 32 * 1024)
        stuck.kill()

    # ---- terminals ----

    def test_terminal(self):
        child, master, slave, before = self.terminal(
            'exec', 'x86', 'sh', '-c',
            'trap "stty size; echo resized" WINCH; tty; stty size; '
            'echo $TERM; echo begin; read a; echo "got $a"; '
            'while :; do read b; done')
        self.assertIn(b'/dev/pts/', self.read_until(master, b'begin'))
        os.write(master, b'abc\r')
        self.read_until(master, b'got abc')
        fcntl.ioctl(master, termios.TIOCSWINSZ,
                    struct.pack('HHHH', 11, 22, 0, 0))
        self.assertIn(b'11 22', self.read_until(master, b'resized'))
        os.write(master, b'\x03')  # raw: the guest's terminal makes it SIGINT
        self.assertEqual(child.wait(harness.TIMEOUT_S), 130)
        after = termios.tcgetattr(slave)
        self.assertEqual(after[3], before[3])
        os.close(master)
        os.close(slave)

    def test_terminal_size_at_start(self):
        child, master, slave, _ = self.terminal('exec', '-t', 'x86', 'stty',
                                                'size')
        self.read_until(master, b'31 97')
        self.assertEqual(child.wait(harness.TIMEOUT_S), 0)
        os.close(master)
        os.close(slave)

    def test_console(self):
        r = self.ok('console', '--log', 'arm')
        self.assertIn(b'fake kernel of arm\r\n', r.out)
        child, master, slave, before = self.terminal('console', 'arm')
        self.read_until(master, b'fake kernel of arm')
        os.write(master, b'hello')
        self.read_until(master, b'echo: hello')
        os.write(master, b'\x1d')
        self.assertEqual(child.wait(harness.TIMEOUT_S), 0)
        self.assertEqual(termios.tcgetattr(slave)[3], before[3])
        os.close(master)
        os.close(slave)

    def test_console_log_is_bounded(self):
        self.ok('down')
        self.up(x86='append=fake.flood=4')  # 28 MB
        path = self.runtime + '/chimera/m/console-0.log'

        def log():
            with open(path, 'rb') as f:
                data = f.read()
            return data.endswith(b'flood\r\nend of the flood\r\n') and data

        # the agent may answer before the console was read to its end
        data = wait_until(log, 'the log has the last line')
        self.assertLess(len(data), 17 * MB)
        self.assertTrue(data.startswith(b'[chimera: what was before is not '
                                        b'kept]\n'))

    def test_two_consoles_see_the_same(self):
        one = self.start('console', 'x86', stdin=subprocess.PIPE)
        two = self.start('console', 'x86', stdin=subprocess.PIPE)
        for child in one, two:
            child.stdout.readline()  # attached: the log has come
            child.stdout.readline()
        two.stdin.write(b'A')
        two.stdin.flush()
        for child in one, two:
            self.assertEqual(child.stdout.readline(), b'echo: A\r\n')
        os.kill(self.node('m', 0)['pid'], signal.SIGKILL)
        r = self.finish(one)
        self.assertEqual((r.code, r.err), (1, self.lines(
            'node x86 went down: QEMU was killed by signal 9 (Killed)')))
        self.assertEqual(self.finish(two).code, 1)

    # ---- the control socket ----

    def control(self, *frames, read=True):
        """Sends raw bytes; returns the frames that come back."""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.runtime + '/chimera/m/control.sock')
            s.settimeout(harness.TIMEOUT_S)
            try:
                s.sendall(b''.join(frames))
            except BrokenPipeError:
                pass
            data = b''
            while read:
                try:
                    chunk = s.recv(65536)
                except ConnectionResetError:
                    break
                if not chunk:
                    break
                data += chunk
        out = []
        while data:
            magic, kind, stream, session, length = struct.unpack(
                '<IHHII', data[:16])
            self.assertEqual(magic, 0x54434843)
            out.append((kind, data[16:16 + length]))
            data = data[16 + length:]
        return out

    @staticmethod
    def frame(kind, payload=b'', stream=0, session=0, magic=0x54434843,
              length=None):
        return struct.pack('<IHHII', magic, kind, stream, session,
                           len(payload) if length is None else length) + payload

    def test_malformed_control(self):
        f = self.frame
        hello = f(1, struct.pack('<I', 1))
        error = 17
        cases = [
            (f(1, struct.pack('<I', 99)),
             'speaks control protocol version 1, this command version 99'),
            (f(2), 'the first frame must be a greeting'),
            (f(1, b'xx'), 'the first frame must be a greeting'),
            (b'GET / HTTP/1.1\r\n\r\n', 'malformed input: bad frame magic'),
            (f(1, length=1 << 30), 'malformed input: frame of'),
            (f(1, stream=9), 'malformed input: frame for stream 9'),
            (hello + f(77), 'unknown request 77'),
            (hello + f(2, session=5), 'malformed frame'),
            (hello + f(4, b'x'), 'malformed request'),
            (hello + f(4, struct.pack('<I', 2)), 'malformed request'),
            (hello + f(5), 'malformed request'),
            (hello + f(5, b'node=0'), 'malformed request'),
            (hello + f(5, b'node=x\0arg=true\0'), 'malformed request'),
            (hello + f(5, b'node=9\0arg=true\0'), 'machine m has no node 9'),
            (hello + f(6, b'x'), 'malformed request'),
            (hello + f(6, struct.pack('<II', 9, 0)),
             'machine m has no node 9'),
            (hello + f(7), 'malformed request'),
            (hello + f(7, struct.pack('<I', 0)), 'malformed request'),
            (hello + f(7, struct.pack('<IIQ', 0, 0, 5) + b'x'),
             'malformed request'),
            (hello + f(7, struct.pack('<I', 0) + bytes(12) * 65),
             'malformed request'),
            (hello + f(7, struct.pack('<IIQ', 9, 0, 5)),
             'machine m has no node 9'),
            (hello + f(7, struct.pack('<IIQ', 0, 4000, 1 << 63)),
             'chimera-pages failed: status 2 No such file'),
            (hello + f(5, b'node=0\0arg=cat\0') + f(33, b'x' * 65536) * 40,
             'malformed frame of type 33 in a session'),
            (hello + f(5, b'node=0\0arg=cat\0') + f(33, b'x', stream=1),
             'malformed frame of type 33 in a session'),
            (hello + f(5, b'node=0\0arg=cat\0') +
             f(34, struct.pack('<I', 1), stream=1),
             'malformed frame of type 34 in a session'),
            (hello + f(5, b'node=0\0arg=cat\0') + f(35, b''),
             'malformed frame of type 35 in a session'),
            (hello + f(5, b'node=0\0arg=cat\0') + f(2),
             'malformed frame of type 2 in a session'),
            (hello + f(6, struct.pack('<II', 0, 10)) + f(34, b'xxxx'),
             'malformed frame of type 34 for a console'),
        ]
        for data, words in cases:
            answer = self.control(data)
            self.assertEqual(answer[0][0], 1)
            kind, text = answer[-1]
            self.assertEqual(kind, error, (words, answer))
            self.assertIn(words, text.decode())
        self.assertEqual(self.status('m')['state'], 'running')

    def test_random_control(self):
        rng = random.Random(SEED)
        f = self.frame
        hello = f(1, struct.pack('<I', 1))
        for _ in range(200):
            data = hello if rng.random() < 0.8 else b''
            for _ in range(rng.randrange(4)):
                kind = rng.choice([1, 2, 3, 5, 6, 7, 33, 34, 35, 36,
                                   rng.randrange(65536)])
                data += f(kind, rng.randbytes(rng.randrange(40)),
                          stream=rng.choice([0, 0, 0, 1, 2, 3]))
            data += rng.randbytes(rng.randrange(20))
            self.control(data, read=False)
        self.assertEqual(self.status('m')['state'], 'running')
        self.ok('exec', 'x86', 'true')


class Monitor(FakeTest):
    """top, recordings and reports."""

    COUNTS = 'append=fake.faults fake.names'

    def shown(self, text):
        """The frames of top -b: lists of lines."""
        return [part.splitlines() for part in
                re.split(r'(?m)^(?=m: )', text.decode())[1:]]

    def test_top(self):
        self.up(x86=self.COUNTS, arm=self.COUNTS)
        frames = self.shown(self.ok('top', '-b', '-n', '2', '-d', '0.5',
                                    'm').out)
        self.assertEqual(len(frames), 2)
        for frame in frames:
            text = '\n'.join(frame)
            seconds = float(re.search(r'the last ([\d.]+) s', text)[1])
            self.assertGreater(seconds, 0.05)
            row = re.search(r'(?m)^  x86 +(\d+) .*$', text)
            self.assertLess(abs(int(row[1]) - 1000), 500, text)
            self.assertRegex(text, r'(?m)^  arm +\d+ .*$')
            # ...each names the segment's own process; page 77 is node 0's
            self.assertRegex(
                text, r'(?m)^  x86 +x86 +77 +\d+ +25 % +segment s: pong\[7\]$')
            self.assertRegex(
                text, r'(?m)^  arm +x86 +77 +\d+ +25 % +segment s: ping\[8\]$')
            p50, p99 = re.search(r'x86 +([\d.]+) us +([\d.]+) us', text).groups()
            self.assertEqual((p50, p99), ('24.6', '32.6'))
        self.ok('down')

    def test_names_do_not_come(self):
        """An agent that hangs costs two seconds, and a dash."""
        hang = 'append=fake.faults fake.names=hang'
        self.up(x86=hang, arm=hang)
        begin = time.monotonic()
        (frame,) = self.shown(self.ok('top', '-b', '-n', '1', '-d', '0.2').out)
        self.assertLess(time.monotonic() - begin, 5)
        self.assertRegex('\n'.join(frame), r'(?m)^  arm +x86 +77 +\d+ +25 % +-$')
        self.ok('down')

    def test_top_of_shared_memory(self):
        self.up()
        (frame,) = self.shown(self.ok('top', '-b', '-n', '1', '-d', '0.1').out)
        self.assertIn('All nodes map the same memory, so there are no page '
                      'faults between them. Messages:', frame)
        self.ok('down')

    def test_top_of_a_node_that_dies(self):
        self.up(x86=self.COUNTS, arm=self.COUNTS)
        os.kill(self.node('m', 1)['pid'], signal.SIGKILL)
        wait_until(lambda: self.node('m', 1)['state'] == 'down', 'down')
        (frame,) = self.shown(self.ok('top', '-b', '-n', '1', '-d', '0.2').out)
        self.assertIn('  node arm: node is down: QEMU was killed by signal 9 '
                      '(Killed)', frame)
        self.assertRegex('\n'.join(frame), r'(?m)^  x86 +x86 +77 ')
        self.ok('down')

    def test_bad_options(self):
        for args, message in (
                (('-d', '0'), "-d: found '0'; allowed: 0.1 to 3600 seconds"),
                (('-d', 'x'), "-d: found 'x'; allowed: 0.1 to 3600 seconds"),
                (('-n', '0'), "-n: found '0'; allowed: a number of at least 1"),
                ((), 'standard output is no terminal; -b is for that'),
                (('a', 'b'), "unexpected 'b'")):
            r = self.call('top', *args)
            self.assertEqual((r.code, r.err), (2, self.lines(
                "top: %s; 'chimera help top' says more" % message)))
        r = self.call('top', '-b')
        self.assertEqual((r.code, r.err),
                         (1, self.lines('no machine is running')))

    def on_terminal(self, end, code):
        """However it ends, the terminal is as it was before."""
        child, master, slave, before = self.terminal('top', '-d', '0.2', 'm')
        self.read_until(master, b'q quits')
        self.assertNotEqual(termios.tcgetattr(slave), before)
        end(child, master)
        out = self.read_until(master, b'\x1b[?25h\x1b[?1049l')
        child.wait(harness.TIMEOUT_S)
        self.assertEqual(child.returncode, code, out)
        self.assertEqual(termios.tcgetattr(slave), before)
        os.close(slave)
        os.close(master)

    def test_terminal_is_restored(self):
        self.up(x86=self.COUNTS, arm=self.COUNTS)
        for end, code in (
                (lambda child, master: os.write(master, b'q'), 0),
                (lambda child, master: os.write(master, b'x\x03'), 130),
                (lambda child, master: child.send_signal(signal.SIGTERM), 143),
                (lambda child, master: self.ok('down', 'm'), 1)):
            self.on_terminal(end, code)

    def test_supervisor_hangs(self):
        """q works also while nobody answers."""
        self.up(x86=self.COUNTS)
        pid = self.status('m')['pid']

        def end(child, master):
            os.kill(pid, signal.SIGSTOP)
            os.write(master, b'q')
        try:
            self.on_terminal(end, 0)
        finally:
            os.kill(pid, signal.SIGCONT)
        self.ok('down')

    def page(self, path):
        """The page at @path, which is well-formed and needs nothing else."""
        with open(path, encoding='utf-8') as f:
            text = f.read()
        root = xml.etree.ElementTree.fromstring(text)
        for element in root.iter():
            for name, value in element.attrib.items():
                self.assertNotIn(name, ('src', 'srcset', 'data'))
                if name == 'href':
                    self.assertRegex(value, '^#')
            self.assertFalse(element.tag.endswith('script'))
        opened = []

        class Parser(html.parser.HTMLParser):
            def handle_starttag(parser, tag, attributes):
                if tag not in ('meta',):
                    opened.append(tag)

            def handle_endtag(parser, tag):
                self.assertEqual(opened.pop(), tag)

            def handle_startendtag(parser, tag, attributes):
                pass
        Parser().feed(text)
        self.assertEqual(opened, [])
        ids = re.findall(r'<h2 id="([a-z]+)"', text)
        self.assertEqual(ids, ['configuration', 'traffic', 'heat', 'latency',
                               'prefetch', 'messages'])
        return text, root

    def test_report(self):
        conf = self.two(x86=self.COUNTS, arm=self.COUNTS)
        self.ok('run', '-q', '--record', 'run.jsonl', conf, 'sleep', '2.2')
        with open(self.dir + '/run.jsonl') as f:
            lines = [json.loads(line) for line in f]
        samples = [line['ms'] for line in lines if 'nodes' in line]
        self.assertEqual(samples, sorted(samples))
        self.assertIn(len(samples), (4, 5), samples) # 0, 1, 2 s and the end
        self.assertGreater(samples[-1], 2200)
        r = self.ok('report', 'run.jsonl')
        self.assertEqual(r.out, b'run.html\n')
        text, root = self.page(self.dir + '/run.html')
        for part in ('Run of machine m', 'The hottest pages', 'Memory of x86',
                     'segment s: pong[7]', 'segment s: ping[8]'):
            self.assertIn(part, text)
        svg = '{http://www.w3.org/2000/svg}svg'
        self.assertGreaterEqual(len(list(root.iter(svg))), 7)
        self.assertEqual(self.ok('report', 'run.jsonl', '-o', '-').out.decode(),
                         text)

    def test_report_of_shared_memory(self):
        self.ok('run', '-q', '--record', 'run.jsonl', self.two(), 'true')
        self.ok('report', '-o', 'x.html', 'run.jsonl')
        text, _ = self.page(self.dir + '/x.html')
        self.assertEqual(text.count('All nodes map the same memory'), 3)

    def test_report_of_a_running_machine(self):
        conf = self.two(x86=self.COUNTS)
        self.ok('up', '-q', '--record', 'run.jsonl', conf)
        with open(self.dir + '/run.jsonl') as f:
            wait_until(lambda: f.read().count('"nodes"') > 1 or f.seek(0),
                       'two samples')
        self.assertEqual(self.ok('report', 'm').out.decode(),
                         os.path.realpath(self.dir) + '/run.html\n')
        self.page(self.dir + '/run.html')
        self.ok('down')
        r = self.call('report', 'm')
        self.assertEqual((r.code, r.err),
                         (1, self.lines("no machine 'm' is running")))
        self.ok('up', '-q', conf)
        r = self.call('report')
        self.assertEqual((r.code, r.err), (1, self.lines(
            "machine 'm' is not recorded: start it with --record FILE")))
        self.ok('down')

    def test_bad_recordings(self):
        self.ok('run', '-q', '--record', 'run.jsonl', self.two(), 'true')
        with open(self.dir + '/run.jsonl', 'rb') as f:
            good = f.read()
        with open(self.dir + '/out.html', 'w') as f:
            f.write('what was there')
        first = good.index(b'\n') + 1
        nr = good.count(b'\n')
        for data, message in (
                (good[:-20], '%%s:%d: the file is cut off in this line; the '
                 'first %d lines alone are whole' % (nr, nr - 1)),
                (good[:first - 10], None),
                (b'', '%s is empty: a recording begins when its machine is up'),
                (b'\x7fELF\0\0', None),
                (good.replace(b'recording":1', b'recording":9'),
                 '%s is a recording of version 9, this chimera reads version 1'),
                (good[:first] + b'{"ms":0,"nodes":3}\n',
                 "%s:2: 'nodes' is not a list")):
            with open(self.dir + '/bad', 'wb') as f:
                f.write(data)
            before = sorted(os.listdir(self.dir))
            r = self.call('report', './bad', '-o', 'out.html')
            self.assertEqual((r.code, r.out), (1, b''))
            self.assertEqual(r.err, self.lines(
                (message or '%s') % './bad') if message else r.err)
            self.assertIn('./bad', r.err)
            self.assertEqual(sorted(os.listdir(self.dir)), before)
            with open(self.dir + '/out.html') as f:
                self.assertEqual(f.read(), 'what was there')
        before = sorted(os.listdir(self.dir))
        for args, message in (
                (('run.jsonl', '-o', 'no/such/x.html'),
                 'cannot create no/such/x.html: No such file or directory'),
                (('run.jsonl', '-o', self.runtime), 'cannot write %s: it is '
                 'not a regular file' % self.runtime),
                (('run.jsonl', '-o', '/dev/full'),
                 'cannot write /dev/full: it is not a regular file'),
                (('run.jsonl', '-o', './run.jsonl'), './run.jsonl is the '
                 'recording itself; choose another file with -o'),
                (('./none',), 'cannot read ./none: No such file or directory'),
                ((self.runtime,), 'cannot read %s: it is not a regular file' %
                 self.runtime)):
            r = self.call('report', *args)
            self.assertEqual((r.code, r.err), (1, self.lines(message)))
            self.assertEqual(sorted(os.listdir(self.dir)), before)
        with open(self.dir + '/run.jsonl', 'rb') as f:
            self.assertEqual(f.read(), good)

    def test_cannot_record(self):
        """Said before a node starts, and nothing stays."""
        conf = self.two()
        for path, message in (
                ('no/such/x', 'No such file or directory'),
                ('/dev/null', 'it is not a regular file')):
            whole = os.path.join(os.path.realpath(self.dir), path)
            r = self.call('run', '-q', '--record', path, conf, 'true')
            self.assertEqual((r.code, r.err), (125, self.lines(
                'cannot record to %s: %s' % (whole, message))))

    def test_recording_fails_later(self):
        """A full disk ends the recording, not the machine."""
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))
        conf = self.two(x86=self.COUNTS, arm=self.COUNTS)
        r = self.ok('run', '-q', '--record', 'run.jsonl', conf, 'sh', '-c',
                    'sleep 3.2; echo fine', preexec_fn=limit)
        self.assertEqual(r.out, b'fine\n')
        self.ok('report', 'run.jsonl') # what is there is whole
        self.assertLessEqual(os.path.getsize(self.dir + '/run.jsonl'), 2500)


class Ends(FakeTest):
    """However the launcher ends, nothing stays."""

    SLOW = 'append=fake.slow=0.1'

    def interrupt(self, number, code, after_s, slow):
        conf = self.two(x86=self.SLOW if slow else '', arm='')
        # bash-like: a group of its own, the signal goes to all of it
        child = self.start('run', '-q', conf, 'sh', '-c', 'exec sleep 100',
                           start_new_session=True)
        try:
            child.wait(after_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, number)
        r = self.finish(child, timeout=10)
        self.assertEqual((r.code, r.err), (code, ''), 'after %g s, seed %d' %
                         (after_s, SEED))
        self.assertFalse(processes_with(self.dir), 'after %g s, seed %d' %
                         (after_s, SEED))
        self.assertFalse(os.path.exists(self.runtime + '/chimera'))

    def test_ctrl_c_at_any_moment(self):
        rng = random.Random(SEED)
        for i in range(24):
            # from before it blocks signals: Python's exec is the first 10 ms
            self.interrupt(signal.SIGINT, 130, 0.02 + rng.random() * 0.6,
                           i % 2)

    def test_sigterm_and_sighup(self):
        rng = random.Random(SEED + 1)
        for number in (signal.SIGTERM, signal.SIGHUP) * 3:
            self.interrupt(number, 128 + number, 0.02 + rng.random() * 0.5,
                           True)

    def test_ctrl_c_during_up(self):
        conf = self.two(x86='append=fake.silent')
        child = self.start('up', conf, start_new_session=True)
        self.assertIn(b'booting', child.stderr.readline())
        os.killpg(child.pid, signal.SIGINT)
        r = self.finish(child)
        self.assertEqual(r.code, 130)
        self.assertIn('interrupted', r.err)

    def test_impatient_ctrl_c(self):
        child = self.start('run', '-q', self.two(x86='append=fake.stubborn'),
                           'sh', '-c', 'echo here; exec sleep 100')
        child.stdout.readline()
        started = time.monotonic()
        child.send_signal(signal.SIGINT)  # ends sleep; the guest stays
        wait_until(lambda: not self.status() or
                   self.status()[0]['state'] == 'stopping', 'stopping')
        child.send_signal(signal.SIGINT)
        r = self.finish(child)
        self.assertEqual(r.code, 130)
        self.assertLess(time.monotonic() - started, 2)

    def test_launcher_is_killed(self):
        rng = random.Random(SEED + 2)
        for i in range(12):
            child = self.start('run', '-q', self.two(x86=self.SLOW), 'sleep',
                               '100')
            try:
                child.wait(rng.random() * 0.6)
            except subprocess.TimeoutExpired:
                child.kill()
            self.finish(child)
            wait_until(lambda: not processes_with(self.dir), 'no process')
            wait_until(lambda: not os.path.exists(self.runtime + '/chimera'),
                       'no file')

    def test_supervisor_is_killed(self):
        child = self.start('run', '-q', self.two(), 'sh', '-c',
                           'echo here; exec sleep 100')
        child.stdout.readline()
        os.kill(self.status('m')['pid'], signal.SIGKILL)
        r = self.finish(child)
        # run sees its end only when the guard has finished
        self.assertFalse(processes_with(self.dir))
        self.assertFalse(os.path.exists(self.runtime + '/chimera'))
        self.assertEqual((r.code, r.err), (125, self.lines(
            "the machine's supervisor ended",
            "the supervisor of machine 'm' died; its guard has cleaned up")))

    def test_supervisor_of_up_is_killed(self):
        self.up()
        os.kill(self.status('m')['pid'], signal.SIGKILL)

    def supervisor_and_guard(self):
        pid = self.status('m')['pid']
        guard = [int(p) for p in os.listdir('/proc') if p.isdigit() and
                 self.stat(p)[:2] == ('chimera-guard', pid)]
        self.assertEqual(len(guard), 1)
        return pid, guard[0]

    @staticmethod
    def stat(pid):
        try:
            with open('/proc/%s/stat' % pid) as f:
                text = f.read()
        except OSError:
            return '', 0
        name = text[text.index('(') + 1:text.rindex(')')]
        return name, int(text[text.rindex(')') + 2:].split()[1])

    def test_guard_is_killed(self):
        self.up()
        _, guard = self.supervisor_and_guard()
        os.kill(guard, signal.SIGKILL)
        # replaced, and the new one knows the nodes
        wait_until(lambda: [p for p in os.listdir('/proc') if p.isdigit() and
                            self.stat(p)[0] == 'chimera-guard' and
                            int(p) != guard and
                            self.stat(p)[1] == self.status('m')['pid']],
                   'another guard')
        os.kill(self.status('m')['pid'], signal.SIGKILL)

    def test_supervisor_and_guard_are_killed(self):
        self.up()
        pid, guard = self.supervisor_and_guard()
        os.kill(pid, signal.SIGSTOP)
        os.kill(guard, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        # the nodes died with the supervisor, the folder is the next one's
        wait_until(lambda: not processes_with(self.dir), 'all are gone')
        self.assertTrue(os.path.exists(self.runtime + '/chimera/m'))
        self.assertEqual(self.ok('status').out, b'no machine is running\n')
        self.assertFalse(os.path.exists(self.runtime + '/chimera'))

    def test_stale_directory_is_taken_over(self):
        stale = self.runtime + '/chimera/m'
        os.makedirs(stale, 0o700)
        os.chmod(self.runtime + '/chimera', 0o700)
        for name, text in (('lock', '1234567\n'), ('link-0.sock', ''),
                           ('console-0.log', 'old')):
            with open(os.path.join(stale, name), 'w') as f:
                f.write(text)
        r = self.ok('run', '-q', self.two(), 'echo', 'new')
        self.assertEqual(r.out, b'new\n')


if __name__ == '__main__':
    harness.CHIMERA = os.path.abspath(sys.argv[1])
    print('CHIMERA_TEST_SEED=%d' % SEED, flush=True)
    unittest.main(argv=[sys.argv[0]] + sys.argv[2:])
