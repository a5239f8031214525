#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent, built for the host, spoken to over a socket pair.

usage: test_agent.py AGENT
"""
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import unittest

MAGIC = 0x4D494843
(RESET, HELLO, EXEC, STARTED, DATA, GRANT, SIGNAL, WINSIZE, EXIT, ERROR,
 POWEROFF, MACHINE) = range(1, 13)
WINDOW = 262144
MAX_PAYLOAD = 65536
AGENT = None
TIMEOUT_S = 20


def frame(kind, session=0, stream=0, payload=b''):
    return struct.pack('<IHHII', MAGIC, kind, stream, session,
                       len(payload)) + payload


def request(*args, **keys):
    out = b''.join(b'arg=' + a.encode() + b'\0' for a in args)
    for key, value in keys.items():
        for v in value if isinstance(value, list) else [value]:
            out += ('%s=%s' % (key, v)).encode() + b'\0'
    return out


class Session:
    def __init__(self):
        self.pid = None
        self.out = {1: b'', 2: b''}
        self.ended = set()
        self.exit = None
        self.granted = 0
        self.errors = []


class Client:
    """A launcher that grants again whatever it reads, unless told not to."""

    def __init__(self):
        self.sock, theirs = socket.socketpair()
        self.agent = subprocess.Popen([AGENT, str(theirs.fileno())],
                                      pass_fds=[theirs.fileno()])
        theirs.close()
        self.sock.setblocking(False)
        self.input = b''
        self.sessions = {}
        self.errors = []
        self.hello = None
        self.machine = None
        self.regrant = True
        self.next = 0

    def close(self):
        self.sock.close()
        return self.agent.wait(TIMEOUT_S)

    def send(self, data):
        while data:
            try:
                data = data[self.sock.send(data):]
            except BlockingIOError:
                self.pump(write=True)

    def pump(self, timeout=TIMEOUT_S, write=False):
        r, _, _ = select.select([self.sock], [self.sock] if write else [], [],
                                timeout)
        if not r:
            return write
        try:
            got = self.sock.recv(1 << 20)
        except ConnectionError:
            got = b''
        if not got:
            raise EOFError('the agent closed the port')
        self.input += got
        while len(self.input) >= 16:
            magic, kind, stream, sid, n = struct.unpack('<IHHII',
                                                        self.input[:16])
            assert magic == MAGIC and n <= MAX_PAYLOAD
            if len(self.input) < 16 + n:
                break
            body = self.input[16:16 + n]
            self.input = self.input[16 + n:]
            self.on_frame(kind, stream, sid, body)
        return True

    def on_frame(self, kind, stream, sid, body):
        s = self.sessions.get(sid)
        if kind == HELLO:
            self.hello = body
        elif kind == MACHINE:
            self.machine = struct.unpack('<II', body)
        elif kind == ERROR:
            (s.errors if s else self.errors).append(body.decode())
        elif kind == STARTED:
            s.pid, = struct.unpack('<I', body)
        elif kind == DATA:
            assert stream not in s.ended, 'data after its end'
            if body:
                s.out[stream] += body
                if self.regrant:
                    self.send(frame(GRANT, sid, stream,
                                    struct.pack('<I', len(body))))
            else:
                s.ended.add(stream)
        elif kind == GRANT:
            assert stream == 0
            s.granted += struct.unpack('<I', body)[0]
        elif kind == EXIT:
            assert s.exit is None
            s.exit = struct.unpack('<II', body[:8]) + (body[8:].decode(),)
        else:
            raise AssertionError('unexpected frame type %d' % kind)

    def until(self, condition, timeout=TIMEOUT_S):
        end = time.monotonic() + timeout
        while not condition():
            left = end - time.monotonic()
            if left <= 0 or not self.pump(left):
                raise AssertionError('timed out')

    def reset(self, nonce=b'12345678'):
        self.hello = None
        self.send(frame(RESET, 0, 0, nonce))
        self.until(lambda: self.hello and self.hello[:8] == nonce)

    def start(self, *args, **keys):
        self.next += 1
        self.sessions[self.next] = Session()
        self.send(frame(EXEC, self.next, 0, request(*args, **keys)))
        return self.next, self.sessions[self.next]

    def eof(self, sid):
        self.send(frame(DATA, sid, 0))

    def finish(self, sid):
        s = self.sessions[sid]
        self.until(lambda: s.exit is not None)
        return s

    def run(self, *args, stdin=None, **keys):
        sid, s = self.start(*args, **keys)
        if stdin:
            self.send(frame(DATA, sid, 0, stdin))
        self.eof(sid)
        return self.finish(sid)


def alive(pid):
    try:
        with open('/proc/%d/stat' % pid) as f:
            return f.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


class AgentTest(unittest.TestCase):
    def setUp(self):
        self.c = Client()
        self.c.reset()

    def tearDown(self):
        if self.c.agent.poll() is None:
            self.assertEqual(self.c.close(), 0)

    def wait_dead(self, pid):
        end = time.monotonic() + TIMEOUT_S
        while alive(pid):
            self.assertLess(time.monotonic(), end, 'pid %d lives' % pid)
            os.sched_yield()

    def test_hello(self):
        version, node = struct.unpack('<II', self.c.hello[8:16])
        self.assertEqual(version, 1)
        self.assertEqual(node, 0xFFFFFFFF)
        u = os.uname()
        self.assertEqual(self.c.hello[16:].decode(),
                         '%s %s %s' % (u.sysname, u.release, u.machine))
        self.c.until(lambda: self.c.machine is not None)
        self.assertEqual(self.c.machine, (0, 0))

    def test_streams_and_status(self):
        s = self.c.run('/bin/sh', '-c', 'cat; echo err >&2; exit 7',
                       stdin=b'hello\n')
        self.assertEqual(s.out[1], b'hello\n')
        self.assertEqual(s.out[2], b'err\n')
        self.assertEqual(s.exit, (0, 7, ''))
        self.assertEqual(s.ended, {1, 2})
        self.assertGreater(s.pid, 1)
        self.assertEqual(s.errors, [])

    def test_environment(self):
        s = self.c.run('/bin/sh', '-c', 'pwd; echo "$A|$PATH"; id -u; id -g',
                       cwd='/usr', env=['A=b c=d', 'PATH=/bin:/usr/bin'],
                       uid=str(os.getuid()), gid=str(os.getgid()))
        self.assertEqual(s.out[1].decode().split('\n'),
                         ['/usr', 'b c=d|/bin:/usr/bin', str(os.getuid()),
                          str(os.getgid()), ''])

    @unittest.skipUnless(os.getuid() == 0, 'only root can become another')
    def test_other_user(self):
        s = self.c.run('sh', '-c', 'id -u; id -g; id -G', uid='1234',
                       gid='2345')
        self.assertEqual(s.out[1], b'1234\n2345\n2345\n')

    def test_arguments_kept(self):
        s = self.c.run('printf', '%s|', '', ' a  b', 'c\nd', 'e=f')
        self.assertEqual(s.out[1], b'| a  b|c\nd|e=f|')

    def test_could_not_start(self):
        for args, keys, errno, text in [
                (['no-such-program'], {}, 2, 'not found in PATH'),
                (['/no/such'], {}, 2, '/no/such: No such file'),
                (['/etc/passwd'], {}, 13, 'ermission denied'),
                ([''], {}, 2, 'empty'),
                (['true'], {'cwd': '/no/dir'}, 20, 'working directory /no/dir'),
                (['true'], {'tty': '1', 'cwd': '/no/dir'}, 20, 'directory')]:
            with self.subTest(args=args, keys=keys):
                s = self.c.run(*args, **keys)
                self.assertEqual(s.exit[:2], (2, errno))
                self.assertIn(text, s.exit[2])
                self.assertIsNone(s.pid)

    def test_other_isa(self):
        path = '/tmp/test-agent-%d' % os.getpid()
        other = 183 if os.uname().machine == 'x86_64' else 62
        with open(path, 'wb') as f:
            f.write(b'\x7fELF\x02\x01\x01' + bytes(9) +
                    struct.pack('<HH', 2, other) + bytes(100))
        os.chmod(path, 0o755)
        try:
            s = self.c.run(path)
            self.assertEqual(s.exit[:2], (2, 8))
            self.assertRegex(s.exit[2], r'an? \w+ program on an? \w+ node')
        finally:
            os.unlink(path)

    def test_killed_by_signal(self):
        s = self.c.run('sh', '-c', 'kill -SEGV $$')
        self.assertEqual(s.exit[:2], (1, signal.SIGSEGV))

    def test_signal_reaches_the_group(self):
        sid, s = self.c.start('sh', '-c',
                              'sleep 1000 & echo $!; echo r; wait')
        self.c.until(lambda: b'r\n' in s.out[1])
        child = int(s.out[1].split()[0])
        self.c.send(frame(SIGNAL, sid, 0, struct.pack('<I', signal.SIGTERM)))
        self.c.finish(sid)
        self.assertEqual(s.exit[:2], (1, signal.SIGTERM))
        self.wait_dead(child)

    def test_bad_signal(self):
        sid, s = self.c.start('cat')
        for payload in [b'', struct.pack('<I', 0), struct.pack('<I', 9999)]:
            self.c.send(frame(SIGNAL, sid, 0, payload))
        self.c.until(lambda: len(s.errors) == 3)
        self.c.eof(sid)
        self.assertEqual(self.c.finish(sid).exit[:2], (0, 0))

    def test_output_window(self):
        self.c.regrant = False
        sid, s = self.c.start('sh', '-c', 'head -c 1000000 /dev/zero')
        self.c.until(lambda: len(s.out[1]) == WINDOW)
        # Another session is not delayed by the stalled one.
        self.assertEqual(self.c.run('echo', 'x').out[1], b'x\n')
        self.assertEqual(len(s.out[1]), WINDOW)
        self.assertIsNone(s.exit)
        self.c.send(frame(GRANT, sid, 1, struct.pack('<I', 100)))
        self.c.until(lambda: len(s.out[1]) == WINDOW + 100)
        self.assertEqual(self.c.run('echo', 'x').out[1], b'x\n')
        self.assertEqual(len(s.out[1]), WINDOW + 100)
        self.c.send(frame(GRANT, sid, 1, struct.pack('<I', 1000000)))
        self.c.finish(sid)
        self.assertEqual(len(s.out[1]), 1000000)
        self.assertEqual(s.exit[:2], (0, 0))

    def test_input_window(self):
        sid, s = self.c.start('sh', '-c', 'read x; wc -c')
        self.c.send(frame(DATA, sid, 0, b'\n'))
        sent, total = 1, 3000000
        while sent < total:
            room = WINDOW + s.granted - sent
            if not room:
                self.c.pump()
                continue
            n = min(room, MAX_PAYLOAD, total - sent)
            self.c.send(frame(DATA, sid, 0, b'y' * n))
            sent += n
        self.c.eof(sid)
        self.assertEqual(int(self.c.finish(sid).out[1]), total - 1)

    def test_input_window_broken(self):
        sid, s = self.c.start('sleep', '1000')
        for _ in range(10):
            self.c.send(frame(DATA, sid, 0, bytes(MAX_PAYLOAD)))
        self.c.finish(sid)
        self.assertEqual(s.exit[:2], (1, signal.SIGKILL))
        self.assertIn('granted', s.errors[0])

    def test_input_nobody_reads(self):
        sid, s = self.c.start('sh', '-c', 'exec <&-; echo r; sleep 1000')
        self.c.until(lambda: s.out[1] == b'r\n')
        sent = 0
        while sent < 4 * WINDOW:  # granted again although nobody takes it
            n = min(WINDOW + s.granted - sent, MAX_PAYLOAD)
            if n:
                self.c.send(frame(DATA, sid, 0, bytes(n)))
                sent += n
            else:
                self.c.pump()
        self.c.send(frame(SIGNAL, sid, 0, struct.pack('<I', 9)))
        self.assertEqual(self.c.finish(sid).exit[:2], (1, 9))

    def test_many_sessions(self):
        ids = [self.c.start('sh', '-c', 'cat; echo %d >&2; exit %d' % (i, i))
               for i in range(60)]
        for i, (sid, _) in enumerate(ids):
            self.c.send(frame(DATA, sid, 0, b'in %d' % i))
            self.c.eof(sid)
        for i, (sid, s) in enumerate(ids):
            self.c.finish(sid)
            self.assertEqual(s.out, {1: b'in %d' % i, 2: b'%d\n' % i})
            self.assertEqual(s.exit[:2], (0, i))

    def test_big_output_from_many(self):
        n = 3000000
        ids = [self.c.start('sh', '-c', 'head -c %d /dev/zero' % n)
               for _ in range(5)]
        for sid, s in ids:
            self.c.finish(sid)
            self.assertEqual(len(s.out[1]), n)

    def test_background_child(self):
        begin = time.monotonic()
        s = self.c.run('sh', '-c', 'sleep 1000 & echo $!; exit 3')
        self.assertEqual(s.exit[:2], (0, 3))
        pid = int(s.out[1])
        self.assertTrue(alive(pid), 'a normal exit must leave it alone')
        os.kill(pid, signal.SIGKILL)
        self.assertLess(time.monotonic() - begin, TIMEOUT_S / 2)

    def test_background_writer(self):
        s = self.c.run('sh', '-c', 'yes & echo $! >&2; exit 4')
        self.assertEqual(s.exit[:2], (0, 4))
        self.wait_dead(int(s.out[2]))  # of SIGPIPE

    def test_tty(self):
        sid, s = self.c.start('sh', '-c', 'tty; stty size; echo $TERM; '
                              'read x; echo "[$x]"; stty size; echo e >&2',
                              tty='1', rows='33', cols='111', env='TERM=vt100')
        self.c.until(lambda: b'vt100' in s.out[1])
        self.assertIn(b'/dev/pts/', s.out[1])
        self.assertIn(b'33 111\r\n', s.out[1])
        self.c.send(frame(WINSIZE, sid, 0, struct.pack('<HH', 50, 132)))
        self.c.send(frame(DATA, sid, 0, b'abc\r'))
        self.c.finish(sid)
        self.assertIn(b'[abc]\r\n50 132\r\ne\r\n', s.out[1])
        self.assertEqual(s.out[2], b'')
        self.assertEqual(s.ended, {1})
        self.assertEqual(s.exit[:2], (0, 0))

    def test_tty_interrupt_and_eof(self):
        sid, s = self.c.start('sh', '-c', 'trap "echo INT" INT; '
                              'sh -c "echo r; read x"; echo "sh $?"; cat; '
                              'echo end', tty='1')
        self.c.until(lambda: b'r\r\n' in s.out[1])
        self.c.send(frame(DATA, sid, 0, b'\x03'))
        self.c.until(lambda: b'sh 130' in s.out[1])
        self.c.eof(sid)
        self.c.finish(sid)
        self.assertTrue(s.out[1].endswith(b'end\r\n'))

    def test_tty_eof_is_not_granted(self):
        """The character that ends the input was not the launcher's."""
        for data in (b'', b'hi\r'):
            with self.subTest(data=data):
                s = self.c.run('cat', tty='1', stdin=data)
                self.assertEqual(s.exit, (0, 0, ''))
                self.assertLessEqual(s.granted, len(data))

    def test_tty_job_control(self):
        sid, s = self.c.start('bash', '--norc', '--noprofile', '-i', tty='1',
                              env=['PS1=% ', 'TERM=dumb'])
        self.c.until(lambda: b'% ' in s.out[1])
        self.c.send(frame(DATA, sid, 0, b"sh -c \"echo g''o; read x\"\r"))
        self.c.until(lambda: b'go\r\n' in s.out[1])
        self.c.send(frame(DATA, sid, 0, b'\x1a'))
        self.c.until(lambda: re.search(rb'topped.*% $', s.out[1], re.S))
        self.c.send(frame(DATA, sid, 0, b'kill -9 %1\rexit 5\rexit 5\r'))
        self.assertEqual(self.c.finish(sid).exit[:2], (0, 5))

    def test_tty_output_before_exit_is_kept(self):
        for _ in range(20):
            s = self.c.run('sh', '-c', 'head -c 20000 /dev/zero | tr "\\0" x',
                           tty='1')
            self.assertEqual(len(s.out[1].replace(b'^D\b\b', b'')), 20000)

    def test_reset_kills(self):
        sid, s = self.c.start('sh', '-c', 'echo r; sleep 1000')
        self.c.until(lambda: s.out[1] == b'r\n')
        self.c.sessions = {}
        self.c.reset(b'abcdefgh')
        self.wait_dead(s.pid)
        self.c.next = 0  # a new launcher: the ids are its own
        self.assertEqual(self.c.run('echo', 'a').out[1], b'a\n')

    def test_port_closed_kills(self):
        sid, s = self.c.start('sh', '-c', 'echo r; sleep 1000')
        self.c.until(lambda: s.out[1] == b'r\n')
        self.assertEqual(self.c.close(), 0)
        self.wait_dead(s.pid)

    def test_malformed_exec(self):
        for payload, text in [(b'', 'NUL'), (b'arg=x', 'NUL'),
                              (b'arg\0', 'KEY=VALUE'),
                              (b'cwd=/\0', 'no arg'),
                              (b'arg=x\0what=y\0', 'unknown key'),
                              (b'arg=x\0env=A\0', 'NAME=VALUE'),
                              (b'arg=x\0env==A\0', 'NAME=VALUE'),
                              (b'arg=x\0tty=2\0', 'tty'),
                              (b'arg=x\0rows=70000\0', 'rows'),
                              (b'arg=x\0uid=-1\0', 'uid'),
                              (b'arg=x\0gid=4294967295\0', 'gid'),
                              (b'arg=x\0' * 10000, 'NUL|many|long'),
                              (b'\0' * 50, 'KEY=VALUE')]:
            with self.subTest(payload=payload[:40]):
                self.c.errors = []
                self.c.send(frame(EXEC, 77, 0, payload))
                if len(payload) <= MAX_PAYLOAD and len(payload) < 60000:
                    self.c.until(lambda: self.c.errors)
                    self.assertRegex(self.c.errors[0], text)
                else:
                    self.c.sessions[77] = Session()
                    self.c.finish(77)
                    del self.c.sessions[77]
        self.c.send(frame(EXEC, 0, 0, request('true')))
        self.c.until(lambda: any('id 0' in e for e in self.c.errors))

    def test_session_id_in_use(self):
        sid, s = self.c.start('cat')
        self.c.send(frame(EXEC, sid, 0, request('true')))
        self.c.until(lambda: s.errors)
        self.c.eof(sid)
        self.assertEqual(self.c.finish(sid).exit[:2], (0, 0))

    def test_unknown(self):
        self.c.send(frame(99, 5, 0, b'abc'))
        self.c.send(frame(DATA, 4711, 0, b'abc'))
        self.c.until(lambda: len(self.c.errors) == 2)
        self.assertIn('type 99', self.c.errors[0])
        self.assertIn('no such session', self.c.errors[1])
        s = self.c.run('true')
        self.c.send(frame(SIGNAL, self.c.next, 0, struct.pack('<I', 15)))
        self.assertEqual(self.c.run('echo', 'x').out[1], b'x\n')
        self.assertEqual(len(self.c.errors) + len(s.errors), 2)

    def test_boundary_lost(self):
        for junk in [b'GET / HTTP/1.1\r\n\r\n', b'\0' * 100000,
                     struct.pack('<IHHII', MAGIC, DATA, 0, 1, 1 << 30),
                     frame(RESET)[:7] + b'zzzzzzzzzzzz']:
            with self.subTest(junk=junk[:20]):
                self.c.errors = []
                self.c.send(junk + frame(EXEC, 9, 0, request('true')))
                self.c.until(lambda: self.c.errors)
                self.assertRegex(self.c.errors[0], 'bad magic|too long')
                self.c.reset(b'again...')
                self.assertEqual(self.c.run('echo', 'x').out[1], b'x\n')

    def test_frames_in_pieces(self):
        data = frame(EXEC, 1, 0, request('cat')) + frame(
            DATA, 1, 0, b'piecemeal') + frame(DATA, 1, 0)
        s = self.c.sessions[1] = Session()
        for i in range(len(data)):
            self.c.send(data[i:i + 1])
        self.assertEqual(self.c.finish(1).out[1], b'piecemeal')

    def test_random_garbage(self):
        import random
        rng = random.Random(1)
        for _ in range(300):
            kind = rng.choice([2, DATA, GRANT, SIGNAL, WINSIZE, EXIT, ERROR,
                               HELLO, MACHINE, 0, 500, EXEC])
            body = bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
            self.c.send(frame(kind, rng.choice([0, 1, 2, 1 << 31]),
                              rng.randrange(4), body))
            while self.c.pump(0):
                pass
        self.c.reset(b'survived')
        self.assertEqual(self.c.run('echo', 'x').out[1], b'x\n')


if __name__ == '__main__':
    AGENT = os.path.abspath(sys.argv.pop(1))
    unittest.main()
