#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""wordcount over local processes, against Python's own counting.

usage: test_wordcount.py WORDCOUNT [COMMAND]
COMMAND starts wordcount for another ISA (qemu-aarch64 .../wordcount).
"""
import collections
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

WORDCOUNT = None
OTHERS = []
TIMEOUT_S = 120


def expected(data):
    words = re.findall(rb'[a-z]+', data.lower())
    return ''.join('%d %s\n' % (n, w.decode()) for w, n in
                   sorted(collections.Counter(words).items())).encode()


class WordcountTest(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix='wordcount-')
        self.text = self.dir + '/text'
        self.out = self.dir + '/out'

    def tearDown(self):
        shutil.rmtree(self.dir)

    def run_on(self, data, *args, peers=None):
        with open(self.text, 'wb') as f:
            f.write(data)
        if os.path.exists(self.out):
            os.unlink(self.out)
        cmd = [WORDCOUNT, '--out', self.out]
        for peer in OTHERS + [WORDCOUNT] if peers is None else peers:
            cmd += ['--local', peer]
        return subprocess.run(cmd + list(args) + [self.text],
                              capture_output=True, timeout=TIMEOUT_S,
                              check=False)

    def check(self, data, *args, **keys):
        p = self.run_on(data, *args, **keys)
        self.assertEqual(p.returncode, 0, p.stderr)
        with open(self.out, 'rb') as f:
            self.assertEqual(f.read(), expected(data))
        return p.stdout.decode()

    def test_small_files(self):
        for data in [b'', b'\n', b'a', b'A', b'ab', b' ab', b'ab ', b'a b a',
                     b"don't", b'\xe4b\xffc\x00d', b'x9y_z',
                     b'The the THE tHe']:
            for chunk in '1', '2', '4096':
                with self.subTest(data=data, chunk=chunk):
                    self.check(data, '--chunk', chunk, '--threads', '2',
                               peers=[WORDCOUNT])

    def test_every_boundary(self):
        data = b'alpha be  c delta, epsilon-zeta1eta  theta\n' * 3
        for chunk in range(1, 40):
            with self.subTest(chunk=chunk):
                self.check(data, '--chunk', str(chunk), '--threads', '2',
                           peers=[WORDCOUNT])

    def test_giant_words(self):
        data = b'q' * 100000 + b' ' + b'r' * 20000 + b'1' + b'q' * 100000
        for chunk in '1000', '4097', '99999':
            with self.subTest(chunk=chunk):
                self.check(data, '--chunk', chunk)

    def test_random(self):
        rng = random.Random(7)
        letters = b'abAB \n.\xc3\x00zZ@[`{'
        for chunk in '64', '777', '4096':
            data = bytes(rng.choice(letters) for _ in range(200000))
            with self.subTest(chunk=chunk):
                self.check(data, '--chunk', chunk, '--threads', '4')

    def test_same_words_at_once(self):
        # All workers insert the same words at the same time: the races for a
        # slot (T1, T2 in table.h) happen here.
        rng = random.Random(3)
        words = [('w' + ''.join(rng.choice('abcdefgh') for _ in range(6)))
                 for _ in range(5000)]
        data = '\n'.join(words * 16).encode()
        for _ in range(5):
            out = self.check(data, '--chunk', str(len(data) // 16),
                             '--threads', '4')
            self.assertIn('80000 words, %d distinct' % len(set(words)), out)

    def test_full_table(self):
        words = [a + b for a in map(chr, range(97, 123))
                 for b in map(chr, range(97, 123))]
        data = ' '.join(words[:512]).encode()
        self.check(data, '--slots', '512')
        p = self.run_on(' '.join(words[:513]).encode(), '--slots', '512')
        self.assertEqual(p.returncode, 1)
        self.assertIn(b'distinct words than slots', p.stderr)

    def test_uneven_work(self):
        # All words are in the last worker's share.
        data = b' ' * 500000 + b'a b ' * 125000
        out = self.check(data, '--chunk', '5000', '--threads', '2')
        self.assertRegex(out, r'in 200 chunks')

    def test_lost_member(self):
        p = self.run_on(b'a b c', peers=['false'])
        self.assertEqual(p.returncode, 1)
        self.assertIn(b'local1 ended with status 1', p.stderr)
        p = self.run_on(b'a b c', peers=[WORDCOUNT, '/no/such/program'])
        self.assertEqual(p.returncode, 1)
        self.assertIn(b'local2 ended with status 127', p.stderr)

    def test_bad_usage(self):
        for args, text in [(['--chunk', '0'], 'chunk'),
                           (['--chunk', 'x'], 'chunk'),
                           (['--slots', '3'], 'power of two'),
                           (['--threads', '-1'], 'threads'),
                           (['--what'], 'usage'), ([], 'usage')]:
            with self.subTest(args=args):
                p = subprocess.run([WORDCOUNT, *args, *(['/dev/null'] if args
                                                        else [])],
                                   capture_output=True, check=False)
                self.assertEqual(p.returncode, 2)
                self.assertIn(text, p.stderr.decode())
        p = subprocess.run([WORDCOUNT, '/no/file'], capture_output=True,
                           check=False)
        self.assertEqual(p.returncode, 1)
        self.assertIn(b'/no/file', p.stderr)
        p = subprocess.run([WORDCOUNT, '--local', WORDCOUNT, '/dev/null'],
                           capture_output=True, check=False)
        self.assertIn(b'not a regular file', p.stderr)


if __name__ == '__main__':
    OTHERS = sys.argv[2:]
    del sys.argv[2:]
    WORDCOUNT = os.path.abspath(sys.argv.pop(1))
    unittest.main()
