"""Every way to take a backup, in pairs: the formats, compressions, ways to get the WAL, tablespaces
and server versions. Each pair of values that can go together occurs in one of the backups below,
which is taken under load, restored, verified by all verifiers at hand, started and compared.
"""

import itertools
import unittest
from dataclasses import astuple, dataclass

from harness import (
    Background,
    ScratchDir,
    Server,
    basebackup,
    copy_wal,
    for_each_major,
    pgstow,
    redirect_tablespaces,
    restore_tar,
    run,
    server_compression_methods,
    stock_tool,
    wait_until,
)
from harness.majors import ALL_MAJORS
from harness.run import STOCK_BIN

MANIFESTS_SINCE = 13
SYSTEM_IDENTIFIERS_SINCE = 17  # in manifests: verifiers of other versions refuse them
IN_PLACE_SINCE = 16  # a server 15 leaves them out of a backup in tar format
METHODS = ("gzip", "lz4", "zstd")


# --- which backups to take ---


@dataclass(frozen=True)
class Cell:
    major: int
    tablespaces: bool
    compression: str
    format: str
    wal: str

    def __str__(self):
        tablespaces = "tablespaces" if self.tablespaces else "simple"
        words = (tablespaces, self.format, self.compression, self.wal)
        return "_".join(words).replace("-", "_")

    def is_possible(self, server_methods):
        side, _, method = self.compression.partition("-")
        if side == "client":
            return self.format == "tar"
        return side == "none" or method in server_methods[self.major]

    def pairs(self):
        return set(itertools.combinations(enumerate(astuple(self)), 2))


def all_cells():
    server_methods = {major: server_compression_methods(major) for major in ALL_MAJORS}
    compressions = ["none"]
    compressions += [f"{side}-{method}" for side in ("client", "server") for method in METHODS]
    cells = itertools.product(
        ALL_MAJORS, (True, False), compressions, ("tar", "plain"), ("stream", "fetch", "none"))
    return [cell for cell in itertools.starmap(Cell, cells) if cell.is_possible(server_methods)]


def pairwise_cells():
    """As few cells as a greedy choice finds that have every possible pair; always the same."""
    candidates = all_cells()
    missing = set().union(*(cell.pairs() for cell in candidates))
    chosen = []
    while missing:
        best = max(candidates, key=lambda cell: len(cell.pairs() & missing))
        missing -= best.pairs()
        chosen.append(best)
    return sorted(chosen, key=astuple)


CELLS = pairwise_cells()


# --- taking them ---


class WriteLoad(Background):
    """One client that inserts rows with ascending numbers: any prefix of them is a state."""

    SCRIPT = "INSERT INTO load (v) VALUES (md5(random()::text));\n"

    def __init__(self, server, scratch):
        script = scratch / "load.sql"
        script.write_text(self.SCRIPT)
        super().__init__(
            [STOCK_BIN / "pgbench", "-n", "-f", script, "-R", 300, "-T", 3600, "postgres"],
            env=server.env())


def digest_of(server, table, condition="true"):
    return server.value(f"SELECT sum(hashtext(t::text)) FROM {table} t WHERE {condition}")


def newest(server):
    return int(server.value("SELECT coalesce(max(id), 0) FROM load"))


@for_each_major()
class Matrix(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.places = cls.enterClassContext(ScratchDir())
        cls.server = cls.enterClassContext(Server(cls.major, **cls.settings()))
        cls.server.sql(
            "CREATE TABLE load (id serial PRIMARY KEY, v text);"
            "CREATE TABLE still AS SELECT g AS id, md5(g::text) AS v"
            " FROM generate_series(1, 5000) g")
        cls.load = cls.enterClassContext(WriteLoad(cls.server, cls.places))
        cls.tablespaces = {}  # {oid: location}, of those that have one

    @classmethod
    def settings(cls):
        return {"allow_in_place_tablespaces": "on"} if cls.major >= IN_PLACE_SINCE else {}

    def setUp(self):
        self.scratch = self.enterContext(ScratchDir())

    # --- tablespaces ---

    def provide_tablespaces(self):
        """For the cells that have them, which come last: one elsewhere; from 16 on, one here."""
        if self.tablespaces:
            return
        location = self.server.create_tablespace("elsewhere")
        self.server.sql("CREATE TABLE elsewhere TABLESPACE elsewhere AS SELECT * FROM still")
        if self.major >= IN_PLACE_SINCE:
            self.server.sql("CREATE TABLESPACE here LOCATION ''")
            self.server.sql("CREATE TABLE here TABLESPACE here AS SELECT * FROM still")
        oid = self.server.value("SELECT oid FROM pg_tablespace WHERE spcname = 'elsewhere'")
        self.tablespaces[oid] = location

    def in_tablespaces(self, server):
        """The digests of the tables there."""
        tables = server.sql("SELECT relname FROM pg_class JOIN pg_tablespace t"
                            " ON t.oid = reltablespace WHERE relkind = 'r' AND spcname = relname")
        return {table: digest_of(server, table) for [table] in tables}

    def new_places(self):
        return {oid: self.scratch / f"tablespace-{oid}" for oid in self.tablespaces}

    # --- a cell ---

    def take(self, cell, backup):
        args = ["-F", cell.format, "-X", cell.wal]
        if cell.compression != "none":
            args += ["-Z", f"{cell.compression}:1"]
        if cell.format == "plain":
            args += [f"-T{location}={self.new_places()[oid]}"
                     for oid, location in self.tablespaces.items()]
        result = basebackup("-D", backup, *args, env=self.server.env()).check()
        # Without WAL the server has something to say.
        said = [line for line in result.err.splitlines() if not line.startswith("NOTICE: ")]
        self.assertEqual(said, [])

    def restore(self, cell, backup):
        """The data directory."""
        target = backup
        if cell.format == "tar":
            target = self.scratch / "restored"
            restore_tar(backup, target, self.new_places())
        if cell.wal == "none":
            copy_wal(self.server, target)
        return target

    def verify(self, cell, backup, target):
        if self.major < MANIFESTS_SINCE:
            return
        pgstow("verifybackup", target).check()
        if cell.format == "tar":
            without_wal = ["-n"] if cell.wal == "none" else []
            pgstow("verifybackup", *without_wal, backup).check()
        tool = stock_tool("pg_verifybackup", self.major)
        if tool:
            run([tool, target]).check()
        elif self.major < SYSTEM_IDENTIFIERS_SINCE:
            run([STOCK_BIN / "pg_verifybackup", "-n", target]).check()
        if tool and self.major >= 18 and cell.format == "tar":
            run([tool, "-F", "tar", "-n", backup]).check()

    def compare(self, cell, target, before, after):
        if cell.format == "tar" and self.tablespaces:
            redirect_tablespaces(target, self.new_places())
        with self.server.start_copy(target) as copy:
            last = newest(copy)
            self.assertLessEqual(before, last)
            self.assertLessEqual(last, after)
            for query in (("load", f"id <= {last}"), ("still",)):
                self.assertEqual(digest_of(copy, *query), digest_of(self.server, *query))
            self.assertEqual(self.in_tablespaces(copy), self.in_tablespaces(self.server))
            self.assertEqual(bool(self.in_tablespaces(copy)), cell.tablespaces)

    def check_cell(self, cell):
        if cell.tablespaces:
            self.provide_tablespaces()
        backup = self.scratch / "backup"
        before = wait_until(lambda: newest(self.server), "rows")
        self.take(cell, backup)
        after = newest(self.server)
        target = self.restore(cell, backup)
        if cell.wal == "none":
            after = newest(self.server)
        self.verify(cell, backup, target)
        self.compare(cell, target, before, after)


def add_tests():
    """A test for each cell, in the class of its version."""
    def test_of(cell):
        return lambda self: self.check_cell(cell)

    for cell in CELLS:
        test_case = globals().get(f"Matrix_{cell.major}")
        if test_case:
            setattr(test_case, f"test_{cell}", test_of(cell))


add_tests()


class Plan(unittest.TestCase):
    """What the matrix is worth."""

    def test_every_possible_pair_occurs(self):
        wanted = set().union(*(cell.pairs() for cell in all_cells()))
        self.assertEqual(wanted - set().union(*(cell.pairs() for cell in CELLS)), set())

    def test_every_version_has_a_handful(self):
        for major in ALL_MAJORS:
            with self.subTest(major):
                self.assertGreaterEqual(sum(cell.major == major for cell in CELLS), 4)
