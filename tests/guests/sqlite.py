# A writer in the middle of a transaction, and a reader in the middle of an older one, on one
# database whose changes go to a log of their own (WAL).
import os
import sqlite3
import sys
import time


def connect():
    db = sqlite3.connect('data.db', isolation_level=None, timeout=0)
    # Most of what is written does not stay in memory.
    db.execute('pragma cache_size = 10')
    return db


def rows(db):
    return db.execute('select count(*) from t').fetchone()[0]


def add(db, first, last):
    db.executemany('insert into t values (?, ?)', ((n, 'x' * 100) for n in range(first, last)))


def expect(what, found, expected):
    if found != expected:
        print('BAD', what, found, 'instead of', expected, flush=True)
        sys.exit(1)


def gone_on():
    while not os.path.exists('go'):
        time.sleep(0.01)


def read(ready, committed):
    os.read(ready[0], 1)
    db = connect()
    db.execute('begin')
    expect('rows before', rows(db), 1000)
    os.write(committed[1], b'.')
    gone_on()
    expect('rows of the old transaction', rows(db), 1000)
    os.read(ready[0], 1)
    expect('rows of the old transaction', rows(db), 1000)
    db.execute('commit')
    expect('rows of a new transaction', rows(db), int(open('rows').read()))
    db.close()


def write(ready, committed):
    db = connect()
    expect('mode', db.execute('pragma journal_mode = wal').fetchone(), ('wal',))
    db.execute('create table t (n integer primary key, text)')
    db.execute('begin')
    add(db, 0, 1000)
    db.execute('commit')
    os.write(ready[1], b'.')
    os.read(committed[0], 1)
    db.execute('begin immediate')
    add(db, 1000, 6000)
    n = 6000
    print('ready', flush=True)
    while not os.path.exists('go'):
        add(db, n, n + 1)
        n += 1
        print('at', n, flush=True)
        time.sleep(0.01)
    expect('rows of this transaction', rows(db), n)
    db.execute('commit')
    expect('check', db.execute('pragma integrity_check').fetchall(), [('ok',)])
    with open('rows', 'w') as file:
        file.write(str(n))
    os.write(ready[1], b'.')
    expect('end of the reader', os.wait()[1], 0)
    # Nobody reads the old state any more: all of the log goes into the database.
    expect('checkpoint', db.execute('pragma wal_checkpoint(truncate)').fetchone(), (0, 0, 0))
    print('done', flush=True)
    time.sleep(1000)


ready, committed = os.pipe(), os.pipe()
if os.fork() == 0:
    read(ready, committed)
else:
    write(ready, committed)
