#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A double of QEMU with a guest: monitor, console and agent, no machine.

Programs run on the host. What goes wrong is asked for in the node's append=
as fake.KEY[=VALUE]:

  exit=N         ends at once with status N and a message
  die=N          ends with status N when the guest would boot
  panic          a console full of oops, then a reset
  silent         the agent never answers
  alone          the agent never sees the other nodes
  nofabric       the agent sees no fabric device
  version=N      the agent speaks protocol version N
  slow=SECONDS   the agent answers after so long
  deaf           does not power off
  stubborn       neither powers off nor quits
  flood=N        says N million lines on its console while it boots
  garbage        the agent sends noise before and after its greeting
  frames=HEX     sent on the first session instead of running it
  faults         its counters are those of coherence=dsm, and count
  accuse=REASON  at SIGUSR1 it says that the other node is down ("_" for " ")
  names          it knows who has page 77
  names=hang     it is asked who has pages and never answers
"""
import errno
import fcntl
import json
import os
import pty
import random
import re
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

MAGIC = 0x4D494843
(RESET, HELLO, EXEC, STARTED, DATA, GRANT, SIGNAL, WINSIZE, EXIT, ERROR,
 POWEROFF, MACHINE) = range(1, 13)
WINDOW = 262144
CHUNK = 32768


class Options:
    def __init__(self, argv):
        self.chardev = {}
        self.qmp = None
        self.share = '/'
        self.append = ''
        self.backend = None
        pairs = list(zip(argv, argv[1:]))
        for option, value in pairs:
            if option == '-chardev':
                keys = dict(p.split('=', 1) for p in value.split(',')[1:])
                self.chardev[keys['id']] = keys
            elif option == '-qmp':
                self.qmp = re.match(r'unix:([^,]*)', value).group(1)
            elif option == '-fsdev':
                self.share = re.search(r'path=([^,]*)', value).group(1)
            elif option == '-append':
                self.append = value
            elif option == '-object':
                self.backend = json.loads(value)
        self.fake = {}
        for word in self.append.split():
            if word.startswith('fake.'):
                key, _, value = word[5:].partition('=')
                self.fake[key] = value


class Wire:
    """A non-blocking socket with an output queue."""

    def __init__(self, loop, fd, on_data):
        self.sock = socket.socket(fileno=fd)
        self.sock.setblocking(False)
        self.loop, self.on_data, self.out = loop, on_data, b''
        loop.register(self.sock, selectors.EVENT_READ, self.ready)

    def send(self, data):
        self.out += data
        self.flush()

    def flush(self):
        try:
            while self.out:
                self.out = self.out[self.sock.send(self.out):]
        except BlockingIOError:
            pass
        except OSError:
            self.out = b''
        self.loop.modify(self.sock, selectors.EVENT_READ |
                         (selectors.EVENT_WRITE if self.out else 0), self.ready)

    def ready(self, events):
        if events & selectors.EVENT_WRITE:
            self.flush()
        if events & selectors.EVENT_READ:
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b''
            if not data:
                os._exit(1)  # the supervisor is gone
            self.on_data(data)


def frame(kind, session=0, stream=0, payload=b''):
    return struct.pack('<IHHII', MAGIC, kind, stream, session,
                       len(payload)) + payload


def prepare():
    """As the agent does: what a test run ignores, the program does not."""
    for number in signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)


def prepare_terminal():
    prepare()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Session:
    """One program; its pipes are read as far as the window allows."""

    def __init__(self, fake, number, payload):
        self.fake, self.id = fake, number
        keys = [s.split(b'=', 1) for s in payload.split(b'\0')[:-1]]
        args = [v for k, v in keys if k == b'arg']
        single = {k.decode(): v.decode() for k, v in keys}
        env = {'PATH': '/usr/bin:/bin', 'HOME': '/'}
        for k, v in keys:
            if k == b'env':
                name, _, value = v.decode().partition('=')
                env[name] = value
        if args[0] == b'chimera-pages' and 'names' in fake.fake:
            args = (['sleep', '100'] if fake.fake['names'] else
                    ['echo', '77 segment s: pong[7]\nsegment s: ping[8]'])
        cwd = single.get('cwd', '/')
        if cwd == '/mnt/share' or cwd.startswith('/mnt/share/'):
            cwd = fake.options.share + cwd[len('/mnt/share'):]
        self.room = {1: WINDOW, 2: WINDOW}
        self.stdin_queue, self.stdin_end, self.stdin_done = b'', False, False
        self.fds, self.stdin = {}, None
        self.master = None
        try:
            if single.get('tty') == '1':
                self.master, slave = pty.openpty()
                self.winsize(int(single.get('rows', 24)),
                             int(single.get('cols', 80)))
                self.child = subprocess.Popen(
                    args, stdin=slave, stdout=slave, stderr=slave, cwd=cwd,
                    env=env, start_new_session=True,
                    preexec_fn=prepare_terminal)
                os.close(slave)
                self.stdin = self.master
                self.fds = {1: self.master}
            else:
                self.child = subprocess.Popen(
                    args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, cwd=cwd, env=env,
                    start_new_session=True, preexec_fn=prepare)
                self.stdin = self.child.stdin.fileno()
                self.fds = {1: self.child.stdout.fileno(),
                            2: self.child.stderr.fileno()}
        except OSError as e:
            fake.agent.send(frame(EXIT, number, 0, struct.pack(
                '<II', 2, e.errno) + os.strerror(e.errno).encode()))
            self.child = None
            return
        for fd in list(self.fds.values()) + [self.stdin]:
            os.set_blocking(fd, False)
        self.watched = set()
        self.update()
        fake.sessions[number] = self
        fake.agent.send(frame(STARTED, number, 0,
                              struct.pack('<I', self.child.pid)))

    def winsize(self, rows, cols):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ,
                    struct.pack('HHHH', rows, cols, 0, 0))

    def update(self):
        for stream, fd in self.fds.items():
            want = self.room[stream] > 0
            if want and fd not in self.watched:
                self.fake.loop.register(
                    fd, selectors.EVENT_READ,
                    lambda events, s=stream: self.readable(s))
                self.watched.add(fd)
            elif not want and fd in self.watched:
                self.fake.loop.unregister(fd)
                self.watched.remove(fd)

    def readable(self, stream):
        fd = self.fds[stream]
        try:
            data = os.read(fd, min(CHUNK, self.room[stream]))
        except BlockingIOError:
            if self.child.poll() is None:
                return
            data = b''  # its background children are not waited for
        except OSError:
            data = b''
        self.fake.agent.send(frame(DATA, self.id, stream, data))
        self.room[stream] -= len(data)
        if not data:
            self.fake.loop.unregister(fd)
            self.watched.discard(fd)
            del self.fds[stream]
            if self.master is not None:
                self.fake.agent.send(frame(DATA, self.id, 2, b''))
        self.update()

    def feed(self, data):
        if not data:
            self.stdin_end = True
        self.stdin_queue += data
        self.pump()

    def pump(self):
        if self.stdin_done:
            return
        try:
            while self.stdin_queue:
                n = os.write(self.stdin, self.stdin_queue)
                self.stdin_queue = self.stdin_queue[n:]
                self.fake.agent.send(frame(GRANT, self.id, 0,
                                           struct.pack('<I', n)))
        except BlockingIOError:
            return
        except OSError:
            self.stdin_queue, self.stdin_end = b'', True
        if self.stdin_end and self.master is None:
            self.stdin_done = True
            self.child.stdin.close()

    def poll(self):
        self.pump()
        status = self.child.poll()
        if status is not None:
            for stream in list(self.fds):
                while stream in self.fds and self.room[stream] > 0:
                    self.readable(stream)
        if status is None or self.fds:
            return
        kind, value = (0, status) if status >= 0 else (1, -status)
        self.fake.agent.send(frame(EXIT, self.id, 0,
                                   struct.pack('<II', kind, value)))
        del self.fake.sessions[self.id]

    def kill(self, number):
        try:
            os.killpg(self.child.pid, number)
        except OSError as e:
            if e.errno != errno.ESRCH:
                raise


class Fake:
    def __init__(self, options):
        self.options, self.fake = options, options.fake
        self.loop = selectors.DefaultSelector()
        self.sessions, self.input = {}, b''
        self.console = Wire(self.loop, int(options.chardev['console']['fd']),
                            self.on_console)
        self.qmp = Wire(self.loop, int(options.chardev['qmp']['fd']),
                        self.on_qmp)
        self.agent = None
        if options.qmp:
            self.second = socket.socket(socket.AF_UNIX)
            self.second.bind(options.qmp)
            self.second.listen(1)
        self.qmp_input = b''
        self.qmp.send(b'{"QMP": {"version": {"qemu": {"major": 10}}, '
                      b'"capabilities": ["oob"]}}\r\n')

    def say(self, text):
        data = text.encode().replace(b'\n', b'\r\n')
        self.console.send(data)

    def flush_console(self):
        while self.console.out:
            select.select([], [self.console.sock], [])
            self.console.flush()

    def on_console(self, data):
        self.say('echo: ' + data.decode('utf-8', 'replace') + '\n')

    def event(self, name, **data):
        self.qmp.send(json.dumps({'event': name, 'data': data}).encode() +
                      b'\r\n')

    def on_qmp(self, data):
        self.qmp_input += data
        while b'\n' in self.qmp_input:
            line, self.qmp_input = self.qmp_input.split(b'\n', 1)
            command = json.loads(line)
            name = command.get('execute') or command.get('exec-oob')
            if name == 'query-dsm':
                nodes = [dict(n, state='up', reason='',
                              **{'messages-sent': 0, 'messages-received': 0})
                         for n in self.options.backend['nodes']]
                reply = {'return': {'node': self.options.backend['self'],
                                    'nodes': nodes}}
                if 'faults' in self.fake:
                    reply['return']['coherence'] = 'dsm'
                    self.add_faults(nodes)
            elif name in ('qmp_capabilities', 'quit'):
                reply = {'return': {}}
            else:
                reply = {'error': {'class': 'CommandNotFound',
                                   'desc': 'no command ' + str(name)}}
            reply['id'] = command.get('id')
            self.qmp.send(json.dumps(reply).encode() + b'\r\n')
            if name == 'quit' and 'stubborn' not in self.fake:
                sys.exit(0)

    def add_faults(self, nodes):
        """Each millisecond one, all of page 77 of node 0."""
        n = int(time.monotonic() * 1000)
        for node in nodes:
            node['region'] = {'page-size': 4096, 'heat': {'range-pages': 512}}
        nodes[0]['region'] = {
            'page-size': 4096, 'read-faults': n, 'pages-received': n,
            'read-ns': [0] * 14 + [n], 'write-ns': [0] * 40,
            'heat': {'faults': n, 'range-pages': 512, 'ranges': [n] + [0] * 127,
                     'pages': [{'page': 77, 'faults': n, 'writes': n // 4,
                                'missed': 0}]}}

    def boot(self):
        name = self.options.backend['nodes'][self.options.backend['self']]
        self.say('fake kernel of %s\n%s\n' % (name['name'],
                                              self.options.append))
        if 'flood' in self.fake:
            self.say('flood\n' * (int(self.fake['flood']) << 20))
            self.say('end of the flood\n')
        self.flush_console()
        if 'die' in self.fake:
            print('fake: cannot go on', file=sys.stderr)
            sys.exit(int(self.fake['die']))
        if 'accuse' in self.fake:
            signal.signal(signal.SIGUSR1, self.accuse)
        if 'panic' in self.fake:
            self.say('\x1b[31mKernel panic - not syncing: '
                     'No working init found.\x1b[0m\n')
            self.event('SHUTDOWN', guest=True, reason='guest-reset')
            sys.exit(0)
        self.agent = Wire(self.loop, int(self.options.chardev['agent']['fd']),
                          self.on_agent)
        self.event('VSERPORT_CHANGE', id='agent', open=True)

    def accuse(self, *_):
        self.event('DSM_NODE_STATE', node=1 - self.options.backend['self'],
                   state='down',
                   reason=self.fake['accuse'].replace('_', ' '))

    def on_agent(self, data):
        self.input += data
        while len(self.input) >= 16:
            magic, kind, stream, session, length = struct.unpack(
                '<IHHII', self.input[:16])
            assert magic == MAGIC, 'the launcher sent garbage'
            if len(self.input) < 16 + length:
                return
            payload = self.input[16:16 + length]
            self.input = self.input[16 + length:]
            self.on_frame(kind, stream, session, payload)

    def hello(self, nonce):
        if 'garbage' in self.fake:
            self.agent.send(random.Random(7).randbytes(3000))
        self.agent.send(frame(HELLO, 0, 0, nonce + struct.pack(
            '<II', int(self.fake.get('version', 1)),
            self.options.backend['self']) + b'Fake 1.0 fake'))
        total = len(self.options.backend['nodes'])
        if 'nofabric' in self.fake:
            total = 0
        up = 1 if 'alone' in self.fake else total
        if up and up > 1:
            self.agent.send(frame(MACHINE, 0, 0, struct.pack('<II', 1, total)))
        self.agent.send(frame(MACHINE, 0, 0, struct.pack('<II', up, total)))
        if 'garbage' in self.fake:
            # once: the launcher starts over and meets a clean agent
            del self.fake['garbage']
            self.agent.send(b'\x00' * 40)

    def on_frame(self, kind, stream, session, payload):
        s = self.sessions.get(session)
        if kind == RESET:
            for old in list(self.sessions.values()):
                old.kill(signal.SIGKILL)
            self.sessions.clear()
            if 'slow' in self.fake:
                time.sleep(float(self.fake.pop('slow')))
            if 'silent' not in self.fake:
                self.hello(payload)
        elif kind == EXEC:
            if 'frames' in self.fake:
                self.agent.send(bytes.fromhex(self.fake.pop('frames')))
            else:
                Session(self, session, payload)
        elif kind == POWEROFF:
            if 'deaf' in self.fake or 'stubborn' in self.fake:
                return
            self.event('SHUTDOWN', guest=True, reason='guest-shutdown')
            sys.exit(0)
        elif s and kind == DATA:
            s.feed(payload)
        elif s and kind == GRANT:
            s.room[stream] += struct.unpack('<I', payload)[0]
            s.update()
        elif s and kind == SIGNAL:
            s.kill(struct.unpack('<I', payload)[0])
        elif s and kind == WINSIZE:
            s.winsize(*struct.unpack('<HH', payload))
            s.kill(signal.SIGWINCH)

    def run(self):
        self.boot()
        while True:
            for key, events in self.loop.select(0.02):
                key.data(events)
            for session in list(self.sessions.values()):
                session.poll()


def main():
    options = Options(sys.argv)
    if 'exit' in options.fake:
        print('%s: fake: no such device' % sys.argv[0], file=sys.stderr)
        sys.exit(int(options.fake['exit']))
    Fake(options).run()


main()
