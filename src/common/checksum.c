#include "common/checksum.h"

#include <openssl/evp.h>
#include <string.h>
#include <strings.h>

#include "common/bytes.h"
#include "common/crc32c.h"

static const struct {
    const char *name;
    size_t length;
} checksum_types[] = {
    [CHECKSUM_NONE] = {"NONE", 0},      [CHECKSUM_CRC32C] = {"CRC32C", 4},
    [CHECKSUM_SHA224] = {"SHA224", 28}, [CHECKSUM_SHA256] = {"SHA256", 32},
    [CHECKSUM_SHA384] = {"SHA384", 48}, [CHECKSUM_SHA512] = {"SHA512", 64},
};

#define CHECKSUM_TYPE_COUNT (sizeof checksum_types / sizeof checksum_types[0])

bool
checksum_type_parse(const char *name, ChecksumType *ret_type)
{
    for (size_t i = 0; i < CHECKSUM_TYPE_COUNT; i++) {
        if (strcasecmp(name, checksum_types[i].name) == 0) {
            *ret_type = (ChecksumType)i;
            return true;
        }
    }
    return false;
}

const char *
checksum_type_name(ChecksumType type)
{
    return checksum_types[type].name;
}

size_t
checksum_length(ChecksumType type)
{
    return checksum_types[type].length;
}

static const EVP_MD *
sha_method(ChecksumType type)
{
    switch (type) {
    case CHECKSUM_SHA224:
        return EVP_sha224();
    case CHECKSUM_SHA256:
        return EVP_sha256();
    case CHECKSUM_SHA384:
        return EVP_sha384();
    case CHECKSUM_SHA512:
        return EVP_sha512();
    case CHECKSUM_NONE:
    case CHECKSUM_CRC32C:
        break;
    }
    return NULL;
}

bool
checksum_begin(Checksum *checksum, ChecksumType type, Error *err)
{
    const EVP_MD *method = sha_method(type);

    checksum->type = CHECKSUM_NONE; /* what a failure leaves: nothing to update */
    checksum->crc = 0;
    if (method == NULL) {
        checksum->type = type;
        return true;
    }
    if (checksum->sha == NULL && (checksum->sha = EVP_MD_CTX_new()) == NULL)
        return error_set_memory(err);
    if (EVP_DigestInit_ex(checksum->sha, method, NULL) != 1)
        return error_set(err, ERR_UNSUPPORTED, "could not start a %s digest: OpenSSL refuses it",
                         checksum_type_name(type));
    checksum->type = type;
    return true;
}

bool
checksum_update(Checksum *checksum, const void *data, size_t len, Error *err)
{
    if (checksum->type == CHECKSUM_NONE)
        return true;
    if (checksum->type == CHECKSUM_CRC32C) {
        checksum->crc = crc32c(checksum->crc, data, len);
        return true;
    }
    if (EVP_DigestUpdate(checksum->sha, data, len) != 1)
        return error_set(err, ERR_BUG, "could not update a %s digest",
                         checksum_type_name(checksum->type));
    return true;
}

bool
checksum_finish(Checksum *checksum, Digest *ret_digest, Error *err)
{
    Digest digest = {.type = checksum->type, .len = (uint8_t)checksum_length(checksum->type)};

    if (checksum->type == CHECKSUM_CRC32C) {
        put_le32(digest.bytes, checksum->crc);
    } else if (checksum->type != CHECKSUM_NONE) {
        if (EVP_DigestFinal_ex(checksum->sha, digest.bytes, NULL) != 1)
            return error_set(err, ERR_BUG, "could not finish a %s digest",
                             checksum_type_name(checksum->type));
    }
    checksum->type = CHECKSUM_NONE;
    *ret_digest = digest;
    return true;
}

void
checksum_free(Checksum *checksum)
{
    EVP_MD_CTX_free(checksum->sha);
    *checksum = CHECKSUM_INIT;
}

bool
digest_equal(const Digest *a, const Digest *b)
{
    return a->type == b->type && a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}
