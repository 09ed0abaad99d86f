# The warnings that every file of the project compiles with, under gcc and clang, as errors.
# Each stands here for a mistake that costs data in a backup tool.
set(PGSTOW_WARNINGS
    -Wall -Wextra           # the compilers' own choice of likely mistakes
    -Wpedantic              # what is C11 only by accident of one compiler
    -Wshadow                # two variables of one name: the wrong one gets the value
    -Wconversion            # a length or an LSN silently cut to fewer bits
    -Wsign-conversion       # a negative length turned into a huge one
    -Wstrict-prototypes     # f() accepts anything; f(void) does not
    -Wmissing-prototypes    # a function that should be static, or misses its header
    -Wold-style-definition  # parameters that are not checked at the call
    -Wcast-qual             # const cast away: writing into borrowed bytes
    -Wcast-align            # misaligned access when bytes are read as integers
    -Wpointer-arith         # arithmetic on void *
    -Wwrite-strings         # writing into a string literal
    -Wundef                 # #if on a name that nobody defined
    -Wvla                   # stack use chosen by the input
    -Wswitch-enum           # a new event or state that a stage forgot
    -Wformat=2              # a format string that came from outside
    -Wnull-dereference      # a path on which a pointer is NULL
    -Wdouble-promotion      # float work where none was meant
    -Wunused-result         # an Error or a short write that nobody looked at
)
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
    list(APPEND PGSTOW_WARNINGS
        -Wlogical-op            # && where & was meant, or a test that is always true
        -Wduplicated-cond       # if/else chains that repeat a condition
        -Wduplicated-branches   # both branches alike: one of them is wrong
        -Wformat-truncation=1   # a path cut short
        -Wstringop-overflow     # a copy beyond its target
    )
endif()
if(CMAKE_C_COMPILER_ID MATCHES "Clang")
    list(APPEND PGSTOW_WARNINGS
        -Wcomma                 # a comma where a semicolon was meant
        -Wassign-enum           # a number that is none of the enum's values
        -Wunreachable-code      # code behind a return that somebody relied on
    )
endif()
add_compile_options("$<$<COMPILE_LANGUAGE:C>:${PGSTOW_WARNINGS};-Werror>")
