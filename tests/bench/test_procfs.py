"""Accounting of process trees, checked against what the kernel tells by other ways."""

import mmap
import os
import resource
import signal
import socket
import subprocess
import sys

from bench import procfs

BURN = """
import os, resource, sys
children = [os.fork() for _ in range(1)] if sys.argv[1] == "tree" else []
spent = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
while spent() < 0.3:
    sum(range(10000))
if children and children[0] == 0:
    os._exit(0)
for child in children:
    os.waitpid(child, 0)
print("done", flush=True)
sys.stdin.read()
print(resource.getrusage(resource.RUSAGE_SELF)[:2], resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
"""


def burn(kind):
    """CPU µs of a program that spends it, by procfs and by its own getrusage."""
    with subprocess.Popen(
        [sys.executable, "-c", BURN, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        child.stdout.readline()
        seen = procfs.cpu_us(child.pid)
        own, inherited = child.communicate()[0].split(") (")
    said = sum(float(number) for part in (own, inherited) for number in part.strip("() \n").split(","))
    return seen, said * 1e6


def test_cpu_of_one_process_is_what_it_says_itself():
    seen, said = burn("alone")
    assert 0.25e6 < seen <= said + 2 * procfs.TICK_US


def test_cpu_of_a_reaped_child_is_kept():
    seen, said = burn("tree")
    assert 0.55e6 < seen <= said + 4 * procfs.TICK_US


def test_cpu_never_falls():
    with subprocess.Popen([sys.executable, "-c", "while True: sum(range(1000))"]) as child:
        readings = [procfs.cpu_us(child.pid) for _ in range(20)]
        child.kill()
    assert readings == sorted(readings)


def test_a_name_with_parentheses_does_not_confuse():
    fields = " ".join(["S", "7", *("0" for _ in range(9)), "11", "22", "33", "44", "20"])
    assert procfs.parse_stat(f"99 (a) b (c) {fields}".encode()) == procfs.Stat(parent=7, cpu_ticks=110)


def test_a_tree_holds_root_children_and_grandchildren():
    script = "sleep 60 & echo $!; exec sleep 61"
    with subprocess.Popen(
        ["/bin/sh", "-c", f"/bin/sh -c '{script}' & wait"], stdout=subprocess.PIPE, text=True
    ) as child:
        grandchild = int(child.stdout.readline())
        members = procfs.tree(child.pid)
        for pid in sorted(members, reverse=True):
            os.kill(pid, signal.SIGKILL)
    assert {child.pid, grandchild} <= members.keys()
    assert len(members) == 3
    assert os.getpid() not in members


def test_a_process_that_is_gone_has_no_tree():
    with subprocess.Popen(["/bin/true"]) as child:
        child.wait()
    assert procfs.tree(child.pid) == {}
    assert procfs.cpu_us(child.pid) == 0


def test_memory_grows_with_what_is_touched():
    # A mapping of its own: memory from the heap may have been touched before.
    with mmap.mmap(-1, 32 << 20) as block:
        before = procfs.memory(os.getpid())
        block.write(b"x" * len(block))
        after = procfs.memory(os.getpid())
    assert after.rss - before.rss > 30_000
    assert after.pss <= after.rss <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 1024


def test_workers_are_the_processes_below_the_root_that_listen():
    script = """
import os, socket, sys
sock = socket.create_server(("127.0.0.1", 0))
port = sock.getsockname()[1]
listener = os.fork()
if listener and not os.fork():
    sock.close()
    print(port, listener, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        port, listener = map(int, child.stdout.readline().split())
        members = procfs.workers(child.pid, port), len(procfs.tree(child.pid))
        child.stdin.close()
    assert members == ([listener], 3)


def test_a_process_alone_is_its_own_worker():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert procfs.workers(os.getpid(), listener.getsockname()[1]) == [os.getpid()]
