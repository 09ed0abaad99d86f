/*
 * backup_pages: what is accepted is exactly what the format says, every number is found where it
 * is, and writing it again gives the same bytes.
 *
 * Almost no input carries the right checksum, so every input also runs with its last four bytes
 * replaced by the right ones.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "common/file.h"
#include "fuzz/fuzz.h"
#include "manifest/page_digests.h"
#include "support/temp_dir.h"

#define HEAD_SIZE ((size_t)16)
#define END_SIZE  ((size_t)16)
#define PATH_SIZE ((size_t)4095)

static TempDir dir;
static const char *input_path;
static const char *output_path;

static void
must(bool holds)
{
    if (!holds)
        abort();
}

static void
remove_dir(void)
{
    temp_dir_remove(&dir);
}

static void
make_dir(void)
{
    if (input_path != NULL)
        return;
    temp_dir_make(&dir);
    input_path = temp_dir_path(&dir, "input");
    output_path = temp_dir_path(&dir, "output");
    must(atexit(remove_dir) == 0);
}

/* ---- the format, read in another way: with all of it in memory ---- */

typedef struct File {
    char path[PATH_SIZE + 1];
    uint64_t size;
    uint64_t pages;
    size_t offset; /* of its first CRC */
} File;

/* The file at *at, which moves behind it; false when there is none. */
static bool
next_file(Span input, uint32_t page_size, size_t *at, File *file)
{
    size_t left = input.len - *at;
    size_t len = left < 4 ? 0 : get_le32(input.data + *at);

    if (len == 0 || len > PATH_SIZE || left < 4 + len + 8)
        return false;
    memcpy(file->path, input.data + *at + 4, len);
    file->path[len] = '\0';
    file->size = get_le64(input.data + *at + 4 + len);
    file->pages = file->size / page_size + (file->size % page_size != 0);
    file->offset = *at + 4 + len + 8;
    if (strlen(file->path) != len || !path_is_below(file->path) ||
        file->pages > (input.len - file->offset) / 4)
        return false;
    *at = file->offset + 4 * (size_t)file->pages;
    return true;
}

static bool
comes_before(Span input, uint32_t page_size, size_t end, const char *path)
{
    size_t at = HEAD_SIZE;
    File file;

    while (at < end && next_file(input, page_size, &at, &file)) {
        if (at <= end && strcmp(file.path, path) == 0)
            return true;
    }
    return false;
}

static bool
is_good(Span input, uint32_t *ret_page_size)
{
    size_t at = HEAD_SIZE;
    uint64_t count = 0;
    uint32_t page;
    File file;

    if (input.len < HEAD_SIZE + END_SIZE || memcmp(input.data, "PGSTOWPD", 8) != 0 ||
        get_le32(input.data + 8) != 1)
        return false;
    page = get_le32(input.data + 12);
    if (page != 1024 && page != 2048 && page != 4096 && page != 8192 && page != 16384 &&
        page != 32768)
        return false;
    for (;; count++) {
        const size_t begin = at;

        if (!next_file(input, page, &at, &file))
            break;
        if (comes_before(input, page, begin, file.path))
            return false;
    }
    *ret_page_size = page;
    return input.len - at == END_SIZE && get_le32(input.data + at) == 0 &&
           get_le64(input.data + at + 4) == count &&
           get_le32(input.data + at + 12) == crc32c(0, input.data, input.len - 4);
}

/* ---- what must hold ---- */

static void
check_crc(const PageDigests *digests, const PageDigestFile *place, Span input, uint32_t page_size)
{
    uint64_t left = place->size;
    size_t at = (size_t)place->offset;
    uint32_t expected = 0;
    Error err = ERROR_INIT;
    uint32_t crc;

    for (uint64_t page = 0; left > 0; page++, at += 4) {
        uint64_t len = left < page_size ? left : page_size;

        must(page_digests_read(digests, place, page, &crc, 1, &err));
        must(crc == get_le32(input.data + at));
        expected = crc32c_combine(expected, crc, len);
        left -= len;
    }
    must(page_digests_file_crc(digests, place, &crc, &err) && crc == expected);
}

static void
check_files(const PageDigests *digests, Span input, uint32_t page_size)
{
    size_t at = HEAD_SIZE;
    size_t count = 0;
    PageDigestFile place;
    File file;

    must(page_digests_page_size(digests) == page_size);
    for (; next_file(input, page_size, &at, &file); count++) {
        must(page_digests_find(digests, file.path, &place));
        must(place.size == file.size && place.offset == file.offset);
        check_crc(digests, &place, input, page_size);
    }
    must(count == page_digests_count(digests));
}

static void
check_written_again(Span input, uint32_t page_size)
{
    size_t at = HEAD_SIZE;
    Error err = ERROR_INIT;
    PageDigestWriter *writer = page_digest_writer_new(output_path, 0600, page_size, &err);
    Buf output;
    File file;

    must(writer != NULL);
    while (next_file(input, page_size, &at, &file)) {
        must(page_digest_writer_begin(writer, file.path, file.size, &err));
        for (uint64_t page = 0; page < file.pages; page++)
            must(page_digest_writer_add(writer, get_le32(input.data + file.offset + 4 * page),
                                        &err));
    }
    must(page_digest_writer_finish(writer, false, &err));
    page_digest_writer_free(writer);
    output = temp_dir_read(&dir, "output");
    must(output.len == input.len && memcmp(output.data, input.data, input.len) == 0);
    buf_free(&output);
    must(unlink(output_path) == 0);
}

static void
check(Span input)
{
    Error err = ERROR_INIT;
    uint32_t page_size = 0;
    bool good = is_good(input, &page_size);
    PageDigests *digests;

    temp_dir_write(&dir, "input", input.data, input.len);
    digests = page_digests_open(input_path, &err);
    must((digests != NULL) == good);
    must(good || (err.code == ERR_FORMAT && err.message[0] != '\0'));
    if (!good)
        return;
    check_files(digests, input, page_size);
    check_written_again(input, page_size);
    page_digests_close(digests);
}

static void
check_sealed(Span input)
{
    uint8_t *sealed = malloc(input.len);
    uint32_t crc = crc32c(0, input.data, input.len - 4);

    must(sealed != NULL);
    memcpy(sealed, input.data, input.len);
    for (size_t i = 0; i < 4; i++)
        sealed[input.len - 4 + i] = (uint8_t)(crc >> (8 * i));
    check((Span){.data = sealed, .len = input.len});
    free(sealed);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Span input = {.data = data, .len = size};

    make_dir();
    check(input);
    if (size >= 4)
        check_sealed(input);
    return 0;
}
