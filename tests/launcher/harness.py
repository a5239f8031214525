# SPDX-License-Identifier: GPL-2.0-or-later
"""What the launcher's tests share: a prefix, machines, and the check after
every test that nothing is left running and nothing left behind."""
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

CHIMERA = None  # the program under test, set by the test's main
TIMEOUT_S = 30


def wait_until(condition, what, timeout_s=TIMEOUT_S):
    """For states of other processes that nothing announces."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError('not within %g s: %s' % (timeout_s, what))
        select.select([], [], [], 0.01)


def processes_with(text):
    """Pids and command lines of the processes that mention @text."""
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open('/proc/%s/cmdline' % pid, 'rb') as f:
                line = f.read().replace(b'\0', b' ').decode(errors='replace')
            with open('/proc/%s/stat' % pid) as f:
                state = f.read().rsplit(')', 1)[1].split()[0]
        except OSError:
            continue
        if text in line and state != 'Z' and int(pid) != os.getpid():
            found.append((int(pid), line))
    return found


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


class LauncherTest(unittest.TestCase):
    prefix = None  # of the installation that the launcher uses
    limit_s = 120  # of one test, so that it fails and cleans up

    def too_long(self, number, stack):
        raise AssertionError('not done within %d s' % self.limit_s)

    def setUp(self):
        signal.signal(signal.SIGALRM, self.too_long)
        signal.alarm(self.limit_s)
        # short: socket paths are limited
        self.dir = tempfile.mkdtemp(prefix='chl-', dir='/tmp')
        self.runtime = os.path.join(self.dir, 'r')
        os.mkdir(self.runtime, 0o700)
        self.env = dict(os.environ, XDG_RUNTIME_DIR=self.runtime, LC_ALL='C')
        self.env.pop('CHIMERA_PREFIX', None)
        if self.prefix:
            self.env['CHIMERA_PREFIX'] = self.prefix
        self.children = []

    def tearDown(self):
        signal.alarm(0)
        for child in self.children:
            if child.poll() is None:
                child.kill()
                child.wait()
            for f in (child.stdin, child.stdout, child.stderr):
                if f:
                    f.close()
        root = os.path.join(self.runtime, 'chimera')
        try:
            wait_until(lambda: not processes_with(self.dir), 'no process left')
            wait_until(lambda: not os.path.exists(root), 'no file left')
        except AssertionError:
            left = processes_with(self.dir)
            for pid, _ in left:
                os.kill(pid, signal.SIGKILL)
            files = [os.path.join(d, n) for d, _, names in os.walk(root)
                     for n in names]
            logs = ''
            for name in files:
                if name.endswith('supervisor.log'):
                    with open(name, errors='replace') as f:
                        logs += f.read()
            self.fail('left behind: %s %s\n%s' % (left, files, logs))
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)

    def conf(self, text, name='m.conf'):
        path = os.path.join(self.dir, name)
        with open(path, 'w') as f:
            f.write(text)
        return path

    def start(self, *args, **keys):
        keys.setdefault('stdin', subprocess.DEVNULL)
        keys.setdefault('stdout', subprocess.PIPE)
        keys.setdefault('stderr', subprocess.PIPE)
        keys.setdefault('env', self.env)
        keys.setdefault('cwd', self.dir)
        child = subprocess.Popen([CHIMERA] + list(args), **keys)
        self.children.append(child)
        return child

    def finish(self, child, input=None, timeout=TIMEOUT_S):
        out, err = child.communicate(input, timeout=timeout)
        return Result(child.returncode, out,
                      err.decode(errors='replace') if err else '')

    def call(self, *args, input=None, timeout=TIMEOUT_S, **keys):
        if input is not None:
            keys['stdin'] = subprocess.PIPE
        return self.finish(self.start(*args, **keys), input, timeout)

    def ok(self, *args, **keys):
        result = self.call(*args, **keys)
        self.assertEqual(result.code, 0, result.err)
        return result

    def status(self, name=None):
        args = ['status', '--json'] + ([name] if name else [])
        result = self.ok(*args)
        machines = json.loads(result.out)
        return machines[0] if name else machines

    def node(self, machine, index):
        return self.status(machine)['nodes'][index]

    def lines(self, *lines):
        return ''.join('chimera: ' + line + '\n' for line in lines)
