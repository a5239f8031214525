#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""onnode and noded, built for the host with a fabric of local sockets.

usage: test_onnode.py ONNODE NODED
"""
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

ONNODE = NODED = None
TIMEOUT_S = 20


def alive(pid):
    try:
        with open('/proc/%d/stat' % pid) as f:
            return f.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


class OnnodeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix='onnode-')
        cls.noded = []
        for node in range(2):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.bind('%s/sock%d' % (cls.dir, node))
            sock.listen(64)
            end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            end.bind('%s/%d.1' % (cls.dir, node))
            # 3 and 4 may be in use here: move over a pair of high numbers.
            os.dup2(sock.fileno(), 103)
            os.dup2(end.fileno(), 104)
            cls.noded.append(subprocess.Popen(
                ['bash', '-c', 'exec "$0" 3<&103 4<&104 103<&- 104<&-', NODED],
                pass_fds=[103, 104], env=cls.env(node)))
            os.close(103)
            os.close(104)
            sock.close()
            end.close()

    @classmethod
    def tearDownClass(cls):
        for p in cls.noded:
            p.terminate()
            p.wait(TIMEOUT_S)
        shutil.rmtree(cls.dir)

    @classmethod
    def env(cls, node, **more):
        return dict(os.environ, FAKE_DIR=cls.dir, FAKE_NODE=str(node),
                    NODED_SOCKET='%s/sock%d' % (cls.dir, node), **more)

    def start(self, *args, **keys):
        keys.setdefault('env', self.env(0))
        keys.setdefault('stdin', subprocess.DEVNULL)
        return subprocess.Popen([ONNODE, *args], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **keys)

    def run_on(self, *args, data=b'', **keys):
        p = self.start(*args, stdin=subprocess.PIPE, **keys)
        out, err = p.communicate(data, TIMEOUT_S)
        return p.returncode, out, err

    def wait_dead(self, pid):
        end = time.monotonic() + TIMEOUT_S
        while alive(pid):
            self.assertLess(time.monotonic(), end, 'pid %d lives' % pid)
            os.sched_yield()

    def test_streams_and_status(self):
        self.assertEqual(
            self.run_on('1', 'sh', '-c', 'cat; echo e >&2; exit 7', data=b'hi'),
            (7, b'hi', b'e\n'))

    def test_own_node(self):
        self.assertEqual(self.run_on('0', 'echo', 'x'), (0, b'x\n', b''))

    def test_it_is_there(self):
        code, out, _ = self.run_on('1', 'sh', '-c', 'echo $PPID')
        self.assertEqual(code, 0)
        self.wait_dead(int(out))  # the server

    def test_environment(self):
        code, out, _ = self.run_on(
            '1', 'sh', '-c', 'pwd; echo "$A"; id -u; id -G', cwd='/usr',
            env=self.env(0, A='a b=c'))
        self.assertEqual(code, 0)
        want = subprocess.run(['sh', '-c', 'id -u; id -G'],
                              capture_output=True, check=True).stdout
        self.assertEqual(out, b'/usr\na b=c\n' + want)

    @unittest.skipUnless(os.getuid() == 0, 'only root can become another')
    def test_other_user(self):
        os.chmod(self.dir, 0o755)
        for name in os.listdir(self.dir):
            os.chmod('%s/%s' % (self.dir, name), 0o777)
        tool = self.dir + '/onnode'
        shutil.copy(ONNODE, tool)
        p = subprocess.run([tool, '1', 'sh', '-c', 'id -u; id -g; id -G'],
                           env=self.env(0), user=1234, group=2345,
                           extra_groups=[7, 8], cwd='/', capture_output=True,
                           timeout=TIMEOUT_S, check=False)
        self.assertEqual(p.stdout, b'1234\n2345\n2345 7 8\n')

    def test_failures(self):
        for args, code, text in [
                (['1', 'no-such-prog'], 127, b'not found in PATH'),
                (['1', '/etc/passwd'], 126, b'ermission denied'),
                (['-d', '/no/dir', '1', 'true'], 126, b'/no/dir'),
                (['7', 'true'], 125, b"no node '7'"),
                (['1'], 125, b'usage'),
                (['1', 'sh', '-c', 'kill -SEGV $$'], 139, b'egmentation'),
                (['1', 'sh', '-c', 'kill -TERM $$'], 143, b'')]:
            with self.subTest(args=args):
                rc, out, err = self.run_on(*args)
                self.assertEqual((rc, out), (code, b''))
                self.assertIn(text, err)

    def test_no_noded(self):
        code, _, err = self.run_on('1', 'true', env=dict(
            self.env(0), NODED_SOCKET='/no/socket'))
        self.assertEqual(code, 125)
        self.assertIn(b'/no/socket', err)

    def test_big(self):
        data = os.urandom(3000000)
        self.assertEqual(self.run_on('1', 'cat', data=data), (0, data, b''))

    def test_big_environment(self):
        self.assertEqual(
            self.run_on('1', 'sh', '-c', 'echo ${#BIG}',
                        env=self.env(0, BIG='x' * 100000)),
            (0, b'100000\n', b''))

    def test_slow_reader(self):
        p = self.start('1', 'head', '-c', '2000000', '/dev/zero')
        got = 0
        while True:
            n = len(os.read(p.stdout.fileno(), 1000))
            if not n:
                break
            got += n
        self.assertEqual(got, 2000000)
        self.assertEqual(p.wait(TIMEOUT_S), 0)

    def test_signal_past_full_stdin(self):
        # The program never reads; a signal must not wait behind its input.
        p = self.start('1', 'sh', '-c', 'echo r; exec sleep 1000',
                       stdin=subprocess.PIPE)
        self.assertEqual(p.stdout.readline(), b'r\n')
        os.set_blocking(p.stdin.fileno(), False)
        end = time.monotonic() + TIMEOUT_S
        sent = 0
        while sent < 300000 and time.monotonic() < end:
            try:
                sent += os.write(p.stdin.fileno(), bytes(4096))
            except BlockingIOError:
                if sent > 150000:
                    break
                os.sched_yield()
        p.send_signal(signal.SIGTERM)
        self.assertEqual(p.wait(TIMEOUT_S), 143)

    def test_last_word_of_a_closed_call(self):
        """It is heard even if onnode's own words were not read any more."""
        CONNECT, REQUEST, STARTED, EXIT, KILLED = 1, 5, 6, 10, 1
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            path = '%s/closes' % self.dir
            listener.bind(path)
            listener.listen(1)
            p = self.start('1', 'cat', stdin=subprocess.PIPE,
                           env=dict(self.env(0), NODED_SOCKET=path))
            listener.settimeout(TIMEOUT_S)
            call = listener.accept()[0]
        call.settimeout(TIMEOUT_S)
        for expected in (CONNECT, REQUEST):
            self.assertEqual(call.recv(4096)[0], expected)
        call.send(struct.pack('<HHI', STARTED, 0, 1))
        p.stdin.write(b'unread')
        p.stdin.flush()
        call.recv(4096, socket.MSG_PEEK)
        p.send_signal(signal.SIGSTOP)
        os.waitpid(p.pid, os.WUNTRACED)
        call.send(struct.pack('<HHI', EXIT, KILLED, signal.SIGTERM))
        call.close()
        p.send_signal(signal.SIGCONT)
        self.assertEqual(p.wait(TIMEOUT_S), 143)

    def test_group_gets_signal(self):
        p = self.start('1', 'sh', '-c', 'sleep 1000 & echo $!; wait')
        pid = int(p.stdout.readline())
        p.send_signal(signal.SIGTERM)
        self.assertEqual(p.wait(TIMEOUT_S), 143)
        self.wait_dead(pid)

    def test_signal_with_the_request(self):
        """It comes when the program's process has just been forked."""
        CONNECT, REQUEST, SIGNAL, EXIT, KILLED = 1, 5, 9, 10, 1
        text = b'arg=sleep\0arg=1000\0cwd=/\0'
        for _ in range(30):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as call:
                call.settimeout(TIMEOUT_S)
                call.connect('%s/sock0' % self.dir)
                call.send(struct.pack('<HHI', CONNECT, 0, 1))
                call.send(struct.pack('<HHI', REQUEST, 0, len(text)) + text)
                call.send(struct.pack('<HHI', SIGNAL, 0, signal.SIGTERM))
                kind = None
                while kind != EXIT:
                    kind, how, value = struct.unpack('<HHI',
                                                     call.recv(65536)[:8])
                self.assertEqual((how, value), (KILLED, signal.SIGTERM))

    def test_onnode_killed(self):
        p = self.start('1', 'sh', '-c', 'echo $$; exec sleep 1000')
        pid = int(p.stdout.readline())
        p.kill()
        p.wait(TIMEOUT_S)
        self.wait_dead(pid)

    def server_of(self, pid):
        with open('/proc/%d/stat' % pid) as f:
            return int(f.read().rsplit(')', 1)[1].split()[1])

    def test_server_killed(self):
        p = self.start('1', 'sh', '-c', 'echo $$; exec sleep 1000')
        pid = int(p.stdout.readline())
        os.kill(self.server_of(pid), signal.SIGKILL)
        self.assertEqual(p.wait(TIMEOUT_S), 125)
        self.assertIn(b'lost', p.stderr.read())
        os.kill(pid, signal.SIGKILL)

    def test_output_closed(self):
        p = self.start('1', 'sh', '-c', 'echo $$; exec yes')
        pid = int(p.stdout.readline())
        p.stdout.close()
        self.assertLess(p.wait(TIMEOUT_S), 0)  # of SIGPIPE, as if local
        self.wait_dead(pid)

    def test_background_child(self):
        code, out, _ = self.run_on('1', 'sh', '-c', 'sleep 1000 & echo $!')
        self.assertEqual(code, 0)
        self.assertTrue(alive(int(out)))
        os.kill(int(out), signal.SIGKILL)

    def test_many(self):
        ps = [self.start('1', 'sh', '-c', 'echo %d; exit %d' % (i, i))
              for i in range(30)]
        for i, p in enumerate(ps):
            self.assertEqual(p.communicate(timeout=TIMEOUT_S)[0], b'%d\n' % i)
            self.assertEqual(p.returncode, i)

    def test_no_input(self):
        p = self.start('-n', '1', 'cat', stdin=subprocess.PIPE)
        self.assertEqual(p.wait(TIMEOUT_S), 0)


if __name__ == '__main__':
    NODED = os.path.abspath(sys.argv.pop(2))
    ONNODE = os.path.abspath(sys.argv.pop(1))
    unittest.main(warnings='ignore')
