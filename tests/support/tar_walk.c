#include "support/tar_walk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 512

static void
must(bool ok, const char *what, size_t at)
{
    if (ok)
        return;
    (void)fprintf(stderr, "tar walk: %s at byte %zu\n", what, at);
    abort();
}

static uint64_t
octal(const uint8_t *field, size_t size, size_t at)
{
    uint64_t number = 0;
    size_t i = 0;

    for (; i < size && field[i] >= '0' && field[i] <= '7'; i++)
        number = number * 8 + (uint64_t)(field[i] - '0');
    must(i > 0 && (i == size || field[i] == '\0' || field[i] == ' '), "no octal number", at);
    return number;
}

static uint32_t
sum(const uint8_t *block)
{
    uint32_t total = 0;

    for (size_t i = 0; i < BLOCK; i++)
        total += i >= 148 && i < 156 ? ' ' : block[i];
    return total;
}

static bool
is_zero(const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (data[i] != 0)
            return false;
    }
    return true;
}

static void
read_header(const uint8_t *block, size_t at, TarFound *found)
{
    must(memcmp(block + 257, "ustar", 6) == 0, "no magic", at);
    must(octal(block + 148, 8, at) == sum(block), "a wrong checksum", at);
    must(block[345] == '\0', "a prefix", at);
    *found = (TarFound){.type = (char)block[156]};
    memcpy(found->name, block, 100);
    found->mode = (mode_t)octal(block + 100, 8, at);
    found->uid = (uint32_t)octal(block + 108, 8, at);
    found->gid = (uint32_t)octal(block + 116, 8, at);
    found->mtime = (int64_t)octal(block + 136, 12, at);
}

bool
tar_walk(Span tar, size_t *at, TarFound *ret_found)
{
    const size_t begin = *at;
    const uint8_t *block = tar.data + begin;
    uint64_t size;
    size_t padded;

    must(tar.len - begin >= (size_t)2 * BLOCK, "no end", begin);
    if (is_zero(block, BLOCK)) {
        must(tar.len - begin == (size_t)2 * BLOCK && is_zero(block, (size_t)2 * BLOCK),
             "something behind the end", begin);
        return false;
    }
    read_header(block, begin, ret_found);
    size = octal(block + 124, 12, begin);
    padded = (size_t)((size + BLOCK - 1) / BLOCK * BLOCK);
    must(tar.len - begin - BLOCK >= padded, "a member that is cut", begin);
    must(is_zero(block + BLOCK + size, padded - (size_t)size), "padding that is not zero", begin);
    ret_found->content = (Span){.data = block + BLOCK, .len = (size_t)size};
    ret_found->whole = (Span){.data = block, .len = BLOCK + padded};
    *at = begin + BLOCK + padded;
    return true;
}

bool
tar_find(Span tar, const char *name, TarFound *ret_found)
{
    TarFound member;
    size_t at = 0;
    bool found = false;

    while (tar_walk(tar, &at, &member)) {
        if (strcmp(member.name, name) != 0)
            continue;
        must(!found, "the same name again", at);
        *ret_found = member;
        found = true;
    }
    return found;
}

size_t
tar_count(Span tar)
{
    TarFound member;
    size_t at = 0;
    size_t count = 0;

    while (tar_walk(tar, &at, &member))
        count++;
    return count;
}

const char *
tar_last_name(Span tar)
{
    static TarFound member;
    size_t at = 0;

    member.name[0] = '\0';
    while (tar_walk(tar, &at, &member))
        continue;
    return member.name;
}
