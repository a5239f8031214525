/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * store-gzip < FILE > FILE.gz: gzip without compression. A node's kernel runs
 * on an emulated processor: inflating the image takes more instructions than
 * the rest of its boot (docs/guest-user.md), while its size costs nothing.
 * A build tool; RFC 1951 and 1952.
 */
#include <stdint.h>
#include <stdio.h>

static void put_le(uint32_t value, int bytes)
{
    while (bytes--) {
        putchar(value & 255);
        value >>= 8;
    }
}

int main(void)
{
    static const unsigned char header[10] = { 0x1f, 0x8b, 8, [9] = 255 };
    static unsigned char block[65535];
    uint32_t table[256], crc = UINT32_MAX, size = 0;
    size_t n;

    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++) {
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320u : 0);
        }
    }
    fwrite(header, 1, sizeof(header), stdout);
    do {
        n = fread(block, 1, sizeof(block), stdin);
        for (size_t i = 0; i < n; i++) {
            crc = table[(crc ^ block[i]) & 255] ^ crc >> 8;
        }
        size += n;
        put_le(n < sizeof(block), 1); /* the last one; stored */
        put_le(n, 2);
        put_le(~(uint32_t)n, 2);
        fwrite(block, 1, n, stdout);
    } while (n == sizeof(block));
    put_le(~crc, 4);
    put_le(size, 4);
    return ferror(stdin) || ferror(stdout) || fflush(stdout) ? 1 : 0;
}
