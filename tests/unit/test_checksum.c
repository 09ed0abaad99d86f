/*
 * Digests by the names that manifests use.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/checksum.h"

static const ChecksumType types[] = {CHECKSUM_NONE,   CHECKSUM_CRC32C, CHECKSUM_SHA224,
                                     CHECKSUM_SHA256, CHECKSUM_SHA384, CHECKSUM_SHA512};

#define TYPE_COUNT (sizeof types / sizeof types[0])

/* ---- names ---- */

static void
names_and_lengths(void **state)
{
    static const char *const names[] = {"NONE", "CRC32C", "SHA224", "SHA256", "SHA384", "SHA512"};
    static const size_t lengths[] = {0, 4, 28, 32, 48, 64};

    (void)state;
    for (size_t i = 0; i < TYPE_COUNT; i++) {
        ChecksumType type = CHECKSUM_NONE;

        assert_string_equal(checksum_type_name(types[i]), names[i]);
        assert_int_equal(checksum_length(types[i]), lengths[i]);
        assert_true(checksum_length(types[i]) <= CHECKSUM_MAX);
        assert_true(checksum_type_parse(names[i], &type));
        assert_int_equal(type, types[i]);
    }
}

static void
names_in_any_case(void **state)
{
    static const char *const bad[] = {"",        " ",       "MD5",     "SHA",     "SHA1",
                                      "SHA-256", "SHA256 ", " SHA256", "SHA2567", "CRC32",
                                      "CRC32CC", "NONE0",   "SHA25"};
    ChecksumType type = CHECKSUM_NONE;

    (void)state;
    assert_true(checksum_type_parse("sha256", &type));
    assert_int_equal(type, CHECKSUM_SHA256);
    assert_true(checksum_type_parse("cRc32c", &type));
    assert_int_equal(type, CHECKSUM_CRC32C);
    assert_true(checksum_type_parse("none", &type));
    assert_int_equal(type, CHECKSUM_NONE);
    type = CHECKSUM_SHA512;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(checksum_type_parse(bad[i], &type));
        assert_int_equal(type, CHECKSUM_SHA512);
    }
}

/* ---- digests ---- */

/* `data` in pieces of `piece` bytes with an object that is used already. */
static void
digest_hex(Checksum *checksum, ChecksumType type, const char *data, size_t len, size_t piece,
           char hex[2 * CHECKSUM_MAX + 1])
{
    Error err = ERROR_INIT;
    Digest digest;

    assert_true(checksum_begin(checksum, type, &err));
    for (size_t at = 0; at < len; at += piece) {
        size_t count = len - at < piece ? len - at : piece;

        assert_true(checksum_update(checksum, data + at, count, &err));
    }
    assert_true(checksum_finish(checksum, &digest, &err));
    assert_int_equal(digest.type, type);
    assert_int_equal(digest.len, checksum_length(type));
    hex_format(digest.bytes, digest.len, hex);
}

/* FIPS 180-4 examples; CRC-32C as the four bytes that a little-endian server writes. */
static const struct {
    ChecksumType type;
    const char *data;
    const char *hex;
} vectors[] = {
    {CHECKSUM_NONE, "abc", ""},
    {CHECKSUM_CRC32C, "", "00000000"},
    {CHECKSUM_CRC32C, "18\n", "994e7be2"},
    {CHECKSUM_CRC32C, "123456789", "839206e3"},
    {CHECKSUM_SHA224, "", "d14a028c2a3a2bc9476102bb288234c415a2b01f828ea62ac5b3e42f"},
    {CHECKSUM_SHA224, "abc", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"},
    {CHECKSUM_SHA256, "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {CHECKSUM_SHA256, "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {CHECKSUM_SHA384, "abc",
     "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c8"
     "25a7"},
    {CHECKSUM_SHA512, "abc",
     "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3fe"
     "ebbd454d4423643ce80e2a9ac94fa54ca49f"},
};

static void
known_digests(void **state)
{
    Checksum checksum = CHECKSUM_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        size_t len = strlen(vectors[i].data);

        for (size_t piece = 1; piece <= len + 1; piece++) {
            char hex[2 * CHECKSUM_MAX + 1];

            digest_hex(&checksum, vectors[i].type, vectors[i].data, len, piece, hex);
            assert_string_equal(hex, vectors[i].hex);
        }
    }
    checksum_free(&checksum);
}

/* One object, all types in all orders: nothing of the last digest is left in the next. */
static void
one_object_many_digests(void **state)
{
    Checksum used = CHECKSUM_INIT;
    const char *text = "the same text every time";

    (void)state;
    for (size_t a = 0; a < TYPE_COUNT; a++) {
        for (size_t b = 0; b < TYPE_COUNT; b++) {
            Checksum fresh = CHECKSUM_INIT;
            char first[2 * CHECKSUM_MAX + 1];
            char second[2 * CHECKSUM_MAX + 1];

            digest_hex(&used, types[a], "noise", 5, 2, first);
            digest_hex(&used, types[b], text, strlen(text), 7, first);
            digest_hex(&fresh, types[b], text, strlen(text), 100, second);
            assert_string_equal(first, second);
            checksum_free(&fresh);
        }
    }
    checksum_free(&used);
}

/* An unfinished digest is dropped by the next begin. */
static void
begin_drops_the_unfinished(void **state)
{
    Checksum checksum = CHECKSUM_INIT;
    Error err = ERROR_INIT;
    char hex[2 * CHECKSUM_MAX + 1];

    (void)state;
    for (size_t i = 0; i < TYPE_COUNT; i++) {
        assert_true(checksum_begin(&checksum, types[i], &err));
        assert_true(checksum_update(&checksum, "unfinished", 10, &err));
        digest_hex(&checksum, CHECKSUM_CRC32C, "18\n", 3, 3, hex);
        assert_string_equal(hex, "994e7be2");
        assert_true(checksum_begin(&checksum, types[i], &err));
        assert_true(checksum_update(&checksum, "unfinished", 10, &err));
        digest_hex(&checksum, CHECKSUM_SHA256, "abc", 3, 3, hex);
        assert_string_equal(hex, vectors[7].hex);
    }
    checksum_free(&checksum);
}

static void
empty_updates(void **state)
{
    Checksum checksum = CHECKSUM_INIT;
    Error err = ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < TYPE_COUNT; i++) {
        Digest with;
        Digest without;

        assert_true(checksum_begin(&checksum, types[i], &err));
        assert_true(checksum_update(&checksum, "", 0, &err));
        assert_true(checksum_update(&checksum, "x", 1, &err));
        assert_true(checksum_update(&checksum, "", 0, &err));
        assert_true(checksum_finish(&checksum, &with, &err));
        assert_true(checksum_begin(&checksum, types[i], &err));
        assert_true(checksum_update(&checksum, "x", 1, &err));
        assert_true(checksum_finish(&checksum, &without, &err));
        assert_true(digest_equal(&with, &without));
    }
    checksum_free(&checksum);
}

static void
free_takes_any_state(void **state)
{
    Checksum checksum = CHECKSUM_INIT;
    Error err = ERROR_INIT;

    (void)state;
    checksum_free(&checksum);
    checksum_free(&checksum);
    assert_true(checksum_begin(&checksum, CHECKSUM_SHA512, &err));
    checksum_free(&checksum);
    assert_true(checksum_begin(&checksum, CHECKSUM_CRC32C, &err));
    checksum_free(&checksum);
    assert_int_equal(checksum.type, CHECKSUM_NONE);
    assert_null(checksum.sha);
}

/* After the end there is nothing to add to: what comes is not digested. */
static void
update_after_finish(void **state)
{
    Checksum checksum = CHECKSUM_INIT;
    Error err = ERROR_INIT;
    Digest digest;

    (void)state;
    assert_true(checksum_begin(&checksum, CHECKSUM_SHA256, &err));
    assert_true(checksum_finish(&checksum, &digest, &err));
    assert_true(checksum_update(&checksum, "x", 1, &err));
    assert_true(checksum_finish(&checksum, &digest, &err));
    assert_int_equal(digest.type, CHECKSUM_NONE);
    assert_int_equal(digest.len, 0);
    checksum_free(&checksum);
}

static void
digests_compare(void **state)
{
    Digest a = {.type = CHECKSUM_CRC32C, .len = 4, .bytes = {1, 2, 3, 4}};
    Digest b = a;

    (void)state;
    assert_true(digest_equal(&a, &b));
    b.bytes[4] = 9; /* behind the end */
    assert_true(digest_equal(&a, &b));
    b = a;
    b.bytes[3] = 5;
    assert_false(digest_equal(&a, &b));
    b = a;
    b.len = 3;
    assert_false(digest_equal(&a, &b));
    b = a;
    b.type = CHECKSUM_SHA224;
    assert_false(digest_equal(&a, &b));
}

/* More than one block of every method, in odd pieces. */
static void
long_input(void **state)
{
    const size_t len = 1000000;
    char *data = malloc(len);
    Checksum checksum = CHECKSUM_INIT;
    char hex[2 * CHECKSUM_MAX + 1];

    (void)state;
    assert_non_null(data);
    memset(data, 'a', len);
    digest_hex(&checksum, CHECKSUM_SHA256, data, len, 4097, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    digest_hex(&checksum, CHECKSUM_SHA512, data, len, 999, hex);
    assert_memory_equal(hex, "e718483d0ce769644e2e42c7bc15b463", 32);
    checksum_free(&checksum);
    free(data);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_lengths),
        cmocka_unit_test(names_in_any_case),
        cmocka_unit_test(known_digests),
        cmocka_unit_test(one_object_many_digests),
        cmocka_unit_test(begin_drops_the_unfinished),
        cmocka_unit_test(empty_updates),
        cmocka_unit_test(free_takes_any_state),
        cmocka_unit_test(update_after_finish),
        cmocka_unit_test(digests_compare),
        cmocka_unit_test(long_input),
    };

    return cmocka_run_group_tests_name("checksum", tests, NULL, NULL);
}
