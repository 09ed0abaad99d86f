# shellcheck shell=bash
# shellcheck disable=SC2034 # used by those who source this
#
# The Debian packages that the scripts install when they are missing.

# To build pgstow.
readonly BUILD_PACKAGES=(gcc libc6-dev cmake ninja-build pkg-config git
    libpq-dev libssl-dev liblz4-dev libzstd-dev zlib1g-dev libdeflate-dev)

# To build and run the tests.
readonly TEST_PACKAGES=(libcmocka-dev python3 openssl gzip lz4 zstd groff-base clang-14
    libclang-rt-14-dev)

# For scripts/check.
readonly CHECK_PACKAGES=(clang-format-14 clang-tidy-14 cppcheck shellcheck python3)
