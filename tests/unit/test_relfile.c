#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pgformat/relfile.h"

#define TABLESPACE 16385

typedef struct Case {
    const char *path;
    RelFile file;
} Case;

static void
assert_file(const char *path, Oid tablespace, const RelFile *expected)
{
    RelFile file = {.segment = 42};

    if (!relfile_parse(path, tablespace, &file))
        fail_msg("\"%s\" is refused", path);
    assert_int_equal(file.database, expected->database);
    assert_int_equal(file.number, expected->number);
    assert_int_equal(file.fork, expected->fork);
    assert_int_equal(file.segment, expected->segment);
    assert_int_equal(file.incremental, expected->incremental);
}

static void
assert_none(const char *path, Oid tablespace)
{
    RelFile file = {.number = 42};

    if (relfile_parse(path, tablespace, &file))
        fail_msg("\"%s\" is accepted", path);
    assert_int_equal(file.number, 42); /* untouched */
}

static void
test_data_directory(void **state)
{
    static const Case cases[] = {
        {"base/5/16384", {5, 16384, FORK_MAIN, 0, false}},
        {"base/5/16384.1", {5, 16384, FORK_MAIN, 1, false}},
        {"base/5/16384_fsm", {5, 16384, FORK_FSM, 0, false}},
        {"base/5/16384_vm", {5, 16384, FORK_VM, 0, false}},
        {"base/5/16384_init", {5, 16384, FORK_INIT, 0, false}},
        {"base/5/16384_fsm.2", {5, 16384, FORK_FSM, 2, false}},
        {"base/5/16384_vm.10", {5, 16384, FORK_VM, 10, false}},
        {"base/5/16384_init.3", {5, 16384, FORK_INIT, 3, false}},
        {"base/1/1", {1, 1, FORK_MAIN, 0, false}},
        {"base/4294967295/4294967295.4294967295",
         {4294967295, 4294967295, FORK_MAIN, 4294967295, false}},
        {"global/1262", {0, 1262, FORK_MAIN, 0, false}},
        {"global/1262_vm", {0, 1262, FORK_VM, 0, false}},
        {"global/1262.7", {0, 1262, FORK_MAIN, 7, false}},
        {"base/5/INCREMENTAL.16384", {5, 16384, FORK_MAIN, 0, true}},
        {"base/5/INCREMENTAL.16384.12", {5, 16384, FORK_MAIN, 12, true}},
        {"base/5/INCREMENTAL.16384_vm", {5, 16384, FORK_VM, 0, true}},
        {"base/5/INCREMENTAL.16384_init.1", {5, 16384, FORK_INIT, 1, true}},
        {"global/INCREMENTAL.1262", {0, 1262, FORK_MAIN, 0, true}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_file(cases[i].path, 0, &cases[i].file);
        assert_none(cases[i].path, TABLESPACE);
    }
}

static void
test_tablespace(void **state)
{
    static const Case cases[] = {
        {"PG_18_202506291/5/16400", {5, 16400, FORK_MAIN, 0, false}},
        {"PG_18_202506291/5/16400.1", {5, 16400, FORK_MAIN, 1, false}},
        {"PG_10_201707211/12940/16400_fsm", {12940, 16400, FORK_FSM, 0, false}},
        {"PG_17_202406281/5/INCREMENTAL.16400.2", {5, 16400, FORK_MAIN, 2, true}},
        {"PG_x/1/2", {1, 2, FORK_MAIN, 0, false}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_file(cases[i].path, TABLESPACE, &cases[i].file);
        assert_none(cases[i].path, 0);
    }
}

static void
test_other_files(void **state)
{
    static const char *const paths[] = {
        /* what lies beside relations */
        "global/pg_control",
        "global/pg_filenode.map",
        "global/pg_internal.init",
        "base/5/pg_filenode.map",
        "base/5/pg_internal.init",
        "base/5/PG_VERSION",
        "base/5/t3_16384",
        "base/5/t3_16384_fsm.1",
        "base/pgsql_tmp/pgsql_tmp123.0",
        "PG_VERSION",
        "backup_label",
        "pg_xact/0000",
        "pg_wal/000000010000000000000001",
        "pg_multixact/members/0000",
        /* numbers */
        "base/5/0",
        "base/5/016384",
        "base/5/+16384",
        "base/5/ 16384",
        "base/5/-1",
        "base/5/4294967296",
        "base/5/42949672950",
        "base/5/18446744073709551617",
        "base/5/99999999999999999999999999",
        "base/5/0x10",
        "base/0/16384",
        "base/05/16384",
        "base/4294967296/16384",
        "base//16384",
        "base/a/16384",
        "base/5a/16384",
        /* segments */
        "base/5/16384.",
        "base/5/16384.0",
        "base/5/16384.01",
        "base/5/16384.4294967296",
        "base/5/16384.1.1",
        "base/5/16384.1a",
        "base/5/16384.a",
        "base/5/16384..1",
        "base/5/.1",
        "base/5/16384.1_fsm",
        /* forks */
        "base/5/16384_",
        "base/5/16384_main",
        "base/5/16384_fs",
        "base/5/16384_fsmx",
        "base/5/16384_FSM",
        "base/5/16384_vm_init",
        "base/5/16384_init_",
        "base/5/16384fsm",
        "base/5/_fsm",
        /* incremental */
        "base/5/INCREMENTAL.",
        "base/5/INCREMENTAL",
        "base/5/INCREMENTAL16384",
        "base/5/incremental.16384",
        "base/5/INCREMENTAL.t3_16384",
        "base/5/INCREMENTAL.0",
        "base/5/INCREMENTAL.INCREMENTAL.16384",
        "base/5/INCREMENTAL.PG_VERSION",
        "base/INCREMENTAL.5/16384",
        "INCREMENTAL.16384",
        /* directories */
        "",
        "16384",
        "base",
        "base/",
        "base/5",
        "base/5/",
        "base/16384",
        "base/5/6/16384",
        "base/5/16384/1",
        "Base/5/16384",
        "xbase/5/16384",
        "./base/5/16384",
        "/base/5/16384",
        "global",
        "global/",
        "global/5/16384",
        "globals/1262",
        "pg_tblspc/16385/PG_18_202506291/5/16400",
    };

    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        assert_none(paths[i], 0);
        assert_none(paths[i], TABLESPACE);
    }
}

static void
test_other_files_of_a_tablespace(void **state)
{
    static const char *const paths[] = {
        "PG_18_202506291",
        "PG_18_202506291/",
        "PG_18_202506291/5",
        "PG_18_202506291/5/",
        "PG_18_202506291/16400",
        "PG_18_202506291//16400",
        "PG_18_202506291/5/6/16400",
        "PG_18_202506291/5/t1_16400",
        "PG_18_202506291/05/16400",
        "PG_18_202506291/pgsql_tmp/16400",
        "PG_18_202506291/5/pgsql_tmp",
        "PG_18_202506291/5/PG_VERSION",
        "PG_/5/16400",
        "PG/5/16400",
        "pg_18_202506291/5/16400",
        "x/PG_18_202506291/5/16400",
    };

    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        assert_none(paths[i], TABLESPACE);
        assert_none(paths[i], 0);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data_directory),
        cmocka_unit_test(test_tablespace),
        cmocka_unit_test(test_other_files),
        cmocka_unit_test(test_other_files_of_a_tablespace),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
