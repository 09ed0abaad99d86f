/* compress and decompress against the tools gzip, lz4 and zstd: each reads what the other wrote. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "stream/compression.h"
#include "support/recorder.h"
#include "support/temp_dir.h"

#define CONTENT_SIZE ((size_t)700000)

static Buf
make_content(void)
{
    Buf content = BUF_INIT;
    Error err = ERROR_INIT;

    for (unsigned i = 0; content.len < CONTENT_SIZE; i++)
        assert_true(buf_printf(&content, &err, "tuple %u of page %u\n", i * i % 977, i / 60));
    return content;
}

/* Makes file `to` of file `from`, with this option. Without telling it lz4 would write to its
 * standard output; the others know what to call it. */
static void
run_tool(const char *tool, const char *option, const char *from, const char *to)
{
    const bool is_lz4 = strcmp(tool, "lz4") == 0;
    pid_t child = fork();
    int status = -1;

    if (child == 0) {
        (void)execlp(tool, tool, "-q", option, from, is_lz4 ? to : (char *)NULL, (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("%s %s ended with status %d", tool, option, status);
}

/* ---- what we write ---- */

static Buf
pack(CompressionMethod method, const char *detail, const Buf *content)
{
    Recording recording = RECORDING_INIT;
    Compression compression;
    Error err = ERROR_INIT;
    Sink *sink;

    assert_true(compression_parse(method, detail, &compression, &err));
    sink = compress_new(recorder_new(&recording, &err), &compression, &err);
    assert_non_null(sink);
    assert_true(sink_archive_begin(sink, &(Archive){.name = "base.tar"}, &err));
    assert_true(sink_data(sink, (Span){.data = content->data, .len = content->len}, &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_finish(sink, &err));
    sink_free(sink);
    buf_free(&recording.text);
    return recording.bytes;
}

static void
expect_tool_reads(const char *tool, CompressionMethod method, const char *detail,
                  const Buf *content)
{
    Buf packed = pack(method, detail, content);
    TempDir dir;
    char name[32];
    Buf got;

    temp_dir_make(&dir);
    (void)snprintf(name, sizeof name, "base.tar%s", compression_suffix(method));
    temp_dir_write(&dir, name, packed.data, packed.len);
    run_tool(tool, "-d", temp_dir_path(&dir, name), temp_dir_path(&dir, "base.tar"));
    got = temp_dir_read(&dir, "base.tar");
    assert_int_equal(got.len, content->len);
    if (got.len > 0)
        assert_memory_equal(got.data, content->data, got.len);
    buf_free(&got);
    buf_free(&packed);
    temp_dir_remove(&dir);
}

static void
test_tools_read_what_we_write(void **state)
{
    Buf content = make_content();
    Buf empty = BUF_INIT;

    (void)state;
    expect_tool_reads("gzip", COMPRESSION_GZIP, NULL, &content);
    expect_tool_reads("gzip", COMPRESSION_GZIP, "9", &content);
    expect_tool_reads("gzip", COMPRESSION_GZIP, NULL, &empty);
    expect_tool_reads("lz4", COMPRESSION_LZ4, NULL, &content);
    expect_tool_reads("lz4", COMPRESSION_LZ4, "12", &content);
    expect_tool_reads("lz4", COMPRESSION_LZ4, NULL, &empty);
    expect_tool_reads("zstd", COMPRESSION_ZSTD, NULL, &content);
    expect_tool_reads("zstd", COMPRESSION_ZSTD, "level=19,workers=2", &content);
    expect_tool_reads("zstd", COMPRESSION_ZSTD, "level=1,long", &content);
    expect_tool_reads("zstd", COMPRESSION_ZSTD, NULL, &empty);
    buf_free(&content);
}

/* ---- what they write ---- */

static void
expect_read(CompressionMethod method, const Buf *packed, const Buf *content)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = decompress_new(recorder_new(&recording, &err), method, &err);
    char name[32];

    assert_non_null(sink);
    (void)snprintf(name, sizeof name, "base.tar%s", compression_suffix(method));
    assert_true(sink_archive_begin(sink, &(Archive){.name = name}, &err));
    assert_true(sink_data(sink, (Span){.data = packed->data, .len = packed->len}, &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_finish(sink, &err));
    assert_int_equal(recording.bytes.len, content->len);
    assert_memory_equal(recording.bytes.data, content->data, content->len);
    sink_free(sink);
    recording_free(&recording);
}

static void
expect_read_of_tool(const char *tool, const char *option, CompressionMethod method,
                    const Buf *content)
{
    TempDir dir;
    char name[32];
    Buf packed;

    temp_dir_make(&dir);
    temp_dir_write(&dir, "base.tar", content->data, content->len);
    (void)snprintf(name, sizeof name, "base.tar%s", compression_suffix(method));
    run_tool(tool, option, temp_dir_path(&dir, "base.tar"), temp_dir_path(&dir, name));
    packed = temp_dir_read(&dir, name);
    expect_read(method, &packed, content);
    buf_free(&packed);
    temp_dir_remove(&dir);
}

static void
test_we_read_what_tools_write(void **state)
{
    static const struct {
        const char *tool;
        const char *option;
        CompressionMethod method;
    } runs[] = {
        {"gzip", "-1", COMPRESSION_GZIP},
        {"gzip", "-9", COMPRESSION_GZIP},
        {"lz4", "-1", COMPRESSION_LZ4},
        {"lz4", "-9", COMPRESSION_LZ4},
        {"lz4", "-BX", COMPRESSION_LZ4},
        {"lz4", "-B4", COMPRESSION_LZ4},
        {"lz4", "-BD", COMPRESSION_LZ4},
        {"lz4", "--no-frame-crc", COMPRESSION_LZ4},
        {"lz4", "--content-size", COMPRESSION_LZ4},
        {"zstd", "-1", COMPRESSION_ZSTD},
        {"zstd", "-19", COMPRESSION_ZSTD},
        {"zstd", "--long=27", COMPRESSION_ZSTD},
        {"zstd", "-T2", COMPRESSION_ZSTD},
        {"zstd", "--no-check", COMPRESSION_ZSTD},
    };
    Buf content = make_content();

    (void)state;
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++)
        expect_read_of_tool(runs[i].tool, runs[i].option, runs[i].method, &content);
    buf_free(&content);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tools_read_what_we_write),
        cmocka_unit_test(test_we_read_what_tools_write),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
