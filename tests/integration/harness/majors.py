"""Which PostgreSQL versions a test runs against: those in the environment variable PG_MAJORS."""

import os
import sys

ALL_MAJORS = range(10, 19)


def majors(since=10, until=18):
    """The major versions to test, oldest first, among those that know the feature under test."""
    chosen = [int(word) for word in os.environ.get("PG_MAJORS", "").split()] or ALL_MAJORS
    unknown = set(chosen) - set(ALL_MAJORS)
    if unknown:
        raise ValueError(f"PG_MAJORS: there are no servers of the versions {sorted(unknown)}")
    return [major for major in ALL_MAJORS if major in chosen and since <= major <= until]


def for_each_major(since=10, until=18):
    """Decorates a TestCase: leaves one subclass per version, with the class attribute `major` set.

    The decorated class itself disappears, so that it is not run without a version.
    """

    def leave_subclasses(test_case):
        module = sys.modules[test_case.__module__]
        for major in majors(since, until):
            name = f"{test_case.__name__}_{major}"
            members = {"major": major, "__module__": module.__name__, "__doc__": test_case.__doc__}
            setattr(module, name, type(name, (test_case,), members))

    return leave_subclasses
