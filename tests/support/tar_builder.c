#include "support/tar_builder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void
append(Buf *tar, const void *data, size_t len)
{
    Error err = ERROR_INIT;

    if (!buf_append(tar, data, len, &err)) {
        (void)fprintf(stderr, "test support: %s\n", err.message);
        abort();
    }
}

/* Like the server: octal digits and one space; base-256 when they do not fit. */
static void
put_number(uint8_t *at, size_t width, uint64_t value, bool base256)
{
    size_t digits = width - 1;

    if (base256 || (digits < 21 && value >> (3 * digits) != 0)) {
        for (size_t i = width; i-- > 1; value >>= 8)
            at[i] = (uint8_t)value;
        at[0] = 0x80;
        return;
    }
    at[digits] = ' ';
    for (size_t i = digits; i-- > 0; value >>= 3)
        at[i] = (uint8_t)('0' + (value & 7));
}

static void
put_text(uint8_t *at, size_t width, const char *text)
{
    size_t len = text == NULL ? 0 : strlen(text);

    if (len > 0)
        memcpy(at, text, len < width ? len : width);
}

void
tar_seal(uint8_t block[TAR_BUILDER_BLOCK])
{
    uint64_t sum = 0;

    memset(block + 148, ' ', 8);
    for (size_t i = 0; i < TAR_BUILDER_BLOCK; i++)
        sum += block[i];
    put_number(block + 148, 8, sum, false);
}

void
tar_build_header(uint8_t block[TAR_BUILDER_BLOCK], const TarMember *member)
{
    static const char magics[][8] = {[TAR_MAGIC_POSIX] = {'u', 's', 't', 'a', 'r', 0, '0', '0'},
                                     [TAR_MAGIC_GNU] = {'u', 's', 't', 'a', 'r', ' ', ' ', 0},
                                     [TAR_MAGIC_LOOSE] = {'u', 's', 't', 'a', 'r', '0', '0', 0},
                                     [TAR_MAGIC_NONE] = {0}};
    bool base256 = member->base256;
    mode_t usual = member->type == '5' ? 0700 : 0600;
    char type = member->type;

    if (type == 0)
        type = '0';
    else if (type == TAR_TYPE_NUL)
        type = 0;
    memset(block, 0, TAR_BUILDER_BLOCK);
    put_text(block, 100, member->name);
    put_number(block + 100, 8, member->mode == 0 ? usual : member->mode, false);
    put_number(block + 108, 8, 999, base256);
    put_number(block + 116, 8, 999, base256);
    put_number(block + 124, 12, member->claim == 0 ? member->size : member->claim, base256);
    put_number(block + 136, 12, (uint64_t)(member->mtime == 0 ? 1700000000 : member->mtime),
               base256);
    block[156] = (uint8_t)type;
    put_text(block + 157, 100, member->link);
    memcpy(block + 257, magics[member->magic], 8);
    put_text(block + 265, 32, "postgres");
    put_text(block + 297, 32, "postgres");
    put_number(block + 329, 8, 0, false);
    put_number(block + 337, 8, 0, false);
    put_text(block + 345, 155, member->prefix);
    tar_seal(block);
}

void
tar_add(Buf *tar, const TarMember *member)
{
    static const uint8_t zeros[TAR_BUILDER_BLOCK];
    uint8_t header[TAR_BUILDER_BLOCK];
    size_t tail = member->size % TAR_BUILDER_BLOCK;

    tar_build_header(header, member);
    append(tar, header, sizeof header);
    append(tar, member->data, member->size);
    if (tail != 0)
        append(tar, zeros, TAR_BUILDER_BLOCK - tail);
}

void
tar_zeros(Buf *tar, size_t count)
{
    static const uint8_t zeros[TAR_BUILDER_BLOCK];

    while (count-- > 0)
        append(tar, zeros, sizeof zeros);
}

void
tar_end(Buf *tar)
{
    tar_zeros(tar, 2);
}

Span
tar_span(const Buf *tar)
{
    return (Span){.data = tar->data, .len = tar->len};
}
