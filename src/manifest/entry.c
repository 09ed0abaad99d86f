/*
 * One file or WAL range of a manifest, from the texts of its fields.
 *
 * The order of the checks is that of the stock reader: it decides which of several faults is named.
 */
#include "manifest/internal.h"

#include <string.h>

#include "common/file.h"

bool
parse_refuse(Error *err, const char *what)
{
    return error_set(err, ERR_FORMAT, PARSE_ERROR "%s", what);
}

bool
text_is_integer(const char *text)
{
    if (*text == '-')
        text++;
    return *text != '\0' && text[strspn(text, "0123456789")] == '\0';
}

/* ---- a file ---- */

/* The path of either form; `decoded` is room for one that comes in hex. NULL and the error. */
static const char *
read_path(const char *const fields[], char decoded[MANIFEST_PATH_LIMIT + 1], Error *err)
{
    const char *path = fields[FILE_PATH];
    const char *hex = fields[FILE_ENCODED_PATH];
    size_t len = path != NULL ? strlen(path) : strlen(hex) / 2;

    if (len > MANIFEST_PATH_LIMIT) {
        (void)error_set(err, ERR_FORMAT, PARSE_ERROR "path name is longer than %d bytes",
                        MANIFEST_PATH_LIMIT);
        return NULL;
    }
    if (path == NULL) {
        if (!hex_parse(hex, strlen(hex), (uint8_t *)decoded, len)) {
            (void)parse_refuse(err, "could not decode file name");
            return NULL;
        }
        decoded[len] = '\0';
        if (strlen(decoded) != len) {
            (void)parse_refuse(err, "encoded path name contains a zero byte");
            return NULL;
        }
        path = decoded;
    }
    if (!path_is_below(path)) {
        (void)error_set(err, ERR_FORMAT, PARSE_ERROR "path name \"%s\" is not inside the backup",
                        path);
        return NULL;
    }
    return path;
}

/* Algorithm and checksum of `file`; `decoded` is room for the latter. */
static bool
read_checksum(const char *const fields[], ManifestFile *file, uint8_t decoded[UINT8_MAX],
              Error *err)
{
    const char *algorithm = fields[FILE_ALGORITHM];
    const char *hex = fields[FILE_CHECKSUM];
    size_t len;

    if (algorithm != NULL && !checksum_type_parse(algorithm, &file->checksum_type))
        return error_set(err, ERR_FORMAT, "unrecognized checksum algorithm: \"%s\"", algorithm);
    if (hex == NULL)
        return true;
    len = strlen(hex) / 2;
    if (len > UINT8_MAX || !hex_parse(hex, strlen(hex), decoded, len))
        return error_set(err, ERR_FORMAT, "invalid checksum for file \"%s\": \"%s\"", file->path,
                         hex);
    file->checksum = decoded;
    file->checksum_len = (uint8_t)len;
    return true;
}

/* Which keys there must be, and which not together. */
static bool
check_file_keys(const char *const fields[], Error *err)
{
    if (fields[FILE_PATH] == NULL && fields[FILE_ENCODED_PATH] == NULL)
        return parse_refuse(err, "missing path name");
    if (fields[FILE_PATH] != NULL && fields[FILE_ENCODED_PATH] != NULL)
        return parse_refuse(err, "both path name and encoded path name");
    if (fields[FILE_SIZE] == NULL)
        return parse_refuse(err, "missing size");
    if (fields[FILE_CHECKSUM] != NULL && fields[FILE_ALGORITHM] == NULL)
        return parse_refuse(err, "checksum without algorithm");
    return true;
}

bool
entry_add_file(Manifest *manifest, const char *const fields[], Error *err)
{
    ManifestFile file = {.checksum_type = CHECKSUM_NONE};
    const char *size = fields[FILE_SIZE];
    char path[MANIFEST_PATH_LIMIT + 1];
    uint8_t checksum[UINT8_MAX];

    if (!check_file_keys(fields, err))
        return false;
    file.path = read_path(fields, path, err);
    if (file.path == NULL)
        return false;
    if (!text_is_integer(size))
        return parse_refuse(err, "file size is not an integer");
    if (!u64_parse(size, &file.size))
        return error_set(err, ERR_FORMAT,
                         PARSE_ERROR "file size is out of range: \"%s\" for file \"%s\"", size,
                         file.path);
    return read_checksum(fields, &file, checksum, err) && manifest_add_file(manifest, &file, err);
}

/* ---- a WAL range ---- */

bool
entry_add_wal_range(Manifest *manifest, const char *const fields[], Error *err)
{
    const char *timeline = fields[RANGE_TIMELINE];
    ManifestWalRange range;

    if (timeline == NULL)
        return parse_refuse(err, "missing timeline");
    if (fields[RANGE_START] == NULL)
        return parse_refuse(err, "missing start LSN");
    if (fields[RANGE_END] == NULL)
        return parse_refuse(err, "missing end LSN");
    if (!text_is_integer(timeline))
        return parse_refuse(err, "timeline is not an integer");
    if (!u32_parse(timeline, &range.timeline))
        return error_set(err, ERR_FORMAT, PARSE_ERROR "timeline is out of range: \"%s\"", timeline);
    if (!lsn_parse(fields[RANGE_START], &range.start))
        return parse_refuse(err, "could not parse start LSN");
    if (!lsn_parse(fields[RANGE_END], &range.end))
        return parse_refuse(err, "could not parse end LSN");
    return manifest_add_wal_range(manifest, &range, err);
}
