#include "stream/tar.h"

#include <stdio.h>
#include <string.h>

/* A field of the header: where it is and how long. */
typedef struct Field {
    size_t at;
    size_t width;
} Field;

static const Field field_name = {0, 100};
static const Field field_mode = {100, 8};
static const Field field_uid = {108, 8};
static const Field field_gid = {116, 8};
static const Field field_size = {124, 12};
static const Field field_mtime = {136, 12};
static const Field field_checksum = {148, 8};
static const Field field_link = {157, 100};
static const Field field_user = {265, 32};
static const Field field_group = {297, 32};
static const Field field_device_major = {329, 8};
static const Field field_device_minor = {337, 8};
static const Field field_prefix = {345, 155};

#define TYPE_AT       156
#define MAGIC_AT      257
#define MAGIC_WIDTH   8 /* magic and version together */
#define BASE256_BIT   0x80
#define BASE256_BYTES 8 /* of a field's end, that make up 64 bits */

/* A field keeps room for a zero. The server's limit for names leaves out the slash that it adds. */
#define FORMAT_TEXT_MAX ((size_t)99)
#define OWNER_NAME      "postgres"

static const uint8_t posix_magic[MAGIC_WIDTH] = {'u', 's', 't', 'a', 'r', '\0', '0', '0'};

/* ---- fields ---- */

/* Blanks, then octal digits up to the first other character; none at all are zero. */
static uint64_t
octal(const uint8_t *at, size_t width)
{
    uint64_t value = 0;
    size_t i = 0;

    while (i < width && at[i] == ' ')
        i++;
    for (; i < width && at[i] >= '0' && at[i] <= '7'; i++)
        value = value << 3 | (uint64_t)(at[i] - '0');
    return value;
}

/* The low 64 bits of a base-256 number. */
static uint64_t
base256(const uint8_t *at, size_t width)
{
    uint64_t value = 0;

    for (size_t i = width > BASE256_BYTES ? width - BASE256_BYTES : 1; i < width; i++)
        value = value << 8 | at[i];
    return value;
}

/* False when the number is negative or has more than 64 bits. */
static bool
number(const uint8_t *block, Field field, uint64_t *ret_value)
{
    const uint8_t *at = block + field.at;

    if ((at[0] & BASE256_BIT) == 0) {
        *ret_value = octal(at, field.width);
        return true;
    }
    if ((at[0] & ~BASE256_BIT) != 0)
        return false;
    for (size_t i = 1; i + BASE256_BYTES < field.width; i++) {
        if (at[i] != 0)
            return false;
    }
    *ret_value = base256(at, field.width);
    return true;
}

/* A time before 1970 is written as 64 bits in two's complement by the server, sign-extended by GNU
 * tar: the low bits are the same. */
static int64_t
time_number(const uint8_t *block, Field field)
{
    const uint8_t *at = block + field.at;

    if ((at[0] & BASE256_BIT) == 0)
        return (int64_t)octal(at, field.width);
    return (int64_t)base256(at, field.width);
}

/* Text ends at a zero or with its field. `text` holds field.width + 1. */
static size_t
copy_text(const uint8_t *block, Field field, char *text)
{
    size_t len = strnlen((const char *)block + field.at, field.width);

    memcpy(text, block + field.at, len);
    text[len] = '\0';
    return len;
}

/* ---- the block ---- */

uint32_t
tar_checksum(const uint8_t block[TAR_BLOCK])
{
    uint32_t sum = 0;

    for (size_t i = 0; i < TAR_BLOCK; i++) {
        bool own = i >= field_checksum.at && i < field_checksum.at + field_checksum.width;

        sum += own ? (uint32_t)' ' : block[i];
    }
    return sum;
}

bool
tar_is_zero(const uint8_t block[TAR_BLOCK])
{
    for (size_t i = 0; i < TAR_BLOCK; i++) {
        if (block[i] != 0)
            return false;
    }
    return true;
}

size_t
tar_padding(uint64_t size)
{
    return (size_t)((TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK);
}

static bool
has_magic(const uint8_t *block, const void *magic)
{
    return memcmp(block + MAGIC_AT, magic, MAGIC_WIDTH) == 0;
}

static bool
is_posix(const uint8_t *block)
{
    return has_magic(block, posix_magic);
}

static bool
check_block(const uint8_t *block, Error *err)
{
    uint64_t stored = 0;
    uint32_t sum = tar_checksum(block);

    if (!is_posix(block) && !has_magic(block, "ustar  \0") && !has_magic(block, "ustar00\0"))
        return error_set(err, ERR_FORMAT, "tar header has an unknown magic");
    if (!number(block, field_checksum, &stored) || stored != sum)
        return error_set(err, ERR_FORMAT, "tar header has checksum %llo instead of %o",
                         (unsigned long long)stored, sum);
    return true;
}

/* ---- the member ---- */

/* GNU tar keeps other things where POSIX has the prefix. */
static bool
parse_name(const uint8_t *block, TarHeader *header, Error *err)
{
    size_t used = 0;

    if (is_posix(block) && (used = copy_text(block, field_prefix, header->name)) > 0)
        header->name[used++] = '/';
    if (copy_text(block, field_name, header->name + used) == 0)
        return error_set(err, ERR_FORMAT, "tar member has no name");
    return true;
}

/* What a type that we do not handle is for; NULL: no type of any tar that we know. */
static const char *
foreign_type(char type)
{
    switch (type) {
    case '1':
        return "hard links";
    case '3':
    case '4':
        return "devices";
    case '6':
        return "named pipes";
    case '7':
        return "contiguous files";
    case 'x':
    case 'g':
    case 'X':
        return "pax extensions";
    case 'L':
    case 'K':
    case 'N':
        return "GNU long names";
    case 'S':
        return "GNU sparse files";
    case 'D':
    case 'M':
    case 'V':
        return "other GNU extensions";
    default:
        return NULL;
    }
}

static bool
parse_type(const uint8_t *block, TarHeader *header, Error *err)
{
    char type = (char)block[TYPE_AT];
    const char *purpose;

    switch (type) {
    case '0':
    case '\0':
        header->kind = ENTRY_FILE;
        return true;
    case '5':
        header->kind = ENTRY_DIRECTORY;
        return true;
    case '2':
        header->kind = ENTRY_SYMLINK;
        return true;
    default:
        break;
    }
    purpose = foreign_type(type);
    if (purpose != NULL)
        return error_set(err, ERR_UNSUPPORTED,
                         "tar member \"%s\" has type \"%c\": %s are not supported", header->name,
                         type, purpose);
    return error_set(err, ERR_UNSUPPORTED, "tar member \"%s\" has unknown type 0x%02X",
                     header->name, block[TYPE_AT]);
}

static bool
parse_size(const uint8_t *block, TarHeader *header, Error *err)
{
    if (!number(block, field_size, &header->size) || header->size > TAR_SIZE_MAX)
        return error_set(err, ERR_FORMAT, "tar member \"%s\" has an impossible size", header->name);
    if (header->kind != ENTRY_FILE && header->size != 0)
        return error_set(err, ERR_FORMAT, "tar member \"%s\" is no file but has %llu bytes",
                         header->name, (unsigned long long)header->size);
    return true;
}

bool
tar_parse(const uint8_t block[TAR_BLOCK], TarHeader *ret_header, Error *err)
{
    TarHeader header = {.size = 0};
    uint64_t mode;

    if (!check_block(block, err) || !parse_name(block, &header, err) ||
        !parse_type(block, &header, err) || !parse_size(block, &header, err))
        return false;
    if (!number(block, field_mode, &mode))
        return error_set(err, ERR_FORMAT, "tar member \"%s\" has an impossible mode", header.name);
    header.mode = (mode_t)(mode & 07777);
    header.mtime = time_number(block, field_mtime);
    if (header.kind == ENTRY_SYMLINK && copy_text(block, field_link, header.link) == 0)
        return error_set(err, ERR_FORMAT, "tar member \"%s\" is a link without a target",
                         header.name);
    *ret_header = header;
    return true;
}

/* ---- writing ---- */

/* Octal digits and one blank where they suffice, otherwise base-256. */
static void
put_number(uint8_t *block, Field field, uint64_t value)
{
    uint8_t *at = block + field.at;
    size_t i = field.width - 1;

    if (value >> (3 * i) == 0) {
        at[i] = ' ';
        for (; i > 0; value >>= 3)
            at[--i] = (uint8_t)('0' + (value & 7));
        return;
    }
    for (; i > 0; value >>= 8)
        at[i--] = (uint8_t)value;
    at[0] = BASE256_BIT;
}

/* Into a field of zeros; one that is full needs none at its end. */
static void
put_text(uint8_t *block, Field field, const char *text)
{
    for (size_t i = 0; i < field.width && text[i] != '\0'; i++)
        block[field.at + i] = (uint8_t)text[i];
}

static void
seal(uint8_t *block)
{
    put_number(block, field_checksum, tar_checksum(block));
}

static char
type_of(EntryKind kind)
{
    switch (kind) {
    case ENTRY_FILE:
        return '0';
    case ENTRY_DIRECTORY:
        return '5';
    case ENTRY_SYMLINK:
        return '2';
    }
    return '\0';
}

static bool
check_size(const Entry *entry, Error *err)
{
    if (entry->size > (entry->kind == ENTRY_FILE ? TAR_SIZE_MAX : 0))
        return error_set(err, ERR_BUG, "tar member \"%s\" cannot have %llu bytes", entry->path,
                         (unsigned long long)entry->size);
    return true;
}

static bool
check_name(const Entry *entry, Error *err)
{
    size_t len = strlen(entry->path);

    if (len == 0)
        return error_set(err, ERR_BUG, "tar member has no name");
    if (len > FORMAT_TEXT_MAX)
        return error_set(err, ERR_UNSUPPORTED,
                         "file name too long for tar format: \"%s\" has %zu bytes, at most %zu fit",
                         entry->path, len, FORMAT_TEXT_MAX);
    return true;
}

static bool
check_target(const Entry *entry, Error *err)
{
    size_t len = entry->link_target == NULL ? 0 : strlen(entry->link_target);

    if (entry->kind != ENTRY_SYMLINK)
        return true;
    if (len == 0)
        return error_set(err, ERR_BUG, "tar member \"%s\" is a link without a target", entry->path);
    if (len > FORMAT_TEXT_MAX)
        return error_set(err, ERR_UNSUPPORTED,
                         "symbolic link target too long for tar format: \"%s\" of \"%s\" has %zu "
                         "bytes, at most %zu fit",
                         entry->link_target, entry->path, len, FORMAT_TEXT_MAX);
    return true;
}

bool
tar_format(const Entry *entry, const TarOwner *owner, uint8_t ret_block[TAR_BLOCK], Error *err)
{
    if (!check_name(entry, err) || !check_target(entry, err) || !check_size(entry, err))
        return false;
    if (type_of(entry->kind) == '\0')
        return error_set(err, ERR_BUG, "tar member \"%s\" is of unknown kind %d", entry->path,
                         (int)entry->kind);
    memset(ret_block, 0, TAR_BLOCK);
    put_text(ret_block, field_name, entry->path);
    if (entry->kind != ENTRY_FILE) /* links too: in a cluster they lead to directories */
        ret_block[field_name.at + strlen(entry->path)] = '/';
    put_number(ret_block, field_mode, entry->mode & 07777);
    put_number(ret_block, field_uid, owner->uid);
    put_number(ret_block, field_gid, owner->gid);
    put_number(ret_block, field_size, entry->size);
    put_number(ret_block, field_mtime, (uint64_t)entry->mtime);
    ret_block[TYPE_AT] = (uint8_t)type_of(entry->kind);
    if (entry->kind == ENTRY_SYMLINK)
        put_text(ret_block, field_link, entry->link_target);
    memcpy(ret_block + MAGIC_AT, posix_magic, MAGIC_WIDTH);
    put_text(ret_block, field_user, OWNER_NAME);
    put_text(ret_block, field_group, OWNER_NAME);
    put_number(ret_block, field_device_major, 0);
    put_number(ret_block, field_device_minor, 0);
    seal(ret_block);
    return true;
}

bool
tar_patch(uint8_t block[TAR_BLOCK], const Entry *entry, Error *err)
{
    const mode_t mode = entry->mode & 07777;
    TarHeader header;

    if (!tar_parse(block, &header, err) || !check_size(entry, err))
        return false;
    if (header.kind != entry->kind)
        return error_set(err, ERR_BUG, "\"%s\" has the tar header of another kind of member",
                         entry->path);
    if (header.size == entry->size && header.mode == mode && header.mtime == entry->mtime)
        return true;
    if (header.size != entry->size)
        put_number(block, field_size, entry->size);
    if (header.mode != mode)
        put_number(block, field_mode, mode);
    if (header.mtime != entry->mtime)
        put_number(block, field_mtime, (uint64_t)entry->mtime);
    seal(block);
    return true;
}
